"""Reading pictures: whatever lies in a file or an array, 8-bit RGB or a named error comes out."""

import warnings
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hmode.data.formats import one_line
from hmode.errors import InputError, MissingFileError
from hmode.extras import need

# What Pillow calls them. It reads more, but some with programs of their own (EPS), others by a
# guess that nearly any file passes (TGA). Of HEIF, pillow-heif reads it.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
HEIF = (b"hei", b"hev", b"mif", b"msf")  # how the brands of HEIF files begin
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".hif"),
)
# More is taken for a decompression bomb. The largest sensors of phones have 200 million.
MAX_PIXELS = 250_000_000
STRIP = 256  # rows that are converted at a time
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners give in 16

EXPECTED = (
    "a path, a PIL image, an array [H, W], [H, W, 3] or [H, W, 4] (uint8, uint16, or float from "
    "0 to 1), or a uint8 tensor [3, H, W]"
)


def read_image(
    path: str | Path, *, upright: bool = False, max_pixels: int | None = None
) -> Image.Image:
    """A decoded RGB image of 8 bits.

    Grey, palette, CMYK and other colours are converted, 16 bits of grey stretched by the bits in
    use; transparency is dropped, the colour below it stays. Of several pictures in a file it is
    the first.

    Args:
        path: a file in one of `FORMATS`, or HEIF (extra: heic), whatever its suffix.
        upright: turn it as the camera noted (EXIF). Off for data sets, whose points were made on
            the pixels as they are stored. A TIFF or HEIF is always turned, by its reader.
        max_pixels: refuse more; None: `MAX_PIXELS`.

    Raises:
        MissingFileError: there is no such file.
        InputError: it cannot be read, is no image, is damaged, is a camera's raw file, has more
            than `max_pixels`, or 16 bits of colour of which the upper ones are empty.

    Warns:
        grey of fewer than 16 bits in 16 was stretched, or there are more pictures in the file.
    """
    with _opened(path, max_pixels) as image:
        number = getattr(image, "n_frames", 1)
        if number > 1 and image.format != "MPO":
            warnings.warn(f"{path}: {number} pictures in it, the first is read", stacklevel=2)
        deep = any(";16" in str(tile.args) for tile in image.tile)
        image.load()
        if deep and image.mode[0] != "I":
            _check_depth(image)
        return to_rgb(image, upright=upright, name=str(path))


def read_size(path: str | Path) -> tuple[tuple[int, int], int]:
    """(width, height) of a picture as its pixels are stored, and the EXIF orientation, 1 to 8, by
    which they are to be turned; nothing is decoded.

    Raises:
        MissingFileError, InputError: as `read_image`.
    """
    with _opened(path, None) as image:
        return image.size, 1 if image.format == "TIFF" else orientation(image)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 (upright) where there is none."""
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


@contextmanager
def _opened(path: str | Path, max_pixels: int | None):
    """A picture whose header is read, and whatever goes wrong in the block as an error of ours."""
    path = Path(path)
    try:
        if not path.is_file():
            raise _no_file(path)
        with path.open("rb") as file:
            image = _identified(file)
            check_size(image.size, max_pixels or MAX_PIXELS)
            if image.format == "TIFF" and image.tag_v2.get(254, 0) == 1:
                raise ValueError("only a reduced picture comes first in it; is it a camera's raw?")
            yield image
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None
    except Exception as error:  # a damaged file can break Pillow in many ways
        raise InputError(f"{path}: not a readable image: {one_line(error)}") from None


def _no_file(path: Path) -> InputError:
    if path.is_dir():
        return InputError(f"{path}: is a folder, expected an image")
    if path.exists():
        return InputError(f"{path}: is no ordinary file, expected an image")
    return MissingFileError(f"{path}: no such file")


_limit = Lock()


def _identified(file: BinaryIO) -> Image.Image:
    """`Image.open`, without Pillow's limit of pixels: that is a setting of the whole process, and
    the caller's; ours is checked next."""
    start = file.read(16)
    if not start:
        raise ValueError("the file is empty")
    formats, film = FORMATS, ""
    if start[4:8] == b"ftyp" and start[8:11] in HEIF:
        need("pillow_heif", "heic", "HEIC").register_heif_opener()
        formats = ("AVIF", "HEIF")
    elif start[4:8] == b"ftyp":
        film = "a video, which is counted by itself; else "
    with _limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats)
        except UnidentifiedImageError:
            raise ValueError(
                f"{film}damaged, or none of the formats {', '.join(formats)}"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_size(size: tuple[int, int], most: int = MAX_PIXELS) -> None:
    """Refuse an image of (width, height) pixels that has none, or too many to be one.

    Raises:
        ValueError: it has.
    """
    if not 0 < size[0] * size[1] <= most:
        raise ValueError(
            f"{size[0]} x {size[1]} pixels, expected 1 to {most:,d} in all; allow more with "
            "max_pixels (hmode count --max-megapixels)"
        )


def _check_depth(image: Image.Image) -> None:
    """Of 16-bit colour Pillow keeps the upper 8 bits: where only lower ones are used, nothing."""
    most = max(high for _, high in image.convert("RGB").getextrema())
    if 0 < most < 64:
        raise ValueError(
            f"16-bit colour with values up to about {256 * most + 255:,d} of 65,535; stretch them "
            "to 16 bits, or write 8"
        )


def to_rgb(image: Image.Image, *, upright: bool = False, name: str = "image") -> Image.Image:
    """An image of any mode as 8-bit RGB, as `read_image` says; itself where it is that already.

    Values of mode I may go up to 65535, those of mode F up to 255; if none is above 1, that is
    taken for white.

    Raises:
        ValueError: its values are out of range, or it cannot be converted.
    """
    if upright and orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_eight_bits(_values(image), name))
    return image if image.mode == "RGB" else image.convert("RGB")


