"""A checkpoint of the authors' released code gives in `HMoDE` the maps that it gives there."""

import pytest
import torch
import torch.nn.functional as F
from helpers import refusal
from safetensors.torch import save_file
from torch import nn
from torchvision.models import vgg16_bn

from hmode import Baseline, HMoDE, load_official
from hmode.errors import InputError, MissingFileError

CUTS = (0, 6, 13, 23, 33, 43)


class Conv(nn.Module):
    """A convolution under the name "conv", with a ReLU behind it or not."""

    def __init__(self, c_in, c_out, kernel, relu=True):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
        self.relu = relu

    def forward(self, x):
        return self.conv(x).relu() if self.relu else self.conv(x)


class Named(nn.Module):
    """Layers one after the other, under the names given."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class Released(nn.Module):
    """The released network, re-stated: same names, same arithmetic, its maps at E_1's grid."""

    def __init__(self):
        super().__init__()
        layers = list(vgg16_bn(weights=None).features)
        for i in range(5):
            self.add_module(f"features{i + 1}", nn.Sequential(*layers[CUTS[i] : CUTS[i + 1]]))
        for k, (c_in, hidden, out) in enumerate([(512, 256, 128), (1024, 512, 256)], start=1):
            self.add_module(
                f"de_pred{k}", nn.Sequential(Conv(c_in, hidden, 3), Conv(hidden, out, 3))
            )
        self.de_pred3 = nn.Sequential(Conv(512, 1024, 3), Conv(1024, 512, 3))
        for k, channels in enumerate((128, 256, 512), start=1):
            self.add_module(f"head{k}", nn.Sequential(Conv(channels, 64, 1), Conv(64, 1, 1)))
        self.gating1 = Named(conv1=Conv(512, 256, 3), conv2=Conv(256, 6, 1))
        wide = (512, 1024, 2048, 1024, 512, 256)
        convs = {f"conv{i + 1}": Conv(wide[i], wide[i + 1], 3) for i in range(5)}
        self.gating2 = Named(**convs, conv6=Conv(256, 3, 1))
        self.mask = Named(
            conv1=Conv(512, 256, 3), conv2=Conv(256, 128, 3), output=Conv(128, 1, 1, relu=False)
        )

    def forward(self, x):
        x2 = self.features2(self.features1(x))
        x3 = self.features3(x2)
        x4 = self.features4(x3)
        x5 = self.features5(x4)

        def up(a, like):
            a = F.interpolate(a, size=like.shape[-2:], mode="bilinear", align_corners=True)
            return torch.cat([like, a], 1)

        d3 = self.de_pred3(x5)
        d2 = self.de_pred2(up(d3, x4))
        d1 = self.de_pred1(up(d2, x3))
        e1 = self.head1(d1)
        e2 = F.interpolate(self.head2(d2), scale_factor=2)
        e3 = F.interpolate(self.head3(d3), scale_factor=4)

        g = self.gating1(x5)
        pairs = [F.interpolate(g[:, i : i + 2].softmax(1), scale_factor=4) for i in (0, 2, 4)]
        groups = [
            pair[:, :1] * a + pair[:, 1:] * b
            for pair, (a, b) in zip(pairs, [(e1, e2), (e1, e3), (e2, e3)], strict=True)
        ]
        mask = self.mask(x5).sigmoid()
        g2 = F.interpolate(self.gating2(mask * x5).softmax(1), scale_factor=4)
        final = sum(g2[:, i : i + 1] * groups[i] for i in range(3))
        return torch.cat([e1, e2, e3, *groups, final], 1), F.interpolate(mask, scale_factor=4)


def randomise(model):
    """Weights that keep signals of order one and every output alive."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(7)
        elif value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.startswith(("head", "gating")) or name.endswith(("weight", "running_var")):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0, 0.1, generator=generator)


@pytest.fixture(scope="module")
def released():
    model = on_meta(Released).to_empty(device="cpu").eval()
    randomise(model)
    return model


def on_meta(model=HMoDE, **settings):
    """Names and shapes of a network's tensors, without their memory."""
    with torch.device("meta"):
        return model(**settings)


@pytest.fixture(scope="module")
def model():
    return on_meta().to_empty(device="cpu").eval()


@pytest.fixture
def blank(model):
    """HMoDE with every tensor NaN: what is not loaded shows."""
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.fill_(float("nan"))
    return model


