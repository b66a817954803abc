"""Reading pictures: whatever lies in a file or an array, 8-bit RGB or a named error comes out."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hmode.data.formats import one_line
from hmode.errors import InputError, MissingFileError

# What Pillow calls them. It reads more, but some with programs of their own (EPS), others by a
# guess that nearly any file passes (TGA).
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
# More is taken for a decompression bomb. The largest sensors of phones have 200 million.
MAX_PIXELS = 250_000_000
STRIP = 256  # rows that are converted at a time

EXPECTED = (
    "a path, a PIL image, an array [H, W], [H, W, 3] or [H, W, 4] (uint8, uint16, or float from "
    "0 to 1), or a uint8 tensor [3, H, W]"
)


def read_image(path: str | Path, *, upright: bool = False) -> Image.Image:
    """A decoded RGB image of 8 bits.

    Grey, palette, CMYK and other colours are converted, 16 bits divided by 257 and rounded (Pillow
    keeps the upper 8 bits of 16-bit colour instead); transparency is dropped, the colour below it
    stays. Of an animation it is the first frame.

    Args:
        path: a file in one of `FORMATS`, whatever its suffix.
        upright: turn it as the camera noted (EXIF). Off for data sets, whose points were made on
            the pixels as they are stored. A TIFF is always turned, by Pillow.

    Raises:
        MissingFileError: there is no such file.
        InputError: it cannot be read, is no image, is damaged, or has more than `MAX_PIXELS`.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise _no_file(path)
        with path.open("rb") as file:
            return to_rgb(_open(file), upright=upright)
    except InputError:
        raise
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


def _open(file: BinaryIO) -> Image.Image:
    """What `Image.open` does, for our formats, but with our limit of pixels: Pillow's own is a
    setting of the whole process, and the caller's."""
    start = file.read(16)
    if not start:
        raise ValueError("the file is empty")
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept(start) is True:
            file.seek(0)
            image = factory(file, "")
            check_size(image.size)
            image.load()
            return image
    raise UnidentifiedImageError(f"none of the formats {', '.join(FORMATS)}")


def check_size(size: tuple[int, int]) -> None:
    """Refuse an image of (width, height) pixels that has none, or too many to be one.

    Raises:
        ValueError: it has.
    """
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} pixels, expected 1 to {MAX_PIXELS:,d} in all")


def to_rgb(image: Image.Image, *, upright: bool = False) -> Image.Image:
    """An image of any mode as 8-bit RGB, as `read_image` says; itself where it is that already.

    Values of mode I may go up to 65535, those of mode F up to 255; if none is above 255 (above 1),
    that is taken for white.

    Raises:
        ValueError: its values are out of range, or it cannot be converted.
    """
    if upright and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_eight_bits(_values(image)))
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
    return values.astype(np.uint16 if values.max() > 255 else np.uint8)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """uint8 (as it is), uint16 or float (0 to 1) → uint8, rounded.

    Raises:
        ValueError: another type, or a float outside of 0 to 1.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"values of type {values.dtype}, expected uint8, uint16 or float")
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"values from {values.min():.4g} to {values.max():.4g}, expected 0 to 1")
    return np.rint(values * 255).astype(np.uint8)


def to_pixels(image) -> Tensor:
    """uint8 `[3, H, W]`, RGB, of a picture in any of its usual forms.

    Args:
        image: one of

            - a path, read upright;
            - a PIL image of any mode, turned upright too;
            - an array `[H, W]` (grey), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGBA, alpha is dropped)
              of uint8, uint16 (white is 65535) or float (white is 1);
            - a tensor of that very form.

    Raises:
        MissingFileError, InputError: as `read_image`; or it is none of these.
    """
    if isinstance(image, (str, Path)):
        return _tensor(read_image(image, upright=True))
    try:
        if isinstance(image, Image.Image):
            check_size(image.size)
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
    check_size(array.shape[1::-1])
    values = np.require(_eight_bits(array), requirements=["C", "W"])
    pixels = torch.from_numpy(values)
    return pixels.expand(3, -1, -1) if array.ndim == 2 else pixels.permute(2, 0, 1)[:3]


def _checked(image: Tensor) -> Tensor:
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(
            f"a tensor {image.dtype} of shape {list(image.shape)}, expected uint8 [3, H, W]"
        )
    check_size(image.shape[:0:-1])
    return image.cpu()