def _values(image: Image.Image) -> np.ndarray:
    """The grey values of a deep image, of the type that says what is white."""
    values = np.asarray(image)
    if image.mode == "F":
        return values / 255 if values.max() > 1 else values
    if image.mode != "I":
        return values
    if not 0 <= values.min() <= values.max() <= 65535:
        raise ValueError(f"grey values from {values.min()} to {values.max()}, expected 0 to 65535")
    return values.astype(np.uint16)


def _eight_bits(values: np.ndarray, name: str = "image") -> np.ndarray:
    """uint8 (as it is), uint16 (white is the largest value of the bits in use: 8, 10, 12, 14 or
    16) or float (0 to 1) → uint8, rounded.

    Raises:
        ValueError: another type, or a float outside of 0 to 1.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        most = int(values.max())
        bits = next(bits for bits in DEPTHS if most < 2**bits)
        if most > 0 and bits < 16:
            warnings.warn(f"{name}: 16-bit grey up to {most}, taken for {bits} bits", stacklevel=2)
        white = 2**bits - 1
        return ((values.astype(np.uint32) * 510 + white) // (2 * white)).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"values of type {values.dtype}, expected uint8, uint16 or float")
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"values from {values.min():.4g} to {values.max():.4g}, expected 0 to 1")
    return np.rint(values * 255).astype(np.uint8)


def to_pixels(image, *, max_pixels: int | None = None) -> Tensor:
    """uint8 `[3, H, W]`, RGB, of a picture in any of its usual forms.

    Args:
        image: one of

            - a path, read upright;
            - a PIL image of any mode, turned upright too;
            - an array `[H, W]` (grey), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGBA, alpha is dropped)
              of uint8, uint16 (white as in `read_image`) or float (white is 1);
            - a tensor of that very form.
        max_pixels: of what is yet to be decoded; None: `MAX_PIXELS`.

    Raises:
        MissingFileError, InputError: as `read_image`; or it is none of these.
    """
    if isinstance(image, (str, Path)):
        return _tensor(read_image(image, upright=True, max_pixels=max_pixels))
    try:
        if isinstance(image, Image.Image):
            check_size(image.size, max_pixels or MAX_PIXELS)
            return _tensor(to_rgb(image, upright=True))
        if isinstance(image, np.ndarray):
            return _from_array(image)
        if isinstance(image, Tensor):
            return _checked(image)
    except (ValueError, OSError, SyntaxError) as error:
        raise InputError(f"image: {one_line(error)}") from None
    raise InputError(f"image is of type {type(image).__name__}, expected {EXPECTED}")


def _tensor(image: Image.Image) -> Tensor:
    """An RGB image's pixels. In strips: of what it converts, numpy holds several copies."""
    width, height = image.size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        pixels[top:bottom] = image.crop((0, top, width, bottom))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _from_array(array: np.ndarray) -> Tensor:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"an array of shape {list(array.shape)}, expected {EXPECTED}")
    check_size(array.shape[1::-1], array.size)
    values = np.require(_eight_bits(array), requirements=["C", "W"])
    pixels = torch.from_numpy(values)
    return pixels.expand(3, -1, -1) if array.ndim == 2 else pixels.permute(2, 0, 1)[:3]


def _checked(image: Tensor) -> Tensor:
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(
            f"a tensor {image.dtype} of shape {list(image.shape)}, expected uint8 [3, H, W]"
        )
    check_size(image.shape[:0:-1], image.numel())
    return image.cpu()
