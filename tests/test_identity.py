"""What a run's configuration says of its data: no other data pass for them."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import crowds
from PIL import Image

from hmode.data import CrowdImage, Resident, hold_out, identify, open_dataset
from hmode.errors import InputError
from hmode.experiments import run
from hmode.runs import RunFolder
from hmode.sweep import Plan


def photographs(root, images=4, seed=0):
    """A folder data set with as many images to train on and two to test on."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", images), ("test", 2)):
        folder = root / split
        folder.mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"p{i}.png")
            points = rng.uniform(0, 64, (5 + i, 2)).round(1)
            lines = ["x,y", *(f"{x},{y}" for x, y in points)]
            (folder / f"p{i}.csv").write_text("\n".join(lines) + "\n")
    return root


def digest(root, split="train"):
    return identify(open_dataset("folder", root, split))["digest"]


class TestDigest:
    def test_it_is_the_same_wherever_and_whenever_the_files_were_written(self, tmp_path):
        first = photographs(tmp_path / "a" / "photos")
        second = shutil.copytree(first, tmp_path / "b" / "photos")
        for path in second.rglob("*"):
            os.utime(path, (1, 1))
        assert identify(open_dataset("folder", first)) == identify(open_dataset("folder", second))

    def test_it_is_this_value_on_any_machine(self):
        image = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(3, 2, 4)
        sample = CrowdImage(image, torch.tensor([[1.0, 0.5]]), "a")
        assert identify([sample]) == {"name": "list", "images": 1, "digest": "03175566ca737ff5"}

    @pytest.mark.parametrize("change", ["pixels", "point", "name", "one more", "one less", "order"])
    def test_any_change_of_the_data_is_another(self, tmp_path, change):
        root = photographs(tmp_path / "photos")
        before, train = digest(root), root / "train"
        if change == "pixels":  # the same size of file, in the same moment
            state = (train / "p1.png").stat()
            content = bytearray((train / "p1.png").read_bytes())
            content[-20] ^= 1
            (train / "p1.png").write_bytes(content)
            os.utime(train / "p1.png", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        elif change == "point":
            (train / "p1.csv").write_text("x,y\n1.5,2.5\n")
        elif change == "name":
            for suffix in ("png", "csv"):
                (train / f"p1.{suffix}").rename(train / f"q1.{suffix}")
        elif change == "one more":
            for suffix in ("png", "csv"):
                shutil.copy(train / f"p1.{suffix}", train / f"p9.{suffix}")
        elif change == "one less":
            for suffix in ("png", "csv"):
                (train / f"p3.{suffix}").unlink()
        else:
            (train / "p0.png").rename(train / "x")
            (train / "p1.png").rename(train / "p0.png")
            (train / "x").rename(train / "p1.png")
        assert digest(root) != before

    def test_of_a_selection_it_is_that_of_its_images(self, tmp_path):
        whole = open_dataset("folder", photographs(tmp_path / "photos"))
        train, validation = hold_out(whole, fraction=0.5)
        digests = [identify(part)["digest"] for part in (whole, train, validation)]
        assert len(set(digests)) == 3
        (tmp_path / "photos" / "train" / f"p{validation.indices[0]}.csv").write_text("x,y\n1,1\n")
        assert identify(train)["digest"] == digests[1]
        assert identify(validation)["digest"] != digests[2]

    def test_images_that_are_kept_are_the_same_data(self, tmp_path):
        dataset = open_dataset("folder", photographs(tmp_path / "photos"))
        assert identify(Resident(dataset)) == identify(dataset)

    def test_of_images_in_memory_it_is_of_all_that_counts(self):
        (sample,) = crowds([5])
        mask = torch.ones(sample.size, dtype=torch.bool)
        others = [
            CrowdImage(sample.image ^ 1, sample.points, sample.name),
            CrowdImage(sample.image, sample.points + 1, sample.name),
            CrowdImage(sample.image, sample.points, "another"),
            CrowdImage(sample.image, sample.points, sample.name, mask=mask),
            sample,
        ]
        assert len({identify([each])["digest"] for each in others}) == len(others)

    def test_a_file_that_cannot_be_read(self, tmp_path):
        dataset = open_dataset("folder", photographs(tmp_path / "photos"))
        (tmp_path / "photos" / "train" / "p2.png").unlink()
        with pytest.raises(InputError, match=r"p2\.png: cannot be read"):
            identify(dataset)


class TestRuns:
    """The recipes by which one folder's number was reported as another's."""

    def train(self, root, runs, **options):
        return run(
            "hmode", "folder", "smoke", data_root=root, runs=runs, device="cpu", **options
        ).evaluation.mae

    def test_another_folder_of_the_same_name(self, tmp_path):
        first = photographs(tmp_path / "a" / "photos")
        second = photographs(tmp_path / "b" / "photos", seed=1)
        mae = self.train(first, tmp_path / "runs")
        with pytest.raises(InputError, match=r"holds a run of other data .*--fresh"):
            self.train(second, tmp_path / "runs")
        assert self.train(first, tmp_path / "runs") == mae
        anew = self.train(second, tmp_path / "runs", fresh=True)
        assert anew == self.train(second, tmp_path / "elsewhere")

    @pytest.mark.parametrize("split", ["train", "test"])
    @pytest.mark.parametrize("experiment", ["hmode", "trap/means-100"])
    def test_annotations_that_were_edited(self, tmp_path, split, experiment):
        root = photographs(tmp_path / "photos")
        options = {"data_root": root, "runs": tmp_path / "runs", "device": "cpu"}
        run(experiment, "folder", "smoke", **options)
        (root / split / "p1.csv").write_text("x,y\n1.5,2.5\n")
        with pytest.raises(InputError, match="holds a run of other data"):
            run(experiment, "folder", "smoke", **options)

    def test_what_ran_before_there_were_digests_is_loaded_with_a_word(self, tmp_path):
        root = photographs(tmp_path / "photos")
        mae = self.train(root, tmp_path / "runs")
        (path,) = (tmp_path / "runs").rglob("config.json")
        config = json.loads(path.read_text())
        for part in ("train", "validation", "test"):
            del config[part]["digest"]
        path.write_text(json.dumps(config))
        with pytest.warns(UserWarning, match="unknown"):
            assert self.train(root, tmp_path / "runs") == mae
        assert RunFolder(path.parent).config() == config

    def test_a_sweep_does_not_take_another_folder_s_runs_for_done(self, tmp_path):
        first = photographs(tmp_path / "a" / "photos")
        second = photographs(tmp_path / "b" / "photos", seed=1)
        self.train(first, tmp_path / "runs")
        options = {"seeds": 1, "dataset": "folder", "profile": "smoke", "runs": tmp_path / "runs"}
        plan = Plan(["hmode", "baseline"], data_root=first, **options)
        assert [plan.done(job) for job in plan.jobs] == [True, False]
        with pytest.raises(InputError, match="holds a run of other data"):
            Plan(["hmode", "baseline"], data_root=second, **options)
        assert Plan(["baseline"], data_root=second, **options).jobs
