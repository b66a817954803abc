"""The baseline (maps averaged) and HMoDE, the hierarchical mixture of density experts."""

from itertools import combinations

import torch
from torch import Tensor, nn

from hmode.errors import InputError
from hmode.models.backbone import MultiScaleNetwork, to_grid
from hmode.models.gating import GATE1_CHANNELS, GATE2_CHANNELS, AttentionNet, GatingNet


class Baseline(MultiScaleNetwork):
    """The paper's baseline (section IV-B.3): the K maps of the encoder-decoder, averaged.

    `model(images)` returns a `Prediction` with `density` and `experts`. Arguments as those of
    `MultiScaleNetwork`; the default is the paper's network.
    """

    def __init__(self, experts=3, width=1.0, weights=None, *, density_scale=100.0):
        super().__init__(experts=experts, width=width, weights=weights, density_scale=density_scale)

    def predict_maps(self, images: Tensor) -> dict:
        _, experts = self.expert_maps(images)
        return {"experts": experts, "density": experts.mean(dim=1, keepdim=True)}


class HMoDE(MultiScaleNetwork):
    """The hierarchical mixture of density experts (section III-B, eq. 1).

    Any `group_size` = N of the K experts form one of M = C(K, N) overlapping groups, mixed per
    pixel by gating net 1; the groups are mixed per pixel by gating net 2, which reads the
    attention-guided feature F' = A·F. With depth 3 the groups are grouped once more in the same
    way before the last mixture (Table VIII).

    Args:
        experts: K, 2 to 5.
        group_size: N, 2 ≤ N < K.
        depth: levels of the hierarchy, 2 or 3.
        width, weights, density_scale: as in `MultiScaleNetwork`.

    Raises:
        InputError: a setting is out of its range, or settings contradict each other.
    """

    def __init__(
        self, experts=3, group_size=2, depth=2, width=1.0, weights=None, *, density_scale=100.0
    ):
        super().__init__(experts=experts, width=width, weights=weights, density_scale=density_scale)
        if depth not in (2, 3):
            raise InputError(f"depth is {depth!r}, expected 2 or 3")
        if not 2 <= group_size < experts:
            raise InputError(
                f"group_size is {group_size!r}, expected 2 to experts - 1 = {experts - 1}"
            )
        self.config |= {"group_size": group_size, "depth": depth}
        channels = self.encoder.channels[-1]
        self.inner_gates = nn.ModuleList()
        inputs = experts
        for level in range(depth - 1):
            members = torch.tensor(list(combinations(range(inputs), group_size)))  # [M, N]
            self.register_buffer(f"members{level}", members, persistent=False)
            inputs = len(members)
            self.inner_gates.append(GatingNet(channels, GATE1_CHANNELS, inputs, group_size, width))
        self.attention = AttentionNet(channels, width)
        self.gate2 = GatingNet(channels, GATE2_CHANNELS, 1, inputs, width)

    @property
    def members(self) -> list[Tensor]:
        """For each inner level, int64 `[M, N]`: which maps of the level below form each group."""
        return [self.get_buffer(f"members{level}") for level in range(len(self.inner_gates))]

    def predict_maps(self, images: Tensor) -> dict:
        features, experts = self.expert_maps(images)
        grid = experts.shape[-2:]

        maps, levels, gates = experts, [], []
        for gating_net, members in zip(self.inner_gates, self.members, strict=True):
            gate = gating_net(features, grid)  # [B, M, N, h, w]
            maps = (gate * maps[:, members]).sum(dim=2)  # [B, M, h, w]
            gates.append(gate)
            levels.append(maps)

        attention = self.attention(features)  # [B, 1, H/16, W/16]
        gate2 = self.gate2(attention * features, grid)[:, 0]  # [B, M, h, w]
        density = (gate2 * maps).sum(dim=1, keepdim=True)

        return {
            "experts": experts,
            "density": density,
            "levels": tuple(levels),
            "gates": tuple(gates),
            "gate2": gate2,
            "attention": to_grid(attention, grid),
        }
