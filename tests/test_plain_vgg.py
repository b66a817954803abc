"""Encoders from VGG-16 without batch norms, and what a small network can keep of a large one."""

import pytest
import torch
from conftest import crowds
from safetensors.torch import save_file
from torchvision.models import vgg16

import hmode
from hmode import Baseline, HMoDE
from hmode.errors import InputError
from hmode.experiments import EXPERIMENTS
from hmode.experiments.running import initial_model
from hmode.profiles import load_profile

ENDS = (4, 9, 16, 23, 30)  # of the five stages among the plain network's layers


@pytest.fixture(scope="module")
def plain():
    """torchvision's convolutions of VGG-16 with random numbers, their features growing large."""
    with torch.device("meta"):
        features = vgg16().features
    features = features.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for value in features.parameters():
        if value.ndim == 4:
            gain = 1.3 * (2 / value[0].numel()) ** 0.5
            value.data.normal_(0, gain, generator=generator)
        else:
            value.data.normal_(0, 0.3, generator=generator)
    return features


@pytest.fixture(scope="module")
def path(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    state = {f"features.{name}": value.half() for name, value in plain.state_dict().items()}
    save_file(state | {"classifier.6.bias": torch.zeros(9)}, path)
    plain.load_state_dict({name: value.half().float() for name, value in
                           plain.state_dict().items()})  # fmt: skip
    return path


@torch.no_grad()
def test_features_are_the_plain_networks_up_to_one_constant_a_stage(plain, path):
    torch.manual_seed(1)
    model = Baseline(2, weights=path).eval()
    assert model.encoder.unmeasured
    model.encoder.measure(torch.randn(4, 3, 64, 64))
    assert not model.encoder.unmeasured
    image = torch.randn(1, 3, 64, 48)
    for end, ours in zip(ENDS, model.encoder(image), strict=True):
        theirs = plain[:end](image)
        constant = (ours * theirs).sum() / ours.square().sum()
        assert constant > 1  # features grew, and were made smaller
        torch.testing.assert_close(constant * ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max())
        assert 0.3 < ours.square().mean().sqrt() < 3


def test_a_run_measures_training_crops(path):
    profile = load_profile("photos", "sha")
    profile = type(profile)(**{**vars(profile), "weights": path})
    train = crowds([3, 5, 8, 2], size=(140, 150))
    model = initial_model(EXPERIMENTS["hmode"], profile, 0, train)
    assert not model.encoder.unmeasured
    assert model.config["encoder_width"] == 1.0
    assert model.config["width"] == 0.25
    assert model.initial_weights.startswith("sha256:")
    with pytest.raises(InputError, match="training set is empty"):
        initial_model(EXPERIMENTS["hmode"], profile, 0)


def test_the_encoders_width_is_its_own():
    model = HMoDE(width=1 / 16, encoder_width=1 / 8)
    assert model.encoder.channels == [8, 16, 32, 64, 64]
    assert model.gate2.layers[0].in_channels == 64
    assert model.gate2.layers[0].out_channels == 1024 // 16
    again = hmode.models.build_model(model.config)
    again.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="encoder_width is -1"):
        HMoDE(width=1 / 16, encoder_width=-1)


@pytest.mark.parametrize("change", ["shape", "nan", "half"])
def test_damaged_weights_are_named_by_file_layer_and_what_was_expected(path, tmp_path, change):
    from safetensors.torch import load_file

    state, other = load_file(path), tmp_path / "other.safetensors"
    if change == "shape":
        state["features.10.weight"] = torch.zeros(128, 128, 3, 3)
        named = ["10.weight", "[128, 128, 3, 3]", "[256, 128, 3, 3]"]
    elif change == "nan":
        state["features.12.bias"][3] = float("nan")
        named = ["12.bias", "not finite"]
    else:
        named = ["not a readable weights file"]
    save_file(state, other)
    if change == "half":
        other.write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    with pytest.raises(InputError) as error:
        Baseline(2, weights=other)
    for words in (str(other), *named):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gate_without_its_last_relu_weighs_below_zero_too():
    torch.manual_seed(0)
    usual, open_gate = HMoDE(width=1 / 16), HMoDE(width=1 / 16, gate_relu=False, gate_std=None)
    assert "gate_relu" not in usual.config
    assert open_gate.config["gate_relu"] is False
    assert open_gate.config["gate_std"] is None
    features = torch.randn(2, usual.encoder.channels[-1], 4, 4)
    assert usual.gate2.layers(features).min() >= 0
    assert open_gate.gate2.layers(10 * features).min() < 0
    assert open_gate.gate2.layers[0].weight.std() > 2 * usual.gate2.layers[0].weight.std()
