"""The networks of the ablations (Tables IV to IX): what each variant computes, and from what."""

import json

import pytest
import torch
import torch.nn.functional as F

from hmode import HMoDE, total_loss
from hmode.errors import InputError
from hmode.models import Concat, build_model, load_official
from hmode.models.backbone import conv_relu, start_alive
from hmode.models.gating import MultiScaleBlock, residual_block, straight_through

NARROW = 0.0625

HIERARCHIES = {
    "MoE": {"depth": 1},
    "MoE of five": {"depth": 1, "experts": 5},
    "((E1, E3), E2)": {"groups": [[0, 2]]},
    "((E1, E2), E3)": {"groups": [[0, 1]]},
    "(E1, (E2, E3))": {"groups": ((1, 2),)},
    "two pairs of four": {"experts": 4, "groups": [[3, 0], [1, 2]]},
    "a three of five": {"experts": 5, "group_size": 3, "groups": [[0, 2, 4]]},
    "K=4, N=2": {"experts": 4},
    "K=4, N=3": {"experts": 4, "group_size": 3},
    "D=3": {"depth": 3},
}
GATINGS = {
    **{f"{kind}": {"gating": kind} for kind in ("image", "hard", "channel")},
    **{f"{kind}, MoE": {"gating": kind, "depth": 1} for kind in ("image", "hard", "channel")},
    "image, D=3": {"gating": "image", "depth": 3},
    "hard, K=4": {"gating": "hard", "experts": 4, "group_size": 3},
    "channel, D=3": {"gating": "channel", "depth": 3},
    "channel, ((E1, E3), E2)": {"gating": "channel", "groups": [[0, 2]]},
}
DESIGNS = {
    **{f"gate 1: {name}": {"gate1": name} for name in ("conv4", "conv6", "resblock", "msblock")},
    **{f"gate 1 on {name}": {"gate1_input": name} for name in ("EB1", "EB2", "DB3", "DB2", "DB1")},
    "K=2 on EB1, finer than the maps": {"experts": 2, "depth": 1, "gate1_input": "EB1"},
    "K=4 on DB1, coarser than the maps": {"experts": 4, "gate1_input": "DB1"},
    **{f"attention: {name}": {"attention": name} for name in ("conv6", "conv9", "resblock")},
    "attention: msblock": {"attention": "msblock"},
    "w/o attention": {"attention": None},
    "double branch": {"local_head": True},
}
VARIANTS = HIERARCHIES | GATINGS | DESIGNS


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def narrow(settings=None, seed=0, model=HMoDE):
    """A narrow network with uneven gates: the nearly even ones of a new network hide errors."""
    torch.manual_seed(seed)
    network = model(width=NARROW, **(settings or {})).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if name.startswith(("inner_gates", "gate2")) and isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
    return network


def table(variants):
    return pytest.mark.parametrize("settings", variants.values(), ids=list(variants))


# Every variant


