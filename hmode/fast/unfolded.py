"""3 x 3 convolutions on small grids as matrix products, for training in bfloat16 on a CPU.

oneDNN's convolutions go through a grid row by row. Processors with instructions for matrices (AMX)
take 16 or 32 positions at once, and a row of 8 leaves most of that empty, above all in the gradient
of the weights, whose sum goes along the rows. As one product over the positions of all images,

    Y = X W,   X `[P, 9 C]`, each position's neighbourhood,   W `[9 C, O]`,

nothing stays empty, and on a small grid the neighbourhoods are soon written down.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOW = torch.bfloat16
# Where it is faster: on grids up to this many positions wide, with at least so many channels.
WIDEST, CHANNELS = 8, 128


def gains(c_in: int, c_out: int, width: int) -> bool:
    """Whether `unfolded` is the faster on a grid of this width."""
    return width <= WIDEST and min(c_in, c_out) >= CHANNELS


def unfolded(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)` for 3 x 3 weights as autocast to bfloat16 computes
    it, with its gradients.

    Args:
        x: `[B, C, H, W]`, fastest channels last.
        weight: float32 `[O, C, 3, 3]`, fastest channels last.
        bias: float32 `[O]` or None.

    Returns:
        bfloat16 `[B, O, H, W]`, channels last.
    """
    return _Unfolded.apply(x, weight, bias)


class _Unfolded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, low = x.to(LOW), weight.permute(0, 2, 3, 1).flatten(1).to(LOW)  # [O, 9 C]
        ctx.save_for_backward(x, low)
        ctx.like = torch.empty_like(weight, device="meta")
        batch, _, height, width = x.shape
        result = torch.empty(
            (batch, len(low), height, width), dtype=LOW, memory_format=torch.channels_last
        )
        rows = result.permute(0, 2, 3, 1).flatten(0, 2)
        if bias is None:
            torch.mm(_neighbourhoods(x), low.mT, out=rows)
        else:
            torch.addmm(bias.to(LOW), _neighbourhoods(x), low.mT, out=rows)
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, low = ctx.saved_tensors
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # [P, O]
        for_weight = torch.empty_like(ctx.like, device=x.device)
        products = (rows.mT @ _neighbourhoods(x)).view(len(low), 3, 3, -1)
        for_weight.copy_(products.permute(0, 3, 1, 2))
        for_bias = rows.sum(dim=0, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        return _overlaid(rows @ low, x.shape), for_weight, for_bias


def _neighbourhoods(x: Tensor) -> Tensor:
    """`[B, C, H, W]` → `[P, 9 C]`, P = B H W."""
    windows = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # [B, C, H, W, 3, 3]
    return windows.permute(0, 2, 3, 4, 5, 1).reshape(-1, 9 * x.shape[1])


def _overlaid(rows: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of `_neighbourhoods`: `[P, 9 C]` added up, in float32, to `[B, C, H, W]`."""
    batch, channels, height, width = shape
    parts = rows.view(batch, height, width, 3, 3, channels)
    total = torch.zeros(batch, height + 2, width + 2, channels)
    for i in range(3):
        for j in range(3):
            total[:, i : i + height, j : j + width] += parts[:, :, :, i, j]
    return total[:, 1:-1, 1:-1].permute(0, 3, 1, 2).to(rows.dtype)
