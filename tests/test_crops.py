"""Samples, crops and batches: the points move with the pixels, and nothing is left to chance."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import crowd, crowds
from helpers import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import normalize

import hmode
from hmode.data import CropSampler, CrowdImage, Resident, normalise
from hmode.data.registry import describe, true_counts
from hmode.errors import InputError

GIB = 2**30
IMAGE = torch.zeros(3, 4, 6, dtype=torch.uint8)
POINTS = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-300.0, 1.0]])


class TestCrowdImage:
    def test_everybody_counts_duplicates_and_people_outside_included(self):
        assert CrowdImage(IMAGE, POINTS, "a").count == 3
        assert CrowdImage(IMAGE, POINTS, "a").size == (4, 6)

    def test_with_a_mask_only_the_people_in_it_count(self):
        mask = torch.zeros(4, 6, dtype=torch.bool)
        mask[2, 1] = True  # row 2, column 1: the pixel of two of the points
        assert CrowdImage(IMAGE, POINTS, "a", mask=mask).count == 2
        assert CrowdImage(IMAGE, POINTS, "a", mask=~mask).count == 0  # the third is outside

    def test_an_image_without_annotation_is_not_one_without_people(self):
        unknown = CrowdImage(IMAGE, torch.zeros(0, 2), "3610", annotated=False)
        with pytest.raises(InputError, match="3610: not annotated"):
            _ = unknown.count
        with pytest.raises(InputError, match="3610: 3 points, yet it is not annotated"):
            CrowdImage(IMAGE, POINTS, "3610", annotated=False)

    @pytest.mark.parametrize(
        ("field", "value", "found"),
        [
            ("image", torch.zeros(3, 4, 6), "torch.float32"),
            ("image", torch.zeros(4, 6, 3, dtype=torch.uint8), "[4, 6, 3]"),
            ("image", np.zeros((3, 4, 6), np.uint8), "ndarray"),
            ("points", torch.zeros(5, 3), "[5, 3]"),
            ("points", torch.tensor([[1.0, 2.0], [5.0, float("nan")]]), "point 1 is [5.0, nan]"),
            ("perspective", torch.zeros(6, 4), "[6, 4]"),
            ("mask", torch.zeros(4, 6), "torch.float32"),
        ],
    )
    def test_a_wrong_field_is_named_with_what_was_found(self, field, value, found):
        with refusal("street.jpg", field.removesuffix("s"), found):
            CrowdImage(**{"image": IMAGE, "points": POINTS, "name": "street.jpg", field: value})

    def test_normalise_is_the_encoders_own_normalisation(self):
        image = crowd(0).image
        expected = normalize(image.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(normalise(torch.stack([image, 255 - image]))[0], expected)


def painted(size, count, seed=0, name="painted"):
    """Black, but for `count` people in distinct pixels, each of a colour of its own."""
    rng = np.random.default_rng(seed)
    height, width = size
    cells = rng.choice(height * width, count, replace=False)
    rows, columns = cells // width, cells % width
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, rows, columns] = torch.arange(1, count + 1, dtype=torch.uint8)
    image[1, rows, columns] = 255
    inside = rng.integers(8, 25, (count, 2)) / 32  # within the pixel, exact in float32
    points = np.stack([columns, rows], axis=1) + inside
    return CrowdImage(image, torch.tensor(points, dtype=torch.float32), name)


def colours(images):
    """Normalised crops back to uint8 colours."""
    black, white = (
        normalise(torch.full((3, 1, 1), value, dtype=torch.uint8)) for value in (0, 255)
    )
    return (255 * (images - black) / (white - black)).round()


def sampler(dataset, crop=32, batch_size=1, seed=0, **options):
    return CropSampler(dataset, crop=crop, batch_size=batch_size, seed=seed, **options)


def same(a, b):
    """Whether two lists of batches are equal."""
    return len(a) == len(b) and all(
        torch.equal(x.images, y.images)
        and torch.equal(x.points, y.points)
        and torch.equal(x.valid, y.valid)
        and (x.mask is y.mask is None or torch.equal(x.mask, y.mask))
        for x, y in zip(a, b, strict=True)
    )


def heads(batch):
    return [points[valid] for points, valid in zip(batch.points, batch.valid, strict=True)]


side = st.integers(5, 60)


class TestGeometry:
    @settings(deadline=None, max_examples=60)
    @given(
        sizes=st.lists(st.tuples(side, side), min_size=1, max_size=3),
        crop=st.integers(1, 70),
        seed=st.integers(0, 2**31),
        epoch=st.integers(0, 300),
    )
    def test_every_point_lies_on_the_colour_it_was_painted_with(self, sizes, crop, seed, epoch):
        dataset = [painted(size, 9 + 3 * i, seed=seed + i) for i, size in enumerate(sizes)]
        (batch,) = sampler(dataset, crop, len(dataset), seed=seed).epoch(epoch)
        for picture, points in zip(colours(batch.images), heads(batch), strict=True):
            columns, rows = points.floor().long().unbind(1)
            found = picture[:, rows, columns]
            assert (found[1] == 255).all()
            # No head of the crop is left out, none is there twice.
            visible = picture[0][picture[1] == 255]
            assert sorted(found[0].tolist()) == sorted(visible.tolist())

    def test_crops_are_slices_and_mirrored_slices_from_the_first_corner_to_the_last(self):
        image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 34, 33), np.uint8))
        person = CrowdImage(image, torch.tensor([[10.25, 20.5]]), "one")
        whole, seen, source = normalise(image), set(), sampler([person], 32)
        for epoch in range(150):
            (batch,) = source.epoch(epoch)
            for top, left, flip in np.ndindex(3, 2, 2):
                part = whole[:, top : top + 32, left : left + 32]
                if torch.equal(batch.images[0], part.flip(-1) if flip else part):
                    x = 10.25 - left
                    assert heads(batch)[0].tolist() == [[32 - x if flip else x, 20.5 - top]]
                    seen.add((top, left, flip))
        assert seen == set(np.ndindex(3, 2, 2))

    @pytest.mark.parametrize("size", [(10, 20), (10, 100)])
    def test_a_small_image_lies_whole_in_its_crop_on_the_mean_colour(self, size):
        places, source = set(), sampler([painted(size, count=12)], 32)
        for epoch in range(60):
            (batch,) = source.epoch(epoch)
            shown = (batch.images[0] != 0).any(dim=0)
            rows, columns = shown.any(dim=1).nonzero()[:, 0], shown.any(dim=0).nonzero()[:, 0]
            assert len(rows) == 10
            assert len(columns) == min(size[1], 32)
            assert shown.sum() == len(rows) * len(columns)  # zero all around
            if size[1] <= 32:
                assert len(heads(batch)[0]) == 12
            places.add((int(rows[0]), int(columns[0])))
        assert len(places) > 15  # placed at random

    def test_people_outside_the_frame_are_in_no_crop_and_those_on_its_border_stay_inside(self):
        outside = [[-1.0, 5], [5, -0.5], [32, 5], [5, 32], [-358.7, 8]]
        border = [[0.0, 0.0], [1e-9, 3], [float(np.nextafter(np.float32(32), 0)), 31.99]]
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        sample = CrowdImage(image, torch.tensor(outside + border), "edge")
        for crop, epoch in np.ndindex(2, 8):
            (batch,) = sampler([sample], (32, 64)[crop]).epoch(epoch)
            (points,) = heads(batch)
            assert len(points) == 3
            assert ((points >= 0) & (points < (32, 64)[crop])).all()

    def test_padding_is_marked_and_a_crowdless_batch_is_possible(self):
        dataset = [crowd(5, name="a"), crowd(0, name="b"), crowd(2, name="c")]
        (batch,) = sampler(dataset, 64, batch_size=3).epoch(0)
        assert sorted(batch.valid.sum(dim=1).tolist()) == [0, 2, 5]
        assert batch.points.shape == (3, 5, 2)
        (nobody,) = sampler([crowd(0)], 64).epoch(0)
        assert not nobody.valid.any()
        assert nobody.points.shape[-1] == 2


class TestMasks:
    def masked(self, size=(50, 60)):
        """Masked where the picture is blue, and nowhere else."""
        sample = painted(size, 12)
        mask = torch.from_numpy(np.random.default_rng(5).random(size) < 0.5)
        image = sample.image.clone()
        image[2] = 255 * mask
        return replace(sample, image=image, mask=mask)

    @pytest.mark.parametrize("crop", [16, 32, 80])
    def test_the_mask_moves_with_the_pixels_and_all_heads_are_given(self, crop):
        source = sampler([self.masked()], crop)
        for epoch in range(12):
            (batch,) = source.epoch(epoch)
            assert batch.mask.shape == (1, 1, crop, crop)
            assert batch.mask.dtype == torch.bool
            blue = colours(batch.images)[0, 2] == 255
            inside = (batch.images[0] != 0).any(dim=0)  # around it the mean colour, uncounted
            assert torch.equal(batch.mask[0, 0], blue & inside)
            assert crop < 80 or int(batch.valid.sum()) == 12

    def test_an_image_without_a_mask_beside_one_with_is_counted_everywhere(self):
        (batch,) = sampler([crowd(3)], 32).epoch(0)
        assert batch.mask is None
        (batch,) = sampler([self.masked(), crowd(3, (40, 40))], 48, 2).epoch(1)
        assert 40 * 40 in batch.mask.sum(dim=(1, 2, 3)).tolist()


class TestBatches:
    def order(self, sampler, epoch):
        """Of images that are of one grey value each."""
        batches = [colours(batch.images)[:, 0, 0, 0] for batch in sampler.epoch(epoch)]
        return [[round(float(v)) // 10 for v in batch] for batch in batches]

    @settings(deadline=None, max_examples=40)
    @given(n=st.integers(1, 20), batch_size=st.integers(1, 25), epoch=st.integers(0, 50))
    def test_every_image_once_an_epoch_and_every_batch_full(self, n, batch_size, epoch):
        greys = [torch.full((3, 8, 8), 10 * i, dtype=torch.uint8) for i in range(n)]
        source = sampler([CrowdImage(g, torch.zeros(0, 2), "grey") for g in greys], 4, batch_size)
        batches = self.order(source, epoch)
        assert len(batches) == source.steps == -(-n // batch_size)
        assert all(len(batch) == batch_size for batch in batches)
        order = [image for batch in batches for image in batch]
        assert sorted(order[:n]) == list(range(n))
        # Filled up from the start of the epoch's order.
        assert order[n:] == (order[:n] * (batch_size // n + 1))[: len(order) - n]
        if n > 15:
            assert self.order(source, epoch + 1) != batches

    def test_a_function_of_seed_and_epoch_alone(self):
        dataset = crowds([3, 9, 4, 7, 5])
        source = sampler(dataset, 32, 2, seed=3)
        epochs = [list(source.epoch(epoch)) for epoch in range(3)]
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        again = sampler(dataset, 32, 2, seed=3)
        assert same(list(again.epoch(2)), epochs[2])  # without having lived epochs 0 and 1
        assert same(list(source.epoch(0)), epochs[0])
        others = [*epochs, list(sampler(dataset, 32, 2, seed=4).epoch(0))]
        assert not any(same(a, b) for i, a in enumerate(others) for b in others[:i])

    @pytest.mark.parametrize("world", [2, 3])
    def test_the_ranks_shares_interleave_to_the_batch_of_one_process(self, world):
        dataset = crowds([3, 9, 4, 7, 5, 0, 1], (48, 40))
        whole = list(sampler(dataset, 32, 6, seed=1).epoch(4))
        parts = [
            list(sampler(dataset, 32, 6, seed=1, rank=r, world=world).epoch(4))
            for r in range(world)
        ]
        for step, batch in enumerate(whole):
            for i in range(6):
                part = parts[i % world][step]
                assert torch.equal(part.images[i // world], batch.images[i])
                assert torch.equal(heads(part)[i // world], heads(batch)[i])
            assert all(len(part[step].images) == 6 // world for part in parts)

    @pytest.mark.parametrize(
        ("dataset", "options", "message"),
        [
            ([], {}, "training set is empty"),
            ([replace(crowd(0, name="3610"), annotated=False)], {}, "3610: not annotated"),
            ([crowd(1)], {"crop": 0}, "crop is 0 and batch_size 1"),
            ([crowd(1)], {"batch_size": -1}, "crop is 32 and batch_size -1"),
            ([crowd(1)], {"batch_size": 5, "world": 2}, "batch_size is 5, expected a multiple"),
            ([crowd(1)], {"memory": float("nan")}, "memory is nan, expected a number of GiB"),
        ],
    )
    def test_bad_input(self, dataset, options, message):
        with pytest.raises(InputError, match=message):
            sampler(dataset, **options)


class Counted(list):
    """A data set that counts how often each image is asked for."""

    def __init__(self, images):
        super().__init__(images)
        self.asked = [0] * len(images)

    def __getitem__(self, index):
        self.asked[index] += 1
        return super().__getitem__(index)


class TestMemory:
    """Images beyond the memory are decoded again, and the batches stay the same."""

    def images(self):
        rng = np.random.default_rng(0)
        samples = [crowd(n, (40 + 3 * n, 50 - n), seed=n, name=f"{n}") for n in range(9)]
        return [replace(s, mask=torch.from_numpy(rng.random(s.size) < 0.7)) for s in samples]

    def room(self, images):
        return sum(sample.image.numel() for sample in list.__iter__(images)) / GIB

    @pytest.mark.parametrize("kept", [0, 5])
    def test_both_ways_give_the_same_batches(self, kept):
        dataset = self.images()
        for crop, batch_size in ((32, 4), (64, 2)):
            whole = sampler(dataset, crop, batch_size, seed=1)
            part = sampler(dataset, crop, batch_size, seed=1, memory=self.room(dataset[:kept]))
            for epoch in (0, 3):
                assert same(list(whole.epoch(epoch)), list(part.epoch(epoch)))

    def test_what_fits_is_decoded_once_and_the_rest_once_an_epoch(self):
        for less, last in ((0, 1), (1, 3)):
            dataset = Counted(self.images())
            source = sampler(dataset, 32, 3, memory=self.room(dataset) - less / GIB)
            assert dataset.asked == [1] * 9
            for epoch in range(2):
                list(source.epoch(epoch))
            assert dataset.asked == [1] * 8 + [last]

    def test_few_batches_are_decoded_ahead(self):
        dataset = Counted(self.images())
        batches = sampler(dataset, 32, 1, memory=0).epoch(0)
        next(batches)
        batches.close()  # waits for those under way
        assert sum(dataset.asked) < 9 + 5

    def test_an_image_that_fails_in_an_epoch_says_so(self):
        class Failing(Counted):
            def __getitem__(self, index):
                if self.asked[index]:
                    raise InputError("IMG_3.jpg: gone")
                return super().__getitem__(index)

        source = sampler(Failing(self.images()), 32, 2, memory=0)
        with pytest.raises(InputError, match=r"IMG_3\.jpg: gone"):
            list(source.epoch(0))

    def test_what_a_resident_says_of_its_images(self):
        strange = replace(crowd(0, name="strange"), annotated=False)
        masked = replace(crowd(7, (70, 66)), mask=torch.ones(70, 66, dtype=torch.bool))
        images = Resident([crowd(3), masked, strange])
        assert images.sizes.tolist() == [[64, 64], [70, 66], [64, 64]]
        assert [len(points) for points in images.points] == [3, 7, 0]
        assert images.masked
        assert images[1].mask is masked.mask
        assert images.unknown == ["strange"]
        assert Resident([]).complete
        dataset = hmode.open_dataset("synthetic", length=3, size=64)
        counts = [dataset[i].count for i in range(3)]
        for each in (dataset, Resident(dataset), Resident(dataset, memory=0)):
            assert describe(each) == describe(dataset)
            assert true_counts(each).tolist() == counts  # the data set's without drawing

    def test_a_damaged_file_is_found_at_once(self, tiny_sha, tmp_path):
        shutil.copytree(tiny_sha, tmp_path / "data")
        (tmp_path / "data/part_A/train_data/images/IMG_3.jpg").write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"IMG_3\.jpg"):
            Resident(hmode.open_dataset("sha", tmp_path / "data", "train"))
