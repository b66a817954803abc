"""Networks that come with hmode: what is stored, what the cards say, and training on from them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import crowd, crowds, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from test_part_a import ROOT

import hmode
from hmode.analysis import confusion
from hmode.cli import main
from hmode.counting import count, fitted
from hmode.data import open_dataset
from hmode.doubts import Doubts, darkness, interval
from hmode.errors import InputError, MissingFileError
from hmode.evaluation import predict
from hmode.metrics import mae, mse, nae
from hmode.models import build_model
from hmode.pretrained import (
    FOLDER,
    Card,
    at_working_size,
    finetune,
    names,
    narrowed,
    pack,
    pretrained,
    read_weights,
    widened,
    write_weights,
)
from hmode.runs import RunFolder, read_csv

PIXELS = 64 * 96
SEEN = crowds([20, 35, 5, 50])
UNSEEN = crowds([30, 12], size=(48, 80), seed=50)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """(folder, card, run) of a tiny random network, packed."""
    home = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    model = build_model({"model": "HMoDE", "width": 0.0625})
    run = RunFolder(home / "run")
    run.claim({"model": model.config, "train": {"name": "sha"}, "seed": 3}, resume=True)
    run.save_weights("best", model.state_dict())
    card = pack(run.path, "tiny", SEEN, {"test": UNSEEN}, working_pixels=PIXELS, folder=home)
    return home, card, run.path


class TestEightBits:
    @settings(deadline=None, max_examples=50)
    @given(st.integers(1, 5), st.integers(1, 40), st.floats(1e-6, 1e4), st.integers(0, 2**31))
    def test_a_weight_is_off_by_half_a_scale_at_most(self, channels, inputs, size, seed):
        generator = torch.Generator().manual_seed(seed)
        value = torch.randn(channels, inputs, 3, 3, generator=generator) * size
        value[0] = 0  # zeros stay zeros
        stored = narrowed({"w": value, "b": value[:, 0, 0, 0]})
        assert stored["w"].dtype == torch.int8
        back = widened(stored)
        assert torch.equal(back["b"], value[:, 0, 0, 0])
        assert not back["w"][0].any()
        torch.testing.assert_close(widened(narrowed(back))["w"], back["w"])  # again: the same
        largest = value.flatten(1).abs().amax(dim=1)
        error = (back["w"] - value).flatten(1).abs().amax(dim=1)
        assert (error <= largest / 127 * 0.5001).all()

    def test_a_file_gives_back_what_was_stored(self, tmp_path):
        state = build_model({"model": "Baseline", "width": 0.0625}).state_dict()
        path = tmp_path / "w.safetensors"
        digest = write_weights(path, state)
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        back, expected = read_weights(path, digest), widened(narrowed(state))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], expected[name]) for name in state)

    def test_a_damaged_file_is_refused(self, tmp_path):
        path = tmp_path / "w.safetensors"
        digest = write_weights(path, {"w": torch.ones(2, 2)})
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(InputError, match=r"w\.safetensors: damaged, or of another version"):
            read_weights(path, digest)
        with pytest.raises(InputError, match="not a readable weights file"):
            read_weights(path, hashlib.sha256(path.read_bytes()).hexdigest())
        with pytest.raises(MissingFileError, match="no such weights"):
            read_weights(tmp_path / "none", digest)


class TestPack:
    def test_the_network_is_the_runs_in_eight_bits(self, shelf):
        folder, _, run = shelf
        model = pretrained("tiny", folder)
        assert not model.training
        assert model.working_pixels == PIXELS
        expected = widened(narrowed(hmode.load_run(run).state_dict()))
        assert all(torch.equal(expected[k], v) for k, v in model.state_dict().items())

    def test_the_card_knows_the_training_images_and_the_counts(self, shelf):
        folder, card, _ = shelf
        assert Card.read("tiny", folder) == card
        assert names(folder) == ["tiny"]
        assert (card.fewest, card.most) == (5, 50)
        rows = read_csv(folder / "tiny.csv")
        assert [row["image"] for row in rows] == [each.name for each in UNSEEN]
        model = pretrained("tiny", folder)
        for row, sample in zip(rows, UNSEEN, strict=True):
            expected = count(sample.image, model).count
            assert float(row["predicted"]) == pytest.approx(expected, rel=1e-3, abs=2e-3)

    def test_an_unknown_network_is_named(self, shelf):
        with pytest.raises(MissingFileError, match=r"network is 'x', expected one of .*\['tiny'\]"):
            pretrained("x", shelf[0])

    def test_a_damaged_card(self, shelf, tmp_path):
        text = json.loads((shelf[0] / "tiny.json").read_text())
        del text["sha256"]
        (tmp_path / "tiny.json").write_text(json.dumps(text))
        with pytest.raises(InputError, match=r"tiny\.json: not a network's card"):
            pretrained("tiny", tmp_path)


class TestWorkingSize:
    @pytest.mark.parametrize("size", [(20, 30), (96, 64), (300, 200), (1, 500)])
    def test_a_picture_keeps_its_shape(self, size):
        pixels = torch.from_numpy(noise(size)).permute(2, 0, 1)
        height, width = fitted(pixels, PIXELS).shape[1:]
        if min(size) > 1:
            assert height * width == pytest.approx(PIXELS, rel=0.03)
            assert height / width == pytest.approx(size[0] / size[1], rel=0.03)
        assert fitted(pixels, None) is pixels

    def test_points_go_with_their_image(self):
        sample = at_working_size(crowd(9, (32, 48)), PIXELS)
        assert sample.size == (64, 96)
        assert torch.allclose(sample.points, 2 * crowd(9, (32, 48)).points)

    def test_the_count_of_a_scene_does_not_hang_on_its_size(self, shelf):
        model = pretrained("tiny", shelf[0])
        scene = open_dataset("synthetic", split="test", size=(128, 192))[0].image
        image = Image.fromarray(scene.permute(1, 2, 0).numpy())
        usual = count(image, model)
        for factor in (0.5, 2, 8):
            size = round(192 * factor), round(128 * factor)
            counted = count(image.resize(size, Image.Resampling.BICUBIC), model)
            assert counted.count == pytest.approx(usual.count, rel=0.05)
            assert counted.picture == size[::-1]
            assert counted.within(0, 0, *size) == pytest.approx(counted.count, rel=1e-6)


class TestDoubts:
    def test_an_interval_is_of_the_errors_of_similar_counts(self):
        predicted = np.concatenate([np.full(50, 100.0), np.full(50, 1000.0)])
        true = predicted * np.tile([0.5, 1.0, 1.0, 1.0, 2.0], 20)
        low, high = interval(110, true, predicted)
        assert (low, high) == pytest.approx((55, 220))
        assert Doubts().interval(110) is None

    def test_what_was_not_seen_in_training_is_said(self, shelf):
        model = pretrained("tiny", shelf[0])
        pixels = torch.from_numpy(noise((64, 96))).permute(2, 0, 1)
        counted = count(pixels, model)
        known = Doubts(fewest=counted.count + 1, darkest=darkness(pixels) + 1, densest=0.0)
        assert known.of(counted, pixels).split("; ") == [
            "denser than any training image",
            f"fewer than the {counted.count + 1} of the emptiest training image",
            "darker than any training image",
        ]
        assert Doubts(fewest=0, darkest=0.0, densest=1.0).of(counted, pixels) == ""

    def test_large_pictures_get_a_word_on_heads(self, shelf):
        pixels = torch.zeros(3, 64, 96, dtype=torch.uint8)
        counted = count(pixels, pretrained("tiny", shelf[0]))
        whole = replace(counted, picture=(1600, 2400))  # counted at a 25th of its side
        assert Doubts().of(whole, pixels) == "of heads below 75 pixels nothing is left at that size"
        prediction = replace(counted.prediction, size=(1600, 2400))
        as_it_is = replace(counted, prediction=prediction, picture=(1600, 2400))
        assert "larger than in any training image" in Doubts().of(as_it_is, pixels)
        assert Doubts().of(counted, pixels) == ""


@pytest.fixture(scope="module")
def tuned(shelf, tmp_path_factory):
    """(network, run folder) of the tiny network trained on."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    model = finetune("tiny", SEEN, run, epochs=2, crop=64, folder=shelf[0], progress=False)
    return model, run


