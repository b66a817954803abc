"""3 x 3 convolutions with a quarter of the multiplications, on a CPU.

Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, CVPR 2016, section 4.3) computes
4 x 4 outputs from 6 x 6 inputs with 36 multiplications for each pair of channels, where the
convolution itself takes 144:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A,

summed over the input's channels inside the brackets: 36 matrix products over channels. cuDNN does
so on GPUs; oneDNN, torch's library on CPUs, no longer does. In float32 its error is some ten times
the direct convolution's: about two millionths of the result, root mean square.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

OUT, IN = 4, 6  # sides of a tile's outputs and inputs
# Elements of the largest arrays in between: larger ones cost memory and gain nothing.
AT_ONCE = 2**23

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
FILTER = torch.kron(G, G)  # both sides at once


def gains(c_in: int, c_out: int, positions: int, trained: bool) -> bool:
    """Whether `winograd` is the faster on a grid of so many positions, all images together.

    Transforming the inputs and outputs takes a share of the products' time that falls with the
    channels, transforming the filters one that falls with the positions. The bounds were measured.
    Most is gained on the way back, where oneDNN is slower, on the largest grids above all.
    """
    share = 1 / c_in + 1 / c_out
    if not trained:
        return share + 6 / positions < 1 / 90
    return share + 6 / positions < 1 / 45 or (share <= 1 / 32 and positions >= 2**15)


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)` for 3 x 3 weights, with its gradients.

    Args:
        x: float32 `[B, C, H, W]`, fastest channels last.
        weight: `[O, C, 3, 3]`, fastest channels last.
        bias: `[O]` or None.

    Returns:
        `[B, O, H, W]`, channels last.
    """
    return _Winograd.apply(x, weight, bias)


class _Winograd(torch.autograd.Function):
    """`winograd`. The way back takes the transpose of each step. The transformed inputs and
    filters, two and four times as large as they were, are not kept for it but made again."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        windows = _windows(x, IN)
        batch, rows, columns, channels = windows.shape[2:]
        size = (batch, len(weight), OUT * rows, OUT * columns)
        result = torch.empty(size, memory_format=torch.channels_last)
        tiles = _windows(result, OUT)
        for strip in _slices(rows, batch * columns * max(channels, len(weight))):
            inputs = _transformed(B_T, windows[:, :, :, strip])
            for some in _slices(len(weight), channels):
                place = tiles[:, :, :, strip, :, some]
                products = torch.bmm(inputs, _filters(weight[some]).mT)  # [36, T, O]
                outputs = _both_sides(A_T, products).view(place.shape)
                torch.add(outputs, 0 if bias is None else bias[some], out=place)
        if result.shape[2:] == x.shape[2:]:
            return result
        return result[:, :, : x.shape[2], : x.shape[3]].clone(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = torch.empty_like(x), torch.empty_like(weight)
        windows, tiles = _windows(x, IN), _windows(gradient, OUT)
        batch, rows, columns, channels = windows.shape[2:]
        for images in _slices(batch, rows * columns * max(channels, len(weight))):
            inputs = _transformed(B_T, windows[:, :, images])
            for_inputs = inputs.new_zeros(())  # [36, T, C]
            for some in _slices(len(weight), channels):
                products = _transformed(A_T.mT, tiles[:, :, images, :, :, some])  # [36, T, O]
                filters = torch.bmm(products.mT, inputs)  # [36, O, C]
                filters = _both_sides(G.mT, filters).view(3, 3, -1, channels)
                _put(for_weight[some], filters.permute(2, 3, 0, 1), first=images.start == 0)
                for_inputs = torch.baddbmm(for_inputs, products, _filters(weight[some]))
            for_inputs = _both_sides(B_T.mT, for_inputs).view_as(windows[:, :, images])
            for_x[images] = _overlaid(for_inputs, x.shape[2:])
        for_bias = gradient.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None
        return for_x, for_weight, for_bias


def _slices(length: int, size: int) -> list[slice]:
    """Consecutive ones over a length, each of at most `AT_ONCE` elements: 36 times `size` in one
    step of the length."""
    step = max(1, AT_ONCE // (IN**2 * size))
    return [slice(start, start + step) for start in range(0, length, step)]


def _put(place: Tensor, values: Tensor, first: bool) -> None:
    """Write the first values into a place, add later ones."""
    place.copy_(values) if first else place.add_(values)


def _windows(x: Tensor, side: int) -> Tensor:
    """`[B, C, H, W]` → `[side, side, B, rows, columns, C]`: squares whose middles are the tiles."""
    around = (side - OUT) // 2
    bottom, right = (-length % OUT + around for length in x.shape[2:])
    if any((around, bottom, right)):
        x = F.pad(x, (around, right, around, bottom))
    return x.unfold(2, side, OUT).unfold(3, side, OUT).permute(4, 5, 0, 2, 3, 1)


def _both_sides(matrix: Tensor, x: Tensor) -> Tensor:
    """X → M X Mᵀ over the first of the dimensions: `[n, n, ...]` or `[n², ...]` → `[m, m, N]`."""
    m, n = matrix.shape
    x = torch.bmm(matrix.expand(n, m, n), x.reshape(n, n, -1))
    return (matrix @ x.view(n, -1)).view(m, m, -1)


def _transformed(matrix: Tensor, windows: Tensor) -> Tensor:
    """Windows `[., ., B, rows, columns, C]` → `[36, T, C]`, T tiles."""
    return _both_sides(matrix, windows).view(IN**2, -1, windows.shape[-1])


def _filters(weight: Tensor) -> Tensor:
    """`[O, C, 3, 3]` → `[36, O, C]`."""
    return (FILTER @ weight.permute(0, 2, 3, 1).flatten(1, 2)).transpose(0, 1)


def _overlaid(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """The transpose of `_windows`: `[6, 6, B, rows, columns, C]` added up to `[B, C, H, W]`."""
    batch, rows, columns, channels = windows.shape[2:]
    total = windows.new_zeros(batch, rows + 1, OUT, columns + 1, OUT, channels)
    places = total.permute(2, 4, 0, 1, 3, 5)
    for below, right in product((0, 1), (0, 1)):
        part = windows[OUT * below :, OUT * right :][:OUT, :OUT]
        height, width = part.shape[:2]
        places[:height, :width, :, below : rows + below, right : columns + right] += part
    total = total.view(batch, OUT * (rows + 1), OUT * (columns + 1), channels)
    return total[:, 1 : size[0] + 1, 1 : size[1] + 1].permute(0, 3, 1, 2)
