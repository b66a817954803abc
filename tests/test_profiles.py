"""Schedules and the three profiles."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmode.data import DRAWN, open_dataset
from hmode.errors import InputError
from hmode.profiles import PROFILES, Schedule, load_profile


class TestRate:
    def test_the_paper_halves_once_after_100_epochs(self):
        schedule = load_profile("paper", "sha").schedule
        assert schedule.epochs == 200
        assert [schedule.rate(epoch) for epoch in (0, 99, 100, 199)] == [2e-5, 2e-5, 1e-5, 1e-5]

    @given(
        halve_after=st.lists(st.integers(0, 40), max_size=5).map(tuple),
        epoch=st.integers(0, 50),
    )
    def test_halved_once_for_each_mark_that_is_past(self, halve_after, epoch):
        rate = 1.0
        for after in halve_after:
            if after <= epoch:
                rate /= 2
        assert Schedule(learning_rate=1.0, halve_after=halve_after).rate(epoch) == rate


class TestSchedule:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("epochs", 0),
            ("epochs", 2.5),
            ("batch_size", -1),
            ("validate_every", 0),
            ("checkpoint_every", 0),
            ("checkpoint_every", None),
            ("crop", 0),
            ("crop", 100),
            ("crop", 16),
            ("crop", 64.0),
            ("learning_rate", 0.0),
            ("learning_rate", -1e-3),
            ("learning_rate", float("nan")),
            ("sigma", 0),
            ("precision", "fp8"),
            ("precision", None),
        ],
    )
    def test_a_value_out_of_range_is_named(self, field, value):
        with pytest.raises(InputError) as error:
            Schedule(**{field: value})
        assert f"{field} is {value!r}, expected" in str(error.value)

    @pytest.mark.parametrize("window", [0, 4, -3, 2.5])
    def test_a_window_that_is_not_odd_fails_at_construction(self, window):
        with pytest.raises(InputError, match="window"):
            Schedule(window=window)

    def test_it_is_frozen(self):
        with pytest.raises(AttributeError):
            Schedule().epochs = 3

    def test_replacing_a_field_checks_it_too(self):
        with pytest.raises(InputError, match="crop"):
            replace(Schedule(), crop=33)


class TestProfiles:
    def test_an_unknown_name_is_answered_with_the_known_ones(self):
        with pytest.raises(InputError, match=r"profile is 'tiny'.*smoke.*small.*quick.*paper"):
            load_profile("tiny", "sha")

    def test_the_paper_s_setting(self):
        """Section IV-B.2."""
        for dataset, crop in (("sha", 128), ("shb", 256)):
            profile = load_profile("paper", dataset)
            assert profile.width == 1.0
            assert profile.limit is None
            assert profile.train == profile.test == {}
            assert profile.schedule.crop == crop
            assert profile.schedule.learning_rate == 2e-5
        loss = asdict(load_profile("paper", "sha").schedule.loss)
        assert (loss["cells"], loss["regions"]) == (8, 9)

    @pytest.mark.parametrize("profile", PROFILES)
    @pytest.mark.parametrize("name", DRAWN)
    def test_each_opens_what_is_drawn_with_room_for_a_crop(self, name, profile):
        settings = load_profile(profile, name)
        assert settings == load_profile(profile, "synthetic")
        for split in ("train", "test"):
            dataset = open_dataset(name, split=split, **getattr(settings, split))
            assert min(dataset.size) >= settings.schedule.crop
            assert len(dataset) >= 2

    def test_smoke_is_smallest_and_paper_largest(self):
        smoke, quick, paper = (load_profile(name, "sha") for name in ("smoke", "quick", "paper"))
        for value in (
            lambda p: p.width,
            lambda p: p.schedule.epochs,
            lambda p: p.schedule.crop,
        ):
            assert value(smoke) < value(quick) <= value(paper)
        assert smoke.limit <= 8
