"""HMoDE: what is mixed with what (eq. 1, Fig. 3), and the gating and attention nets that say how
much, with the variants of Tables IV to IX."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from helpers import MIXTURES, each, images, narrow

from hmode import HMoDE
from hmode.models.gating import MultiScaleBlock, residual_block, straight_through

MAPS = {name: v for name, v in MIXTURES.items() if v.get("gating") != "channel"}
HARD = {name: v for name, v in MIXTURES.items() if v.get("gating") == "hard"}


@each(MAPS)
@torch.no_grad()
def test_every_level_mixes_its_groups_and_the_last_what_they_and_the_others_give(settings):
    """From the experts up by plain sums; `hierarchy` says the same in nested tuples."""
    model = narrow(settings)
    prediction = model(images(2, 3, 48, 64))
    experts, depth = settings.get("experts", 3), settings.get("depth", 2)
    size = settings.get("group_size", 2)
    below = prediction.experts
    assert below.shape == (2, experts, 48 // model.stride, 64 // model.stride)
    assert len(prediction.levels) == depth - 1
    for level, gate in zip(prediction.levels, prediction.gates[: depth - 1], strict=True):
        members = settings.get("groups") or [*combinations(range(below.shape[1]), size)]
        assert level.shape[1] == len(members)
        for i, group in enumerate(members):
            expected = sum(gate[:, i, j] * below[:, k] for j, k in enumerate(group))
            torch.testing.assert_close(level[:, i], expected)
        grouped = {k for group in members for k in group}
        passed = [k for k in range(below.shape[1]) if k not in grouped]
        below = torch.cat([level, below[:, passed]], 1)
    last = prediction.gates[0][:, 0] if depth == 1 else prediction.gate2
    density = sum(last[:, i] * below[:, i] for i in range(below.shape[1]))
    torch.testing.assert_close(prediction.density[:, 0], density)
    maps = (prediction.experts, *prediction.levels, prediction.density)
    assert torch.equal(prediction.maps, torch.cat(maps, 1))  # a passed expert only once


@each(MIXTURES)
@torch.no_grad()
def test_gates_are_weights_that_sum_to_one(settings):
    model = narrow(settings)
    prediction = model(images(2, 3, 50, 67))
    grid = prediction.density.shape[-2:]
    for gate, members in zip(prediction.gates, model.members, strict=True):
        assert gate.shape == (2, *members.shape, *grid)
        assert (gate >= 0).all()
        torch.testing.assert_close(gate.sum(2), torch.ones(2, len(members), *grid))
        assert gate.std(dim=2).max() > 1e-3, "even weights say nothing"
    if settings.get("depth") == 1:
        assert prediction.gate2 is prediction.attention is prediction.groups is None
    else:
        assert prediction.gate2.shape == (2, model.levels[-1].outputs, *grid)
        torch.testing.assert_close(prediction.gate2.sum(1), torch.ones(2, *grid))


@torch.no_grad()
def test_gates_and_attention_are_constant_over_16_pixels_and_each_expert_over_its_own_stride():
    """So the finest expert is the first."""
    prediction = narrow()(images(1, 3, 64, 96))

    def blocky(maps, cells):
        first = maps[..., ::cells, ::cells]
        return torch.equal(first.repeat_interleave(cells, -2).repeat_interleave(cells, -1), maps)

    for maps in (prediction.gate1, prediction.gate2, prediction.attention):
        assert blocky(maps, 4)
        assert not blocky(maps, 8)
    finest, middle, coarsest = prediction.experts[0]
    assert not blocky(finest, 2)
    assert blocky(middle, 2)
    assert not blocky(middle, 4)
    assert blocky(coarsest, 4)
    assert not blocky(coarsest, 8)
    assert ((prediction.attention > 0) & (prediction.attention < 1)).all()


@torch.no_grad()
def test_gates_start_undecided():
    """From larger initial weights gating net 2 settles on one group, which nothing undoes."""
    prediction = narrow({"width": 0.25}, uneven=False)(images(2, 3, 64, 64))
    for gate, even in ((prediction.gate1, 1 / 2), (prediction.gate2, 1 / 3)):
        torch.testing.assert_close(gate, torch.full_like(gate, even), atol=0.02, rtol=0)


def test_a_gate_without_its_last_relu_weighs_below_zero_too():
    usual, open_gate = (
        narrow(settings, uneven=False) for settings in ({}, {"gate_relu": False, "gate_std": None})
    )
    features = images(2, usual.encoder.channels[-1], 4, 4)
    assert usual.gate2.layers(features).min() >= 0
    assert open_gate.gate2.layers(10 * features).min() < 0
    assert open_gate.gate2.layers[0].weight.std() > 2 * usual.gate2.layers[0].weight.std()
    # Stored configurations are older than these two: only what is not the default is named.
    assert not usual.config.keys() & {"gate_relu", "gate_std"}
    assert (open_gate.config["gate_relu"], open_gate.config["gate_std"]) == (False, None)


# What the nets read (Tables IV and VI)


@torch.no_grad()
def test_gate_2_sees_the_features_only_through_the_attention():
    model = narrow()
    model.attention.output.weight.zero_()
    predictions = []
    for bias in (-200.0, 200.0):  # attention 0 and 1 everywhere
        model.attention.output.bias.fill_(bias)
        predictions.append([model(images(1, 3, 64, 64, seed=s)) for s in (0, 1)])
    (dark, other_dark), (bright, other_bright) = predictions
    assert torch.equal(dark.gate2, other_dark.gate2)
    assert not torch.equal(bright.gate2, other_bright.gate2)
    assert not torch.equal(dark.gate1, other_dark.gate1)
    assert torch.equal(dark.gate1, bright.gate1)
    assert torch.equal(dark.experts, bright.experts)


@torch.no_grad()
def test_without_attention_gate_2_reads_the_encoders_features_as_they_are():
    model, x = narrow({"attention": None}), images(1, 3, 64, 64)
    prediction = model(x)
    torch.testing.assert_close(prediction.gate2, model.gate2(model.encoder(x)[-1], (16, 16))[:, 0])
    assert prediction.attention is None


PLACES = ("EB1", "EB2", "EB3", "DB3", "DB2", "DB1")  # in the order that images pass through them


@pytest.mark.parametrize("place", PLACES)
def test_gate_1_is_a_softmax_of_the_features_of_its_place_and_of_none_behind_it(place):
    model = narrow({"gate1_input": place})
    stages, blocks = model.features(images(1, 3, 64, 64))
    features = dict(zip(PLACES, [*stages[2:], *blocks], strict=True))[place]
    prediction = model(images(1, 3, 64, 64))
    weights = model.inner_gates[0].layers(features).unflatten(1, (3, 2)).softmax(2)
    cells = 16 // weights.shape[-1]
    expected = weights.repeat_interleave(cells, -2).repeat_interleave(cells, -1)
    torch.testing.assert_close(prediction.gate1, expected)

    model.zero_grad()
    prediction.gate1.square().sum().backward()
    reached = {
        "EB2": model.encoder.stages[3][1],
        "EB3": model.encoder.stages[4][1],
        **{f"DB{3 - i}": block[0] for i, block in enumerate(model.decoder.blocks)},
    }
    for name, layer in reached.items():
        assert (layer.weight.grad is not None) == (PLACES.index(name) <= PLACES.index(place))


def test_the_second_branch_is_a_map_of_its_own_from_the_finest_block():
    model, x = narrow({"local_head": True}), images(2, 3, 50, 67)
    prediction = model(x)
    assert prediction.local.shape == prediction.density.shape
    prediction.local.sum().backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"encoder", "decoder", "local_head"}


# What the weights are weights of (Table IV)


@torch.no_grad()
def test_image_level_weights_are_the_softmax_of_the_mean_logits():
    model, x = narrow({"gating": "image"}), images(2, 3, 64, 96)
    prediction, features = model(x), model.encoder(x)[-1]
    for net, gate, shape, read in (
        (model.inner_gates[0], prediction.gate1, (3, 2), features),
        (model.gate2, prediction.gate2[:, None], (1, 3), model.attention(features) * features),
    ):
        weights = net.layers(read).mean((-2, -1)).unflatten(1, shape).softmax(2)
        torch.testing.assert_close(gate, weights[..., None, None].expand_as(gate))


@each(HARD)
def test_hard_weights_choose_one_member_per_pixel_and_still_teach_the_gates(settings):
    model = narrow(settings)
    prediction = model(images(1, 3, 128, 128))
    gates = [*prediction.gates, *([] if prediction.gate2 is None else [prediction.gate2[:, None]])]
    for weights in gates:
        assert ((weights == 0) | (weights == 1)).all()
        assert (weights.sum(2) == 1).all()
    assert prediction.gate1.std(dim=(-2, -1)).max() > 0  # not everywhere the same choice
    prediction.density.square().sum().backward()
    nets = [*model.inner_gates, *([] if model.gate2 is None else [model.gate2])]
    assert all(net.layers[0].weight.grad.abs().sum() > 0 for net in nets)


def test_the_choices_are_those_of_the_soft_weights_with_their_gradient():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])[None, :, :, None, None]
    logits.requires_grad_()
    values = torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    chosen = straight_through(logits.softmax(2))
    assert chosen[0, :, :, 0, 0].tolist() == [[0, 1, 0], [1, 0, 0]]
    (hard,) = torch.autograd.grad((chosen * values).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(2) * values).sum(), logits)
    torch.testing.assert_close(hard, soft)


@torch.no_grad()
def test_channel_weights_mix_features_and_each_mixture_has_a_head_of_its_own():
    """The whole variant once more, group by group and channel by channel."""
    model, x = narrow({"gating": "channel"}), images(2, 3, 48, 64)
    mixing, width = model.channel_mixing, model.decoder.channels[-1]
    stages, blocks = model.features(x)
    inputs = [
        F.interpolate(project(block), size=(12, 16), mode="bilinear", align_corners=True)
        for project, block in zip(mixing.projections, reversed(blocks), strict=True)
    ]

    def weights(net, features, members):  # a softmax over members for each channel, [B, m, N, C]
        return net.layers(features).mean((-2, -1)).reshape(2, -1, members, width).softmax(2)

    gate1 = weights(model.inner_gates[0], stages[-1], 2)
    groups = [
        sum(gate1[:, i, j, :, None, None] * inputs[k] for j, k in enumerate(members))
        for i, members in enumerate([(0, 1), (0, 2), (1, 2)])
    ]
    gate2 = weights(model.gate2, model.attention(stages[-1]) * stages[-1], 3)
    final = sum(gate2[:, 0, i, :, None, None] * group for i, group in enumerate(groups))

    prediction = model(x)
    for i, group in enumerate(groups):
        head = mixing.level_heads[0][i]
        torch.testing.assert_close(prediction.groups[:, i : i + 1], head(group))
    torch.testing.assert_close(prediction.density, mixing.level_heads[1][0](final))
    torch.testing.assert_close(prediction.gate1[..., 3, 5], gate1.mean(-1))
    torch.testing.assert_close(prediction.gate2[..., 3, 5], gate2[:, 0].mean(-1))


# Designs (Tables V and VII)


@torch.no_grad()
def test_a_residual_block_is_two_convolutions_and_a_shortcut():
    torch.manual_seed(0)
    block, x = residual_block(8, 4), images(1, 8, 9, 7)
    inner = F.conv2d(x, block.conv1.weight, padding=1).relu()
    outer = F.conv2d(inner, block.conv2.weight, padding=1)
    expected = (outer + F.conv2d(x, block.downsample.weight)).relu()
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def test_a_multi_scale_block_sees_1_3_5_and_7_cells_a_quarter_of_its_channels_each():
    torch.manual_seed(0)
    block = MultiScaleBlock(8, 16)
    for branch in block.branches:  # nothing is cut off at zero
        for conv in (layer for layer in branch if isinstance(layer, torch.nn.Conv2d)):
            conv.weight.abs_()
    point = torch.zeros(1, 8, 11, 11)
    point[..., 5, 5] = 1
    out = block(point)
    for quarter, side in zip(out.split(4, dim=1), (1, 3, 5, 7), strict=True):
        expected = torch.zeros(11, 11, dtype=torch.bool)
        reach = side // 2
        expected[5 - reach : 6 + reach, 5 - reach : 6 + reach] = True
        assert torch.equal(quarter[0] > 0, expected.expand(4, -1, -1))


BRANCHES = [(256, 512, 1), (64, 256, 3), (256, 512, 1), (64, 256, 5), (256, 512, 1), (64, 256, 7)]


@pytest.mark.parametrize(
    ("settings", "net", "expected"),
    [
        ({"gate1": "conv6"}, "inner_gates", [(256, 512, 3), *[(256, 256, 3)] * 4, (6, 256, 1)]),
        ({"gate1": "resblock"}, "inner_gates",
         [(256, 512, 3), (256, 256, 3), (256, 512, 1), (6, 256, 1)]),
        ({"gate1": "msblock"}, "inner_gates", [(64, 512, 1), *BRANCHES, (6, 256, 1)]),
        ({"gate1_input": "DB1"}, "inner_gates", [(256, 128, 3), (6, 256, 1)]),
        ({"gating": "channel"}, "inner_gates", [(256, 512, 3), (6 * 128, 256, 1)]),
        ({"attention": "conv9"}, "attention",
         [(256, 512, 3), *[(256, 256, 3)] * 4, (128, 256, 3), *[(128, 128, 3)] * 2, (1, 128, 1)]),
        ({"attention": "conv6"}, "attention",
         [(256, 512, 3), *[(256, 256, 3)] * 2, (128, 256, 3), (128, 128, 3), (1, 128, 1)]),
        ({"attention": "resblock"}, "attention",
         [(128, 512, 3), (128, 128, 3), (128, 512, 1), (1, 128, 1)]),
    ],
)  # fmt: skip
def test_the_convolutions_of_a_design(settings, net, expected):
    with torch.device("meta"):
        model = HMoDE(**settings)
    convs = [m for m in getattr(model, net).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(*conv.weight.shape[:2], conv.kernel_size[0]) for conv in convs] == expected


def test_attention_left_alone_or_switched_off_is_the_same_mixture_of_experts():
    assert narrow({"depth": 1}).config == narrow({"depth": 1, "attention": None}).config
