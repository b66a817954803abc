"""What makes a network faster changes nothing but rounding: Winograd's algorithm, convolutions as
matrix products, the order in memory, folded batch norms, kept memory."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import crowds
from helpers import NETWORKS, each, images, narrow
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hmode
from hmode.fast.batchnorm import synchronise_batch_norm
from hmode.fast.layout import lay_out
from hmode.fast.memory import kept_memory
from hmode.fast.quick import QuickConv2d, suits
from hmode.fast.winograd import A_T, B_T, G, gains, winograd
from hmode.models import for_inference

CPU = torch.device("cpu")


def random(generator, *shape):
    return torch.randn(shape, generator=generator)


# The convolutions


def test_four_outputs_of_a_filter_of_three_in_one_dimension():
    generator = torch.Generator().manual_seed(0)
    signal, taps = random(generator, 6).double(), random(generator, 3).double()
    a_t, g, b_t = A_T.double(), (24 * G).round().double() / 24, B_T.double()
    expected = torch.stack([signal[i : i + 3] @ taps for i in range(4)])
    torch.testing.assert_close(a_t @ ((g @ taps) * (b_t @ signal)), expected)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    bias=st.booleans(),
    order=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    at_once=st.sampled_from([1, 36 * 20, 2**23]),
    seed=st.integers(0, 2**31),
)
def test_value_and_gradients_are_the_convolutions(
    batch, channels, size, bias, order, at_once, seed
):
    """At once or in parts, off by some millionths of the largest terms."""
    generator = torch.Generator().manual_seed(seed)
    x = random(generator, batch, channels[0], *size).contiguous(memory_format=order)
    weight = random(generator, channels[1], channels[0], 3, 3).contiguous(memory_format=order)
    added = random(generator, channels[1]) if bias else None
    leaves = [leaf.requires_grad_() for leaf in (x, weight, added) if leaf is not None]
    given = random(generator, batch, channels[1], *size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[winograd.__module__], "AT_ONCE", at_once)
        found = winograd(x, weight, added)
        gradients = torch.autograd.grad(found, leaves, given)
    assert found.is_contiguous(memory_format=torch.channels_last)

    def exact(transform):
        inputs = [transform(leaf.detach().double()).requires_grad_() for leaf in leaves]
        value = F.conv2d(*inputs, padding=1)
        return value, *torch.autograd.grad(value, inputs, transform(given.double()))

    for one, true, terms in zip(
        (found, *gradients), exact(lambda leaf: leaf), exact(torch.abs), strict=True
    ):
        assert one.dtype == torch.float32
        assert ((one - true).abs() <= 1e-5 * terms.max() + 1e-6).all()
    assert gradients[1].stride() == weight.stride()


def test_winograds_error_is_some_millionths_of_the_result():
    generator = torch.Generator().manual_seed(0)
    x = random(generator, 1, 256, 24, 20).requires_grad_()
    weight = random(generator, 64, 256, 3, 3).requires_grad_()
    given = random(generator, 1, 64, 24, 20)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    found = winograd(x, weight, None)
    for one, other in zip(
        (found, *torch.autograd.grad(found, (x, weight), given)),
        (exact, *torch.autograd.grad(exact, (x, weight), given.double())),
        strict=True,
    ):
        assert (one - other).norm() < 1e-5 * other.norm()


@given(st.tuples(*[st.integers(1, 3000)] * 2), st.integers(1, 2**20), st.booleans())
def test_more_channels_or_positions_never_gain_less(channels, positions, trained):
    if gains(*channels, positions, trained):
        assert gains(*channels[::-1], positions, trained)
        assert gains(2 * channels[0], channels[1], positions, trained)
        assert gains(*channels, 2 * positions, trained)
        assert gains(*channels, positions, True)


# Which of them is taken: another than torch's gives other last bits


def pair(channels):
    """A convolution, and the same as a `QuickConv2d`."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    return conv, QuickConv2d.of(conv)


def test_small_inputs_other_types_and_autocast_are_left_to_torch():
    conv, fast = pair(128)
    few, many = (images(1, 128, side, side).requires_grad_() for side in (4, 32))
    assert torch.equal(fast(few), conv(few))
    double, fast_double = (copy.deepcopy(layer).double() for layer in (conv, fast))
    assert torch.equal(fast_double(many.double()), double(many.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(many), conv(many))
    assert not torch.equal(fast(many), conv(many))
    torch.testing.assert_close(fast(many), conv(many), rtol=1e-4, atol=1e-4)
    assert fast.state_dict().keys() == conv.state_dict().keys()
    assert fast.weight is conv.weight


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"bias": False}, True),
        ({"in_channels": 32}, False),
        ({"kernel_size": 1, "padding": 0}, False),
        ({"stride": 2}, False),
        ({"padding": 0}, False),
        ({"padding": 2, "dilation": 2}, False),
        ({"groups": 2}, False),
        ({"padding_mode": "reflect"}, False),
    ],
)
def test_what_suits(changes, expected):
    usual = {"in_channels": 256, "out_channels": 128, "kernel_size": 3, "padding": 1}
    with torch.device("meta"):
        assert suits(nn.Conv2d(**usual | changes)) is expected


