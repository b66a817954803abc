"""Crops, flips and batches: the points move with the pixels, and nothing is left to chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import crowd, crowds
from hypothesis import given, settings
from hypothesis import strategies as st

from hmode.data import CropSampler, CrowdImage, normalise
from hmode.data.crops import AHEAD
from hmode.data.sample import IMAGE_MEAN, IMAGE_STD
from hmode.errors import InputError


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
    mean = torch.tensor(IMAGE_MEAN)[:, None, None]
    std = torch.tensor(IMAGE_STD)[:, None, None]
    return ((images * std + mean) * 255).round()


def sampler(dataset, crop=32, batch_size=1, seed=0, **options):
    return CropSampler(dataset, crop=crop, batch_size=batch_size, seed=seed, **options)


def same(a, b):
    """Whether two lists of batches are equal."""
    return len(a) == len(b) and all(
        torch.equal(x.images, y.images)
        and torch.equal(x.points, y.points)
        and torch.equal(x.valid, y.valid)
        for x, y in zip(a, b, strict=True)
    )


def heads(batch):
    return [points[valid] for points, valid in zip(batch.points, batch.valid, strict=True)]


class TestGeometry:
    @settings(deadline=None, max_examples=60)
    @given(
        height=st.integers(5, 60),
        width=st.integers(5, 60),
        crop=st.integers(1, 70),
        seed=st.integers(0, 2**31),
        epoch=st.integers(0, 300),
    )
    def test_every_point_lies_on_the_colour_it_was_painted_with(
        self, height, width, crop, seed, epoch
    ):
        dataset = [painted((height, width), count=15, seed=seed)]
        (batch,) = sampler(dataset, crop, seed=seed).epoch(epoch)
        (points,) = heads(batch)
        picture = colours(batch.images)[0]
        columns, rows = points.floor().long().unbind(1)
        found = picture[:, rows, columns]
        assert (found[1] == 255).all()
        # No head of the crop is left out, none is there twice.
        visible = picture[0][picture[1] == 255]
        assert sorted(found[0].tolist()) == sorted(visible.tolist())

    def test_both_orientations_occur_and_a_flip_is_a_mirror(self):
        image = torch.arange(64 * 64).reshape(64, 64).remainder(251).to(torch.uint8)
        image = torch.stack([image, image.flip(0), image.T])
        person = CrowdImage(image, torch.tensor([[10.25, 20.5]]), "one")
        plain, mirrored = 0, 0
        whole = sampler([person], crop=64)
        for epoch in range(60):
            (batch,) = whole.epoch(epoch)
            if torch.equal(batch.images[0], normalise(image)):
                assert heads(batch)[0].tolist() == [[10.25, 20.5]]
                plain += 1
            else:
                assert torch.equal(batch.images[0], normalise(image).flip(-1))
                assert heads(batch)[0].tolist() == [[64 - 10.25, 20.5]]
                mirrored += 1
        assert min(plain, mirrored) > 10  # a fair coin fails that once in ten million times

    def test_crops_are_slices_of_the_normalised_image_from_all_over_it(self):
        sample = crowd(30, (50, 70))
        whole, crop = normalise(sample.image), 16
        corners = set()
        source = sampler([sample], crop)
        for epoch in range(150):
            (batch,) = source.epoch(epoch)
            found = [
                (top, left)
                for image in (batch.images[0], batch.images[0].flip(-1))
                for top, left in (whole[0] == image[0, 0, 0]).nonzero().tolist()
                if torch.equal(image, whole[:, top : top + crop, left : left + crop])
            ]
            assert len(found) == 1
            corners.add(found[0])
        tops, lefts = zip(*corners, strict=True)
        assert min(tops) < 5
        assert max(tops) > 29
        assert min(lefts) < 5
        assert max(lefts) > 49

    def test_the_last_corner_is_reached_and_never_passed(self):
        sample = crowd(5, (34, 33))
        whole = normalise(sample.image)
        seen = set()
        for epoch in range(100):
            (batch,) = sampler([sample], 32).epoch(epoch)
            images = (batch.images[0], batch.images[0].flip(-1))
            seen |= {
                (top, left)
                for top in range(3)
                for left in range(2)
                for image in images
                if torch.equal(image, whole[:, top : top + 32, left : left + 32])
            }
        assert seen == {(top, left) for top in range(3) for left in range(2)}

    def test_a_small_image_lies_whole_in_its_crop_on_the_mean_colour(self):
        sample = painted((10, 20), count=12)
        inside = normalise(sample.image)
        places = set()
        for epoch in range(60):
            (batch,) = sampler([sample], 32).epoch(epoch)
            picture = batch.images[0]
            rows = (picture != 0).any(dim=0).any(dim=1).nonzero()[:, 0]
            columns = (picture != 0).any(dim=0).any(dim=0).nonzero()[:, 0]
            top, left = rows.min(), columns.min()
            assert len(rows) == 10
            assert len(columns) == 20
            part = picture[:, top : top + 10, left : left + 20]
            assert torch.equal(part, inside) or torch.equal(part, inside.flip(-1))
            assert picture.count_nonzero() == inside.count_nonzero()  # zero all around
            assert len(heads(batch)[0]) == 12
            places.add((int(top), int(left)))
        assert len(places) > 20  # placed at random

    def test_small_in_one_direction_only(self):
        sample = painted((10, 100), count=40)
        (batch,) = sampler([sample], 32).epoch(0)
        picture = batch.images[0]
        assert int((picture != 0).any(dim=0).any(dim=1).sum()) == 10
        assert (picture != 0).any(dim=0).any(dim=0).all()

    def test_heads_of_a_crop_are_counted_as_by_hand(self):
        """On a grid of one person a pixel, the crop's count is its area inside the image."""
        y, x = np.mgrid[:40, :48] + 0.5
        points = torch.tensor(np.stack([x.ravel(), y.ravel()], 1), dtype=torch.float32)
        sample = CrowdImage(torch.zeros(3, 40, 48, dtype=torch.uint8), points, "grid")
        for crop, people in ((32, 32 * 32), (44, 40 * 44), (64, 40 * 48)):
            for epoch in range(4):
                (batch,) = sampler([sample], crop).epoch(epoch)
                assert int(batch.valid.sum()) == people

    def test_people_outside_the_frame_are_in_no_crop(self):
        points = torch.tensor([[-1.0, 5], [5, -0.5], [20, 5], [5, 20], [-358.7, 8], [19.9, 0.0]])
        sample = CrowdImage(torch.zeros(3, 20, 20, dtype=torch.uint8), points, "outside")
        for epoch in range(10):
            (batch,) = sampler([sample], 64).epoch(epoch)
            assert int(batch.valid.sum()) == 1

    @pytest.mark.parametrize("x", [0.0, 1e-9, float(np.nextafter(np.float32(32), 0))])
    def test_points_on_the_border_stay_inside_when_mirrored(self, x):
        sample = CrowdImage(
            torch.zeros(3, 32, 32, dtype=torch.uint8), torch.tensor([[x, 0.0]]), "edge"
        )
        for epoch in range(8):
            (batch,) = sampler([sample], 32).epoch(epoch)
            assert int(batch.valid.sum()) == 1
            (point,) = heads(batch)[0]
            assert 0 <= point[0] < 32

    def test_padding_is_marked_and_a_crowdless_batch_is_possible(self):
        dataset = [crowd(5, name="a"), crowd(0, name="b"), crowd(2, name="c")]
        (batch,) = sampler(dataset, 64, batch_size=3).epoch(0)
        assert sorted(batch.valid.sum(dim=1).tolist()) == [0, 2, 5]
        assert batch.points.shape == (3, 5, 2)
        (nobody,) = sampler([crowd(0)], 64).epoch(0)
        assert not nobody.valid.any()
        assert nobody.points.shape[-1] == 2


