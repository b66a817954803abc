"""Crowds in which scales conflict: what is annotated, and what neither row nor place gives away."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hmode
from hmode.data.people import dress
from hmode.data.scales import (
    Panel,
    ScalesCrowd,
    annotate_wall,
    conflict_of_order,
    render_wall,
    sample_wall,
)
from hmode.data.synthetic import SyntheticCrowd, annotate


@pytest.fixture(scope="module")
def walls():
    return [sample_wall(np.random.default_rng(seed), (256, 256)) for seed in range(24)]


def nobody(panel: Panel) -> Panel:
    empty = dress(np.random.default_rng(0), np.empty((0, 2)), np.empty(0))
    return panel._replace(people=empty)


def follows_the_row(dataset) -> float:
    """Mean correlation of row and log scale over the pixels of an image."""
    found = []
    for sample in dataset:
        scale = sample.perspective.log()
        rows = torch.arange(scale.shape[0]).float()[:, None].expand_as(scale)
        found.append(torch.corrcoef(torch.stack([rows.ravel(), scale.ravel()]))[0, 1])
    return float(torch.stack(found).mean())


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["scales", "order"]),
    split=st.sampled_from(["train", "val", "test"]),
    seed=st.integers(0, 2**64),
    index=st.integers(0, 999),
    size=st.tuples(st.integers(64, 160), st.integers(64, 160)),
)
def test_any_image_is_well_formed(name, split, seed, index, size):
    dataset = hmode.open_dataset(name, split=split, seed=seed, length=1000, size=size)
    sample = dataset[index]
    assert sample.image.shape == (3, *size)
    assert sample.image.float().std() > 3
    assert sample.name == f"{name}-{split}-{index:04d}"
    assert dataset.count_people(index) == sample.count
    assert (sample.points >= 0).all()
    assert (sample.points < torch.tensor([size[1], size[0]])).all()
    assert sample.perspective.shape == size
    assert (sample.perspective > 0).all()


def test_the_map_tells_the_size_of_each_head(walls):
    """At a head, the map is the scale at which the camera that shows the head sees it."""
    errors = []
    for panels, passers in walls:
        points, perspective = annotate_wall(panels, passers, (256, 256))
        points = {tuple(point) for point in points.tolist()}
        for rows, columns, scene, people, _ in [*panels, *passers]:
            found, _ = annotate(scene.camera, people)
            _, scales = scene.camera.project(people.ground, people.stature - 0.12)
            for point, scale in zip(found, scales, strict=True):
                x, y = map(float, point + np.array([columns.start, rows.start], "f4"))
                if (x, y) in points:
                    errors.append(abs(perspective[int(y), int(x)] / scale - 1))
    assert np.quantile(errors, 0.9) < 0.08  # statures differ, which shows in close-ups
    assert max(errors) < 0.35


def test_the_row_does_not_give_the_scale_away():
    assert follows_the_row(SyntheticCrowd(size=128, length=30)) > 0.8
    assert abs(follows_the_row(ScalesCrowd(size=128, length=30))) < 0.2


def test_whom_another_panel_hides_is_not_annotated(walls):
    for panels, _ in walls:
        rows, columns = panels[-1].rows, panels[-1].columns
        points, _ = annotate_wall([*panels[:-1], nobody(panels[-1])], [], (256, 256))
        x, y = points.T
        inside = (y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop)
        assert not inside.any()


def test_whom_a_passer_by_hides_is_not_annotated(walls):
    hidden = 0
    for panels, passers in walls:
        alone, flat = annotate_wall(panels, [], (256, 256))
        both, scales = annotate_wall(panels, passers, (256, 256))
        kept = {tuple(point) for point in both.tolist()}
        x, y = alone.astype(int).T
        gone = np.array([tuple(point) not in kept for point in alone.tolist()], bool)
        assert (scales != flat)[y, x][gone].all()
        hidden += gone.sum()
    assert hidden > 0


@pytest.mark.parametrize(("behind", "count"), [(-0.5, 0), (0.5, 1)])
def test_whom_a_decoy_hides_is_not_annotated(walls, behind, count):
    """A large mask on the line to a head, before it and after it."""
    scene = walls[0][0][0].scene
    camera = replace(scene.camera, focal=300.0, pitch=0.4, height=5.0, far=30.0, size=(256, 256))
    camera = replace(camera, centre=(128.0, 128.0))
    person = dress(np.random.default_rng(1), np.array([[0.0, 8.0]]), np.zeros(1))
    masked = replace(scene, camera=camera, clutter=(("mask 1.1 m", 0.0, 8.0 + behind),))
    panel = Panel(slice(0, 256), slice(0, 256), masked, person)
    assert len(annotate_wall([panel], [], (256, 256))[0]) == count


def test_people_are_drawn_where_the_points_are(walls):
    seen = []
    for panels, passers in walls[:6]:
        image = render_wall(panels, passers, (256, 256)).astype(int)
        empty = render_wall([nobody(panel) for panel in panels], [], (256, 256))
        x, y = annotate_wall(panels, passers, (256, 256))[0].astype(int).T
        seen.extend(np.abs(image - empty).max(axis=2)[y, x] > 12)
    assert np.mean(seen) > 0.8


def test_many_are_veiled_and_masks_stand_where_hardly_anybody_is():
    panels = []
    for seed in range(12):
        panels += sample_wall(np.random.default_rng(seed), (256, 256), conflict_of_order)[0]
    veiled = [panel for panel in panels if panel.veil]
    clear = [panel for panel in panels if not panel.veil]
    assert 0.3 < len(veiled) / len(panels) < 0.7
    assert all(panel.scene.clutter for panel in clear)
    assert not any(panel.scene.clutter for panel in veiled)
    assert sum(len(p.people) for p in veiled) > 3 * sum(len(p.people) for p in clear)


def test_a_veil_takes_contrast_and_no_people(walls):
    panels, _ = walls[0]
    dimmed = [panel._replace(veil=0.8) for panel in panels]
    clear, veiled = (render_wall(each, [], (256, 256)) for each in (panels, dimmed))
    top = panels[-1]
    inside = slice(top.rows.start + 2, top.rows.stop - 2), top.columns
    assert veiled[inside].std() < 0.7 * clear[inside].std()
    both = (annotate_wall(each, [], (256, 256)) for each in (panels, dimmed))
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one, other)