# Whole networks


def trained(settings):
    """A network whose batch norms do something, in training mode."""
    model = narrow(settings, uneven=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.train()


def values(prediction):
    fields = vars(prediction) | {"local": None}
    return {name: value for name, value in fields.items() if value is not None}


COUNTED = (
    *("baseline", "hmode", "table4/concat", "table4/cg", "table5/msblock", "table7/resblock"),
    *("table8/k3-n2-d3", "table9/double-branch", "table10/csrnet", "table10/dm-count"),
)


@each({row: NETWORKS[row] for row in COUNTED})
def test_a_network_made_ready_to_count_has_every_map_and_gate_and_leaves_the_other(settings):
    model, x = trained(settings), images(2, 3, 64, 80)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = for_inference(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    assert not folded.training
    assert getattr(folded, "local_head", None) is None  # no count needs it
    found, expected = values(folded(x)), values(model.eval()(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found["density"].std() > 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # weights are cast once
        low = for_inference(model)
        torch.testing.assert_close(values(low(x)), values(folded(x)), rtol=0, atol=0)
    types = {p.dtype for m in low.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()}
    assert types == {torch.bfloat16}


def test_shared_batch_norms_are_folded_too():
    model = synchronise_batch_norm(trained(NETWORKS["baseline"]), CPU)
    found, expected = (m(images(1, 3, 64, 64)).maps for m in (for_inference(model), model.eval()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_images_counted_together_count_as_they_do_alone():
    """Sizes that alternate and repeat; more of one size than fit into a batch."""
    model = trained({"model": "Baseline"})
    dataset = [
        *crowds([3, 9], (64, 64)),
        *crowds([5], (70, 66)),
        *crowds([1] * 3, (256, 512), seed=4),
        *crowds([2, 8], (64, 64), seed=9),
    ]
    together = hmode.evaluate(model, dataset).table
    for row, sample in zip(together, dataset, strict=True):
        (alone,) = hmode.evaluate(model, [sample]).table
        assert row.pop("name") == alone.pop("name") == sample.name
        assert row == pytest.approx(alone, rel=1e-4, abs=1e-4)


def step(model, autocast=False):
    """Maps, and the gradients of their mean square by parameter."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        maps = model(images(2, 3, 96, 96).contiguous(memory_format=torch.channels_last)).maps
    maps.square().mean().backward()
    return maps.detach(), {name: p.grad for name, p in model.named_parameters() if p.ndim > 1}


def lies_channels_last(model):
    return all(
        module.weight.is_contiguous(memory_format=torch.channels_last)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and min(module.weight.shape) > 1
    )


def test_a_network_laid_out_for_training_has_the_same_maps_and_gradients():
    """In float32, where a single ReLU that rounding opens or shuts moves gradients by some
    thousandths, and under autocast, where they are as exact as without."""
    model = narrow({"encoder_width": 0.5}, uneven=False).train()
    plain, low, plain_low = (copy.deepcopy(model) for _ in range(3))
    names = [*model.state_dict()]
    for laid in (model, low):
        lay_out(lay_out(laid, CPU), CPU)  # a second time changes nothing
        assert lies_channels_last(laid)
        assert any(isinstance(module, QuickConv2d) for module in laid.modules())
        assert [*laid.state_dict()] == names
    again = copy.deepcopy(model)
    again.load_state_dict(plain.state_dict())
    assert lies_channels_last(again)

    (maps, gradients), (true_maps, true) = step(model), step(plain)
    torch.testing.assert_close(maps, true_maps, rtol=1e-3, atol=1e-4)
    (low_maps, low_gradients), (plain_maps, plain_gradients) = (
        step(low, True),
        step(plain_low, True),
    )

    def error(found, true):
        return ((found - true).norm() / true.norm()).item()

    assert error(low_maps, true_maps) <= 2 * error(plain_maps, true_maps)
    for name, value in true.items():
        assert gradients[name].stride() == dict(model.named_parameters())[name].stride()
        assert error(gradients[name], value) <= 0.02, name
        bound = 2 * error(plain_gradients[name], value) + 0.01
        assert error(low_gradients[name], value) <= bound, name


def test_another_kind_of_device_keeps_torchs_order_and_layers():
    with torch.device("meta"):
        model = hmode.HMoDE()
    before = [type(each) for each in model.modules()]
    assert all(p.is_contiguous() for p in lay_out(model, torch.device("mps")).parameters())
    assert [type(each) for each in model.modules()] == before


def test_an_error_goes_through_kept_memory():
    with pytest.raises(ZeroDivisionError), kept_memory(), kept_memory():
        raise ZeroDivisionError