class TestBatches:
    def flat(self, n):
        """n images, each of one grey value of its own."""
        return [
            CrowdImage(
                torch.full((3, 40, 40), 10 * i, dtype=torch.uint8), torch.zeros(0, 2), f"{i}"
            )
            for i in range(n)
        ]

    def order(self, sampler, epoch):
        batches = [colours(batch.images)[:, 0, 0, 0] for batch in sampler.epoch(epoch)]
        return [[round(float(v)) // 10 for v in batch] for batch in batches]

    @settings(deadline=None, max_examples=40)
    @given(n=st.integers(1, 20), batch_size=st.integers(1, 25), epoch=st.integers(0, 50))
    def test_every_image_once_an_epoch_and_every_batch_full(self, n, batch_size, epoch):
        source = sampler(self.flat(n), 32, batch_size)
        batches = self.order(source, epoch)
        assert len(batches) == source.steps == -(-n // batch_size)
        assert all(len(batch) == batch_size for batch in batches)
        order = [image for batch in batches for image in batch]
        assert sorted(order[:n]) == list(range(n))
        # Filled up from the start of the epoch's order.
        assert order[n:] == (order[:n] * (batch_size // n + 1))[: len(order) - n]

    def test_a_function_of_seed_and_epoch_alone(self):
        dataset = crowds([3, 9, 4, 7, 5])
        first = sampler(dataset, 32, 2, seed=3)
        epochs = [list(first.epoch(epoch)) for epoch in range(3)]
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        again = sampler(dataset, 32, 2, seed=3)
        assert same(list(again.epoch(2)), epochs[2])  # without having lived epochs 0 and 1
        assert same(list(first.epoch(2)), epochs[2])
        assert same(list(again.epoch(0)), epochs[0])

    def test_other_epochs_and_seeds_give_other_batches(self):
        dataset = crowds([3, 9, 4, 7, 5])
        batches = [
            list(sampler(dataset, 32, 5, seed=seed).epoch(epoch))
            for seed in (0, 1, 2)
            for epoch in (0, 1, 2)
        ]
        for i, a in enumerate(batches):
            assert not any(same(a, b) for b in batches[:i])

    def test_the_order_changes_with_the_epoch(self):
        source = sampler(self.flat(12), 32, 12)
        assert len({tuple(self.order(source, epoch)[0]) for epoch in range(10)}) == 10

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

    def test_images_of_different_sizes_do_not_mix(self):
        dataset = [painted((20 + 3 * i, 50 - 4 * i), 10, seed=i, name=f"{i}") for i in range(6)]
        (batch,) = sampler(dataset, 64, 6).epoch(0)
        assert (batch.valid.sum(dim=1) == 10).all()
        shapes = set()
        for picture, points in zip(colours(batch.images), heads(batch), strict=True):
            columns, rows = points.floor().long().unbind(1)
            assert (picture[1, rows, columns] == 255).all()
            # Black is not the mean colour that fills the rest.
            inside = picture[2] == 0
            shapes.add((int(inside.any(1).sum()), int(inside.any(0).sum())))
        assert shapes == {sample.size for sample in dataset}


class Counted(list):
    """A data set that counts how often each image is asked for."""

    def __init__(self, images):
        super().__init__(images)
        self.asked = [0] * len(images)

    def __getitem__(self, index):
        self.asked[index] += 1
        return super().__getitem__(index)


GIB = 2**30


class TestMemory:
    """Images beyond the memory are decoded again, and the batches stay the same."""

    def images(self, masked=False):
        samples = [crowd(n, (40 + 3 * n, 50 - n), seed=n, name=f"{n}") for n in range(9)]
        if not masked:
            return samples
        rng = np.random.default_rng(0)
        return [replace(s, mask=torch.from_numpy(rng.random(s.size) < 0.7)) for s in samples]

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("images_kept", [0, 1, 5])
    def test_both_ways_give_the_same_batches(self, images_kept, masked):
        dataset = self.images(masked)
        room = sum((3 + masked) * s.image[0].numel() for s in dataset[:images_kept])
        for crop, batch_size in ((32, 4), (64, 2)):
            whole = sampler(dataset, crop, batch_size, seed=1)
            part = sampler(dataset, crop, batch_size, seed=1, memory=room / GIB)
            for epoch in (0, 3):
                a, b = list(whole.epoch(epoch)), list(part.epoch(epoch))
                assert same(a, b)
                if masked:
                    assert all(torch.equal(x.mask, y.mask) for x, y in zip(a, b, strict=True))

    def test_what_fits_is_decoded_once_and_the_rest_once_an_epoch(self):
        dataset = Counted(self.images())
        room = sum(3 * s.image[0].numel() for s in list.__iter__(dataset)) - 1
        source = sampler(dataset, 32, 3, memory=room / GIB)  # all but the last
        assert dataset.asked == [1] * 9
        for epoch in range(2):
            list(source.epoch(epoch))
        assert dataset.asked == [1] * 8 + [3]

    def test_within_the_memory_nothing_is_decoded_twice(self):
        dataset = Counted(self.images())
        source = sampler(dataset, 32, 4)
        for epoch in range(3):
            list(source.epoch(epoch))
        assert dataset.asked == [1] * 9

    def test_few_batches_are_decoded_ahead(self):
        dataset = Counted(self.images())
        batches = sampler(dataset, 32, 1, memory=0).epoch(0)
        next(batches)
        batches.close()  # waits for those under way
        assert sum(dataset.asked) <= 9 + 1 + AHEAD

    def test_an_image_that_fails_in_an_epoch_says_so(self):
        class Failing(Counted):
            def __getitem__(self, index):
                if self.asked[index]:
                    raise InputError("IMG_3.jpg: gone")
                return super().__getitem__(index)

        source = sampler(Failing(self.images()), 32, 2, memory=0)
        with pytest.raises(InputError, match=r"IMG_3\.jpg: gone"):
            list(source.epoch(0))

    @pytest.mark.parametrize("memory", [-1, float("nan")])
    def test_a_memory_that_is_none(self, memory):
        with pytest.raises(InputError, match="memory is"):
            sampler(crowds([1]), memory=memory)


class TestMasks:
    def masked(self, count=12, size=(50, 60)):
        """Masked where the picture is green, and nowhere else."""
        sample = painted(size, count)
        rng = np.random.default_rng(5)
        mask = torch.from_numpy(rng.random(size) < 0.5)
        image = sample.image.clone()
        image[2] = 255 * mask
        return CrowdImage(image, sample.points, "masked", mask=mask)

    @pytest.mark.parametrize("crop", [16, 32, 80])
    def test_the_mask_moves_with_the_pixels(self, crop):
        for epoch in range(12):
            (batch,) = sampler([self.masked()], crop).epoch(epoch)
            assert batch.mask.shape == (1, 1, crop, crop)
            assert batch.mask.dtype == torch.bool
            blue = colours(batch.images)[0, 2] == 255
            inside = (batch.images[0] != 0).any(dim=0)  # around it the mean colour, uncounted
            assert torch.equal(batch.mask[0, 0], blue & inside)

    def test_all_heads_of_the_crop_are_given_counted_or_not(self):
        (batch,) = sampler([self.masked(12)], 80).epoch(0)
        assert int(batch.valid.sum()) == 12

    def test_without_masks_there_is_none(self):
        (batch,) = sampler([crowd(3)], 32).epoch(0)
        assert batch.mask is None

    def test_an_image_without_a_mask_beside_one_with_is_counted_everywhere(self):
        plain = crowd(3, (40, 40))
        for epoch in range(4):
            (batch,) = sampler([self.masked(), plain], 48, 2).epoch(epoch)
            areas = sorted(batch.mask.sum(dim=(1, 2, 3)).tolist())
            assert 40 * 40 in areas


class TestBadInput:
    def test_an_image_that_nobody_has_annotated(self):
        unknown = CrowdImage(
            torch.zeros(3, 40, 40, dtype=torch.uint8), torch.zeros(0, 2), "3610", annotated=False
        )
        with pytest.raises(InputError, match="3610: not annotated, so nothing to train on"):
            sampler([crowd(1), unknown])

    def test_an_empty_training_set(self):
        with pytest.raises(InputError, match="training set is empty"):
            sampler([])

    @pytest.mark.parametrize(("crop", "batch_size"), [(0, 1), (-32, 1), (32, 0), (32, -1)])
    def test_numbers_that_are_not_positive(self, crop, batch_size):
        with pytest.raises(InputError, match=f"crop is {crop} and batch_size {batch_size}"):
            sampler(crowds([1]), crop, batch_size)

    def test_a_batch_that_cannot_be_shared_evenly(self):
        with pytest.raises(InputError, match="batch_size is 5, expected a multiple of the 2"):
            sampler(crowds([1]), 32, 5, rank=0, world=2)
