"""Which expert each head gets, and which one its size asks for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import crowd

from hmode.analysis import confusion, expert_weights, head_sizes, right_expert
from hmode.data.camera import HEAD_WIDTH
from hmode.errors import InputError
from hmode.method.image import CrowdImage
from hmode.models import Baseline, HMoDE


def image(sizes, side=64, name="row"):
    """Heads of these sizes in pixels, one every eight pixels of the first row."""
    scale = torch.ones(side, side)
    points = torch.tensor([[8.0 * i + 3, 2.0] for i in range(len(sizes))]).reshape(-1, 2)
    for i, size in enumerate(sizes):
        scale[:, 8 * i : 8 * i + 8] = size / HEAD_WIDTH
    return CrowdImage(torch.zeros(3, side, side, dtype=torch.uint8), points, name, scale)


def test_the_average_weighs_all_experts_the_same():
    with torch.no_grad():
        found = Baseline(width=1 / 16).eval()(torch.randn(1, 3, 64, 64))
    mixed = (found.expert_weights() * found.experts).sum(dim=1, keepdim=True)
    torch.testing.assert_close(mixed, found.density)


def test_a_batch_has_the_weights_of_each_image():
    with torch.no_grad():
        found = HMoDE(width=1 / 16, groups=[[0, 2]]).eval()(torch.randn(2, 3, 64, 96))
    each = [found.image(i).expert_weights() for i in range(2)]
    assert torch.equal(found.expert_weights(), torch.cat(each))


class TestExpertWeights:
    @pytest.mark.parametrize(
        "settings",
        [
            *({}, {"depth": 1}, {"depth": 3}, {"groups": [[0, 2]]}),
            *({"experts": 4, "group_size": 3}, {"gating": "hard"}, {"gating": "image"}),
        ],
    )
    def test_they_mix_the_experts_to_the_final_map(self, settings):
        torch.manual_seed(0)
        model = HMoDE(width=1 / 16, **settings).eval()
        with torch.no_grad():
            for net in [*model.inner_gates, *([model.gate2] if model.gate2 else [])]:
                for parameter in net.parameters():
                    parameter.mul_(3)  # far from even
            found = model(torch.randn(1, 3, 64, 96))
        weights = expert_weights(model, found)
        np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)
        mixed = (weights * found.experts[0].numpy()).sum(axis=0)
        np.testing.assert_allclose(mixed, found.density[0, 0].numpy(), rtol=1e-4, atol=1e-6)


class TestRightExpert:
    def test_between_and_on_edges(self):
        sizes = [[6.0, 9.99, 10.0], [15.0, 20.0, 60.0]]
        np.testing.assert_array_equal(right_expert(sizes, [10, 20]), [[0, 0, 1], [1, 2, 2]])

    @pytest.mark.parametrize("edges", [[20, 10], [10, 10], 10.0])
    def test_edges_that_do_not_rise(self, edges):
        with pytest.raises(InputError, match="expected rising numbers"):
            right_expert([1.0], edges)

    def test_sizes_of_heads(self):
        np.testing.assert_allclose(head_sizes(image([6, 20, 60])), [6, 20, 60], rtol=1e-6)
        outside = image([6, 20, 60])
        outside = replace(outside, points=torch.tensor([[-1.0, 2.0], [11.0, 63.9], [64.0, 3.0]]))
        np.testing.assert_allclose(head_sizes(outside), [20], rtol=1e-6)

    def test_a_photograph_has_no_known_sizes(self):
        with pytest.raises(InputError, match="has no perspective"):
            head_sizes(crowd(3, (64, 64)))


class TestConfusion:
    sizes = (6, 60, 20, 7, 50, 24)

    def chosen(self, experts):
        """A map that has these experts at the heads of `image`, and none elsewhere."""
        cells = np.full((16, 16), -1)
        cells[0, : 2 * len(experts) : 2] = experts
        return cells

    def test_the_right_expert_for_all(self):
        found = confusion([self.chosen([0, 2, 1, 0, 2, 1])], [image(self.sizes)])
        np.testing.assert_array_equal(found.heads, 2 * np.eye(3))
        assert found.agreement == 1
        assert found.chance == pytest.approx(1 / 3)

    def test_weights_count_in_part(self):
        weights = np.zeros((3, 16, 16))
        weights[0], weights[1] = 0.75, 0.25
        found = confusion([weights], [image(self.sizes)])
        np.testing.assert_allclose(found.heads, [[1.5, 0.5, 0]] * 3)
        assert found.agreement == pytest.approx(1 / 3)

    def test_one_expert_for_all_agrees_by_chance(self):
        found = confusion([self.chosen([1] * 6)], [image(self.sizes)])
        np.testing.assert_array_equal(found.heads, [[0, 2, 0]] * 3)
        assert found.agreement == pytest.approx(found.chance) == pytest.approx(1 / 3)

    def test_edges_may_be_given(self):
        chosen = [self.chosen([0, 2, 1, 0, 2, 1])]
        found = confusion(chosen, [image(self.sizes)], edges=[6.5, 30])
        np.testing.assert_array_equal(found.heads, [[1, 0, 0], [1, 2, 0], [0, 0, 2]])
        with pytest.raises(InputError, match="expected 2 for 3 experts"):
            confusion(chosen, [image(self.sizes)], edges=[30])

    def test_no_expert_anywhere(self):
        found = confusion([np.full((16, 16), -1)], [image(self.sizes)])
        assert not found.heads.any()
        assert np.isnan([found.agreement, found.chance]).all()

    @pytest.mark.parametrize(
        ("maps", "sizes", "message"),
        [
            (np.zeros((16, 16), int), (), "no image has a head"),
            (np.zeros((16, 16), int), (9, 9, 9), "expected rising"),
            (np.zeros((8, 16), int), sizes, r"row: .* \[8, 16\] cells of 4 pixels.* \[64, 64\]"),
            (np.full((16, 16), 3), sizes, "experts from 3 to 3, expected -1 to 2"),
        ],
    )
    def test_maps_that_do_not_fit(self, maps, sizes, message):
        with pytest.raises(InputError, match=message):
            confusion([maps], [image(sizes)])
