"""Means and spreads over seeds, and differences to the default with their uncertainty.

The difference is that of the mean absolute errors over the seeds that both experiments have. Its
interval is a bootstrap of seeds and test images at once, drawn with replacement and independently
of each other (the pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007): another
training would give other weights, another test set other images.

How far to trust it: in simulations with 3 seeds and 60 images, with spreads as measured on the
synthetic crowd (standard deviations of 2 to 5 people between seeds, 15 between images, 20 for the
rest), the 95 % interval held the true difference in 93 to 97 % of the cases; with all three spreads
the same, in 80 %, as three seeds then decide. A bootstrap of three seeds alone cannot leave the
range of three numbers and held it in 55 to 75 %, which is why without the images fewer than six
seeds get no verdict. And of twenty rows that change nothing, one is expected to be called better or
worse nevertheless.
"""

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from hmode.errors import InputError
from hmode.results.records import complete, require_uniform

# What is summed up where it is there: errors in people (nae and mae_over_mean: shares), and cost.
ERRORS = ["mae", "mse", "nae", "game0", "game1", "game2", "game3"]
ERRORS += ["foreground_mae", "foreground_mse", "mae_over_mean", "best_on_test_mae"]
COSTS = ["seconds", "seconds_per_epoch", "peak_gib"]
# Five differences have the same sign by chance in 2 of 32 cases, six in 2 of 64: only these can
# be 95 % sure by themselves.
SEEDS_ALONE = 6


def summary(
    frame: pd.DataFrame, default: str | None = "hmode", errors: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row an experiment of a table of runs, in the table's order.

    Args:
        frame: from `collect` or `load`.
        default: the experiment that the others are compared with; None: compare nothing.
        errors: the runs' `image_errors`; None: compare by the seeds alone.

    Returns:
        experiment; seeds, those with all folds; each of `ERRORS` and `COSTS` that is there, as the
        mean over folds and then over seeds, and name_sd, its standard deviation over seeds (n - 1,
        empty for one seed); pairs, difference, low, high, verdict as `compare` gives them, only
        the verdict "default" for the default itself.

    Raises:
        InputError: the default is not in the table; the table is mixed (`require_uniform`); or two
            runs were tested on different images.
    """
    require_uniform(frame)
    experiments = list(frame["experiment"].unique())
    if default is not None and default not in experiments:
        raise InputError(f"default is {default!r}, the table has {experiments}")
    numbers = [name for name in ERRORS + COSTS if name in frame and frame[name].notna().any()]
    means = complete(frame).groupby(["experiment", "seed"])[numbers].mean()
    rows = []
    for experiment in experiments:
        own = means[means.index.get_level_values("experiment") == experiment]
        row = {"experiment": experiment, "seeds": len(own)}
        for name in numbers:
            row |= {name: own[name].mean(), f"{name}_sd": own[name].std()}
        if experiment == default:
            row["verdict"] = "default"
        elif default is not None:
            row |= compare(differences(means["mae"], errors, experiment, default))
        rows.append(row)
    return pd.DataFrame(rows)


def differences(
    means: pd.Series, errors: pd.DataFrame | None, experiment: str, default: str
) -> np.ndarray:
    """`[S, n]`, absolute errors of an experiment less those of the default, people.

    Args:
        means: MAE by (experiment, seed).
        errors: by image and (experiment, seed), or None: then n is 1.
    """
    both = means.unstack("experiment").reindex(columns=[experiment, default]).dropna()
    if errors is None:
        return (both[experiment] - both[default]).to_numpy()[:, None]
    found = [errors[experiment, seed] - errors[default, seed] for seed in both.index]
    found = np.reshape(found, (len(both), len(errors)))
    if np.isnan(found).any():
        raise InputError(f"{experiment} and {default} were not tested on the same images")
    return found


def compare(differences: np.ndarray, *, resamples: int = 9999, seed: int = 0) -> dict:
    """What paired differences say of an experiment.

    Args:
        differences: `[S, n]`, of S seeds and n test images, people; n = 1: of MAEs.
        resamples, seed: number and seed of the bootstrap's draws.

    Returns:
        pairs: S.
        difference: their mean; below 0, the experiment errs less than the default.
        low, high: its 95 % interval; not a number without one.
        verdict: "better" (all of the interval is below 0), "worse" (above), "no difference seen"
            (0 is inside), or why there is none, and no interval: "no common seed", "one seed",
            "few seeds" (fewer than six, without images).
    """
    seeds, images = differences.shape
    found = {"pairs": seeds, "difference": np.nan, "low": np.nan, "high": np.nan}
    if seeds == 0:
        return found | {"verdict": "no common seed"}
    found["difference"] = differences.mean()
    if seeds == 1:
        return found | {"verdict": "one seed"}
    if images == 1 and seeds < SEEDS_ALONE:
        return found | {"verdict": "few seeds"}
    low, high = _interval(differences, resamples, seed)
    verdict = "better" if high < 0 else "worse" if low > 0 else "no difference seen"
    return found | {"low": low, "high": high, "verdict": verdict}


def _interval(differences: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The bootstrap's 2.5 and 97.5 % percentiles of the mean over seeds and images."""

    def mean(seeds, images=np.array([0]), axis=-1):  # noqa: B008
        # indices [..., S] and [..., n] -> [...]
        return differences[seeds[..., :, None], images[..., None, :]].mean(axis=(-2, -1))

    drawn = tuple(np.arange(size) for size in differences.shape if size > 1)
    interval = bootstrap(
        drawn,
        mean,
        n_resamples=resamples,
        batch=100,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def as_text(summary: pd.DataFrame) -> str:
    """A summary as lines to print: MAE and MSE (mean ± standard deviation), and the comparison."""
    rows = [
        {
            "experiment": row["experiment"],
            "seeds": int(row["seeds"]),
            "MAE": _spread(row, "mae"),
            "MSE (root)": _spread(row, "mse"),
            "difference (95 %)": _difference(row),
            "": row.get("verdict", ""),
        }
        for row in summary.to_dict("records")
    ]
    return pd.DataFrame(rows).to_string(index=False, justify="left") if rows else "no runs"


def _spread(row: dict, name: str) -> str:
    """ "28.31 ± 1.20", without the spread of a single seed."""
    texts = [f"{row[key]:.2f}" for key in (name, f"{name}_sd") if not np.isnan(row[key])]
    return " ± ".join(texts)


def _difference(row: dict) -> str:
    """ "-1.20 (-2.31 to -0.40)", the difference in MAE and its interval."""
    texts = [f"{row.get(key, np.nan):+.2f}" for key in ("difference", "low", "high")]
    if texts[0] == "+nan":
        return ""
    return texts[0] if texts[1] == "+nan" else "{} ({} to {})".format(*texts)
