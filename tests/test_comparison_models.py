"""CSRNet and DM-Count's network (Table X): as published, and able to learn from scratch."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import vgg

from hmode import LossSettings, total_loss
from hmode.density import batch_density_maps
from hmode.errors import InputError, MissingFileError
from hmode.models import CSRNet, DMCount, build_model

NETWORKS = [CSRNet, DMCount]
# Channels behind each 3 x 3 convolution, and of the 1 x 1 at the end, as the papers print them.
CSRNET = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 256, 128, 64]
DMCOUNT = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8, 256, 128]


def convolutions(channels):
    """Parameters of 3 x 3 convolutions with biases, and a 1 x 1 to one channel."""
    return sum(9 * a * b + b for a, b in pairwise(channels)) + channels[-1] + 1


@pytest.mark.parametrize(
    ("network", "channels", "millions"), [(CSRNet, CSRNET, 16.26), (DMCount, DMCOUNT, 21.50)]
)
def test_parameters_of_the_published_networks(network, channels, millions):
    with torch.device("meta"):
        model = network()
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == convolutions(channels)
    assert round(found / 1e6, 2) == millions


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [(64, 96), (61, 90), (32, 33)])
def test_one_map_at_stride_8_for_any_size(network, size):
    torch.manual_seed(0)
    prediction = network(0.0625)(torch.randn(2, 3, *size))
    h, w = math.ceil(size[0] / 8), math.ceil(size[1] / 8)
    assert prediction.density.shape == (2, 1, h, w)
    assert prediction.experts.shape == (2, 0, h, w)
    assert prediction.density.dtype == torch.float32
    assert (prediction.size, prediction.stride, prediction.scale) == (size, 8, 100.0)
    torch.testing.assert_close(prediction.maps, prediction.density)
    assert prediction.full_size().shape == (2, 1, *size)
    assert prediction.attention is prediction.local is None


def test_only_csrnet_may_predict_less_than_nobody():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64)
    assert CSRNet(0.125)(images).density.min() < 0
    model = DMCount(0.125)
    assert model(images).density.min() >= 0
    nn.init.constant_(model.head[0].bias, -1.0)
    assert not model(images).density.any()


def test_a_cell_of_csrnet_sees_far_through_its_dilated_convolutions():
    """Six of them, each two cells to either side; the encoder adds a little."""
    torch.manual_seed(0)
    features = torch.randn(1, 32, 41, 41, requires_grad=True)
    model = CSRNet(0.0625)
    model.head(model.back_end(features))[..., 20, 20].sum().backward()
    seen = features.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.amin() >= 20 - 12
    assert seen.amax() <= 20 + 12
    assert seen.amax() - seen.amin() > 12


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_built_again_from_its_configuration(network):
    model = network(0.0625, density_scale=10.0)
    again = build_model(model.config)
    assert type(again) is network
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    assert again.scale == 10.0


# ImageNet weights


@pytest.fixture(scope="module", params=[(CSRNet, "vgg16"), (DMCount, "vgg19")], ids=lambda p: p[1])
def published(request, tmp_path_factory):
    """A network, a file of its encoder's weights (random here), and torchvision's features."""
    network, architecture = request.param
    torch.manual_seed(0)
    features = features_of({"vgg16": "D", "vgg19": "E"}[architecture])
    path = tmp_path_factory.mktemp("weights") / f"{architecture}.pth"
    torch.save(named(features) | {"classifier.0.bias": torch.zeros(3)}, path)
    return network, path, features


def features_of(configuration):
    return vgg.make_layers(vgg.cfgs[configuration])


def named(features):
    return {f"features.{name}": value for name, value in features.state_dict().items()}


def test_the_encoder_gives_torchvisions_features(published):
    network, path, features = published
    model = network(weights=path)
    assert model.initial_weights.startswith("sha256:")
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = features[: len(model.encoder)](images)
        torch.testing.assert_close(model.encoder(images), expected)
    assert isinstance(model.encoder[-1], nn.ReLU)
    assert expected.shape[1:] == ((512, 4, 4) if network is CSRNet else (512, 2, 2))


def test_csrnets_back_end_starts_as_published_behind_a_trained_encoder_only(tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.save(named(features_of("D")), path)
    spread = {weights: CSRNet(weights=weights).back_end[0].weight.std() for weights in (path, None)}
    assert spread[path].item() == pytest.approx(0.01, rel=0.01)
    assert spread[None].item() == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)


@pytest.mark.parametrize("change", ["missing", "shape", "other network"])
def test_weights_of_another_network_are_named(published, change, tmp_path):
    network, path, _ = published
    state = torch.load(path)
    if change == "missing":
        del state["features.10.bias"]
    elif change == "shape":
        state["features.10.bias"] = torch.zeros(7)
    else:
        state = named(features_of("A"))
    bad = tmp_path / "other.pth"
    torch.save(state, bad)
    with pytest.raises(InputError) as error:
        network(weights=bad)
    tensor = "2.weight" if change == "other network" else "10.bias"
    for words in (str(bad), tensor, path.stem):
        assert words in str(error.value)


def test_weights_that_are_not_there_or_for_another_width_are_named(published, tmp_path):
    network, path, _ = published
    with pytest.raises(InputError, match=r"width=1\.0, found width=0\.5"):
        network(0.5, weights=path)
    with pytest.raises(MissingFileError, match=r"nothing\.pth"):
        network(weights=tmp_path / "nothing.pth")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("bad", "words"), [({"width": 0}, "width is 0"), ({"density_scale": -1.0}, "density_scale")]
)
def test_bad_settings_are_named(network, bad, words):
    with pytest.raises(InputError, match=words):
        network(**bad)


# Learning from scratch


def crops(seed, batch=4, side=64, most=20):
    """Bright spots for heads on noise: images, their density maps, points and which are valid."""
    generator = torch.Generator().manual_seed(seed)
    points = side * torch.rand(batch, most, 2, generator=generator)
    valid = torch.arange(most) < torch.randint(1, most, (batch, 1), generator=generator)
    spots = 25 * batch_density_maps(points, valid, (side, side), sigma=2.0)
    noise = 0.3 * torch.randn(batch, 3, side, side, generator=generator)
    return spots + noise, batch_density_maps(points, valid, (side, side)), points, valid


OF_THEIR_OWN = {CSRNet: LossSettings(relative_weight=0.0), DMCount: "dmcount"}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("width", [0.0625, 0.25])
def test_gradients_of_its_loss_reach_every_parameter_from_the_start(network, width):
    torch.manual_seed(0)
    model = network(width).train()
    images, target, points, valid = crops(0)
    losses = total_loss(model(images), target, OF_THEIR_OWN[network], points=points, valid=valid)
    losses["total"].backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("network", NETWORKS)
def test_without_weights_features_keep_their_size_through_all_layers(network):
    """N(0, 0.01) would leave 1e-10 of them at this width."""
    torch.manual_seed(0)
    model = network(0.125)
    with torch.no_grad():
        features = model.encoder(torch.randn(2, 3, 64, 64))
        behind = model.back_end if network is CSRNet else model.regression
        sizes = [features.std().item(), behind(features).std().item()]
    assert all(0.03 < size < 30 for size in sizes)


@pytest.mark.parametrize("relative", [0.0, 1.0])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_narrow_network_learns_to_count_in_thirty_steps(network, relative):
    """With REL too (Table X): at stride 8 its regions are single cells of these crops."""
    if network is CSRNet:
        settings = LossSettings(relative_weight=relative)
    else:
        settings = LossSettings(
            density_weight=0.0,
            relative_weight=relative,
            relative_reduction="sum",
            count_weight=1.0,
            transport_weight=0.1,
            variation_weight=0.01,
        )
    torch.manual_seed(0)
    model = network(0.125).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, target, points, valid = crops(0)
    values, errors = [], []
    for _ in range(30):
        prediction = model(images)
        loss = total_loss(prediction, target, settings, points=points, valid=valid)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
        errors.append((prediction.count - valid.sum(dim=1)).abs().mean().item())
    assert min(values[-5:]) < 0.9 * values[0]
    assert min(errors[-5:]) < 0.7 * errors[0]
    assert prediction.density.max() > 0
