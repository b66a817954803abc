"""Reading photographs: whatever lies in the file, RGB or a named error comes out."""

from pathlib import Path

from PIL import Image

from hmode.errors import InputError


def read_image(path: Path) -> Image.Image:
    """A decoded RGB image.

    Raises:
        InputError: the file is not a readable image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image: {error}") from None
