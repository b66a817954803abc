"""The networks: their mixtures, gates, sizes, precision, settings and initial weights."""

from itertools import combinations
from math import comb

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import vgg16_bn

from hmode import Baseline, HMoDE
from hmode.errors import InputError, MissingFileError
from hmode.models import build_model

NARROW = 0.0625
SHAPES = [(3, 2, 2), (3, 2, 3), (4, 2, 2), (4, 3, 2), (4, 3, 3), (5, 2, 2), (5, 4, 2)]


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def narrow(model=HMoDE, *args, seed=0, **settings):
    torch.manual_seed(seed)
    return model(*args, width=NARROW, **settings).eval()


def uneven(model, seed=1):
    """Random gates instead of the nearly even ones that a new network starts with."""
    generator = torch.Generator().manual_seed(seed)
    for net in [*model.inner_gates, model.gate2]:
        last = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        last.weight.data = torch.randn(last.weight.shape, generator=generator)
        last.bias.data = 2 * torch.rand(last.bias.shape, generator=generator)
    return model


# Size


def conv(c_in, c_out, kernel):
    return c_in * c_out * kernel**2 + c_out


def chain(channels, kernels):
    return sum(conv(a, b, k) for a, b, k in zip(channels, channels[1:], kernels, strict=False))


VGG = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
ENCODER = chain(VGG, [3] * 13) + 2 * sum(VGG[1:])  # batch norm: a scale and a shift per channel
DECODER = [
    chain([512, 1024, 512], [3, 3]) + chain([512, 64, 1], [1, 1]),
    chain([512 + 512, 512, 256], [3, 3]) + chain([256, 64, 1], [1, 1]),
    chain([256 + 256, 256, 128], [3, 3]) + chain([128, 64, 1], [1, 1]),
    chain([128 + 128, 128, 64], [3, 3]) + chain([64, 64, 1], [1, 1]),
]
ATTENTION = chain([512, 256, 128, 1], [3, 3, 1])


def gate1(maps):
    return chain([512, 256, maps], [3, 1])


def gate2(maps):
    return chain([512, 1024, 2048, 1024, 512, 256, maps], [3, 3, 3, 3, 3, 1])


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_network_has_82_62_million_parameters_and_gate_2_holds_48_37_of_them():
    with torch.device("meta"):
        model = HMoDE()
    assert round(parameters(model) / 1e6, 2) == 82.62
    assert round(parameters(model.gate2) / 1e6, 2) == 48.37
    assert parameters(model) == ENCODER + sum(DECODER[:3]) + gate1(6) + gate2(3) + ATTENTION


@pytest.mark.parametrize("experts", [2, 3, 4])
def test_the_baseline_is_the_encoder_and_one_decoder_block_with_a_head_per_expert(experts):
    with torch.device("meta"):
        model = Baseline(experts)
    assert parameters(model) == ENCODER + sum(DECODER[:experts])


def test_four_experts_in_groups_of_three_add_a_block_at_stride_2_and_wider_gates():
    with torch.device("meta"):
        model = HMoDE(4, 3)
    assert parameters(model) == ENCODER + sum(DECODER) + gate1(4 * 3) + gate2(4) + ATTENTION


def test_depth_3_adds_one_gating_net_over_the_groups():
    with torch.device("meta"):
        deep, flat = HMoDE(depth=3), HMoDE()
    assert parameters(deep) - parameters(flat) == gate1(6)


# Mixture


