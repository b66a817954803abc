"""HMoDE with every variant of the ablations (Tables IV to IX), the baseline, and Concat."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hmode.errors import InputError
from hmode.method import mixture
from hmode.method.gating import GATE2_CHANNELS, INITIAL_STD, AttentionNet
from hmode.method.mixture import Level, overlapping_levels
from hmode.method.network import (
    EncoderDecoder,
    conv_relu,
    density_head,
    resize,
    scaled,
    start_alive,
    to_grid,
)
from hmode.models.channels import ChannelMixing, mean_weights
from hmode.models.gating import ATTENTION_DESIGNS, GATE1_DESIGNS, GATINGS, GatingNet, trunk
from hmode.models.network import WithEncoder

# What gating net 1 may read (Table VI), by the names of Fig. 2, among the five stages of the
# encoder and the blocks of the decoder: the encoder up to conv3_3, conv4_3 and conv5_3 (strides 4,
# 8 and 16) and the decoder's blocks at strides 16, 8 and 4.
PLACES = {"EB1": 2, "EB2": 3, "EB3": 4, "DB3": 5, "DB2": 6, "DB1": 7}

CHOICES = {
    "depth": (1, 2, 3),
    "gating": GATINGS,
    "gate1": tuple(GATE1_DESIGNS),
    "gate1_input": tuple(PLACES),
    "attention": (*ATTENTION_DESIGNS, None),
    "local_head": (False, True),
}


class Baseline(WithEncoder, mixture.Baseline):
    """The paper's baseline, `hmode.method.mixture.Baseline`, its encoder as `HMoDE`'s."""


class Concat(WithEncoder, EncoderDecoder):
    """Multi-scale features concatenated (Table IV): one map from all K scales, without experts.

    The decoder's blocks are brought to the finest grid (bilinear, as inside the decoder) and one
    1 x 1 convolution with ReLU makes the map. `Prediction.experts` is empty, `[B, 0, h, w]`.
    Arguments as those of `EncoderDecoder`.
    """

    def __init__(self, experts=3, width=1.0, weights=None, *, density_scale=100.0, **more):
        super().__init__(
            experts=experts, width=width, weights=weights, density_scale=density_scale, **more
        )
        self.head = start_alive(conv_relu([sum(self.decoder.channels), 1], [1]), self.scale)

    def predict_maps(self, images: Tensor) -> dict:
        _, blocks = self.features(images)
        grid = blocks[-1].shape[-2:]
        density = self.head(torch.cat([resize(x, grid) for x in blocks], dim=1)).float()
        return {"experts": density[:, :0], "density": density}


class HMoDE(WithEncoder, mixture.HMoDE):
    """The hierarchical mixture of density experts (section III-B, eq. 1), and its variants.

    Args:
        experts, group_size, width, density_scale, encoder_width: see
            `hmode.method.mixture.HMoDE`; the default is the same network.
        depth: 2 or 3, as there; 1 is the plain mixture of experts (Table IV, "MoE"): gating net 1
            mixes all K, without groups, gating net 2 and attention, whose settings must be left
            alone.
        weights: of the encoder, see `hmode.models.network.Encoder`.
        groups: None for all combinations, or the first level's groups as 0-based expert indices,
            N each; experts in none of them pass on to the next level. An ordinary hierarchy
            without overlap, ((E1, E3), E2) of Table IV, is [[0, 2]]. Depth 2 only.
        gating: what the weights of both gating nets are weights of (Table IV): "pixel", "image"
            (w/ iw), "hard" (w/ phw) or "channel" (w/ cg); see `GatingNet` and `ChannelMixing`.
        gate1: design of gating net 1 (Table V), one of `GATE1_DESIGNS`.
        gate1_input: what gating net 1 reads (Table VI), one of `PLACES`; its weights then go to
            the experts' grid by the nearest neighbour.
        attention: design of the attention net (Table VII), one of `ATTENTION_DESIGNS`, or None:
            gating net 2 reads F itself (Table IV, w/o att).
        local_head: give the finest decoder block a second density head, for the local counts
            (Table IX, DB): `Prediction.local`.
        gate_std: standard deviation of the gating nets' initial weights, or None for He et al.'s.
        gate_relu: whether a ReLU stands before the gating nets' softmax, as in the paper.

    Raises:
        InputError: a setting is out of its range, or settings contradict each other.
    """

    def build(
        self,
        group_size: int,
        depth: int,
        width: float,
        *,
        groups=None,
        gating="pixel",
        gate1="conv2",
        gate1_input="EB3",
        attention="conv3",
        local_head=False,
        gate_std=INITIAL_STD,
        gate_relu=True,
    ) -> None:
        experts = self.config["experts"]
        settings = {
            "groups": groups,
            "gating": gating,
            "gate1": gate1,
            "gate1_input": gate1_input,
            "attention": attention,
            "local_head": local_head,
        }
        _check_choices(experts, settings | {"depth": depth})
        self.levels = inner_levels(experts, group_size, depth, groups)
        if depth == 1:
            settings["attention"] = attention = None
        if groups is not None:
            settings["groups"] = [list(group) for group in groups]
        # Stored configurations are older than these two: only what is not the default is named.
        start = {"std": gate_std, "relu": gate_relu}
        usual = {"std": INITIAL_STD, "relu": True}
        self.config |= settings | {
            f"gate_{name}": value for name, value in start.items() if value != usual[name]
        }

        channels = [*self.encoder.channels, *self.decoder.channels]
        finest = self.decoder.channels[-1]
        self.place = PLACES[gate1_input]
        c_in, c = channels[self.place], self.encoder.channels[-1]
        per_member = (finest,) if gating == "channel" else ()  # a weight for each channel, or one

        def gate(c_in, hidden, groups, members, design="conv") -> GatingNet:
            shape = (groups, members, *per_member)
            return GatingNet(c_in, hidden, shape, width, design=design, gating=gating, **start)

        self.inner_gates = nn.ModuleList(
            gate(c_in, GATE1_DESIGNS[gate1], len(groups), len(groups[0]), gate1)
            for groups, _ in self.levels
        )
        self.attention = self.gate2 = self.channel_mixing = self.local_head = None
        if attention is not None:
            hidden = [c, *(scaled(each, width) for each in ATTENTION_DESIGNS[attention])]
            self.attention = AttentionNet(trunk(attention, hidden), hidden[-1])
        if depth > 1:
            self.gate2 = gate(c, GATE2_CHANNELS, 1, self.levels[-1].outputs)
        if gating == "channel":
            mixtures = [len(level.groups) for level in self.levels] + [1] * (depth > 1)
            blocks = self.decoder.channels[::-1]
            self.channel_mixing = ChannelMixing(blocks, mixtures, width, self.scale)
        if local_head:
            self.local_head = density_head(finest, width, self.scale)

    @property
    def members(self) -> list[Tensor]:
        """For each inner level, int64 `[M, N]`: which maps of the level below form each group."""
        return [torch.tensor(level.groups) for level in self.levels]

    def predict_maps(self, images: Tensor) -> dict:
        stages, blocks = self.features(images)
        experts = self.expert_maps(blocks)  # [B, K, h, w]
        grid = experts.shape[-2:]

        gate1_input, gate2_input, attention = [*stages, *blocks][self.place], stages[-1], None
        if self.attention is not None:
            attention = self.attention(stages[-1])  # [B, 1, H/16, W/16]
            gate2_input = attention * stages[-1]  # F'

        if self.channel_mixing is None:
            mixed, gates = self.mix(experts, gate1_input, gate2_input, grid)
        else:
            features = self.channel_mixing.inputs(blocks)  # [B, K, C, h, w]
            mixed, gates = self.mix(features, gate1_input, gate2_input, grid)
            mixed = self.channel_mixing.maps(mixed)
            gates = [mean_weights(gate, grid) for gate in gates]

        gate2 = None if self.gate2 is None else gates.pop()[:, 0]  # [B, M, h, w]
        *levels, density = mixed
        return {
            "experts": experts,
            "density": density,
            "levels": tuple(levels),
            "gates": tuple(gates),
            "gate2": gate2,
            "attention": None if attention is None else to_grid(attention, grid),
            "members": tuple(self.levels),
            "local": None if self.local_head is None else self.local_head(blocks[-1]).float(),
        }


def _check_choices(experts: int, settings: dict) -> None:
    """Refuse settings of `HMoDE` that are out of their range or contradict each other."""
    for name, allowed in CHOICES.items():
        if settings[name] not in allowed:
            raise InputError(f"{name} is {settings[name]!r}, expected one of {allowed}")
    if settings["gate1_input"] == "DB1" and experts < 3:
        raise InputError(f"gate1_input is 'DB1', but {experts} experts have no decoder block DB1")
    if settings["depth"] == 1 and settings["attention"] not in ("conv3", None):
        raise InputError(f"attention is {settings['attention']!r}, but depth=1 has no attention")


def inner_levels(
    experts: int, group_size: int, depth: int, groups: Sequence[Sequence[int]] | None
) -> list[Level]:
    """The levels below gating net 2; arguments as those of `HMoDE`.

    With depth 1 there is no gating net 2, and the one level has one group, of all experts.

    Raises:
        InputError: a setting is out of its range, or settings contradict each other.
    """
    if depth == 1:
        if (group_size, groups) != (2, None):
            raise InputError(
                f"group_size is {group_size!r} and groups {groups!r}, but depth=1 has no groups: "
                "leave them at 2 and None"
            )
        return [Level((tuple(range(experts)),))]
    levels = overlapping_levels(experts, group_size, depth)
    if groups is None:
        return levels
    if depth != 2:
        raise InputError(f"depth is {depth!r}, but groups are for depth=2")

    def fits(group) -> bool:
        return (
            isinstance(group, list | tuple)
            and all(isinstance(expert, int) and expert in range(experts) for expert in group)
            and len(group) == len(set(group)) == group_size
        )

    if not (isinstance(groups, list | tuple) and groups and all(fits(group) for group in groups)):
        raise InputError(
            f"groups is {groups!r}, expected a list of groups like [[0, 2]], each of "
            f"group_size={group_size} different experts from 0 to {experts - 1}"
        )
    if len({frozenset(group) for group in groups}) < len(groups):
        raise InputError(f"groups is {groups!r}, expected every group once")
    grouped = {expert for group in groups for expert in group}
    passed = tuple(expert for expert in range(experts) if expert not in grouped)
    return [Level(tuple(map(tuple, groups)), passed)]
