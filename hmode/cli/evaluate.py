"""hmode evaluate: a trained network on a data set."""

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from hmode.cli.options import ANNOTATIONS, DATA, DEVICE, option, path_option
from hmode.data import open_dataset
from hmode.data.published import FOLDS
from hmode.device import resolve_device
from hmode.errors import InputError
from hmode.evaluation import evaluate, load_run
from hmode.extras import need
from hmode.metrics import LEVELS, Evaluation, density_levels
from hmode.outputs import harmless, prepare
from hmode.runs import RunFolder, write_csv
from hmode.submission import write_submission


@click.command(name="evaluate")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@DATA
@option("--split", default="test", help="Split of the data set.")
@option(
    "--folds",
    "--fold",
    "folds",
    type=click.Choice([*map(str, range(len(FOLDS))), "all"]),
    help="Evaluate RUN/fold<K> on its own test fold; all: each of them, and their mean.",
)
@option(
    "--which", default="best", type=click.Choice(["best", "last"]), help="Which weights of the run."
)
@option(
    "--max-side",
    type=click.IntRange(min=32),
    help="Scale images of real data sets down to at most this side, in pixels.",
)
@option(
    "--full-size",
    is_flag=True,
    help="Leave images of real data sets as large as they are, whatever is usual for them.",
)
@ANNOTATIONS
@DEVICE
@path_option("--csv", "table", help="Write one row an image to this file.")
@path_option(
    "--picture",
    help="Draw counts, errors and the maps of the worst images into this file (.png, .pdf, ...).",
)
@path_option(
    "--submission", help="Write the counts of the test split of nwpu as its benchmark takes them."
)
@option("--by-level", is_flag=True, help="Print the errors by density level.")
@option(
    "--levels",
    metavar="COUNTS",
    help="As --by-level, with levels that end at these counts.  [default: 50,500]",
)
def evaluate_run(
    run_dir,
    dataset,
    data_root,
    split,
    folds,
    which,
    device,
    table,
    picture,
    submission,
    by_level,
    levels,
    **size,
):
    """Count the images of a data set with the trained network in the folder RUN."""
    options = _options(**size)
    edges = _edges(levels) if levels else LEVELS if by_level else None
    if submission and (dataset, split) != ("nwpu", "test"):
        raise InputError("--submission is for --dataset nwpu --split test")
    report = need("hmode.report", "notebooks", "--picture") if picture else None
    if report:
        report.check_picture(picture)
    for path, kind in ((table, "table"), (picture, "picture"), (submission, "submission")):
        prepare(path, kind)
    results, worst, rows = [], [], []
    for target in _targets(run_dir, dataset, folds):
        fold = {} if target.fold is None else {"fold": target.fold}
        images = open_dataset(dataset, data_root, split, **options, **fold)
        model = load_run(target.run_dir, which).to(resolve_device(device))
        result = evaluate(model, images, progress=None, **target.kernel)
        _require_finite(result, target.run_dir)
        worst += report.worst_images(model, images, result, **target.kernel) if report else []
        rows += [(fold if folds else {}) | row for row in result.table]
        results.append(result)
        _print(result, f"fold {target.fold}: " if folds else "")
    if len(results) > 1:  # the mean of each error over the folds, as UCF_CC_50 is reported
        errors = [result.errors for result in results]
        mean = {name: float(np.mean([each[name] for each in errors])) for name in errors[0]}
        click.echo(f"mean of {len(results)} folds: {_describe(mean)}")
    whole = Evaluation.joined(results)
    if edges:
        _print_levels(whole.by_level(edges))
    if table:
        write_csv(table, [row | {"name": harmless(row["name"])} for row in rows])
    if submission:
        write_submission(submission, whole.names, whole.predicted)
    if report:
        worst = sorted(worst, key=lambda image: -abs(image.error))[: report.WORST]
        report.save_picture(report.evaluation_picture(whole, worst), picture)


class _Target(NamedTuple):
    """A run to evaluate, and on which fold: None for a data set without folds."""

    run_dir: Path
    fold: int | None
    kernel: dict  # sigma and window of the run's target maps


def _options(max_side: int | None, full_size: bool, annotations: str | None) -> dict:
    """What `open_dataset` is asked for."""
    if full_size and max_side is not None:
        raise InputError("--full-size and --max-side cannot both be")
    options = {"max_side": None, "short_side": None} if full_size else {}
    if max_side is not None:
        options["max_side"] = max_side
    return options | ({"annotations": annotations} if annotations else {})


def _targets(run_dir: Path, dataset: str, folds: str | None) -> list[_Target]:
    """What to evaluate: the run itself, or those of its folds that are asked for."""
    if folds is None:
        if (run_dir / "fold0").is_dir():
            raise InputError(f"{run_dir}: holds a run for each fold; give --fold K or --folds all")
        return [_target(run_dir, dataset, None)]
    numbers = range(len(FOLDS)) if folds == "all" else [int(folds)]
    return [_target(run_dir / f"fold{number}", dataset, number) for number in numbers]


def _target(run_dir: Path, dataset: str, fold: int | None) -> _Target:
    config = RunFolder(run_dir).config()
    train = config.get("train", {})
    trained_on = train.get("fold") if train.get("name") == dataset else None
    if None not in (fold, trained_on) and fold != trained_on:
        raise InputError(
            f"{run_dir}: trained with fold {trained_on} as its test fold, and has seen fold {fold}"
        )
    schedule = config.get("schedule", {})
    kernel = {name: schedule[name] for name in ("sigma", "window") if name in schedule}
    return _Target(run_dir, trained_on if fold is None else fold, kernel)


def _edges(text: str) -> list[int]:
    try:
        edges = [int(edge) for edge in text.split(",")]
    except ValueError:
        raise InputError(f"--levels is {text!r}, expected whole numbers, as 50,500") from None
    density_levels(edges)
    return edges


def _require_finite(result: Evaluation, run_dir: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(result.predicted))
    if len(bad):
        raise InputError(
            f"{run_dir}: counts {result.predicted[bad[0]]} people in {result.names[bad[0]]}; "
            "its weights are of no use"
        )


def _print(result: Evaluation, label: str) -> None:
    blind = int((~result.annotated).sum())
    if blind:
        total = result.predicted[~result.annotated].sum()
        click.echo(f"{label}{blind} images without annotation, {total:.0f} people predicted")
    if result.annotated.any():
        people = f"{result.annotated.sum()} images, {np.nansum(result.true):.0f} people: "
        click.echo(label + people + _describe(result.errors))


def _describe(errors: dict[str, float]) -> str:
    game = ", ".join(f"{errors[f'game{level}']:.2f}" for level in range(4))
    return (
        f"MAE {errors['mae']:.2f}, MSE (root) {errors['mse']:.2f}, NAE {_share(errors['nae'])}; "
        f"GAME(0-3) {game}; foreground MAE {errors['foreground_mae']:.2f}, "
        f"MSE (root) {errors['foreground_mse']:.2f}"
    )


def _share(value: float) -> str:
    """A ratio; a dash where it cannot be formed, as of images without people."""
    return "–" if np.isnan(value) else f"{value:.3f}"


def _print_levels(rows: list[dict]) -> None:
    click.echo(f"{'people':>12} {'images':>7} {'MAE':>9} {'MSE':>9} {'NAE':>7}")
    for row in rows:
        errors = "-"
        if row["images"]:
            errors = "{mae:9.2f} {mse:9.2f} ".format(**row) + f"{_share(row['nae']):>7}"
        click.echo(f"{row['level']:>12} {row['images']:7d} {errors:>9}")