@pytest.mark.parametrize(("experts", "group_size", "depth"), SHAPES)
@torch.no_grad()
def test_groups_and_density_are_the_mixtures_of_every_combination(experts, group_size, depth):
    model = uneven(narrow(HMoDE, experts, group_size, depth))
    prediction = model(images(2, 3, 32, 48))
    below = prediction.experts
    assert below.shape == (2, experts, 32 // model.stride, 48 // model.stride)
    assert len(prediction.levels) == len(prediction.gates) == depth - 1
    for level, gate in zip(prediction.levels, prediction.gates, strict=True):
        assert level.shape[1] == comb(below.shape[1], group_size)
        for i, members in enumerate(combinations(range(below.shape[1]), group_size)):
            expected = sum(gate[:, i, j] * below[:, k] for j, k in enumerate(members))
            torch.testing.assert_close(level[:, i], expected)
        below = level
    density = sum(prediction.gate2[:, i] * below[:, i] for i in range(below.shape[1]))
    torch.testing.assert_close(prediction.density[:, 0], density)
    assert prediction.groups is prediction.levels[0]
    assert prediction.gate1 is prediction.gates[0]


@pytest.mark.parametrize(("experts", "group_size", "depth"), SHAPES)
@torch.no_grad()
def test_equal_experts_make_equal_groups_and_the_same_density(
    monkeypatch, experts, group_size, depth
):
    model = uneven(narrow(HMoDE, experts, group_size, depth))
    compute = model.expert_maps

    def equal(blocks):
        maps = compute(blocks)
        return maps[:, :1].expand_as(maps)

    monkeypatch.setattr(model, "expert_maps", equal)
    prediction = model(images(2, 3, 32, 32))
    expert = prediction.experts[:, :1]
    assert expert.std() > 0
    torch.testing.assert_close(prediction.maps, expert.expand_as(prediction.maps))


@torch.no_grad()
def test_the_mixture_lies_between_the_smallest_and_the_largest_expert():
    prediction = uneven(narrow())(images(2, 3, 64, 64))
    experts, density = prediction.experts, prediction.density
    assert (density >= experts.amin(1, keepdim=True) - 1e-6).all()
    assert (density <= experts.amax(1, keepdim=True) + 1e-6).all()


@pytest.mark.parametrize("experts", [2, 3, 4, 5])
@torch.no_grad()
def test_the_baseline_density_is_the_mean_of_its_experts(experts):
    prediction = narrow(Baseline, experts)(images(2, 3, 32, 48))
    assert prediction.experts.shape[1] == experts
    expected = sum(prediction.experts[:, k] for k in range(experts)) / experts
    torch.testing.assert_close(prediction.density[:, 0], expected)
    assert prediction.levels == prediction.gates == ()
    assert prediction.gate2 is None
    assert prediction.attention is None


@pytest.mark.parametrize(("experts", "group_size", "depth"), SHAPES)
@torch.no_grad()
def test_gates_are_weights_that_sum_to_one(experts, group_size, depth):
    model = uneven(narrow(HMoDE, experts, group_size, depth))
    prediction = model(images(2, 3, 32, 48))
    grid = prediction.density.shape[-2:]
    for gate, level in zip(prediction.gates, prediction.levels, strict=True):
        assert gate.shape == (2, level.shape[1], group_size, *grid)
        assert (gate >= 0).all()
        assert gate.std(dim=2).max() > 1e-3
        torch.testing.assert_close(gate.sum(2), torch.ones_like(level))
    assert prediction.gate2.shape == prediction.levels[-1].shape
    assert (prediction.gate2 >= 0).all()
    assert prediction.gate2.std(dim=1).max() > 1e-3
    torch.testing.assert_close(prediction.gate2.sum(1), torch.ones(2, *grid))


@torch.no_grad()
def test_gates_and_attention_are_constant_over_16_pixels_and_each_expert_over_its_own_stride():
    prediction = uneven(narrow())(images(1, 3, 64, 96))

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


@torch.no_grad()
def test_attention_lies_strictly_between_0_and_1_on_the_grid_of_the_maps():
    prediction = narrow()(images(2, 3, 48, 64))
    assert prediction.attention.shape == (2, 1, 12, 16)
    assert (prediction.attention > 0).all()
    assert (prediction.attention < 1).all()
    assert prediction.attention.std() > 0


@torch.no_grad()
def test_gate_2_sees_the_features_only_through_the_attention():
    model = uneven(narrow())
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
def test_experts_are_ordered_from_the_finest_and_each_has_its_own_head():
    model = narrow(Baseline)
    before = model(images(1, 3, 64, 64)).experts
    for k, head in enumerate(model.heads):
        bias = [layer for layer in head if isinstance(layer, torch.nn.Conv2d)][-1].bias
        start = bias.clone()
        bias.add_(3.0)
        after = model(images(1, 3, 64, 64)).experts
        bias.copy_(start)
        changed = [(after[:, i] != before[:, i]).any().item() for i in range(3)]
        assert changed == [i == k for i in range(3)]


# Any image size


@pytest.mark.parametrize(("experts", "stride"), [(2, 8), (3, 4), (4, 2), (5, 1)])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (250, 131)])
@torch.no_grad()
def test_any_image_size_gives_maps_of_its_own_size(experts, stride, size):
    prediction = narrow(Baseline, experts)(images(1, 3, *size))
    rows, columns = -(-size[0] // stride), -(-size[1] // stride)
    assert prediction.stride == stride
    assert prediction.size == size
    assert prediction.maps.shape == (1, experts + 1, rows, columns)
    full = prediction.full_size()
    assert full.shape == (1, 1, *size)
    torch.testing.assert_close(prediction.count, full.sum((1, 2, 3)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [(33, 47), (250, 131), (64, 100)])
@torch.no_grad()
def test_every_map_of_a_mixture_is_cropped_to_the_image(size):
    prediction = narrow()(images(1, 3, *size))
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    assert prediction.maps.shape == (1, 7, *grid)
    assert prediction.gate1.shape == (1, 3, 2, *grid)
    assert prediction.gate2.shape == (1, 3, *grid)
    assert prediction.attention.shape == (1, 1, *grid)
    full = prediction.full_size()
    torch.testing.assert_close(prediction.count, full.sum((1, 2, 3)), rtol=1e-5, atol=0)


@torch.no_grad()
def test_an_odd_image_is_the_top_left_of_one_padded_with_the_mean_colour():
    model, odd = narrow(), images(1, 3, 33, 47)
    padded = torch.zeros(1, 3, 48, 48)
    padded[..., :33, :47] = odd
    expected = model(padded)
    prediction = model(odd)
    torch.testing.assert_close(prediction.maps, expected.maps[..., :9, :12])
    torch.testing.assert_close(prediction.gate1, expected.gate1[..., :9, :12])


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (250, 131)])
@torch.no_grad()
def test_a_constant_map_counts_the_images_own_pixels_and_no_padding(monkeypatch, size):
    model = narrow(Baseline, density_scale=50.0)

    def constant(x):
        ones = torch.ones(len(x), 1, x.shape[2] // 4, x.shape[3] // 4)
        return {"experts": 3 * ones.expand(-1, 3, -1, -1), "density": 7 * ones}

    monkeypatch.setattr(model, "predict_maps", constant)
    prediction = model(images(2, 3, *size))
    pixels = size[0] * size[1]
    assert prediction.count.tolist() == pytest.approx([pixels * 7 / 50] * 2, rel=1e-6)
    assert prediction.counts(prediction.experts).flatten().tolist() == pytest.approx(
        [pixels * 3 / 50] * 6, rel=1e-6
    )


@pytest.mark.parametrize("model", [Baseline, HMoDE])
@torch.no_grad()
def test_a_batch_gives_what_its_images_give_alone(model):
    network, batch = narrow(model), images(3, 3, 48, 80)
    network.train()(images(2, 3, 64, 64, seed=1))  # batch statistics that are not 0 and 1
    network.eval()
    together = network(batch)
    for b in range(3):
        alone = network(batch[b : b + 1])
        torch.testing.assert_close(together.maps[b : b + 1], alone.maps, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.count[b : b + 1], alone.count, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(3, 64, 64), (1, 1, 64, 64), (1, 4, 64, 64), (1, 3, 31, 64), (2, 3, 64, 16)]
)
def test_images_that_do_not_fit_are_named(shape):
    with pytest.raises(InputError) as error:
        narrow(Baseline)(torch.zeros(shape))
    for words in ("images", str(list(shape)), "[B, 3, H, W]", "32"):
        assert words in str(error.value)


