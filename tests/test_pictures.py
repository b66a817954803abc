"""Pictures of any kind come out as 8-bit RGB, upright, or as an error that names the file."""

import io
import os
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image

from hmode.data import pictures
from hmode.data.pictures import read_image, to_pixels
from hmode.errors import InputError, MissingFileError

GREY = noise((20, 30), seed=1, channels=1)
RGB = noise((20, 30), seed=2)

# How the pixels of an upright picture are stored under each orientation, after the Exif standard:
# which of its sides the stored first row and the stored first column are.
STORED = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def save(path, image, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(image))
    image.save(path, **options)
    return path


def read(path, **options):
    image = read_image(path, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


class TestOrientation:
    @pytest.mark.parametrize("value", STORED)
    @pytest.mark.parametrize("suffix", [".png", ".webp"])
    def test_all_eight_give_the_same_upright_pixels(self, tmp_path, value, suffix):
        path = tmp_path / f"picture{suffix}"
        save(path, STORED[value](RGB), exif=orientation(value), lossless=True)
        assert np.array_equal(read(path, upright=True), RGB)
        assert np.array_equal(read(path), STORED[value](RGB))

    @pytest.mark.parametrize("value", [0, 9, 77])
    def test_orientations_that_are_none_turn_nothing(self, tmp_path, value):
        path = save(tmp_path / "picture.png", RGB, exif=orientation(value))
        assert np.array_equal(read(path, upright=True), RGB)

    def test_an_opened_picture_is_turned_and_left_as_it_is(self, tmp_path):
        path = save(tmp_path / "picture.png", STORED[6](RGB), exif=orientation(6))
        with Image.open(path) as image:
            assert torch.equal(to_pixels(image), to_pixels(RGB))
            assert image.size == (20, 30)


class TestModes:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
    def test_16_bits_are_rounded_to_8(self, tmp_path, suffix):
        values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        path = save(tmp_path / f"deep{suffix}", values)
        assert np.array_equal(read(path), as_rgb(np.rint(values / 257).astype(np.uint8)))

    @pytest.mark.parametrize("bits", [8, 10, 12, 14])
    @pytest.mark.parametrize("kind", [".png", ".tif", "array"])
    def test_fewer_bits_in_16_are_stretched_and_that_is_said(self, tmp_path, bits, kind):
        values = np.linspace(0, 2**bits - 1, 20 * 30).astype(np.uint16).reshape(20, 30)
        source = values if kind == "array" else save(tmp_path / f"deep{kind}", values)
        with pytest.warns(UserWarning, match=f"up to {values.max()}, taken for {bits} bits"):
            found = to_pixels(source)
        assert torch.equal(found[0], torch.from_numpy(np.rint(values * (255 / values.max()))))

    @pytest.mark.parametrize("bits", [8, 10, 12, 14])
    def test_fewer_bits_in_16_of_colour_are_refused(self, tmp_path, bits):
        """Pillow keeps the upper 8 bits of 16: what is left is no picture."""
        rows = (RGB.astype(np.uint16) << 8 >> (16 - bits)).astype(">u2")
        content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        path = tmp_path / "deep.png"
        path.write_bytes(png(30, 20, content, depth=16, colour=2))
        if bits == 8:
            assert not read(path).any()  # black: cannot be told from black
        else:
            assert f"up to about {2**bits - 1:,d} of 65,535" in refused(path)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (GREY.astype(np.int32), GREY),
            (GREY.astype(np.int32) * 257, GREY),
            (GREY.astype(np.float32), GREY),
            (GREY.astype(np.float32) / 255, GREY),
            (np.zeros((3, 4), np.float32), np.zeros((3, 4), np.uint8)),
        ],
        ids=["32 bits, to 255", "32 bits, to 65535", "float, to 255", "float, to 1", "black"],
    )
    def test_deep_grey_of_either_range(self, tmp_path, values, expected):
        path = save(tmp_path / "deep.tif", values)
        assert np.array_equal(read(path), as_rgb(expected))

    @pytest.mark.parametrize(
        "values",
        [
            np.array([[-1, 5]], np.int32),
            np.array([[0, 65536]], np.int32),
            np.array([[-0.1, 0.5]], np.float32),
            np.array([[0, 300]], np.float32),
            np.array([[0, np.nan]], np.float32),
            np.array([[0, np.inf]], np.float32),
        ],
    )
    def test_values_that_mean_no_grey(self, tmp_path, values):
        path = save(tmp_path / "deep.tif", values)
        with pytest.raises(InputError, match=r"deep\.tif: not a readable image: .*values from"):
            read_image(path)

    @pytest.mark.parametrize("colour", [GREY, RGB], ids=["grey", "rgb"])
    def test_alpha_is_dropped_and_not_blended(self, tmp_path, colour):
        alpha = noise((20, 30), seed=3, channels=1)
        alpha[:10] = 0
        path = save(tmp_path / "alpha.png", np.dstack([colour, alpha]))
        assert np.array_equal(read(path), colour if colour.ndim == 3 else as_rgb(colour))

    def test_a_palette_with_transparency(self, tmp_path):
        image = Image.fromarray(GREY).convert("P")
        expected = np.asarray(image.convert("RGB"))
        for transparency in (7, bytes(range(256))):
            path = save(tmp_path / "palette.png", image, transparency=transparency)
            with Image.open(path) as stored:
                assert stored.mode == "P"
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                assert np.array_equal(read(path), expected)

    def test_cmyk(self, tmp_path):
        """Ink on white: no ink is white, all cyan takes all red, black takes all light."""
        inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]
        light = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (0, 0, 0)]
        flat = np.repeat(np.repeat(np.array([inks], np.uint8), 16, axis=0), 16, axis=1)
        image = Image.fromarray(flat, mode="CMYK")
        for path in (
            save(tmp_path / "ink.tif", image),
            save(tmp_path / "ink.jpg", image, quality=100),
        ):
            found = read(path)[8, 8::16].astype(int)
            assert np.abs(found - np.array(light)).max() <= 3

    def test_the_first_frame_of_an_animation(self, tmp_path):
        first, second = (Image.new("L", (30, 20), grey) for grey in (40, 200))
        for name in ("moving.gif", "moving.webp", "moving.png", "pages.tif"):
            options = {"lossless": True} if name.endswith("webp") else {}
            path = tmp_path / name
            first.save(path, save_all=True, append_images=[second], **options)
            with pytest.warns(UserWarning, match=f"{name}: 2 pictures in it, the first is read"):
                assert np.array_equal(read(path), np.full((20, 30, 3), 40))

    def test_a_preview_in_a_raw_file_is_not_taken_for_the_picture(self, tmp_path):
        path = save(tmp_path / "raw.tif", RGB, tiffinfo={254: 1})
        assert "only a reduced picture comes first" in refused(path)

    def test_pairs_of_pictures_of_a_phone(self, tmp_path):
        first, second = (Image.new("RGB", (30, 20), (grey,) * 3) for grey in (40, 200))
        path = tmp_path / "pair.mpo"
        first.save(path, "MPO", save_all=True, append_images=[second])
        assert np.array_equal(read(path), np.full((20, 30, 3), 40))

    @pytest.mark.parametrize("suffix", [".HEIC", ".jpg"])
    def test_heic(self, tmp_path, suffix):
        pillow_heif = pytest.importorskip("pillow_heif", reason="extra heic is not installed")
        path = tmp_path / f"picture{suffix}"
        pillow_heif.from_pillow(Image.fromarray(RGB)).save(path, quality=-1, chroma=444)
        assert np.abs(read(path).astype(int) - RGB).max() <= 3
        assert pictures.read_size(path) == ((30, 20), 1)

    def test_damaged_heic_is_not_called_a_video(self, tmp_path):
        pytest.importorskip("pillow_heif", reason="extra heic is not installed")
        path = tmp_path / "IMG_1.HEIC"
        for brand, reason in ((b"heic", "damaged, or none of the formats AVIF, HEIF"),
                              (b"isom", "a video, which is counted by itself")):  # fmt: skip
            path.write_bytes(b"\0\0\0\x18ftyp" + brand)
            assert refused(path).startswith(f"not a readable image: {reason}")

    def test_heic_without_its_extra(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        path = tmp_path / "IMG_1.HEIC"
        path.write_bytes(b"\0\0\0\x18ftypheic")
        assert refused(path) == "HEIC needs pillow_heif: pip install 'hmode[heic]'"

    def test_higher_than_a_strip(self):
        tall = noise((2 * pictures.STRIP + 9, 5))
        pixels = to_pixels(Image.fromarray(tall))
        assert np.array_equal(pixels.permute(1, 2, 0), tall)


def png(width, height, data, *, depth=8, colour=0) -> bytes:
    """A PNG file with a header of one's own."""

    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def refused(path) -> str:
    """The one line with which a file is refused; it names it."""
    with pytest.raises(InputError) as error:
        read_image(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def encoded(image, kind, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SOUND = {
    "jpeg": encoded(Image.fromarray(RGB), "JPEG", exif=orientation(6)),
    "progressive": encoded(Image.fromarray(RGB), "JPEG", progressive=True),
    "cmyk": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "png": encoded(Image.fromarray(RGB), "PNG", exif=orientation(3)),
    "deep": encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
    "tiff": encoded(Image.fromarray(RGB), "TIFF"),
    "float": encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "webp": encoded(Image.fromarray(RGB), "WEBP"),
    "bmp": encoded(Image.fromarray(RGB), "BMP"),
    "gif": encoded(Image.fromarray(GREY), "GIF"),
    "ppm": encoded(Image.fromarray(RGB), "PPM"),
    "jpeg 2000": encoded(Image.fromarray(RGB), "JPEG2000"),
    "avif": encoded(Image.fromarray(RGB), "AVIF"),
}


class TestBadFiles:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"hello, I am a text\n" * 50, "none of the formats JPEG, PNG"),
            (b"<html>404: not found</html>", "none of the formats"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of the formats"),
            (SOUND["jpeg"][:-200], "truncated"),
            (SOUND["jpeg"][:20], "not a readable image"),
            (SOUND["png"][:-60], "not a readable image"),
            (png(0, 5, zlib.compress(b"\0" * 5)), "not a readable image"),
            (png(60_000, 60_000, zlib.compress(b"\0" * 99)), "60000 x 60000 pixels"),
        ],
        ids=["empty", "text", "html", "eps", "cut", "header", "png cut", "no width", "bomb"],
    )
    def test_content_that_is_no_picture(self, tmp_path, content, reason):
        path = tmp_path / "picture.jpg"
        path.write_bytes(content)
        assert reason in refused(path)

    def test_not_there(self, tmp_path):
        assert refused(tmp_path / "gone.jpg") == "no such file"
        with pytest.raises(MissingFileError):
            read_image(str(tmp_path / "gone.jpg"))

    def test_a_folder(self, tmp_path):
        assert refused(tmp_path) == "is a folder, expected an image"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert refused(tmp_path / "pipe.jpg") == "is no ordinary file, expected an image"

    @pytest.mark.parametrize("kind", SOUND)
    def test_no_truncated_file_is_read_as_something_else(self, tmp_path, kind):
        content, path = SOUND[kind], tmp_path / "picture"
        path.write_bytes(content)
        whole = to_pixels(path)
        with warnings.catch_warnings(action="ignore"):  # of Pillow, about cut tags
            for length in range(0, len(content), max(1, len(content) // 60)):
                path.write_bytes(content[:length])
                try:
                    pixels = to_pixels(path)
                except InputError:
                    continue
                assert torch.equal(pixels, whole), length


class TestPixelLimit:
    def test_it_is_ours_and_pillows_is_left_alone(self, tmp_path, monkeypatch):
        path = save(tmp_path / "picture.png", RGB)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)
        assert np.array_equal(read(path), RGB)
        assert Image.MAX_IMAGE_PIXELS == 10

    def test_it_holds_for_what_is_yet_to_be_decoded(self, tmp_path, monkeypatch):
        kinds = [save(tmp_path / "picture.png", RGB), Image.fromarray(RGB)]
        monkeypatch.setattr(pictures, "MAX_PIXELS", 20 * 30)
        for kind in kinds:
            assert to_pixels(kind).shape == (3, 20, 30)
        monkeypatch.setattr(pictures, "MAX_PIXELS", 20 * 30 - 1)
        for kind in kinds:
            with pytest.raises(InputError, match=r"30 x 20 pixels, expected 1 to 599 .*max_pixels"):
                to_pixels(kind)
            assert to_pixels(kind, max_pixels=20 * 30).shape == (3, 20, 30)
        assert to_pixels(RGB).shape == (3, 20, 30)  # is in memory already


class TestKinds:
    def test_all_of_the_same_picture_give_the_same_pixels(self, tmp_path):
        path = save(tmp_path / "picture.png", RGB)
        kinds = [
            path,
            str(path),
            Image.fromarray(RGB),
            Image.fromarray(RGB).convert("RGBA"),
            RGB,
            np.dstack([RGB, GREY]),
            np.asfortranarray(RGB),
            RGB[:, ::-1][:, ::-1],
            RGB.astype(np.uint16) * 257,
            (RGB / 255).astype(np.float32),
            RGB / 255,
            torch.from_numpy(RGB).permute(2, 0, 1),
        ]
        for kind in kinds:
            pixels = to_pixels(kind)
            assert pixels.dtype == torch.uint8
            assert torch.equal(pixels, torch.from_numpy(RGB).permute(2, 0, 1))

    @pytest.mark.parametrize(
        ("image", "named"),
        [
            (RGB.astype(np.int64), "int64, expected uint8, uint16 or float"),
            (RGB > 9, "bool"),
            (RGB.astype(np.float32), "values from 0 to 255, expected 0 to 1"),
            (RGB / 255 - 0.5, "expected 0 to 1"),
            (np.full((4, 4), np.nan), "expected 0 to 1"),
            (RGB.transpose(2, 0, 1), r"shape \[3, 20, 30\], expected .*\[H, W, 3\]"),
            (RGB[None], r"shape \[1, 20, 30, 3\]"),
            (RGB[..., :2], r"shape \[20, 30, 2\]"),
            (RGB[0, 0], r"shape \[3\]"),
            (np.zeros((0, 5), np.uint8), "5 x 0 pixels"),
            (torch.zeros(3, 8, 8), r"torch\.float32 .*expected uint8 \[3, H, W\]"),
            (torch.zeros(8, 8, 3, dtype=torch.uint8), r"\[8, 8, 3\]"),
            (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"\[1, 3, 8, 8\]"),
            (torch.zeros(3, 0, 8, dtype=torch.uint8), "8 x 0 pixels"),
            ([[1, 2]], "of type list, expected a path, a PIL image, an array"),
            (None, "of type NoneType"),
            (b"bytes", "of type bytes"),
        ],
    )
    def test_what_is_no_picture(self, image, named):
        with pytest.raises(InputError, match=named) as error:
            to_pixels(image)
        assert str(error.value).startswith("image")
