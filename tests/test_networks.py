"""All networks: sizes, images of any size, precision, settings, weights, and predictions."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import crowds
from helpers import BASELINES, NARROW, NETWORKS, each, images, narrow, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models import vgg, vgg16, vgg16_bn

from hmode import Baseline, HMoDE, Prediction, total_loss
from hmode.errors import InputError, MissingFileError
from hmode.experiments import EXPERIMENTS
from hmode.experiments.running import initial_model
from hmode.models import Concat, CSRNet, DMCount, build_model
from hmode.profiles import load_profile

# Every network


@each(NETWORKS)
@torch.no_grad()
def test_an_odd_image_gives_maps_of_its_own_grid_padded_or_not_and_in_a_batch(settings):
    model, batch = narrow(settings), images(2, 3, 50, 67)
    prediction = model(batch)
    rows, columns = -(-50 // model.stride), -(-67 // model.stride)
    assert prediction.maps.shape[-2:] == (rows, columns)
    assert prediction.size == (50, 67)
    assert prediction.scale == settings.get("density_scale", 100.0)
    full = prediction.full_size()
    assert full.shape == (2, 1, 50, 67)
    torch.testing.assert_close(prediction.count, full.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    # It is the top left of an image padded with the mean colour.
    height, width = (side + -side % model.multiple for side in (50, 67))
    padded = torch.zeros(2, 3, height, width)
    padded[..., :50, :67] = batch
    torch.testing.assert_close(model(padded).maps[..., :rows, :columns], prediction.maps)
    alone = model(batch[1:])
    torch.testing.assert_close(alone.maps, prediction.maps[1:], rtol=1e-4, atol=1e-5)
    assert prediction.maps.isfinite().all()
    assert prediction.density.std() > 0


@each(NETWORKS)
@torch.no_grad()
def test_a_network_is_rebuilt_from_its_configuration_as_json(settings):
    model, x = narrow(settings | {"density_scale": 10.0}), images(1, 3, 32, 32)
    again = build_model(json.loads(json.dumps(model.config))).eval()
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.scale == 10.0
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(x).maps, again(x).maps)


@each(NETWORKS)
@torch.no_grad()
def test_maps_and_weights_are_float32_under_autocast(settings):
    model, x = narrow(settings), images(1, 3, 64, 48)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    tensors = [found.maps, found.count, *found.gates, found.gate2, found.attention, found.local]
    assert {tensor.dtype for tensor in tensors if tensor is not None} == {torch.float32}
    if settings.get("gating") != "hard":  # which may choose another
        torch.testing.assert_close(found.maps, model(x).maps, rtol=0.1, atol=0.1)


@each(NETWORKS)
def test_gradients_of_the_loss_reach_every_parameter_from_the_start(settings):
    model = narrow(settings, uneven=False).train()
    prediction = model(images(2, 3, 64, 64))
    target = 0.02 * torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) ** 2
    losses = total_loss(prediction, target)
    assert ("attention" in losses) == (prediction.attention is not None)
    assert ("importance" in losses) == bool(prediction.gates)
    local = 0 if prediction.local is None else prediction.local.sum()
    (losses["total"] + local).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


HEADS = ("table4/concat", "table4/cg", "table9/double-branch", "table10/dm-count")


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@each(BASELINES | {row: NETWORKS[row] for row in HEADS})
@torch.no_grad()
def test_every_map_starts_alive_at_a_thousandth_of_a_person_a_pixel(settings, scale):
    for seed in range(4):
        model = narrow(settings | {"density_scale": scale}, seed=seed, uneven=False).train()
        prediction = model(images(2, 3, 64, 64, seed=seed))
        local = [] if prediction.local is None else [prediction.local]
        maps = torch.cat([prediction.maps, *local], 1)
        assert (maps > 0).any(-1).any(-1).any(0).all()
        assert prediction.count.tolist() == pytest.approx([64 * 64 / 1000] * 2, rel=0.9)


# Sizes, in closed form


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
HEAD1 = chain([128, 64, 1], [1, 1])
ATTENTION = chain([512, 256, 128, 1], [3, 3, 1])


def gate1(maps):
    return chain([512, 256, maps], [3, 1])


def gate2(maps):
    return chain([512, 1024, 2048, 1024, 512, 256, maps], [3, 3, 3, 3, 3, 1])


assert round(gate2(3) / 1e6, 2) == 48.37  # more than half of the paper's 82.62 million
PAPER = ENCODER + sum(DECODER[:3]) + gate1(6) + gate2(3) + ATTENTION
CONCAT = ENCODER + sum(DECODER[:3]) - sum(chain([c, 64, 1], [1, 1]) for c in (512, 256, 128))
# Channels behind each 3 x 3 convolution, and of the 1 x 1 at the end, as the papers print them.
CSRNET = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 256, 128, 64]
DMCOUNT = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8, 256, 128]


def published(channels):
    return sum(conv(a, b, 3) for a, b in pairwise(channels)) + channels[-1] + 1


@pytest.mark.parametrize(
    ("settings", "expected", "millions"),
    [
        ({}, PAPER, 82.62),
        ({"experts": 4, "group_size": 3},
         ENCODER + sum(DECODER) + gate1(12) + gate2(4) + ATTENTION, None),
        ({"depth": 3}, PAPER + gate1(6), None),
        ({"depth": 1}, PAPER - gate2(3) - ATTENTION - gate1(6) + gate1(3), None),
        # ((E1, E3), E2): two maps of gate 1 for six, two of gate 2 for three.
        ({"groups": [[0, 2]]}, PAPER - gate1(6) + gate1(2) - gate2(3) + gate2(2), None),
        ({"gating": "image"}, PAPER, None),
        ({"gating": "hard"}, PAPER, None),
        ({"attention": None}, PAPER - ATTENTION, None),
        ({"local_head": True}, PAPER + HEAD1, None),
        ({"gate1": "conv4"}, PAPER + 2 * conv(256, 256, 3), None),
        ({"model": "Baseline", "experts": 2}, ENCODER + sum(DECODER[:2]), None),
        ({"model": "Baseline", "experts": 4}, ENCODER + sum(DECODER), None),
        ({"model": "Concat"}, CONCAT + 512 + 256 + 128 + 1, None),
        ({"model": "CSRNet"}, published(CSRNET), 16.26),
        ({"model": "DMCount"}, published(DMCOUNT), 21.50),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_layers_that_the_papers_print(settings, expected, millions):
    with torch.device("meta"):
        model = build_model({"model": "HMoDE"} | settings)
    found = sum(p.numel() for p in model.parameters())
    assert found == expected
    assert millions in (None, round(found / 1e6, 2))


# What is each network's own


@each(BASELINES)
@torch.no_grad()
def test_the_baseline_density_is_the_mean_of_its_experts(settings):
    prediction = narrow(settings)(images(2, 3, 32, 48))
    experts = settings["experts"]
    assert prediction.experts.shape[1] == experts
    expected = sum(prediction.experts[:, k] for k in range(experts)) / experts
    torch.testing.assert_close(prediction.density[:, 0], expected)
    assert prediction.stride == 16 // 2 ** (experts - 1)


@pytest.mark.parametrize("experts", [2, 3, 4])
@torch.no_grad()
def test_concatenation_is_one_convolution_over_all_scales(experts):
    model, x = narrow({"model": "Concat", "experts": experts}), images(2, 3, 48, 64)
    conv = model.head[0]
    conv.weight.normal_(0, 0.1)
    _, blocks = model.features(x)
    size = blocks[-1].shape[-2:]
    scales = [
        nn.functional.interpolate(block, size=size, mode="bilinear", align_corners=True)
        for block in blocks
    ]
    mixed = torch.einsum("c,bchw->bhw", conv.weight[0, :, 0, 0], torch.cat(scales, 1))[:, None]
    prediction = model(x)
    torch.testing.assert_close(prediction.density, (mixed + conv.bias).relu(), rtol=1e-4, atol=1e-5)
    assert prediction.experts.shape[1] == 0
    assert torch.equal(prediction.maps, prediction.density)


def test_only_csrnet_may_predict_less_than_nobody():
    torch.manual_seed(0)
    assert CSRNet(0.125)(images(4, 3, 64, 64)).density.min() < 0
    model = DMCount(0.125)
    nn.init.constant_(model.head[0].bias, -1.0)
    assert not model(images(4, 3, 64, 64)).density.any()


def test_a_cell_of_csrnet_sees_far_through_its_dilated_convolutions():
    """Six of them, each two cells to either side."""
    torch.manual_seed(0)
    features = torch.randn(1, 32, 41, 41, requires_grad=True)
    model = CSRNet(0.0625)
    model.head(model.back_end(features))[..., 20, 20].sum().backward()
    seen = features.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.amin() >= 20 - 12
    assert seen.amax() <= 20 + 12
    assert seen.amax() - seen.amin() > 12


@pytest.mark.parametrize("network", [CSRNet, DMCount])
@torch.no_grad()
def test_without_weights_features_keep_their_size_through_all_layers(network):
    """N(0, 0.01) would leave 1e-10 of them at this width."""
    torch.manual_seed(0)
    model = network(0.125)
    features = model.encoder(torch.randn(2, 3, 64, 64))
    behind = model.back_end if network is CSRNet else model.regression
    assert all(0.03 < size < 30 for size in (features.std(), behind(features).std()))


# Predictions: how counts and full-size maps are read off them


def prediction_of(size, stride, scale=100.0, seed=0):
    """A prediction whose values stand for no network."""
    generator = torch.Generator().manual_seed(seed)
    grid = [-(-side // stride) for side in size]
    density, experts, first, second = (
        torch.rand(2, channels, *grid, generator=generator) for channels in (1, 3, 3, 2)
    )
    return Prediction(
        density, experts, size=size, stride=stride, scale=scale, levels=(first, second)
    )


side = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(side, side),
    stride=st.sampled_from([1, 2, 4, 8]),
    scale=st.sampled_from([1.0, 50.0]),
    seed=st.integers(0, 99),
)
def test_full_size_repeats_each_cell_over_its_pixels_and_counts_are_its_sums(
    size, stride, scale, seed
):
    prediction = prediction_of(size, stride, scale, seed)
    maps = prediction.maps
    parts = (prediction.experts, *prediction.levels, prediction.density)
    assert torch.equal(maps, torch.cat(parts, 1))
    assert prediction.groups is prediction.levels[0]
    full = prediction.full_size(maps)
    rows, columns = (torch.arange(length) // stride for length in size)
    torch.testing.assert_close(full, maps[..., rows, :][..., columns] / scale)
    assert torch.equal(prediction.full_size(), full[:, -1:])
    with torch.autocast("cpu", torch.bfloat16):
        counts = prediction.counts(maps)
    torch.testing.assert_close(counts, full.sum((2, 3)), rtol=1e-5, atol=1e-6)
    assert torch.equal(prediction.count, prediction.counts(maps)[:, -1])
    mask = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(seed)) < 0.5
    masked = prediction.masked(mask)
    torch.testing.assert_close(masked.counts(masked.maps), (full * mask).sum((2, 3)))


# Weights from files


def random_layers(layers, gain=1.0, bias=0.1):
    """Layers of the meta device on the CPU, with random numbers that keep signals alive."""
    layers = layers.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in layers.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(3)
        elif value.ndim == 4:
            value.normal_(0, gain * (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("weight", "running_var")):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0, bias, generator=generator)
    return layers


def named(features):
    return {f"features.{name}": value for name, value in features.state_dict().items()}


@pytest.fixture(scope="module")
def normed():
    """torchvision's convolutions of VGG-16 with batch norms, without the heavy classifier."""
    with torch.device("meta"):
        features = vgg16_bn(weights=None).features
    return random_layers(features)