# Start and precision


@pytest.mark.parametrize("density_scale", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize("experts", [2, 3, 4, 5])
@torch.no_grad()
def test_every_head_starts_alive(experts, density_scale):
    dead = {}
    for seed in range(8):
        model = narrow(Baseline, experts, density_scale=density_scale, seed=seed).train()
        maps = model(images(2, 3, 64, 64, seed=seed)).experts
        alive = (maps > 0).any(-1).any(-1).any(0).tolist()
        if not all(alive):
            dead[seed] = alive
    assert not dead


@pytest.mark.parametrize("seed", range(5))
def test_every_gate_starts_with_a_gradient(seed):
    model = narrow(seed=seed).train()
    outputs = [net.layers[-2].weight for net in (model.inner_gates[0], model.gate2)]
    loss = model(images(2, 3, 64, 64, seed=seed)).density.square().sum()
    for gradient in torch.autograd.grad(loss, outputs):
        assert gradient.flatten(1).abs().sum(1).all()


@torch.no_grad()
def test_density_scale_scales_the_maps_and_not_the_number_of_people():
    counts = [
        narrow(Baseline, density_scale=scale)(images(1, 3, 128, 128)).count.item()
        for scale in (100.0, 10_000.0)
    ]
    assert counts == pytest.approx([16.4, 16.4], rel=0.9)


@pytest.mark.parametrize("model", [Baseline, HMoDE])
@torch.no_grad()
def test_outputs_are_float32_under_autocast(model):
    network = uneven(narrow(model)) if model is HMoDE else narrow(model)
    exact = network(images(1, 3, 64, 48))
    with torch.autocast("cpu", torch.bfloat16):
        prediction = network(images(1, 3, 64, 48))
    torch.testing.assert_close(prediction.maps, exact.maps, rtol=0.1, atol=0.1)
    assert prediction.maps.dtype == prediction.density.dtype == torch.float32
    assert prediction.experts.dtype == prediction.count.dtype == torch.float32
    if model is HMoDE:
        assert prediction.groups.dtype == prediction.attention.dtype == torch.float32
        assert prediction.gate1.dtype == prediction.gate2.dtype == torch.float32
        ones = torch.ones(1, 3, 16, 12)
        torch.testing.assert_close(prediction.gate1.sum(2), ones, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(prediction.gate2.sum(1), ones[:, 0], rtol=1e-6, atol=1e-6)


# Settings


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        (HMoDE, {"experts": 1}, ["experts", "1", "2 to 5"]),
        (HMoDE, {"experts": 6}, ["experts", "6", "2 to 5"]),
        (Baseline, {"experts": 1}, ["experts", "1", "2 to 5"]),
        (HMoDE, {"experts": 2}, ["group_size", "2"]),
        (HMoDE, {"group_size": 1}, ["group_size", "1", "2 to experts - 1 = 2"]),
        (HMoDE, {"group_size": 3}, ["group_size", "3", "2 to experts - 1 = 2"]),
        (HMoDE, {"depth": 0}, ["depth", "0", "(1, 2, 3)"]),
        (HMoDE, {"depth": 4}, ["depth", "4", "(1, 2, 3)"]),
        (HMoDE, {"width": 0.0}, ["width", "0.0", "positive"]),
        (Baseline, {"width": -1.0}, ["width", "-1.0", "positive"]),
        (HMoDE, {"density_scale": 0.0}, ["density_scale", "0.0", "positive"]),
        (Baseline, {"density_scale": float("nan")}, ["density_scale", "nan", "positive"]),
    ],
)
def test_bad_settings_are_named(model, settings, named):
    with pytest.raises(InputError) as error:
        model(**({"width": NARROW} | settings))
    for words in named:
        assert words in str(error.value)


