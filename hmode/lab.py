"""What every notebook of the series starts with: its data, its runs, a place for its figures.

A notebook says what it wants (`lab.run("hmode")`, `lab.save(fig, "gates")`); where things lie,
on which device, and whether they were already trained, is decided here.
"""

import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from hmode.data import CrowdImage
from hmode.data.registry import count_people
from hmode.experiments import Result, canonical, run, splits
from hmode.experiments.running import FOLDED
from hmode.profiles import Profile, load_profile
from hmode.runs import write_csv

# Stored results of the paper's network on photographs, and of small ones on the drawn crowd, which
# alone has all rows of all tables.
REAL = ("full/sha", "paper/sha")
TOY = "small/synthetic"


class Lab:
    """Data, runs and figures of one profile on one data set.

    The environment variables HMODE_PROFILE, HMODE_OUTPUT and HMODE_FOLD, where set, go before
    `profile`, `output` and `fold`; HMODE_FIGURES is where figures and tables go instead.

    Args:
        profile: one of `hmode.profiles.PROFILES`.
        dataset, data_root: as for `hmode.open_dataset`; a relative root is the caller's.
        device: "auto", "cpu" or "cuda".
        seed: of trainings.
        output: the folder that holds `figures/` and `runs/`; None: the project's own, found from
            the working folder upwards.
        fold: of a data set that has folds, the first unless another is given.

    Attributes:
        profile: the `Profile`, its sizes and schedule.
        figures: the folder of this profile's and data set's figures and tables.
    """

    def __init__(
        self,
        profile: str = "quick",
        dataset: str = "synthetic",
        data_root: str | Path | None = None,
        device: str = "auto",
        seed: int = 0,
        output: str | Path | None = None,
        fold: int | None = None,
    ):
        # Tests run every notebook small, whatever its parameters cell says.
        profile = os.environ.get("HMODE_PROFILE") or profile
        output = os.environ.get("HMODE_OUTPUT") or output
        self.profile: Profile = load_profile(profile, dataset)
        self.dataset, self.data_root = dataset, data_root
        self.device, self.seed = device, seed
        self.fold = int(os.environ.get("HMODE_FOLD") or fold or 0) if dataset in FOLDED else None
        self.output = Path(output) if output else project_folder()
        figures = os.environ.get("HMODE_FIGURES") or self.output / "figures"
        self.figures = Path(figures) / profile / dataset
        self._results: dict[tuple[str, str, int], Result] = {}

    @cached_property
    def _splits(self):
        parts = splits(self.dataset, self.profile, self.data_root, self.fold)
        return [_Recent(part) for part in parts]

    @property
    def train(self) -> Sequence[CrowdImage]:
        """The training images (nine tenths of the training split)."""
        return self._splits[0]

    @property
    def validation(self) -> Sequence[CrowdImage]:
        """The held-out tenth of the training split."""
        return self._splits[1]

    @property
    def test(self) -> Sequence[CrowdImage]:
        """The test images."""
        return self._splits[2]

    def run(self, name: str, seed: int | None = None) -> Result:
        """Train and test an experiment, or load it; see `hmode.run`."""
        return self._run(name, self.profile.name, self.seed if seed is None else seed)

    def row(self, name: str, seed: int | None = None) -> Result:
        """As `run`, for one row among many: profile "quick" trains these at the size of "small".

        That is the size at which all rows of all tables were trained for the stored results.
        """
        return self._run(name, self.rows_profile, self.seed if seed is None else seed)

    @property
    def rows_profile(self) -> str:
        """The profile that `row` trains under."""
        return "small" if self.profile.name == "quick" else self.profile.name

    def _run(self, name: str, profile: str, seed: int) -> Result:
        key = (canonical(name), profile, seed)
        if key not in self._results:
            self._results[key] = run(
                key[0],
                self.dataset,
                profile,
                seed,
                fold=self.fold,
                data_root=self.data_root,
                device=self.device,
                runs=self.output / "runs",
            )
        return self._results[key]

    @property
    def shelf(self) -> list[str]:
        """What there are stored results of, as "profile/data set": of the paper's network on
        photographs first, of this lab's data set where there are more, the toy last."""
        own = f"{'paper' if self.profile.name == 'paper' else 'small'}/{self.dataset}"
        places = dict.fromkeys([*REAL, own, TOY])
        return [place for place in places if self.kept(place, "runs.csv").is_file()]

    def kept(self, of: str, name: str) -> Path:
        """A file or folder among the stored results of one of `shelf`."""
        return project_folder() / "figures" / of / name

    def stored(self, name: str, of: str = TOY):
        """Stored results as a DataFrame: "runs", "tables" or "claims", see `hmode.results.tables`.

        "tables" has every row of every table, without numbers where it was not run.
        `attrs["source"]` says of what: a sentence for the reader.

        Args:
            of: profile and data set, one of `shelf`.
        """
        from hmode.results.tables import source, stored

        frame = stored(self.kept(of, ""), name)
        frame.attrs["source"] = source(self.kept(of, ""))
        return frame

    def save(self, figure, name: str) -> None:
        """Write a figure as `<name>.png` among the figures, and show the name, not the path."""
        from IPython import display, get_ipython  # comes with notebooks, not with the package

        self.figures.mkdir(parents=True, exist_ok=True)
        path = self.figures / f"{name}.png"
        figure.savefig(path, dpi=200, bbox_inches="tight", metadata={"Software": None})
        if get_ipython():
            display.display(display.Markdown(f"Figure *{name}*"))

    def save_table(self, name: str, rows: list[dict]) -> None:
        """Write rows with the same keys as `<name>.csv` among the figures."""
        self.figures.mkdir(parents=True, exist_ok=True)
        write_csv(self.figures / f"{name}.csv", rows)


class _Recent(Sequence):
    """A data set that remembers its images used last: notebooks look at the same few again."""

    def __init__(self, dataset: Sequence[CrowdImage], images: int = 64):
        self.dataset = dataset
        self._get = lru_cache(maxsize=images)(dataset.__getitem__)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> CrowdImage:
        return self._get(int(index))

    def count_people(self, index: int) -> int:
        """Annotated people in one image."""
        return count_people(self.dataset, index)


def project_folder() -> Path:
    """The nearest folder, from the working folder upwards, that holds `notebooks/`, or the
    working folder itself."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    return here
