"""How strongly each term of the loss pulls."""

from dataclasses import replace

import pytest
import torch

from hmode.analysis import gradient_norms
from hmode.density import density_map
from hmode.losses import LossSettings, total_loss
from hmode.models import HMoDE


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    model = HMoDE(width=1 / 16)
    target = density_map(torch.rand(20, 2) * 64, (64, 64))[None, None]
    return model, torch.randn(1, 3, 64, 64), target


def test_the_total_is_that_of_a_backward_pass(parts):
    model, images, target = parts
    norms = gradient_norms(model, images, target)
    total_loss(model.train()(images), target)["total"].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    expected = torch.cat([each.ravel() for each in gradients]).norm()
    model.zero_grad()
    assert norms["total"] == pytest.approx(float(expected), rel=1e-4)
    assert set(norms) == {"density", "relative", "attention", "importance", "total"}


def test_a_term_alone_is_the_total_and_follows_its_weight(parts):
    alone = LossSettings(relative_weight=0.0, attention_weight=0.0, importance_weight=0.0)
    once = gradient_norms(*parts, alone)
    assert once["total"] > 0
    assert once["density"] == pytest.approx(once["total"])
    twice = gradient_norms(*parts, replace(alone, density_weight=2.0))
    assert twice["density"] == pytest.approx(2 * once["density"])
    assert twice["total"] == pytest.approx(2 * once["total"])


def test_the_network_stays_as_it_was(parts):
    model, images, target = parts
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradient_norms(model, images, target)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