@pytest.mark.parametrize(
    "model",
    [
        lambda: HMoDE(4, 3, 3, NARROW, density_scale=10.0),
        lambda: Baseline(5, NARROW, density_scale=1000.0),
    ],
)
@torch.no_grad()
def test_a_model_is_rebuilt_from_its_config(model):
    model = model()
    again = build_model(model.config)
    assert type(again) is type(model)
    again.load_state_dict(model.state_dict())
    x = images(1, 3, 32, 32)
    first, second = model.eval()(x), again.eval()(x)
    assert torch.equal(first.maps, second.maps)
    assert torch.equal(first.count, second.count)


def test_an_unknown_model_is_named():
    for config in ({"model": "CSRNetwork"}, {}):
        with pytest.raises(InputError) as error:
            build_model(config)
        for words in ("model", repr(config.get("model")), "Baseline", "HMoDE"):
            assert words in str(error.value)


# Weights


@pytest.fixture(scope="module")
def vgg():
    """torchvision's convolutions with random numbers, without its heavy classifier."""
    with torch.device("meta"):
        features = vgg16_bn(weights=None).features
    features = features.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in features.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(3)
        elif value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("weight", "running_var")):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0, 0.1, generator=generator)
    return features


def vgg_state(features):
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    return state | {"classifier.6.bias": torch.zeros(1000)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.no_grad()
def test_the_encoder_loads_a_vgg16_bn_file_and_gives_its_features_at_the_five_cuts(
    tmp_path, vgg, suffix
):
    path = tmp_path / f"vgg16_bn{suffix}"
    (torch.save if suffix == ".pth" else lambda state, to: save_file(state, to))(
        vgg_state(vgg), path
    )
    model = Baseline(2, weights=str(path) if suffix == ".pth" else path).eval()
    x = images(1, 3, 64, 64)
    stages = model.encoder(x)
    assert [stage.shape[-1] for stage in stages] == [64, 32, 16, 8, 4]
    for end, stage in zip((6, 13, 23, 33, 43), stages, strict=True):
        expected = vgg[:end](x)
        assert expected.max() > 0
        torch.testing.assert_close(stage, expected, rtol=1e-5, atol=1e-5)


def test_weights_for_another_width_are_refused(tmp_path, vgg):
    path = tmp_path / "vgg.pth"
    torch.save({"features.0.bias": torch.zeros(64)}, path)
    with pytest.raises(InputError, match=r"weights.*width=1\.0.*0\.0625"):
        HMoDE(width=NARROW, weights=path)


def test_a_missing_weights_file_is_named(tmp_path):
    path = tmp_path / "nowhere.pth"
    with pytest.raises(MissingFileError) as error:
        Baseline(2, weights=path)
    assert str(path) in str(error.value)
    assert isinstance(error.value, FileNotFoundError)


class Arbitrary:
    ran = False

    def __reduce__(self):
        return (setattr, (Arbitrary, "ran", True))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all" * 100])
def test_a_file_that_holds_no_weights_is_named(tmp_path, suffix, content):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        Baseline(2, weights=path)
    assert str(path) in str(error.value)
    assert "not a readable weights file" in str(error.value)


@pytest.mark.parametrize("wrapped", [False, True])
def test_code_in_a_weights_file_is_refused_and_never_runs(tmp_path, wrapped):
    path = tmp_path / "code.pth"
    torch.save({"features.0.weight": Arbitrary()} if wrapped else Arbitrary(), path)
    with pytest.raises(InputError) as error:
        Baseline(2, weights=path)
    assert str(path) in str(error.value)
    assert not Arbitrary.ran


@pytest.mark.parametrize(
    "saved",
    [
        {"epoch": 3, "best": 61.2},
        [torch.zeros(3)],
        torch.zeros(3),
        {"features.0.weight": [1.0, 2.0]},
        {0: torch.zeros(3)},
    ],
)
def test_a_file_without_a_state_dict_is_named(tmp_path, saved):
    path = tmp_path / "other.pth"
    torch.save(saved, path)
    with pytest.raises(InputError) as error:
        Baseline(2, weights=path)
    assert str(path) in str(error.value)
    assert "state dict" in str(error.value)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "other network"])
def test_weights_of_another_network_are_named(tmp_path, vgg, change):
    state, path = vgg_state(vgg), tmp_path / "other.pth"
    named = "features" if change == "other network" else "40.bias"
    if change == "missing":
        del state["features.40.bias"]
    elif change == "extra":
        state["features.77.weight"] = torch.zeros(3)
        named = "77.weight"
    elif change == "shape":
        state["features.40.bias"] = torch.zeros(511)
    else:
        state, named = {"layer1.0.conv1.weight": torch.zeros(3)}, "0.weight"
    torch.save(state, path)
    with pytest.raises(InputError) as error:
        Baseline(2, weights=path)
    for words in (str(path), named, "vgg16_bn"):
        assert words in str(error.value)


def test_gates_start_undecided():
    """From larger initial weights gating net 2 settles on one group, which nothing undoes."""
    torch.manual_seed(0)
    prediction = HMoDE(width=0.25).eval()(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(
        prediction.gate1, torch.full_like(prediction.gate1, 1 / 2), atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        prediction.gate2, torch.full_like(prediction.gate2, 1 / 3), atol=0.02, rtol=0
    )