@torch.no_grad()
def test_the_encoder_loads_a_vgg16_bn_file_and_gives_its_features_at_the_five_cuts(
    normed, tmp_path
):
    torch.save(named(normed) | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "vgg.pth")
    model, x = Baseline(2, weights=str(tmp_path / "vgg.pth")).eval(), images(1, 3, 64, 64)
    assert model.initial_weights.startswith("sha256:")
    stages = model.encoder(x)
    assert [stage.shape[-1] for stage in stages] == [64, 32, 16, 8, 4]
    for end, stage in zip((6, 13, 23, 33, 43), stages, strict=True):
        expected = normed[:end](x)
        assert expected.max() > 0
        torch.testing.assert_close(stage, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "configuration", "end"), [(CSRNet, "D", (512, 4, 4)), (DMCount, "E", (512, 2, 2))]
)
@torch.no_grad()
def test_the_rivals_encoders_give_torchvisions_features(network, configuration, end, tmp_path):
    torch.manual_seed(0)
    features = vgg.make_layers(vgg.cfgs[configuration])
    torch.save(named(features), tmp_path / "vgg.pth")
    model, x = network(weights=tmp_path / "vgg.pth"), images(1, 3, 32, 32)
    expected = features[: len(model.encoder)](x)
    assert expected.shape[1:] == end
    torch.testing.assert_close(model.encoder(x), expected)
    if network is CSRNet:  # published behind a trained encoder only
        assert model.back_end[0].weight.std().item() == pytest.approx(0.01, rel=0.01)


