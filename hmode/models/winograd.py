"""3 x 3 convolutions with a quarter of the multiplications, for counting on a CPU.

Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, CVPR 2016, section 4.3) computes
4 x 4 outputs from 6 x 6 inputs with 36 multiplications for each pair of channels, where the
convolution itself takes 144:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A,

summed over the input's channels inside the brackets: 36 matrix products over channels. cuDNN does
so on GPUs; oneDNN, torch's library on CPUs, no longer does. In float32 its error is some ten times
the direct convolution's: about two millionths of the result, root mean square.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUT, IN = 4, 6  # sides of a tile's outputs and inputs
# Where it is faster: with fewer channels the transforms of the input, with fewer positions that of
# the weights takes longer than what is saved.
CHANNELS, POSITIONS = 256, 2048

B_T = torch.tensor([
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
], dtype=torch.float32)  # fmt: skip
G = torch.tensor([
    [6, 0, 0],
    [-4, -4, -4],
    [-4, 4, -4],
    [1, 2, 4],
    [1, -2, 4],
    [0, 0, 24],
], dtype=torch.float32) / 24  # fmt: skip
A_T = torch.tensor([
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
], dtype=torch.float32)  # fmt: skip
# X → M X Mᵀ is one product with the flattened X: both sides at once.
FILTER, INPUT, OUTPUT = (torch.kron(matrix, matrix) for matrix in (G, B_T, A_T))


class WinogradConv2d(nn.Conv2d):
    """A convolution that `suits`, by `winograd` where that is faster; same weights, same result."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "WinogradConv2d":
        """The same convolution, sharing its weights."""
        with torch.device("meta"):
            made = cls(conv.in_channels, conv.out_channels, 3, padding=1)
        made.weight, made.bias = conv.weight, conv.bias
        return made.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        there = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        positions = x.numel() // x.shape[1]
        if there and positions >= POSITIONS and not torch.is_autocast_enabled("cpu"):
            return winograd(x, self.weight, self.bias)
        return super().forward(x)


def suits(module: nn.Module) -> bool:
    """Whether a module is a convolution that `winograd` can compute, and large enough to gain."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= CHANNELS
    )


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)` for 3 x 3 weights.

    Args:
        x: float32 `[B, C, H, W]`, fastest channels last.
        weight: `[O, C, 3, 3]`.
        bias: `[O]` or None.

    Returns:
        `[B, O, H, W]`, channels last.
    """
    batch, channels, height, width = x.shape
    rows, columns = -(-height // OUT), -(-width // OUT)
    padding = (1, OUT * columns - width + 1, 1, OUT * rows - height + 1)
    tiles = F.pad(x, padding).unfold(2, IN, OUT).unfold(3, IN, OUT)  # [B, C, rows, columns, 6, 6]
    tiles = tiles.permute(4, 5, 0, 2, 3, 1).reshape(IN**2, -1)
    tiles = (INPUT @ tiles).view(IN**2, -1, channels)  # [36, T, C]
    filters = FILTER @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    filters = filters.view(IN**2, -1, channels)  # [36, O, C]
    products = torch.bmm(tiles, filters.mT)  # [36, T, O]
    result = (OUTPUT @ products.flatten(1)).view(OUT, OUT, batch, rows, columns, -1)
    result = result.permute(2, 3, 0, 4, 1, 5).reshape(batch, OUT * rows, OUT * columns, -1)
    result = result[:, :height, :width].permute(0, 3, 1, 2)  # [B, O, H, W]
    return result if bias is None else result + bias[:, None, None]
