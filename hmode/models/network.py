"""What the package's networks have beyond the paper: initial weights from files, frozen parts, a
working size."""

from pathlib import Path

from torch import Tensor, nn

from hmode.errors import InputError
from hmode.method import network
from hmode.models.weights import label, load_vgg, measure_norms


class CountingNetwork(network.CountingNetwork):
    """A network that maps images to density maps on a coarse grid.

    Attributes:
        working_pixels: to about so many `hmode.count` brings every picture, in its own shape, so
            that heads are as large as those it was trained on; None: pictures stay as they are.
        frozen: the part that training leaves as it is, see `freeze`.
        initial_weights: what the encoder's weights were, None for random ones; a file's digest.
    """

    working_pixels: int | None = None
    frozen: str | None = None
    initial_weights: str | None = None

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


class Encoder(network.Encoder):
    """VGG-16-BN up to conv5_3 whose weights may come from ImageNet.

    Args:
        width: relative number of channels.
        weights: None (random), "imagenet" (torchvision's, downloaded) or the path of a vgg16_bn
            state dict, at width 1.0 only; or "imagenet-plain" or the path of a state dict of
            vgg16, without batch norms, after which `unmeasured` is true and `measure` is due.

    Raises:
        InputError, MissingFileError: as `load_vgg`.
    """

    def __init__(self, width: float, weights: str | Path | None):
        super().__init__(width)
        self.unmeasured = weights is not None and load_vgg(self.flat, "vgg16_bn", weights, width)

    @property
    def flat(self) -> nn.Sequential:
        """All layers in one row, numbered as in torchvision's `vgg16_bn().features`."""
        return nn.Sequential(*(layer for stage in self.stages for layer in stage))

    def measure(self, images: Tensor) -> None:
        """Give the batch norms the statistics of normalised images, see `measure_norms`."""
        measure_norms(self.flat, images)
        self.unmeasured = False


class WithEncoder(CountingNetwork):
    """A network of the paper's own, whose encoder is an `Encoder`."""

    def make_encoder(self, width: float, weights: str | Path | None) -> Encoder:
        self.initial_weights = label(weights)
        return Encoder(width, weights)
