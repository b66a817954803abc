"""What every counting network has in common: padded images in, a `Prediction` out."""

from torch import Tensor, nn
from torch.nn import functional as F

from hmode.errors import InputError
from hmode.models.prediction import Prediction
from hmode.models.weights import label

MIN_SIDE = 32


class CountingNetwork(nn.Module):
    """A network that maps images to density maps on a coarse grid.

    Subclasses say on which grid (`stride`, and `multiple`, what image sides are padded to) and
    define `predict_maps`.

    Attributes:
        config: arguments of `build_model` that make this network again.
        stride: pixels per cell side of the maps.
        scale: what map values are multiplied by.
        working_pixels: to about so many `hmode.count` brings every picture, in its own shape, so
            that heads are as large as those it was trained on; None: pictures stay as they are.
        frozen: the part that training leaves as it is, see `freeze`.
        initial_weights: what the encoder's weights were, None for random ones; a file's digest.

    Raises:
        InputError: width or density_scale is not positive.
    """

    multiple = 16
    working_pixels: int | None = None
    frozen: str | None = None

    def __init__(self, *, width: float, weights, density_scale: float, stride: int):
        super().__init__()
        for name, value in (("width", width), ("density_scale", density_scale)):
            if not value > 0:
                raise InputError(f"{name} is {value!r}, expected a positive number")
        self.config = {
            "model": type(self).__name__,
            "width": width,
            "density_scale": density_scale,
        }
        self.initial_weights = label(weights)
        self.scale = float(density_scale)
        self.stride = stride

    def freeze(self, part: str = "encoder") -> None:
        """Hold a part fixed in all training to come, its batch norms' statistics too.

        Raises:
            InputError: the network has no such part.
        """
        if part not in dict(self.named_children()):
            raise InputError(f"part is {part!r}, expected one of {[*dict(self.named_children())]}")
        self.get_submodule(part).requires_grad_(False)
        self.frozen = part
        self.train(self.training)

    def train(self, mode: bool = True) -> "CountingNetwork":
        """Into training mode, but for what is frozen."""
        super().train(mode)
        if self.frozen is not None:
            self.get_submodule(self.frozen).eval()
        return self

    def forward(self, images: Tensor) -> Prediction:
        """Normalised images `[B, 3, H, W]`, sides ≥ 32 → `Prediction`.

        Sides that are not multiples of `multiple` are padded with zeros (the mean colour) at the
        bottom and right, and the maps are cropped back.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < MIN_SIDE:
            raise InputError(
                f"images have shape {list(images.shape)}, expected [B, 3, H, W] with "
                f"sides of at least {MIN_SIDE} pixels"
            )
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        maps = self.predict_maps(images)
        # Not -(-height // stride): ONNX, to which this is exported, divides towards zero.
        rows, columns = ((side + self.stride - 1) // self.stride for side in (height, width))
        cropped = {name: _crop(value, rows, columns) for name, value in maps.items()}
        return Prediction(size=(height, width), stride=self.stride, scale=self.scale, **cropped)

    def predict_maps(self, images: Tensor) -> dict[str, Tensor | tuple[Tensor, ...] | None]:
        """The maps of a `Prediction` for images whose sides are multiples of `multiple`."""
        raise NotImplementedError(f"{type(self).__name__} defines no maps")


def _crop(value, rows: int, columns: int):
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(_crop(each, rows, columns) for each in value)
    return value[..., :rows, :columns]