@table(VARIANTS)
@torch.no_grad()
def test_weights_are_shares_and_maps_lie_on_the_grid_of_an_odd_image(settings):
    model = narrow(settings)
    prediction = model(images(2, 3, 50, 67))
    grid = (-(-50 // model.stride), -(-67 // model.stride))
    assert prediction.maps.shape[-2:] == grid
    assert prediction.maps.isfinite().all()
    depth = settings.get("depth", 2)
    assert len(prediction.levels) == depth - 1
    assert len(prediction.gates) == max(1, depth - 1)
    for gate, members in zip(prediction.gates, model.members, strict=True):
        assert gate.shape == (2, *members.shape, *grid)
        assert (gate >= 0).all()
        torch.testing.assert_close(gate.sum(2), torch.ones(2, len(members), *grid))
        assert gate.std(dim=2).max() > 1e-3, "even weights say nothing"
    if prediction.gate2 is not None:
        assert prediction.gate2.shape == (2, len(model.hierarchy), *grid)
        torch.testing.assert_close(prediction.gate2.sum(1), torch.ones(2, *grid))


@table(VARIANTS)
@torch.no_grad()
def test_a_batch_gives_what_its_images_give_alone(settings):
    model, batch = narrow(settings), images(2, 3, 48, 64)
    together = model(batch)
    for b in range(2):
        alone = model(batch[b : b + 1])
        torch.testing.assert_close(together.maps[b : b + 1], alone.maps, rtol=1e-4, atol=1e-6)


@table(VARIANTS)
@torch.no_grad()
def test_a_variant_is_rebuilt_from_its_configuration_as_json(settings):
    model = narrow(settings | {"density_scale": 10.0})
    again = build_model(json.loads(json.dumps(model.config))).eval()
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    x = images(1, 3, 32, 32)
    assert torch.equal(model(x).maps, again(x).maps)
    assert again.hierarchy == model.hierarchy


@table(VARIANTS)
def test_the_loss_reaches_every_parameter_and_has_the_terms_that_the_variant_has(settings):
    model = narrow(settings).train()
    prediction = model(images(2, 3, 64, 64))
    target = 0.01 * torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    losses = total_loss(prediction, target)
    assert ("attention" in losses) == (prediction.attention is not None)
    assert "importance" in losses
    total = losses["total"]
    if prediction.local is not None:
        total = total + prediction.local.sum()
    total.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    assert not untouched


@pytest.mark.parametrize("seed", range(4))
@table({"Concat": {}, "channel": {"gating": "channel"}, "double branch": {"local_head": True}})
@torch.no_grad()
def test_every_head_of_a_variant_starts_alive(settings, seed):
    torch.manual_seed(seed)
    model = (HMoDE if settings else Concat)(width=NARROW, **settings).train()
    prediction = model(images(2, 3, 64, 64, seed=seed))
    maps = [prediction.maps, *([] if prediction.local is None else [prediction.local])]
    assert (torch.cat(maps, 1) > 0).any(-1).any(-1).any(0).all()


@table(
    {"Concat": {}, "double branch": {"local_head": True}, "ordinary": {"groups": [[0, 2]]}}
    | GATINGS
)
@torch.no_grad()
def test_maps_and_weights_are_float32_under_autocast(settings):
    model = narrow(settings, model=HMoDE if settings else Concat)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(images(1, 3, 64, 48))
    found = [prediction.maps, *prediction.gates, prediction.gate2, prediction.local]
    assert {each.dtype for each in found if each is not None} == {torch.float32}
    assert prediction.maps.isfinite().all()


@pytest.mark.parametrize("inputs", [16, 64, 896])
@torch.no_grad()
def test_a_head_starts_alive_nearly_everywhere_however_many_inputs_it_has(inputs):
    features = images(1, inputs, 16, 16).abs()
    torch.manual_seed(0)
    heads = [start_alive(conv_relu([inputs, 1], [1]), 100.0) for _ in range(50)]
    maps = torch.cat([head(features) for head in heads])
    assert (maps > 0).float().mean() > 0.8
    assert maps.mean().item() == pytest.approx(100 * 1e-3, rel=0.3)


# Hierarchies (Tables IV and VIII)


def mixed_by_hand(hierarchy, prediction):
    """The last level's inputs, by following the nested tuples down to the experts."""
    leaves = {k: prediction.experts[:, k] for k in range(prediction.experts.shape[1])}
    groups, inputs = iter(range(99)), []
    for member in hierarchy:
        if isinstance(member, int):
            inputs.append(leaves[member])
        else:
            gate = prediction.gate1[:, next(groups)]
            inputs.append(sum(gate[:, j] * leaves[k] for j, k in enumerate(member)))
    return inputs


@table({name: v for name, v in HIERARCHIES.items() if v.get("depth", 2) == 2})
@torch.no_grad()
def test_groups_and_passed_experts_are_mixed_as_the_hierarchy_says(settings):
    model = narrow(settings)
    prediction = model(images(2, 3, 48, 64))
    inputs = mixed_by_hand(model.hierarchy, prediction)
    expected = sum(prediction.gate2[:, i] * inputs[i] for i in range(len(inputs)))
    torch.testing.assert_close(prediction.density[:, 0], expected)
    for i in range(prediction.groups.shape[1]):
        torch.testing.assert_close(prediction.groups[:, i], inputs[i])


@torch.no_grad()
def test_an_ordinary_hierarchy_written_out():
    prediction = narrow({"groups": [[0, 2]]})(images(2, 3, 48, 64))
    e1, e2, e3 = prediction.experts.unbind(1)
    g1, g3 = prediction.gates[0][:, 0].unbind(1)
    group, passed = prediction.gate2.unbind(1)
    torch.testing.assert_close(prediction.groups[:, 0], g1 * e1 + g3 * e3)
    expected = group * (g1 * e1 + g3 * e3) + passed * e2
    torch.testing.assert_close(prediction.density[:, 0], expected)
    assert prediction.maps.shape[1] == 3 + 1 + 1  # a passed expert is supervised once


@pytest.mark.parametrize("experts", [2, 3, 5])
@torch.no_grad()
def test_a_mixture_of_experts_is_a_softmax_of_gate_1_over_all_of_them(experts):
    model, x = narrow({"depth": 1, "experts": experts}), images(2, 3, 48, 64)
    prediction = model(x)
    logits = model.inner_gates[0].layers(model.encoder(x)[-1])
    times = 16 // model.stride
    weights = logits.softmax(1).repeat_interleave(times, -2).repeat_interleave(times, -1)
    torch.testing.assert_close(prediction.gates[0][:, 0], weights)
    expected = (weights * prediction.experts).sum(1, keepdim=True)
    torch.testing.assert_close(prediction.density, expected)
    assert prediction.levels == ()
    assert prediction.gate2 is prediction.attention is None
    assert len(prediction.gates) == 1
    assert prediction.maps.shape[1] == experts + 1


@pytest.mark.parametrize(
    ("settings", "hierarchy"),
    [
        ({}, ((0, 1), (0, 2), (1, 2))),
        ({"depth": 1}, (0, 1, 2)),
        ({"groups": [[0, 2]]}, ((0, 2), 1)),
        ({"groups": [[1, 2]]}, ((1, 2), 0)),
        ({"experts": 4, "group_size": 3}, ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))),
        ({"depth": 3}, (((0, 1), (0, 2)), ((0, 1), (1, 2)), ((0, 2), (1, 2)))),
    ],
)
def test_the_hierarchy_can_be_read_off_a_model(settings, hierarchy):
    assert narrow(settings).hierarchy == hierarchy