@pytest.fixture(scope="module")
def plain():
    """The same convolutions without batch norms; their features grow large."""
    with torch.device("meta"):
        features = vgg16().features
    features = random_layers(features, gain=1.3, bias=0.3)
    features.load_state_dict({n: v.half().float() for n, v in features.state_dict().items()})
    return features


@pytest.fixture(scope="module")
def plain_path(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    state = {name: value.half() for name, value in named(plain).items()}
    save_file(state | {"classifier.6.bias": torch.zeros(9)}, path)
    return path


@torch.no_grad()
def test_features_are_the_plain_networks_up_to_one_constant_a_stage(plain, plain_path):
    model = Baseline(2, weights=plain_path).eval()
    assert model.encoder.unmeasured
    model.encoder.measure(images(4, 3, 64, 64, seed=1))
    assert not model.encoder.unmeasured
    image = images(1, 3, 64, 48)
    for end, ours in zip((4, 9, 16, 23, 30), model.encoder(image), strict=True):
        theirs = plain[:end](image)
        constant = (ours * theirs).sum() / ours.square().sum()
        assert constant > 1  # features grew, and were made smaller
        torch.testing.assert_close(constant * ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max())
        assert 0.3 < ours.square().mean().sqrt() < 3


def test_a_run_measures_training_crops(plain_path):
    profile = load_profile("photos", "sha")
    schedule = replace(profile.schedule, crop=32)
    profile = replace(profile, weights=plain_path, schedule=schedule)
    train = crowds([3, 5, 8, 2], size=(40, 50))
    model = initial_model(EXPERIMENTS["hmode"], profile, 0, train)
    assert not model.encoder.unmeasured
    assert (model.config["encoder_width"], model.config["width"]) == (1.0, 0.25)
    with pytest.raises(InputError, match="training set is empty"):
        initial_model(EXPERIMENTS["hmode"], profile, 0)


class Arbitrary:
    ran = False

    def __reduce__(self):
        return (setattr, (Arbitrary, "ran", True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["not a readable weights file"]),
        ({"features.0.weight": Arbitrary()}, ["not a readable weights file"]),
        ({"epoch": 3, "best": 61.2}, ["state dict"]),
        ({0: torch.zeros(3)}, ["state dict"]),
        ({"layer1.0.conv1.weight": torch.zeros(3)}, ["vgg16_bn", "0.weight"]),
        ((None,), ["vgg16_bn", "40.bias", "missing"]),
        ((torch.zeros(511),), ["vgg16_bn", "40.bias", "[511]", "[512]"]),
        ((torch.full((512,), float("nan")),), ["vgg16_bn", "40.bias", "not finite"]),
    ],
)
def test_a_file_of_other_weights_is_named_and_code_in_it_never_runs(
    content, words, normed, tmp_path
):
    path = tmp_path / "other.pth"
    if isinstance(content, tuple):  # the network's own weights but for one
        content = named(normed) | {"features.40.bias": content[0]}
        content = {name: value for name, value in content.items() if value is not None}
    if isinstance(content, bytes):
        path = path.with_suffix(".safetensors")
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with torch.device("meta"), refusal(str(path), *words):
        Baseline(2, weights=path)
    assert not Arbitrary.ran


