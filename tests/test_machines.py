"""How efficient several GPUs should be, on paper: closed forms, invariants, bad input."""

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import hmode
from benchmarks.machines import (
    LINKS,
    Exchange,
    Link,
    all_gather,
    all_reduce,
    exchange,
    figure,
    fill_buckets,
    gradients,
    main,
    on_paper,
    rows,
    step_seconds,
    table,
)
from hmode.errors import InputError
from hmode.runs import read_csv, write_csv

PERFECT = Link("perfect", float("inf"), 0.0)
WIRE = Link("wire", 1e9, 0.0)
EXCHANGED = Exchange((1_000_000, 3_000_000, 2_000_000), (64, 512))
seconds = st.floats(1e-4, 10)
links = st.builds(Link, st.just("link"), st.floats(1e6, 1e12), st.floats(0, 1e-2))


@pytest.fixture(scope="module")
def paper():
    """The paper's network at its full width."""
    return on_paper()


class TestCollectives:
    def test_closed_forms(self):
        """Four GPUs, 1 GB/s, 1 ms: six messages of 2 MB and 1 ms; three of 8 MB and 1 ms."""
        link = Link("by hand", 1e9, 1e-3)
        assert all_reduce(8e6, 4, link) == pytest.approx(6 * (0.002 + 0.001))
        assert all_gather(8e6, 4, link) == pytest.approx(3 * (0.008 + 0.001))

    @given(st.floats(1, 1e10), st.integers(2, 1000))
    def test_twice_the_bytes_take_twice_as_long(self, size, gpus):
        assert all_reduce(2 * size, gpus, WIRE) == pytest.approx(2 * all_reduce(size, gpus, WIRE))

    def test_many_gpus_take_no_more_than_twice_the_bytes_through_the_wire(self):
        times = [all_reduce(1e9, gpus, WIRE) for gpus in (1, 2, 4, 1000)]
        assert times == pytest.approx([0, 1, 1.5, 2], rel=2e-3)


class TestStep:
    def test_by_hand(self):
        """Two GPUs at 1 GB/s: buckets of 1, 3 and 2 ms, and no batch norms."""
        exchanged = Exchange(EXCHANGED.buckets, ())
        # A long step hides all but the last bucket, ...
        assert step_seconds(0.3, 2, exchanged, WIRE) == pytest.approx((0.302, 0.306))
        # ... and one of 4.5 ms the 3 ms of its backward pass.
        assert step_seconds(0.0045, 2, exchanged, WIRE) == pytest.approx((0.0075, 0.0105))

    def test_batch_norms_are_waited_for(self):
        """One of 64 channels, three GPUs: 129 numbers to two others, 128 in four thirds."""
        expected = (2 * 129 * 4 + 4 / 3 * 128 * 4) / 1e9
        assert Exchange((1,), (64,)).norm_seconds(3, WIRE) == pytest.approx(expected)
        alone, shared = (step_seconds(1, 3, Exchange((1,), n), WIRE) for n in ((), (64,)))
        assert [b - a for a, b in zip(alone, shared, strict=True)] == pytest.approx([expected] * 2)

    @given(seconds, links, st.integers(1, 1024))
    def test_overlap_hides_something_and_never_computing(self, compute, link, gpus):
        least, most = step_seconds(compute, gpus, EXCHANGED, link)
        assert compute <= least <= most


class TestEfficiency:
    @given(seconds, links)
    def test_of_one_gpu_it_is_one(self, step, link):
        for row in rows(step, 8, EXCHANGED, links=[link], gpus=[1]):
            assert row["efficiency_least"] == row["efficiency_most"] == 1

    @given(seconds)
    def test_over_a_perfect_link_it_is_one(self, step):
        for row in rows(step, 64, EXCHANGED, links=[PERFECT]):
            assert row["efficiency_least"] == pytest.approx(1)
            assert row["efficiency_most"] == pytest.approx(1)

    @given(seconds, links, st.floats(0, 1))
    def test_more_gpus_are_never_more_efficient(self, step, link, share):
        computed = list(rows(step, 64, EXCHANGED, links=[link], fixed=share * step))
        for scaling in ("strong", "weak"):
            for name in ("efficiency_least", "efficiency_most"):
                values = [row[name] for row in computed if row["scaling"] == scaling]
                assert len(values) == 7
                assert values == sorted(values, reverse=True)

    def test_what_no_batch_shortens_is_not_shared(self):
        """Half of a step is fixed: over a perfect link two GPUs take 3/4 of it, four 5/8."""
        measured = [r for r in rows(1, 4, EXCHANGED, fixed=0.5, links=[PERFECT], gpus=[1, 2, 4])]
        strong, weak = measured[:3], measured[3:]
        assert [row["seconds_most"] for row in strong] == pytest.approx([1, 0.75, 0.625])
        assert [row["efficiency_most"] for row in strong] == pytest.approx([1, 2 / 3, 0.4])
        assert [row["efficiency_most"] for row in weak] == pytest.approx([1, 1, 1])

    def test_gpus_share_whole_crops(self):
        measured = list(rows(1, 12, EXCHANGED, links=[WIRE]))
        assert [r["gpus"] for r in measured if r["scaling"] == "strong"] == [1, 2, 4]
        assert {r["batch"] for r in measured if r["scaling"] == "strong"} == {12}
        assert all(r["batch"] == 12 * r["gpus"] for r in measured if r["scaling"] == "weak")

    @pytest.mark.parametrize("bad", [{"seconds": 0}, {"batch": 0}, {"fixed": 2}, {"fixed": -1}])
    def test_numbers_out_of_range_are_refused(self, bad):
        with pytest.raises(InputError, match="fixed"):
            list(rows(**{"seconds": 1, "batch": 8, "exchanged": EXCHANGED} | bad))

    def test_a_link_without_bandwidth_is_refused(self):
        with pytest.raises(InputError, match="cut"):
            Link("cut", 0, 0)