# Gatings (Table IV)


@table({name: v for name, v in GATINGS.items() if v["gating"] == "image"})
@torch.no_grad()
def test_image_level_weights_are_constant_over_an_image_and_differ_between_images(settings):
    prediction = narrow(settings)(images(2, 3, 64, 96))
    for weights in (*prediction.gates, prediction.gate2):
        if weights is not None:
            assert torch.equal(weights, weights[..., :1, :1].expand_as(weights))
            assert not torch.equal(weights[0], weights[1])


@torch.no_grad()
def test_image_level_weights_are_the_softmax_of_the_mean_logits():
    model, x = narrow({"gating": "image"}), images(2, 3, 64, 96)
    logits = model.inner_gates[0].layers(model.encoder(x)[-1]).mean((-2, -1))  # [B, M * N]
    expected = logits.unflatten(1, (3, 2)).softmax(2)
    torch.testing.assert_close(model(x).gate1[..., 0, 0], expected)


@table({name: v for name, v in GATINGS.items() if v["gating"] == "hard"})
def test_hard_weights_choose_one_member_per_pixel_and_still_teach_the_gates(settings):
    model = narrow(settings)
    prediction = model(images(1, 3, 128, 128))
    chosen = [*prediction.gates, *([] if prediction.gate2 is None else [prediction.gate2[:, None]])]
    for weights in chosen:
        assert ((weights == 0) | (weights == 1)).all()
        assert (weights.sum(2) == 1).all()
    assert prediction.gate1.std(dim=(-2, -1)).max() > 0  # not everywhere the same choice
    maps = torch.cat([prediction.experts, *prediction.levels], 1)
    assert (prediction.density == maps).any(1).all()
    prediction.density.square().sum().backward()
    nets = [*model.inner_gates, *([] if model.gate2 is None else [model.gate2])]
    for net in nets:
        assert net.layers[0].weight.grad.abs().sum() > 0


def test_the_choices_are_those_of_the_soft_weights_with_their_gradient():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])[None, :, :, None, None]
    logits.requires_grad_()
    values = torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    chosen = straight_through(logits.softmax(2))
    assert chosen[0, :, :, 0, 0].tolist() == [[0, 1, 0], [1, 0, 0]]
    (hard,) = torch.autograd.grad((chosen * values).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(2) * values).sum(), logits)
    torch.testing.assert_close(hard, soft)


