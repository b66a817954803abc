"""What is counted in one image, and `hmode evaluate`: tables, pictures, folds, the benchmark."""

import csv
import dataclasses
import os
import re
import resource

import helpers
import numpy as np
import pytest
import torch
from conftest import crowd, crowds
from helpers import stored
from test_protocols import Ramp, plain_game

import hmode
from hmode.cli import evaluate as command
from hmode.data import CrowdImage, normalise
from hmode.errors import InputError
from hmode.evaluation import count_images
from hmode.report import evaluation_picture, worst_images
from hmode.runs import RunFolder
from hmode.submission import TEST_IDS


def count_image(model, sample, **options):
    """What is counted in one image alone."""
    (found,) = count_images(model, [sample], **options)
    return found


def full_maps(sample):
    """float64 `[C, H, W]`: every map of the image at full size, final last."""
    prediction = Ramp()(normalise(sample.image)[None])
    return prediction.full_size(prediction.maps)[0].detach().double().numpy()


def dots(sample):
    """`[H, W]`: people in each pixel."""
    height, width = sample.size
    x, y = sample.points.numpy().T
    return np.histogram2d(y, x, (height, width), ((0, height), (0, width)))[0]


def masked(sample, seed=0):
    """The image with a mask that leaves out about a third of its pixels."""
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random(sample.size) < 0.7)
    return dataclasses.replace(sample, mask=mask)


BLIND = dataclasses.replace(crowd(0, name="blind"), annotated=False)


class TestCountImage:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (61, 50), (40, 101)])
    @pytest.mark.parametrize("change", [lambda sample: sample, masked], ids=["plain", "masked"])
    def test_equal_to_sums_of_the_full_size_maps(self, size, change):
        """Cells of GAME cut through the cells of the map's grid."""
        sample = change(crowd(30, size))
        mask = np.ones(size) if sample.mask is None else sample.mask.numpy()
        found = count_image(Ramp(), sample)
        maps, people = full_maps(sample) * mask, dots(sample) * mask
        assert found.by_map == pytest.approx(maps.sum(axis=(1, 2)), rel=1e-5)
        assert found.true == found.inside == people.sum()
        game = [plain_game(maps[-1] - people, level) for level in range(4)]
        assert found.game == pytest.approx(game, rel=1e-5)
        assert found.game[0] == pytest.approx(abs(found.error), rel=1e-5)
        assert found.game[3] > found.game[0]

    def test_foreground_by_hand(self):
        """One person in the middle of 80 x 80 pixels: the target, exp(-r² / 32) / (32 pi), is
        above 1e-5 in a disc of radius 14.9 pixels; cut to 15 x 15 pixels, in all of them."""
        point = torch.tensor([[40.5, 40.5]])
        sample = CrowdImage(crowd(1, (80, 80)).image, point, "disc")
        y, x = np.mgrid[:80, :80]
        disc = np.hypot(x - 40, y - 40) < np.sqrt(-32 * np.log(32 * np.pi * 1e-5))
        box = np.maximum(abs(x - 40), abs(y - 40)) <= 7
        for window, foreground in ((None, disc), (15, box)):
            expected = (full_maps(sample)[-1] * foreground).sum()
            found = count_image(Ramp(), sample, window=window)
            assert found.foreground == pytest.approx((1, expected), rel=1e-5)
            result = hmode.evaluate(Ramp(), [sample, sample], window=window)
            assert result.foreground.tolist() == [list(found.foreground)] * 2

    def test_without_people_there_is_no_foreground(self):
        found = count_image(Ramp(), crowd(0))
        assert found.foreground == (0, 0)
        assert found.game == pytest.approx([found.predicted] * 4, rel=1e-5)

    def test_people_outside_the_frame_are_true_and_in_no_cell(self):
        inside = crowd(6, (40, 40))
        stray = torch.tensor([[-5.0, 3.0], [3.0, 40.0], [40.0, 1.0]])
        sample = dataclasses.replace(inside, points=torch.cat([inside.points, stray]))
        alone, found = count_image(Ramp(), inside), count_image(Ramp(), sample)
        assert (found.true, found.inside) == (9, 6)
        assert (found.game, found.foreground) == (alone.game, alone.foreground)

    def test_a_mask_takes_out_prediction_and_people(self):
        sample = crowd(20, (64, 64))
        nothing = dataclasses.replace(sample, mask=torch.zeros(64, 64, dtype=torch.bool))
        found = count_image(Ramp(), nothing)
        assert (found.true, found.inside, found.game) == (0, 0, (0, 0, 0, 0))
        assert (found.by_map, found.foreground) == ((0, 0, 0), (0, 0))

    def test_an_image_without_annotation_is_only_predicted(self):
        assert count_image(Ramp(), BLIND).by_map == count_image(Ramp(), crowd(0)).by_map
        result = hmode.evaluate(Ramp(), [BLIND, crowd(9)])
        assert result.annotated.tolist() == [False, True]
        assert result.mae == abs(result.predicted[1] - 9)
        assert result.table[0]["game0"] is None

    def test_counts_alone_are_the_same_counts(self):
        samples = crowds([3, 0, 7])
        whole = hmode.evaluate(Ramp(), samples)
        alone = hmode.evaluate(Ramp(), samples, regions=False)
        assert alone.game is alone.foreground is None
        assert (alone.mae, alone.mse) == (whole.mae, whole.mse)
        assert "game0" not in alone.table[0]

    def test_a_network_learns_nothing_and_stays_in_its_mode(self):
        model = hmode.Baseline(width=0.0625).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        forward = hmode.evaluate(model, crowds([3, 8, 5]))
        assert model.training
        assert forward.table == hmode.evaluate(model.eval(), crowds([3, 8, 5])).table
        assert not model.training
        with pytest.raises(InputError, match=r"thumbnail\.jpg.*32"):
            hmode.evaluate(model.train(), [crowd(3), crowd(3, (20, 64), name="thumbnail.jpg")])
        assert model.training
        assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
        with pytest.raises(InputError, match="empty"):
            hmode.evaluate(model, [])

    def test_what_does_not_fit_into_memory_is_named(self):
        class Hungry(Ramp):
            def forward(self, image):
                raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(InputError, match="crowd: 64 x 64 pixels do not fit"):
            count_image(Hungry(), crowd(3))