@pytest.fixture(scope="module")
def expected(released):
    """Images of two sizes with the maps and the attention that the released network gives."""
    generator = torch.Generator().manual_seed(1)
    cases = []
    for size in ((128, 128), (256, 384)):
        x = torch.randn(1, 3, *size, generator=generator)
        with torch.no_grad():
            cases.append((x, *released(x)))
    return cases


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.max().item())


@torch.no_grad()
def check(model, case):
    x, maps, attention = case
    prediction = model(x)
    assert prediction.maps.shape == maps.shape
    for c in range(7):
        assert maps[:, c].std() > 1e-3, "this map of the re-statement says nothing"
        assert_same(prediction.maps[:, c], maps[:, c])
    assert attention.std() > 1e-3
    assert_same(prediction.attention, attention)


def test_a_released_checkpoint_gives_the_released_maps(released, blank, expected):
    assert load_official(blank, released.state_dict()) is blank
    for case in expected:
        check(blank, case)


def module(state):
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("form", ["module.", "module. under model", "file"])
def test_all_forms_of_a_checkpoint_load_every_tensor(form, released, blank, tmp_path):
    state = released.state_dict()
    checkpoint = module(state) if form == "module." else {"model": module(state), "epoch": 12}
    if form == "file":
        torch.save(checkpoint, tmp_path / "checkpoint.pth")
        checkpoint = tmp_path / "checkpoint.pth"
    load_official(blank, checkpoint)
    found, expected = blank.state_dict(), sorted(state.values(), key=total)
    assert len(found) == len(expected)
    for value, other in zip(sorted(found.values(), key=total), expected, strict=True):
        assert torch.equal(value, other)
    for path in tmp_path.iterdir():  # 330 MB
        path.unlink()


def total(value):
    return value.numel(), value.double().sum().item()


# What does not fit: shapes alone tell, so nothing here holds memory


@pytest.fixture(scope="module")
def meta_state():
    return on_meta(Released).state_dict()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("features3.2.running_mean", "encoder.stages.2.2.running_mean"),
        ("de_pred3.1.conv.weight", "decoder.blocks.0.2.weight"),
        ("head1.0.conv.bias", "heads.0.0.bias"),
        ("gating1.conv2.conv.weight", "inner_gates.0.layers.2.weight"),
        ("gating2.conv6.conv.bias", "gate2.layers.10.bias"),
        ("mask.output.conv.weight", "attention.output.weight"),
    ],
)
def test_a_missing_name_is_named(meta_state, name, ours):
    state = {key: value for key, value in meta_state.items() if key != name}
    with pytest.raises(InputError) as error:
        load_official(on_meta(), state)
    assert name in str(error.value) or ours in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("features6.0.weight", torch.zeros(3), ["unknown"]),
        ("head0.0.conv.weight", torch.zeros(3), ["unknown"]),
        ("counter.weight", torch.zeros(3), ["unknown"]),
        ("gating2.conv6.conv.weight", torch.zeros(4, 1), ["[4, 1]", "[3, 256, 1, 1]"]),
    ],
)
def test_an_unknown_name_and_a_wrong_shape_are_named(meta_state, name, value, named):
    with refusal(name, *named):
        load_official(on_meta(), meta_state | {name: value})


@pytest.mark.parametrize(
    "settings", [{"experts": 4}, {"depth": 3}, {"width": 0.0625}, {"model": Baseline}]
)
def test_a_model_of_another_shape_is_refused(meta_state, settings):
    with pytest.raises(InputError):
        load_official(on_meta(**settings), meta_state)


@pytest.mark.parametrize("settings", [{"gating": "image"}, {"gate1_input": "EB2"}])
def test_a_variant_of_the_same_shape_is_refused(settings):
    model = HMoDE(width=0.0625, **settings)
    with pytest.raises(InputError, match=next(iter(settings))):
        load_official(model, model.state_dict())


def test_a_failed_load_names_the_file_and_changes_no_weight(tmp_path):
    model = HMoDE(width=0.0625)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    partial = {"module.gating1.conv2.conv.bias": torch.full((6,), 9.0)}
    save_file(partial, tmp_path / "partial.safetensors")
    (tmp_path / "garbage.pth").write_bytes(b"no checkpoint" * 50)
    for name in ("partial.safetensors", "garbage.pth"):
        with pytest.raises(InputError, match=name):
            load_official(model, tmp_path / name)
    with pytest.raises(MissingFileError, match=r"nowhere\.pth"):
        load_official(model, str(tmp_path / "nowhere.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
