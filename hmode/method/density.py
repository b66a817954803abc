"""From head points to density maps, and from density maps to local counts.

A density map is a picture whose sum over any region is the number of people in it (Lempitsky and
Zisserman 2010). Each head becomes a Gaussian of mass one. A two-dimensional Gaussian is the
product of two one-dimensional ones, so the whole map is one matrix product,

    D = Gyᵀ Gx,    Gy [N, H], Gx [N, W],

with the rows of Gy and Gx each normalised to sum one inside the frame: the mass is exact at
borders too, every point may have its own sigma, and it is differentiable and batched for free.
"""

from numbers import Integral

import torch
from torch import Tensor

from hmode.errors import InputError
from hmode.method.image import inside

# Points that one matrix product takes at a time: bounds the memory of Gy and Gx.
POINTS_PER_PRODUCT = 8192
# Pixels; a narrower Gaussian lies on its pixel alone all the same, and its exponents overflow.
NARROWEST = 1e-6


def density_map(points, size, *, sigma=4.0, window=None) -> Tensor:
    """The density map of one image.

    Args:
        points: `[N, 2]`, (x, y) in pixels, tensor or array; pixel (row r, column c) covers
            [c, c+1) x [r, r+1). Duplicates count; points outside the frame lie in no map.
        size: (H, W) in pixels.
        sigma: standard deviation of the Gaussians in pixels, a positive number or `[N]`
            (see `hmode.adaptive_sigma`).
        window: None for untruncated Gaussians, or the odd side in pixels of the box around the
            head's pixel outside which they are cut. With a window the Gaussian is centred on its
            pixel's centre: 15 with sigma 4 gives the kernel of the C-3 framework, SASNet and the
            data of the released HMoDE code. (Their scripts subtract one from the coordinates
            first, as 1-based annotations ask for.)

    Returns:
        float32 `[H, W]`, people per pixel, on the device of `points`. Sums to the number of points
        inside the frame: the part of a Gaussian that a border or window cuts off is given back to
        the rest of it. Differentiable in `points`; with a window the gradient passes straight
        through the rounding to pixel centres.

    Raises:
        InputError: points are not `[N, 2]` or not finite; sigma is not positive or of the wrong
            length; window is not odd; size is not two positive integers.
    """
    height, width = _checked_size(size)
    points = checked_points(points)
    sigma = _checked_sigma(sigma, points)
    check_window(window)
    there = inside(points, (height, width))
    points, sigma = points[there], sigma[there]
    density = points.new_zeros(height, width)
    with torch.autocast(points.device.type, enabled=False):
        for start in range(0, len(points), POINTS_PER_PRODUCT):
            some = slice(start, start + POINTS_PER_PRODUCT)
            gx = _gaussians(points[some, 0], sigma[some], width, window)
            gy = _gaussians(points[some, 1], sigma[some], height, window)
            density = torch.addmm(density, gy.T, gx)
    return density


def batch_density_maps(points, valid, size, *, sigma=4.0, window=None) -> Tensor:
    """Density maps of a batch of crops: the target that training makes on its device.

    Args:
        points: float32 `[B, N, 2]`, (x, y) in pixels, padded to the most crowded crop.
        valid: bool `[B, N]`, False for padding. Valid points must lie inside the frame.
        size, sigma, window: as in `density_map`; sigma a number or `[B, N]`.

    Returns:
        float32 `[B, 1, H, W]`, people per pixel, computed in float32 also under autocast.
    """
    height, width = size
    if not isinstance(sigma, Tensor):  # made on the device: a copy to a GPU makes it wait
        sigma = points.new_full((), sigma)
    sigma = sigma.expand(valid.shape)
    with torch.autocast(points.device.type, enabled=False):
        gx = _gaussians(points[..., 0], sigma, width, window) * valid[..., None]  # [B, N, W]
        gy = _gaussians(points[..., 1], sigma, height, window)  # [B, N, H]
        return torch.bmm(gy.mT, gx)[:, None]


def local_counts(density: Tensor, region: int) -> Tensor:
    """Sums over cells of `region` x `region` pixels: the local counting map X of section III-C.

    Args:
        density: `[..., H, W]`.
        region: side of a cell in pixels; divides H and W.

    Returns:
        `[..., H/region, W/region]`, in the unit of `density` summed.

    Raises:
        InputError: region is not a positive integer that divides both sides.
    """
    height, width = density.shape[-2:]
    if not isinstance(region, Integral) or region < 1 or height % region or width % region:
        raise InputError(
            f"region is {region!r}, expected a positive integer that divides {height} and {width}"
        )
    cells = density.unflatten(-1, (width // region, region))
    cells = cells.unflatten(-3, (height // region, region))  # [..., H/r, r, W/r, r]
    return cells.sum(dim=(-3, -1))


def _gaussians(centre: Tensor, sigma: Tensor, length: int, window: int | None) -> Tensor:
    """1-D Gaussians over pixel centres, each of sum one: `[..., N]` → `[..., N, length]`.

    A softmax is that normalisation, without underflow however small sigma is.
    """
    if window is not None:
        centre = centre + (centre.floor() + 0.5 - centre).detach()
    pixel = torch.arange(length, device=centre.device, dtype=centre.dtype) + 0.5
    offset = pixel - centre[..., None]
    exponent = -0.5 * (offset / sigma[..., None].clamp(min=NARROWEST)) ** 2
    if window is not None:
        exponent = exponent.masked_fill(offset.abs() > window / 2, -torch.inf)
    return exponent.softmax(dim=-1)


def _checked_size(size) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        raise InputError(f"size is {size!r}, expected (height, width) in pixels") from None
    if height < 1 or width < 1:
        raise InputError(f"size is {(height, width)}, expected two positive sides")
    return height, width


def checked_points(points) -> Tensor:
    points = torch.as_tensor(points)
    if not points.is_floating_point() or points.dtype != torch.float32:
        points = points.float()
    if points.numel() == 0:
        points = points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"points have shape {list(points.shape)}, expected [N, 2]")
    if not torch.isfinite(points).all():
        raise InputError("points hold a coordinate that is not finite")
    return points


def _checked_sigma(sigma, points: Tensor) -> Tensor:
    sigma = torch.as_tensor(sigma, dtype=torch.float32, device=points.device)
    if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(points)):
        raise InputError(
            f"sigma has shape {list(sigma.shape)}, expected a number or [{len(points)}]"
        )
    if not ((sigma > 0) & torch.isfinite(sigma)).all():
        raise InputError("sigma must be positive and finite")
    return sigma.expand(len(points))


def check_window(window) -> None:
    """Refuse a window that is neither None nor an odd number of pixels."""
    if window is not None and (not isinstance(window, Integral) or window < 1 or window % 2 == 0):
        raise InputError(f"window is {window!r}, expected None or an odd number of pixels")