@pytest.mark.parametrize("network", [HMoDE, CSRNet, DMCount])
def test_weights_that_are_not_there_or_for_another_width_are_named(network, tmp_path):
    with pytest.raises(InputError, match=r"width=1\.0, found width=0\.5"):
        network(width=0.5, weights=tmp_path / "vgg.pth")
    with torch.device("meta"), pytest.raises(MissingFileError, match=r"nothing\.pth"):
        network(weights=tmp_path / "nothing.pth")


# Bad input


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 31, 64), (2, 3, 64, 16)])
def test_images_that_do_not_fit_are_named(shape):
    with refusal("images", str(list(shape)), "[B, 3, H, W]", "32"):
        narrow(BASELINES["Baseline of 3"])(torch.zeros(shape))


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        (HMoDE, {"experts": 1}, ["experts", "1", "2 to 5"]),
        (Baseline, {"experts": 6}, ["experts", "6", "2 to 5"]),
        (HMoDE, {"group_size": 3}, ["group_size", "3", "2 to experts - 1 = 2"]),
        (HMoDE, {"depth": 4}, ["depth", "4", "(1, 2, 3)"]),
        (Concat, {"width": 0.0}, ["width", "0.0", "positive"]),
        (HMoDE, {"encoder_width": -1}, ["encoder_width", "-1"]),
        (CSRNet, {"density_scale": float("nan")}, ["density_scale", "nan", "positive"]),
        (HMoDE, {"gating": "soft"}, ["gating", "'soft'", "pixel", "image", "hard", "channel"]),
        (HMoDE, {"gate1": ["conv2"]}, ["gate1", "['conv2']", "conv2", "msblock"]),
        (HMoDE, {"gate1_input": "EB4"}, ["gate1_input", "'EB4'", "EB1", "DB1"]),
        (HMoDE, {"gate1_input": "DB1", "experts": 2, "depth": 1}, ["'DB1'", "2 experts"]),
        (HMoDE, {"attention": "conv2"}, ["attention", "'conv2'", "conv3", "None"]),
        (HMoDE, {"attention": "conv6", "depth": 1}, ["attention", "'conv6'", "depth=1"]),
        (HMoDE, {"local_head": "yes"}, ["local_head", "'yes'", "False, True"]),
        (HMoDE, {"group_size": 3, "depth": 1}, ["group_size", "3", "depth=1"]),
        (HMoDE, {"groups": [[0, 1]], "depth": 3}, ["groups", "depth", "3"]),
        (HMoDE, {"groups": []}, ["groups", "[]", "[[0, 2]]"]),
        (HMoDE, {"groups": [[0, 0]]}, ["groups", "[[0, 0]]", "different"]),
        (HMoDE, {"groups": [[[0], 1]]}, ["groups", "[[[0], 1]]"]),
        (HMoDE, {"groups": [[0, 1], [1]]}, ["groups", "group_size=2"]),
        (HMoDE, {"groups": [[0, 1], [1, 0]]}, ["groups", "once"]),
    ],
)
def test_settings_that_do_not_fit_are_named(model, settings, named):
    with refusal(*named):
        model(**({"width": NARROW} | settings))


@pytest.mark.parametrize("config", [{"model": "CSRNetwork"}, {}])
def test_an_unknown_model_is_named(config):
    with pytest.raises(InputError, match=rf"model is {config.get('model')!r}.*Baseline.*HMoDE"):
        build_model(config)
