"""What a counting network returns: its maps, their gates, and how to read a count off them."""

from dataclasses import dataclass, field, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(eq=False)
class Prediction:
    """The maps of a batch of B images of H x W pixels, on the grid of the finest expert.

    A map value is people per full-size pixel times `scale`, and a cell of the grid stands for
    `stride` x `stride` pixels: the grid has h = ceil(H / stride) rows and w = ceil(W / stride)
    columns, and the last of them may cover fewer pixels than a whole cell. K experts are mixed in
    M groups of N (section III-B of the paper).

    Attributes:
        density: float32 `[B, 1, h, w]`, the final map E_out.
        experts: float32 `[B, K, h, w]`, E_1 (finest) to E_K (coarsest); K = 0 for a network with
            one output only.
        size: (H, W) of the images.
        stride: pixels per cell side, 4 for three experts.
        scale: what map values are multiplied by (`density_scale` of the model).
        levels: the groups of each inner level of the hierarchy, `[B, M, h, w]` each; () without a
            hierarchy. `groups` is the first.
        gates: the weights that made each of `levels`, `[B, M, N, h, w]` each, summing to one over
            the N members of a group. `gate1` is the first. A mixture of experts on one level has
            one, `[B, 1, K, h, w]`, which made `density`.
        gate2: `[B, M, h, w]`, the weights of the last level, summing to one over its M inputs:
            the groups, then the experts that are in none; or None. Where weights are of whole
            images (`HMoDE(gating="image")`) or of feature channels ("channel"), gates and gate2
            are these, the latter averaged over channels, repeated over the grid.
        attention: `[B, 1, h, w]` in (0, 1), the foreground map A, or None.
        members: for each of `gates` what its groups mix: (groups, passed), the indices of each
            group's members among the maps of the level below, and of those that pass on as they
            are, behind the groups.
        local: `[B, 1, h, w]`, a local counting map from a branch of its own (Table IX, DB), in the
            unit of the others, or None.
    """

    density: Tensor
    experts: Tensor
    size: tuple[int, int]
    stride: int
    scale: float
    levels: tuple[Tensor, ...] = ()
    gates: tuple[Tensor, ...] = field(default=(), repr=False)
    gate2: Tensor | None = None
    attention: Tensor | None = None
    members: tuple = field(default=(), repr=False)
    local: Tensor | None = None

    @property
    def groups(self) -> Tensor | None:
        """`[B, M, h, w]`, the first level's groups, or None without a hierarchy."""
        return self.levels[0] if self.levels else None

    @property
    def gate1(self) -> Tensor | None:
        """`[B, M, N, h, w]`, the first level's gates, or None without a hierarchy."""
        return self.gates[0] if self.gates else None

    @property
    def maps(self) -> Tensor:
        """`[B, C, h, w]`, every supervised map: experts, groups of each level, final (eq. 7)."""
        return torch.cat([self.experts, *self.levels, self.density], dim=1)

    @property
    def count(self) -> Tensor:
        """`[B]`, people in each image."""
        return self.counts(self.density)[:, 0]

    def counts(self, maps: Tensor) -> Tensor:
        """People in each of `maps` `[B, C, h, w]` → `[B, C]`; partial cells count their pixels."""
        rows, columns = (
            self._pixels(cells, side, maps)
            for cells, side in zip(maps.shape[-2:], self.size, strict=True)
        )
        return (maps * rows[:, None] * columns).sum(dim=(-2, -1)) / self.scale

    def expert_weights(self) -> Tensor:
        """`[B, K, h, w]`: what each expert weighs in the final map, all gates taken together.

        They sum to one over experts, and the sum of weights x experts is the final map (but where
        features are mixed, `HMoDE(gating="channel")`). Without gates all weigh the same.
        """
        experts = self.experts.shape[1]
        if not self.gates:
            return torch.full_like(self.experts, 1 / max(experts, 1))
        shares = torch.eye(experts, device=self.density.device)[..., None, None].unbind()
        shares = list(shares)  # of each of a level's inputs, [B or 1, K, h or 1, w or 1]
        for (groups, passed), gates in zip(self.members, self.gates, strict=True):
            mixed = [
                sum(gates[:, m, n, None] * shares[i] for n, i in enumerate(group))
                for m, group in enumerate(groups)
            ]
            shares = mixed + [shares[i].expand_as(mixed[0]) for i in passed]
        if self.gate2 is None:
            return shares[0]
        return sum(self.gate2[:, i, None] * share for i, share in enumerate(shares))

    def full_size(self, maps: Tensor | None = None) -> Tensor:
        """`[B, C, H, W]`, people per pixel: `maps` (default: `density`) at the images' size.

        Each cell's value is repeated over its pixels, so the sum of a map is its count.
        """
        maps = self.density if maps is None else maps
        height, width = self.size
        full = F.interpolate(maps, scale_factor=self.stride, mode="nearest")
        return full[..., :height, :width] / self.scale

    def image(self, index: int) -> "Prediction":
        """The maps and gates of one image, as a batch of one."""

        def part(value):
            if isinstance(value, tuple):
                return tuple(map(part, value))
            return value[index : index + 1] if isinstance(value, Tensor) else value

        return Prediction(**{each.name: part(getattr(self, each.name)) for each in fields(self)})

    def masked(self, mask: Tensor) -> "Prediction":
        """This prediction with its maps counting nothing outside a mask (TRANCOS).

        Args:
            mask: bool `[B, 1, H, W]`, True where people are counted.

        Returns:
            A prediction whose maps' cells are multiplied by their share of masked-in pixels, so
            that a map's count is that of `full_size` times the mask.
        """
        height, width = self.size
        rows, columns = self.density.shape[-2:]
        inside = mask.to(self.density.dtype)
        padding = (0, columns * self.stride - width, 0, rows * self.stride - height)
        pixels = F.avg_pool2d(F.pad(inside, padding), self.stride) * self.stride**2
        covered = self._pixels(rows, height, inside)[:, None] * self._pixels(columns, width, inside)
        share = pixels / covered
        return replace(
            self,
            experts=self.experts * share,
            levels=tuple(level * share for level in self.levels),
            density=self.density * share,
            local=None if self.local is None else self.local * share,
        )

    def _pixels(self, cells: int, side: int, like: Tensor) -> Tensor:
        """How many of the image's pixels each cell covers along one side, `[cells]`."""
        pixels = like.new_full((cells,), float(self.stride))
        pixels[-1] = side - self.stride * (cells - 1)
        return pixels