def test_channel_weights_mix_features_and_each_mixture_has_a_head_of_its_own():
    """The whole variant once more, group by group and channel by channel."""
    model, x = narrow({"gating": "channel"}), images(2, 3, 48, 64)
    mixing, width = model.channel_mixing, model.decoder.channels[-1]
    stages, blocks = model.features(x)
    inputs = [
        F.interpolate(project(block), size=(12, 16), mode="bilinear", align_corners=True)
        for project, block in zip(mixing.projections, reversed(blocks), strict=True)
    ]

    def weights(net, features, members):  # a softmax over members for each channel, [B, m * C]
        return net.layers(features).mean((-2, -1)).reshape(2, -1, members, width).softmax(2)

    gate1 = weights(model.inner_gates[0], stages[-1], 2)
    groups = []
    for i, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
        group = torch.empty(2, width, 12, 16)
        for c in range(width):
            for image in range(2):
                first, second = gate1[image, i, :, c]
                group[image, c] = first * inputs[a][image, c] + second * inputs[b][image, c]
        groups.append(group)
    gate2 = weights(model.gate2, model.attention(stages[-1]) * stages[-1], 3)
    final = sum(gate2[:, 0, i, :, None, None] * group for i, group in enumerate(groups))

    prediction = model(x)
    for i, group in enumerate(groups):
        head = mixing.level_heads[0][i]
        torch.testing.assert_close(prediction.groups[:, i : i + 1], head(group))
    torch.testing.assert_close(prediction.density, mixing.level_heads[1][0](final))
    torch.testing.assert_close(prediction.gate1[..., 3, 5], gate1.mean(-1))
    torch.testing.assert_close(prediction.gate2[..., 3, 5], gate2[:, 0].mean(-1))


# Designs and inputs of the gating and attention nets (Tables V to VII)


@torch.no_grad()
def test_a_residual_block_is_two_convolutions_and_a_shortcut():
    torch.manual_seed(0)
    block, x = residual_block(8, 4), images(1, 8, 9, 7)
    inner = F.conv2d(x, block.conv1.weight, padding=1).relu()
    outer = F.conv2d(inner, block.conv2.weight, padding=1)
    expected = (outer + F.conv2d(x, block.downsample.weight)).relu()
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (1, 4, 9, 7)


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
    assert out.shape == (1, 16, 11, 11)
    for quarter, side in zip(out.split(4, dim=1), (1, 3, 5, 7), strict=True):
        expected = torch.zeros(11, 11, dtype=torch.bool)
        reach = side // 2
        expected[5 - reach : 6 + reach, 5 - reach : 6 + reach] = True
        assert torch.equal(quarter[0] > 0, expected.expand(4, -1, -1))


@pytest.mark.parametrize(
    ("settings", "net", "expected"),
    [
        ({}, "inner_gates", [(256, 512, 3), (6, 256, 1)]),
        ({"gate1": "conv4"}, "inner_gates", [(256, 512, 3), *[(256, 256, 3)] * 2, (6, 256, 1)]),
        ({"gate1": "conv6"}, "inner_gates", [(256, 512, 3), *[(256, 256, 3)] * 4, (6, 256, 1)]),
        (
            {"gate1": "resblock"},
            "inner_gates",
            [(256, 512, 3), (256, 256, 3), (256, 512, 1), (6, 256, 1)],
        ),
        (
            {"gate1": "msblock"},
            "inner_gates",
            [(64, 512, 1)]
            + [
                (c_out, c_in, k)
                for s in (3, 5, 7)
                for c_out, c_in, k in ((256, 512, 1), (64, 256, s))
            ]
            + [(6, 256, 1)],
        ),
        ({"gate1_input": "EB1"}, "inner_gates", [(256, 256, 3), (6, 256, 1)]),
        ({"gate1_input": "DB1"}, "inner_gates", [(256, 128, 3), (6, 256, 1)]),
        ({"gating": "channel"}, "inner_gates", [(256, 512, 3), (6 * 128, 256, 1)]),
        ({"depth": 1}, "inner_gates", [(256, 512, 3), (3, 256, 1)]),
        ({}, "attention", [(256, 512, 3), (128, 256, 3), (1, 128, 1)]),
        (
            {"attention": "conv6"},
            "attention",
            [(256, 512, 3), *[(256, 256, 3)] * 2, (128, 256, 3), (128, 128, 3), (1, 128, 1)],
        ),
        (
            {"attention": "resblock"},
            "attention",
            [(128, 512, 3), (128, 128, 3), (128, 512, 1), (1, 128, 1)],
        ),
    ],
)
def test_the_convolutions_of_a_design(settings, net, expected):
    with torch.device("meta"):
        model = HMoDE(**settings)
    convs = [m for m in getattr(model, net).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(*conv.weight.shape[:2], conv.kernel_size[0]) for conv in convs] == expected