class TestFinetune:
    def test_the_encoder_stays_as_it_was_and_the_rest_moves(self, shelf, tuned):
        before, after = pretrained("tiny", shelf[0]).state_dict(), tuned[0].state_dict()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved
        assert not [name for name in moved if name.startswith("encoder.")]

    def test_the_run_counts_at_the_same_working_size(self, tuned):
        model, run = tuned
        again = hmode.load_run(run)
        assert again.working_pixels == PIXELS
        image = UNSEEN[0].image
        assert count(image, again).count == pytest.approx(count(image, model).count)

    def test_a_part_that_is_not_there(self, shelf):
        with pytest.raises(InputError, match=r"part is 'nose', expected one of \['encoder'"):
            pretrained("tiny", shelf[0]).freeze("nose")


@pytest.mark.parametrize("name", names())
class TestThoseThatCome:
    def test_the_file_is_the_one_of_its_card_and_small(self, name):
        card, path = Card.read(name), FOLDER / f"{name}.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == card.sha256
        assert path.stat().st_size == card.bytes <= 25e6
        assert not any(value.isnan().any() for value in load_file(path).values())

    def test_the_cards_numbers_are_those_of_the_counts(self, name):
        card, rows = Card.read(name), read_csv(FOLDER / f"{name}.csv")
        for split, errors in card.errors.items():
            counts = [
                (float(row["true"]), float(row["predicted"]))
                for row in rows
                if row["split"] == split
            ]
            true, predicted = np.array(counts).T
            found = {"mae": mae, "mse": mse, "nae": nae}
            assert len(counts) == errors["images"]
            assert {key: f(true, predicted) for key, f in found.items()} == pytest.approx(
                {key: errors[key] for key in found}, rel=1e-4, abs=1e-3
            )
            assert (predicted - true).mean() == pytest.approx(errors["bias"], rel=1e-3, abs=1e-2)

    def test_its_card_in_words_names_its_hash(self, name):
        text = (Path(__file__).parents[1] / "docs" / "models" / f"{name}.md").read_text()
        assert Card.read(name).sha256[:16] in text

    @pytest.mark.slow
    @pytest.mark.skipif(ROOT is None, reason="ShanghaiTech part A is not there")
    def test_it_counts_what_is_stored(self, name):
        rows = [row for row in read_csv(FOLDER / f"{name}.csv") if row["split"] == "test"]
        if not Card.read(name).data.startswith("sha "):
            pytest.skip("not of part A")
        model = hmode.for_inference(pretrained(name))
        images = open_dataset("sha", ROOT, "test")
        by_name = {item.name: i for i, item in enumerate(images.items)}
        for row in rows[:20]:
            counted = count(images[by_name[row["image"]]].image, model)
            assert counted.count == pytest.approx(float(row["predicted"]), rel=1e-3, abs=0.01)