class TestNetwork:
    def test_every_parameter_is_sent_once_in_float32(self, paper):
        exchanged = exchange(paper)
        parameters = sum(p.numel() for p in paper.parameters())
        assert parameters == pytest.approx(82.6e6, rel=1e-3)
        assert sum(exchanged.buckets) == 4 * parameters
        assert len(exchanged.norms) == 13

    def test_gating_net_2_is_sent_first(self, paper):
        """The larger part of all gradients has the whole backward pass of the rest to hide in."""
        order = gradients(paper)
        gate2 = [name for name, _ in paper.named_parameters() if name.startswith("gate2.")]
        assert {name for name, _ in order[: len(gate2)]} == set(gate2)
        share = sum(size for _, size in order[: len(gate2)]) / sum(size for _, size in order)
        assert share == pytest.approx(48.4 / 82.6, rel=1e-3)
        assert order[-1][0].startswith("encoder.stages.0.0")

    def test_the_order_is_that_of_a_backward_pass_with_numbers(self):
        model = hmode.HMoDE(width=0.0625)
        ready = []
        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: ready.append(name))
        model(torch.randn(2, 3, 64, 64)).maps.sum().backward()
        assert [name for name, _ in gradients(on_paper(0.0625))] == ready

    @given(st.lists(st.integers(1, 60 * 2**20), min_size=1, max_size=40))
    def test_buckets_are_those_of_ddp(self, sizes):
        tensors = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        theirs, _ = dist._compute_bucket_assignment_by_size(tensors, [2**20, 25 * 2**20])
        assert fill_buckets(sizes) == [sum(sizes[i] for i in bucket) for bucket in theirs]


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    def test_it_prints_both_tables_and_writes_numbers_and_figure(self, tmp_path):
        csv, plot = tmp_path / "machines.csv", tmp_path / "machines.png"
        done = self.run("--seconds", 0.05, "--width", 0.0625, "--csv", csv, "--plot", plot)
        assert done.exit_code == 0, done.output
        assert "8 crops together" in done.output
        assert "8 crops each" in done.output
        assert all(link.name in done.output for link in LINKS)
        stored = read_csv(csv)
        assert len(stored) == len(LINKS) * (4 + 7)
        assert all(0 < float(row["efficiency_least"]) <= 1 for row in stored)
        assert plot.stat().st_size > 10_000

    def test_without_a_measured_step_it_says_what_to_give(self, tmp_path):
        done = self.run("--table", tmp_path / "gpu.csv")
        assert done.exit_code == 1
        assert "gpu.csv" in done.output
        assert "--seconds" in done.output

    def test_a_measured_step_is_read(self, tmp_path):
        measured = [  # as `benchmarks.gpu` writes it
            {"name": "step 128² x 8, bf16", "value": 20.0, "unit": "ms"},
            {"name": "step 256² x 32, tf32", "value": 40.0, "unit": "ms"},
        ]
        write_csv(tmp_path / "gpu.csv", measured)
        where = ("--table", tmp_path / "gpu.csv", "--width", 0.0625)
        assert "20 ms a step of 8 crops" in self.run(*where).output
        large = ("--batch", 32, "--crop", 256, "--precision", "tf32")
        assert "40 ms a step of 32 crops" in self.run(*where, *large).output
        missing = self.run(*where, "--batch", 16)
        assert missing.exit_code == 1
        assert "step 128² x 16, bf16" in missing.output

    def test_the_table_says_least_to_most(self):
        text = table(list(rows(0.3, 2, EXCHANGED, links=[WIRE], gpus=[1, 2])), "strong")
        header, _, line = text.splitlines()
        assert header == "| GPUs | 1 | 2 |"
        assert line == "| wire | 100 | 96–99 |"

    def test_the_figure_has_a_band_for_each_link(self):
        left, right = figure(list(rows(0.05, 8, EXCHANGED))).axes
        assert len(left.collections) == len(right.collections) == len(LINKS)
        assert left.get_xlabel() == right.get_xlabel() == "GPUs"