@pytest.mark.parametrize("name", ["conv3", "conv6", "conv9"])
def test_the_attention_net_has_as_many_convolutions_as_its_name_says(name):
    model = narrow({"attention": name})
    convs = [m for m in model.attention.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == int(name[-1])


PLACES = ("EB1", "EB2", "EB3", "DB3", "DB2", "DB1")  # in the order that images pass through them


@pytest.mark.parametrize("place", PLACES)
def test_gate_1_reads_the_features_of_the_place_given_and_none_behind_it(place):
    model = narrow({"gate1_input": place})
    stages, blocks = model.features(images(1, 3, 64, 64))
    features = dict(zip(PLACES, [*stages[2:], *blocks], strict=True))
    strides = dict(zip(PLACES, (4, 8, 16, 16, 8, 4), strict=True))
    prediction = model(images(1, 3, 64, 64))
    net, cells = model.inner_gates[0], 16
    weights = net(features[place], (cells, cells))
    torch.testing.assert_close(prediction.gate1, weights)
    repeats = strides[place] // 4
    logits = net.layers(features[place]).unflatten(1, (3, 2))
    expected = logits.softmax(2).repeat_interleave(repeats, -2).repeat_interleave(repeats, -1)
    torch.testing.assert_close(prediction.gate1, expected)

    model.zero_grad()
    prediction.gate1.square().sum().backward()
    last_blocks = {"DB3": 0, "DB2": 1, "DB1": 2}
    for name, index in last_blocks.items():
        reached = model.decoder.blocks[index][0].weight.grad is not None
        assert reached == (PLACES.index(name) <= PLACES.index(place))
    assert (model.encoder.stages[4][1].weight.grad is None) == (place in ("EB1", "EB2"))
    assert (model.encoder.stages[3][1].weight.grad is None) == (place == "EB1")


@torch.no_grad()
def test_without_attention_gate_2_reads_the_encoders_features_as_they_are():
    model, x = narrow({"attention": None}), images(1, 3, 64, 64)
    prediction = model(x)
    torch.testing.assert_close(prediction.gate2, model.gate2(model.encoder(x)[-1], (16, 16))[:, 0])
    assert prediction.attention is None
    assert not any(name.startswith("attention") for name in model.state_dict())


# Double branch (Table IX), concatenation (Table IV)


def test_the_second_branch_is_a_map_of_its_own_from_the_finest_block():
    model, x = narrow({"local_head": True}), images(2, 3, 50, 67)
    prediction = model(x)
    assert prediction.local.shape == prediction.density.shape
    without = narrow()(x)
    assert without.local is None
    assert torch.equal(prediction.maps, without.maps)  # neither is it one of the supervised maps
    prediction.local.sum().backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"encoder", "decoder", "local_head"}