def test_the_network_for_drawings_weighs_experts_by_the_size_of_heads():
    images = open_dataset("scales", split="test", length=3)
    model = pretrained("scales")
    rows = [row for row in read_csv(FOLDER / "scales.csv") if row["split"] == "test"]
    stored = {row["image"]: row for row in rows}
    predictions = [predict(model, each) for each in images]
    for each, found in zip(images, predictions, strict=True):
        expected = float(stored[each.name]["predicted"])
        assert float(found.count) == pytest.approx(expected, rel=1e-3, abs=0.01)
    weights = [found.expert_weights()[0].numpy() for found in predictions]
    heads = confusion(weights, images).heads
    finest = heads[:, 0] / heads.sum(axis=1)
    assert finest[0] > finest[1] > finest[2]


def test_the_list_names_data_size_errors_terms_and_hash():
    result = CliRunner().invoke(main, ["models"])
    assert result.exit_code == 0, result.output
    for name in names():
        card = Card.read(name)
        for each in (name, card.data, card.terms, card.sha256[:16], "MAE", "MB"):
            assert each in result.output


def test_a_photograph_is_counted_at_the_first_command(tmp_path, monkeypatch):
    """In a folder that is called as the network is."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise((40, 60))).save("photos/small.png")
    result = CliRunner().invoke(main, ["count", "photos", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "Counting with photos, trained on sha (ShanghaiTech A)" in result.output
    assert "small.png: " in result.output
    assert " people, likely " in result.output
    (tmp_path / "photos" / "config.json").write_text("{}")  # a run of one's own comes first
    result = CliRunner().invoke(main, ["count", "photos/small.png", "--device", "cpu"])
    assert result.exit_code == 2
    assert "photos/config.json: not a run's configuration" in result.output.replace("\\", "/")
