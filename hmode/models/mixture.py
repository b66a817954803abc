"""The baseline (maps averaged) and HMoDE, the hierarchical mixture of density experts."""

import torch
from torch import Tensor, nn

from hmode.errors import InputError
from hmode.models.backbone import (
    EncoderDecoder,
    MultiScaleNetwork,
    conv_relu,
    density_head,
    resize,
    start_alive,
    to_grid,
)
from hmode.models.channels import ChannelMixing, mean_weights
from hmode.models.gating import (
    ATTENTION_DESIGNS,
    GATE1_DESIGNS,
    GATE2_CHANNELS,
    GATINGS,
    INITIAL_STD,
    AttentionNet,
    GatingNet,
)
from hmode.models.hierarchy import inner_levels

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


class Concat(EncoderDecoder):
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


class HMoDE(MultiScaleNetwork):
    """The hierarchical mixture of density experts (section III-B, eq. 1).

    Any `group_size` = N of the K experts form one of M = C(K, N) overlapping groups, mixed per
    pixel by gating net 1; the groups are mixed per pixel by gating net 2, which reads the
    attention-guided feature F' = A·F. The default is the paper's network; the other settings are
    the variants of its ablations.

    Args:
        experts: K, 2 to 5.
        group_size: N, 2 ≤ N < K.
        depth: levels of the hierarchy. 3 groups the groups once more in the same way before the
            last mixture (Table VIII), by a gating net of gating net 1's design. 1 is the plain
            mixture of experts (Table IV, "MoE"): gating net 1 mixes all K; without groups,
            gating net 2 and attention, whose settings must be left alone.
        width, weights, density_scale, encoder_width: as in `EncoderDecoder`.
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

    def __init__(
        self,
        experts=3,
        group_size=2,
        depth=2,
        width=1.0,
        weights=None,
        *,
        density_scale=100.0,
        groups=None,
        gating="pixel",
        gate1="conv2",
        gate1_input="EB3",
        attention="conv3",
        local_head=False,
        encoder_width=None,
        gate_std=INITIAL_STD,
        gate_relu=True,
    ):
        super().__init__(
            experts=experts,
            width=width,
            weights=weights,
            density_scale=density_scale,
            encoder_width=encoder_width,
        )
        settings = {
            "group_size": group_size,
            "depth": depth,
            "groups": groups,
            "gating": gating,
            "gate1": gate1,
            "gate1_input": gate1_input,
            "attention": attention,
            "local_head": local_head,
        }
        _check_choices(experts, settings)
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
        per_member = (finest,) if gating == "channel" else ()  # a weight for each channel, or one
        self.place = PLACES[gate1_input]
        self.inner_gates = nn.ModuleList()
        for i, level in enumerate(self.levels):
            # On the CPU though the network be made on the meta device: no weights file holds it.
            members = torch.tensor(level.groups, device="cpu")  # [M, N]
            self.register_buffer(f"members{i}", members, persistent=False)
            c_in, shape = channels[self.place], (*members.shape, *per_member)
            self.inner_gates.append(
                GatingNet(
                    c_in, GATE1_DESIGNS[gate1], shape, width, design=gate1, gating=gating, **start
                )
            )
        self.attention = self.gate2 = self.channel_mixing = self.local_head = None
        c_in = self.encoder.channels[-1]
        if attention is not None:
            self.attention = AttentionNet(c_in, width, attention)
        if depth > 1:
            shape = (1, self.levels[-1].outputs, *per_member)
            self.gate2 = GatingNet(c_in, GATE2_CHANNELS, shape, width, gating=gating, **start)
        if gating == "channel":
            mixtures = [len(level.groups) for level in self.levels] + [1] * (depth > 1)
            self.channel_mixing = ChannelMixing(
                self.decoder.channels[::-1], mixtures, width, self.scale
            )
        if local_head:
            self.local_head = density_head(finest, width, self.scale)

    @property
    def members(self) -> list[Tensor]:
        """For each inner level, int64 `[M, N]`: which maps of the level below form each group."""
        return [self.get_buffer(f"members{level}") for level in range(len(self.inner_gates))]

    @property
    def hierarchy(self) -> tuple:
        """What is mixed with what, as nested tuples of 0-based experts, the outermost last.

        ((0, 1), (0, 2), (1, 2)) is the default, ((0, 2), 1) the ordinary ((E1, E3), E2), and
        (0, 1, 2) the plain mixture of experts. Its elements are the inputs of gating net 2.
        """
        inputs = tuple(range(self.config["experts"]))
        for level in self.levels:
            inputs = level.of(inputs)
        return inputs if self.gate2 is not None else inputs[0]

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
            "local": None if self.local_head is None else self.local_head(blocks[-1]).float(),
        }

    def mix(
        self, inputs: Tensor, gate1_input: Tensor, gate2_input: Tensor, grid: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Eq. 1: from the bottom of the hierarchy, every level's mixtures and their weights.

        Args:
            inputs: the experts `[B, K, h, w]`, or for channel-wise gates features
                `[B, K, C, h, w]`, finest first.
            gate1_input: the features that the inner gating nets read.
            gate2_input: F' (or F) `[B, C, H/16, W/16]`, which gating net 2 reads.
            grid: (h, w).

        Returns:
            For each level, the final one included: mixtures `[B, M, h, w]` and weights
            `[B, M, N, h, w]`; for channel-wise gates `[B, M, C, h, w]` and `[B, M, N, C, 1, 1]`.
        """
        mixed, gates = [], []
        for gating_net, members, level in zip(
            self.inner_gates, self.members, self.levels, strict=True
        ):
            gates.append(gating_net(gate1_input, grid))  # [B, M, N, h, w]
            # Not inputs[:, members], whose gradient on a GPU is a sort.
            grouped = inputs.index_select(1, members.flatten()).unflatten(1, members.shape)
            mixed.append((gates[-1] * grouped).sum(dim=2))  # [B, M, h, w]
            passed = [inputs[:, i : i + 1] for i in level.passed]
            inputs = torch.cat([mixed[-1], *passed], dim=1)
        if self.gate2 is not None:
            gates.append(self.gate2(gate2_input, grid))  # [B, 1, M, h, w]
            mixed.append((gates[-1] * inputs[:, None]).sum(dim=2))  # [B, 1, h, w]
        return mixed, gates


def _check_choices(experts: int, settings: dict) -> None:
    """Refuse settings of `HMoDE` that are out of their range or contradict each other."""
    for name, allowed in CHOICES.items():
        if settings[name] not in allowed:
            raise InputError(f"{name} is {settings[name]!r}, expected one of {allowed}")
    if settings["gate1_input"] == "DB1" and experts < 3:
        raise InputError(f"gate1_input is 'DB1', but {experts} experts have no decoder block DB1")
    if settings["depth"] == 1 and settings["attention"] not in ("conv3", None):
        raise InputError(f"attention is {settings['attention']!r}, but depth=1 has no attention")