@pytest.mark.parametrize("experts", [2, 3, 4])
@torch.no_grad()
def test_concatenation_is_one_convolution_over_all_scales(experts):
    model, x = narrow({"experts": experts}, model=Concat), images(2, 3, 48, 64)
    conv = model.head[0]
    conv.weight.normal_(0, 0.1)
    _, blocks = model.features(x)
    expected, start = conv.bias[:, None, None], 0
    for block in blocks:
        size = blocks[-1].shape[-2:]
        block = F.interpolate(block, size=size, mode="bilinear", align_corners=True)
        weight = conv.weight[0, start : start + block.shape[1], 0, 0]
        expected = expected + torch.einsum("c,bchw->bhw", weight, block)[:, None]
        start += block.shape[1]
    assert start == conv.in_channels
    torch.testing.assert_close(model(x).density, expected.relu(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_concatenation_has_one_map_and_no_experts():
    prediction = narrow(model=Concat)(images(2, 3, 33, 50))
    assert prediction.experts.shape == (2, 0, 9, 13)
    assert torch.equal(prediction.maps, prediction.density)
    assert prediction.counts(prediction.experts).shape == (2, 0)
    assert prediction.count.shape == (2,)
    full = prediction.full_size()
    torch.testing.assert_close(prediction.count, full.sum((1, 2, 3)), rtol=1e-5, atol=0)
    again = build_model(json.loads(json.dumps(narrow(model=Concat).config)))
    assert type(again) is Concat


# Sizes


def test_each_variant_adds_and_drops_what_it_says():
    with torch.device("meta"):
        default = HMoDE()

        def more(**settings):
            model = HMoDE(**settings)
            return sum(p.numel() for p in model.parameters()) - sum(
                p.numel() for p in default.parameters()
            )

        def size(module):
            return sum(p.numel() for p in module.parameters())

        assert more(gating="image") == more(gating="hard") == 0
        assert more(attention=None) == -size(default.attention)
        assert more(local_head=True) == size(default.heads[0])
        assert more(gate1="conv4") == 2 * (256 * 256 * 9 + 256)
        # MoE: no gate 2, no attention, and gate 1 has three maps for six.
        assert more(depth=1) == -size(default.gate2) - size(default.attention) - 3 * 257
        # ((E1, E3), E2): two maps of gate 1 for six, two of gate 2 for three.
        assert more(groups=[[0, 2]]) == -4 * 257 - 257
        concat = Concat()
    encoder_decoder = size(default.encoder) + size(default.decoder)
    assert size(concat) == encoder_decoder + (512 + 256 + 128) + 1


# Settings


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"gating": "soft"}, ["gating", "'soft'", "pixel", "image", "hard", "channel"]),
        ({"gate1": "conv3"}, ["gate1", "'conv3'", "conv2", "msblock"]),
        ({"gate1": ["conv2"]}, ["gate1", "['conv2']"]),
        ({"gate1_input": "EB4"}, ["gate1_input", "'EB4'", "EB1", "DB1"]),
        ({"gate1_input": "DB1", "experts": 2, "depth": 1}, ["gate1_input", "'DB1'", "2 experts"]),
        ({"attention": "conv2"}, ["attention", "'conv2'", "conv3", "None"]),
        ({"attention": "conv6", "depth": 1}, ["attention", "'conv6'", "depth=1"]),
        ({"local_head": "yes"}, ["local_head", "'yes'", "False, True"]),
        ({"group_size": 3, "depth": 1}, ["group_size", "3", "depth=1"]),
        ({"groups": [[0, 1]], "depth": 1}, ["groups", "[[0, 1]]", "depth=1"]),
        ({"groups": [[0, 1]], "depth": 3}, ["groups", "depth", "3"]),
        ({"groups": []}, ["groups", "[]", "[[0, 2]]"]),
        ({"groups": [0, 2]}, ["groups", "[0, 2]", "[[0, 2]]"]),
        ({"groups": "E1E3"}, ["groups", "'E1E3'"]),
        ({"groups": [[0, 3]]}, ["groups", "[[0, 3]]", "0 to 2"]),
        ({"groups": [[-1, 0]]}, ["groups", "[[-1, 0]]", "0 to 2"]),
        ({"groups": [[0, 0]]}, ["groups", "[[0, 0]]", "different"]),
        ({"groups": [[0.0, 1.0]]}, ["groups", "0.0"]),
        ({"groups": [[[0], 1]]}, ["groups", "[[[0], 1]]"]),
        ({"groups": [[0, 1, 2]]}, ["groups", "group_size=2"]),
        ({"groups": [[0, 1], [1]]}, ["groups", "group_size=2"]),
        ({"groups": [[0, 1], [1, 0]]}, ["groups", "once"]),
        ({"group_size": "2"}, ["group_size", "'2'"]),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, named):
    with pytest.raises(InputError) as error:
        HMoDE(width=NARROW, **settings)
    for words in named:
        assert words in str(error.value)


def test_attention_left_alone_or_switched_off_is_the_same_mixture_of_experts():
    assert narrow({"depth": 1}).config == narrow({"depth": 1, "attention": None}).config


@pytest.mark.parametrize("settings", [{"gating": "image"}, {"gate1_input": "EB2"}])
def test_a_released_checkpoint_is_refused_by_a_variant_of_the_same_shape(settings):
    model = narrow(settings)
    with pytest.raises(InputError, match=next(iter(settings))):
        load_official(model, model.state_dict())
