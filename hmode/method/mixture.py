"""The baseline (maps averaged) and HMoDE, the hierarchical mixture of density experts."""

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmode.errors import InputError
from hmode.method.gating import (
    ATTENTION_CHANNELS,
    GATE1_CHANNELS,
    GATE2_CHANNELS,
    AttentionNet,
    GatingNet,
    convolutions,
)
from hmode.method.network import MultiScaleNetwork, to_grid


class Level(NamedTuple):
    """One mixing level: groups of inputs, each mixed into one, and inputs that pass through.

    What it gives to the next level are the groups, then the passed inputs.
    """

    groups: tuple[tuple[int, ...], ...]
    passed: tuple[int, ...] = ()

    @property
    def outputs(self) -> int:
        """How many maps it gives to the next level."""
        return len(self.groups) + len(self.passed)


def overlapping_levels(experts: int, group_size: int, depth: int) -> list[Level]:
    """The levels below gating net 2: on each, any N of its inputs form a group (Fig. 3).

    Raises:
        InputError: group_size or depth is out of its range.
    """
    if depth not in (2, 3):
        raise InputError(f"depth is {depth!r}, expected one of (2, 3)")
    if group_size not in range(2, experts):
        raise InputError(f"group_size is {group_size!r}, expected 2 to experts - 1 = {experts - 1}")
    levels, inputs = [], experts
    for _ in range(depth - 1):
        levels.append(Level(tuple(combinations(range(inputs), group_size))))
        inputs = len(levels[-1].groups)
    return levels


class Baseline(MultiScaleNetwork):
    """The paper's baseline (section IV-B.3): the K maps of the encoder-decoder, averaged.

    `model(images)` returns a `Prediction` with `density` and `experts`. Arguments as those of
    `EncoderDecoder`; the default is the paper's network.
    """

    def __init__(self, experts=3, width=1.0, weights=None, *, density_scale=100.0, **more):
        super().__init__(
            experts=experts, width=width, weights=weights, density_scale=density_scale, **more
        )

    def predict_maps(self, images: Tensor) -> dict:
        _, blocks = self.features(images)
        experts = self.expert_maps(blocks)
        return {"experts": experts, "density": experts.mean(dim=1, keepdim=True)}


class HMoDE(MultiScaleNetwork):
    """The hierarchical mixture of density experts (section III-B, eq. 1).

    Any `group_size` = N of the K experts form one of M = C(K, N) overlapping groups, mixed per
    pixel by gating net 1; the groups are mixed per pixel by gating net 2, which reads the
    attention-guided feature F' = A·F. The default is the paper's network.

    Args:
        experts: K, 2 to 5.
        group_size: N, 2 ≤ N < K.
        depth: levels of the hierarchy. 3 groups the groups once more in the same way before the
            last mixture (Table VIII), by a gating net like gating net 1.
        width, weights, density_scale, encoder_width: as in `EncoderDecoder`.
        variant: what the `build` of a subclass takes besides; here nothing.

    Raises:
        InputError: a setting is out of its range, or settings contradict each other.
    """

    def __init__(
        self,
        experts=3,
        group_size=2,
        depth=2,
        width=1.0,
        weights=None,
        *,
        density_scale=100.0,
        encoder_width=None,
        **variant,
    ):
        super().__init__(
            experts=experts,
            width=width,
            weights=weights,
            density_scale=density_scale,
            encoder_width=encoder_width,
        )
        self.config |= {"group_size": group_size, "depth": depth}
        self.build(group_size, depth, width, **variant)

    def build(self, group_size: int, depth: int, width: float) -> None:
        """Make the levels, their gating nets and the attention net."""
        c = self.encoder.channels[-1]

        def gate(hidden: tuple[int, ...], shape: tuple[int, int]) -> GatingNet:
            trunk = convolutions(c, hidden, width)
            return GatingNet(trunk, trunk[-2].out_channels, shape)

        self.levels = overlapping_levels(self.config["experts"], group_size, depth)
        self.inner_gates = nn.ModuleList(  # gating net 1 of each level
            gate(GATE1_CHANNELS, (len(level.groups), group_size)) for level in self.levels
        )
        trunk = convolutions(c, ATTENTION_CHANNELS, width)
        self.attention = AttentionNet(trunk, trunk[-2].out_channels)
        self.gate2 = gate(GATE2_CHANNELS, (1, self.levels[-1].outputs))

    def predict_maps(self, images: Tensor) -> dict:
        stages, blocks = self.features(images)
        experts, f = self.expert_maps(blocks), stages[-1]  # [B, K, h, w], [B, C, H/16, W/16]
        attention = self.attention(f)  # [B, 1, H/16, W/16]
        grid = experts.shape[-2:]
        (*levels, density), (*gates, gate2) = self.mix(experts, f, attention * f, grid)
        return {
            "experts": experts,
            "density": density,
            "levels": tuple(levels),
            "gates": tuple(gates),
            "gate2": gate2[:, 0],  # [B, M, h, w]
            "attention": to_grid(attention, grid),
            "members": tuple(self.levels),
        }

    def mix(
        self, inputs: Tensor, gate1_input: Tensor, gate2_input: Tensor, grid: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Eq. 1: from the bottom of the hierarchy, every level's mixtures and their weights.

        Args:
            inputs: the experts `[B, K, h, w]`, finest first.
            gate1_input: the features that the inner gating nets read.
            gate2_input: F' `[B, C, H/16, W/16]`, which gating net 2 reads.
            grid: (h, w).

        Returns:
            For each level, the final one included: mixtures `[B, M, h, w]` and weights
            `[B, M, N, h, w]`. (A variant that gates channels has one more dimension.)
        """
        mixed, gates = [], []
        for gating_net, level in zip(self.inner_gates, self.levels, strict=True):
            gates.append(gating_net(gate1_input, grid))  # [B, M, N, h, w]
            each = inputs.unbind(1)
            members = torch.stack([each[i] for group in level.groups for i in group], dim=1)
            members = members.contiguous().unflatten(1, (len(level.groups), -1))  # [B, M, N, h, w]
            mixed.append((gates[-1] * members).sum(dim=2))  # [B, M, h, w]
            passed = [inputs[:, i : i + 1] for i in level.passed]
            inputs = torch.cat([mixed[-1], *passed], dim=1)
        if self.gate2 is not None:
            gates.append(self.gate2(gate2_input, grid))  # [B, 1, M, h, w]
            mixed.append((gates[-1] * inputs[:, None]).sum(dim=2))  # [B, 1, h, w]
        return mixed, gates