# The command


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return stored(
        tmp_path_factory.mktemp("evaluate") / "run",
        "Baseline",
        schedule={"sigma": 2.0, "window": 5},
    )


@pytest.fixture
def data(monkeypatch):
    """Stands in for the data sets: opening one gives what is put here by its options."""
    shelf = {}

    def open_dataset(name, root, split, **options):
        return shelf[name, split, *options.values()]

    monkeypatch.setattr(command, "open_dataset", open_dataset)
    shelf["synthetic", "test"] = crowds([3, 60, 0, 7], (40, 52))
    return shelf


def call(*arguments):
    return helpers.call("evaluate", *arguments, "--device", "cpu")


def printed(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def one_line(*arguments):
    return helpers.one_line("evaluate", *arguments, "--device", "cpu")


def expected(run_dir, images):
    return hmode.evaluate(hmode.load_run(run_dir), images, sigma=2.0, window=5)


class TestOutput:
    def test_all_errors_are_printed_and_written_image_by_image(self, run_dir, data, tmp_path):
        """With the foreground of the sigma and window that the run was trained with."""
        path, result = tmp_path / "counts.csv", expected(run_dir, data["synthetic", "test"])
        output, e = printed(run_dir, "--csv", path), result.errors
        assert output.startswith("4 images, 70 people: MAE ")
        game = [e[f"game{level}"] for level in range(4)]
        errors = [e["mae"], e["mse"], e["nae"], *game, e["foreground_mae"], e["foreground_mse"]]
        found = [float(each) for each in re.findall(r"\d+\.\d+", output)]
        assert found == pytest.approx(errors, abs=0.0051)
        again = hmode.Evaluation.from_table(list(csv.DictReader(path.open())))
        assert again.table == result.table

    def test_by_density_level(self, run_dir, data):
        rows = expected(run_dir, data["synthetic", "test"]).by_level()
        lines = printed(run_dir, "--by-level").splitlines()[2:]
        assert [line.split()[:2] for line in lines] == [
            *(["all", "4"], ["0-50", "3"]),
            *(["51-500", "1"], ["501+", "0"]),
        ]
        for line, row in zip(lines[:3], rows[:3], strict=True):
            errors = [float(word) for word in line.split()[2:]]
            assert errors == pytest.approx([row["mae"], row["mse"], row["nae"]], abs=0.0051)
        assert lines[3].split()[2:] == ["-"]
        lines = printed(run_dir, "--levels", "0,7").splitlines()[3:]
        assert [line.split()[:2] for line in lines] == [["0-0", "1"], ["1-7", "2"], ["8+", "1"]]

    def test_images_without_annotation_are_counted_apart(self, run_dir, data):
        data["synthetic", "test"] = [*crowds([5]), BLIND]
        people = hmode.evaluate(hmode.load_run(run_dir), [BLIND]).predicted[0]
        lines = printed(run_dir).splitlines()
        assert lines[0] == f"1 images without annotation, {people:.0f} people predicted"
        assert lines[1].startswith("1 images, 5 people: MAE")

    def test_1500_counts_for_the_benchmark(self, run_dir, data, tmp_path, monkeypatch):
        unknown = np.full(1500, np.nan)
        result = hmode.Evaluation(
            [str(n) for n in reversed(TEST_IDS)], unknown, unknown, np.arange(1500.0)[:, None]
        )
        data["nwpu", "test"] = []
        monkeypatch.setattr(command, "evaluate", lambda *_, **__: result)
        path, nwpu = tmp_path / "new" / "counts.txt", ("--dataset", "nwpu", "--split")
        output = printed(run_dir, *nwpu, "test", "--submission", path)
        assert output == "1500 images without annotation, 1124250 people predicted\n"
        assert path.read_text() == "".join(f"{n} {5109 - n}.0000\n" for n in TEST_IDS)
        assert "nwpu" in one_line(run_dir, "--submission", path)
        assert "test" in one_line(run_dir, *nwpu, "val", "--submission", path)

    def test_sizes_are_the_usual_ones_unless_others_are_asked_for(self, run_dir, monkeypatch):
        asked = []

        def open_dataset(name, root, split, **options):
            asked.append(options)
            return crowds([3])

        monkeypatch.setattr(command, "open_dataset", open_dataset)
        for options in ((), ("--max-side", 64), ("--full-size", "--annotations", "points.csv")):
            printed(run_dir, *options)
        full = {"max_side": None, "short_side": None, "annotations": "points.csv"}
        assert asked == [{}, {"max_side": 64}, full]


class TestPicture:
    def test_the_worst_images_come_first_with_both_maps(self):
        """Of four images the one without annotation is none of the worst."""
        dataset = [*crowds([2, 90, 30], (40, 52)), BLIND]
        result = hmode.evaluate(Ramp(), dataset)
        order = np.argsort(-np.abs(result.predicted - result.true)[:3])
        worst = worst_images(Ramp(), dataset, result)
        assert [each.name for each in worst] == [dataset[i].name for i in order]
        for each, i in zip(worst, order, strict=True):
            assert each.density.sum() == pytest.approx(each.predicted, rel=1e-5)
            assert each.target.sum() == pytest.approx(each.true, rel=1e-5)
            assert each.error == result.predicted[i] - result.true[i]
        result = hmode.evaluate(Ramp(), dataset[:3])
        fig = evaluation_picture(result, worst_images(Ramp(), dataset[:3], result, most=2))
        counts, errors = fig.subfigs[0].axes
        shown = counts.collections[0].get_offsets()
        pairs = np.stack([result.true, result.predicted], 1)
        assert np.allclose(shown, np.maximum(1, pairs))
        shown = errors.collections[0].get_offsets()
        assert np.allclose(shown[:, 1], result.predicted - result.true)
        assert sum(bool(ax.images) for ax in fig.subfigs[1].axes) == 4
        with pytest.raises(InputError, match="has an annotation"):
            evaluation_picture(hmode.evaluate(Ramp(), [BLIND]))


@pytest.fixture
def folded(tmp_path, data):
    """A run for each fold, and a test split of two images for each."""
    for fold in range(5):
        stored(tmp_path / f"fold{fold}", "Baseline", train={"name": "ucf_cc_50", "fold": fold})
        data["ucf_cc_50", "test", fold] = crowds([fold, 10 * fold], (40, 40), seed=fold)
    return tmp_path


class TestFolds:
    UCF = ("--dataset", "ucf_cc_50")

    def test_all_of_them_and_their_mean(self, folded, data, tmp_path):
        table, picture = tmp_path / "counts.csv", tmp_path / "all.png"
        more = ("--csv", table, "--by-level", "--picture", picture)
        lines = printed(folded, *self.UCF, "--folds", "all", *more).splitlines()
        model = hmode.load_run(folded / "fold0")
        results = [hmode.evaluate(model, data["ucf_cc_50", "test", fold]) for fold in range(5)]
        for fold, (line, result) in enumerate(zip(lines, results, strict=False)):
            assert line.startswith(f"fold {fold}: 2 images, {11 * fold} people: ")
            assert f"MAE {result.mae:.2f}, MSE (root) {result.mse:.2f}" in line
        mae, mse = (np.mean([getattr(each, name) for each in results]) for name in ("mae", "mse"))
        assert lines[5].startswith(f"mean of 5 folds: MAE {mae:.2f}, MSE (root) {mse:.2f}")
        assert lines[7].split()[:2] == ["all", "10"]
        assert picture.stat().st_size > 0
        rows = list(csv.DictReader(table.open()))
        assert [row["fold"] for row in rows] == list("0011223344")
        assert [float(row["true"]) for row in rows] == [*np.concatenate([r.true for r in results])]

    def test_one_of_them(self, folded):
        output = printed(folded, *self.UCF, "--fold", "3")
        assert output.startswith("fold 3: 2 images, 33 people: ")
        assert len(output.splitlines()) == 1
        output = printed(folded / "fold4", *self.UCF)  # of one fold, tested on it
        assert output.startswith("2 images, 44 people: ")
        stored(folded / "fold0" / "fold2", "Baseline", train={"name": "sha"})
        printed(folded / "fold0", *self.UCF, "--fold", "2")  # of other data: on any

    def test_folds_that_do_not_fit_are_refused_before_the_work(self, folded, monkeypatch):
        monkeypatch.setattr(command, "evaluate", None)
        assert "--folds all" in one_line(folded, *self.UCF)
        (folded / "fold3" / "config.json").unlink()
        assert "fold3" in one_line(folded, *self.UCF, "--folds", "all")
        (folded / "fold1").rename(folded / "fold2" / "fold2")
        message = one_line(folded / "fold2", *self.UCF, "--fold", "2")
        assert "trained with fold 1 as its test fold" in message


class TestRefusals:
    def test_options_that_do_not_fit(self, run_dir, data):
        assert "'50,x'" in one_line(run_dir, "--levels", "50,x")
        assert "rising" in one_line(run_dir, "--levels", "50,20")
        assert "--max-side" in one_line(run_dir, "--full-size", "--max-side", 64)

    def test_a_folder_in_the_place_of_a_file(self, run_dir, data, tmp_path, monkeypatch):
        monkeypatch.setattr(command, "evaluate", None)
        (tmp_path / "a.png").mkdir()
        for option in ("--csv", "--picture", "--submission"):
            data_set = ("--dataset", "nwpu") if option == "--submission" else ()
            message = one_line(run_dir, *data_set, option, tmp_path / "a.png")
            assert f"{tmp_path / 'a.png'}: is a folder" in message

    def test_weights_that_count_nothing(self, tmp_path, data):
        run = RunFolder(stored(tmp_path / "run", "Baseline"))
        broken = {name: value * float("nan") for name, value in run.weights().items()}
        run.save_weights("best", broken)
        message = one_line(run.path)
        for words in ("best.safetensors", "encoder.stages.0.0.weight", "not finite"):
            assert words in message

    def test_a_full_disk_leaves_the_old_file(self, run_dir, data, tmp_path):
        """No file may grow beyond 64 bytes while the table is written."""
        path = tmp_path / "counts.csv"
        path.write_text("image,old")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        try:
            result = call(run_dir, "--csv", path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert result.exit_code == 2
        assert result.output.splitlines()[-1].startswith(f"Error: {path}: cannot be written: ")
        assert path.read_text() == "image,old"
        assert os.listdir(tmp_path) == ["counts.csv"]
