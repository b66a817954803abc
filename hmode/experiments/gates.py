"""Do the gates of finished runs gate, and do they choose by scale?

    python -m hmode.experiments.gates --dataset scales --profile quick

looks at the final gates of every finished run that has some and writes, into
figures/<profile>/<data set>, gates.csv (a row for each run and test image, see `gate_use`) and,
where the size of heads is known, sizes.csv (a row for each run and third of the heads by size: how
much of these heads' weight each expert has).
"""

from pathlib import Path

import click

from hmode.analysis import confusion, expert_weights, gate_use
from hmode.evaluation import load_run, predict
from hmode.experiments.registry import EXPERIMENTS
from hmode.experiments.running import splits
from hmode.profiles import PROFILES, load_profile
from hmode.runs import RunFolder, write_csv

SIZES = ("small", "middle", "large")


def look(model, images) -> tuple[list[dict], list[dict]]:
    """The rows of both tables for one network; the second is empty where no size is known."""
    predictions = [predict(model, each) for each in images]
    rows = [gate_use(each, found) for each, found in zip(images, predictions, strict=True)]
    if any(each.perspective is None for each in images):
        return rows, []
    weights = [expert_weights(model, found) for found in predictions]
    heads = confusion(weights, images, experts=len(SIZES)).heads
    shares = heads / heads.sum(axis=1, keepdims=True)
    named = [{f"E{k}": share for k, share in enumerate(each, 1)} for each in shares]
    return rows, [{"size": size} | each for size, each in zip(SIZES, named, strict=True)]


def finished(runs: Path) -> list[tuple[str, int, Path]]:
    """(experiment, seed, folder) of finished runs with gates below a folder."""
    found = []
    for path in sorted(runs.glob("*-seed*")):
        stem, _, seed = path.name.rpartition("-seed")
        names = [name for name in EXPERIMENTS if name.replace("/", "-") == stem]
        settings = RunFolder(path).config().get("model", {}) if names else {}
        if (path / "result.json").is_file() and settings.get("model") == "HMoDE":
            found.append((names[0], int(seed), path))
    return found


@click.command()
@click.option("--dataset", default="scales", show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="HMODE_DATA")
@click.option("--profile", type=click.Choice(PROFILES), default="quick", show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--output", type=click.Path(path_type=Path), default=Path("figures"))
def main(dataset, data_root, profile, runs, output) -> None:
    """Look at the gates of all finished runs and keep what is seen."""
    *_, test = splits(dataset, load_profile(profile, dataset), data_root)
    images = [test[i] for i in range(len(test))]
    gates, sizes = [], []
    for name, seed, path in finished(runs / profile / dataset):
        row = {"experiment": name, "seed": seed}
        for table, rows in zip((gates, sizes), look(load_run(path), images), strict=True):
            table.extend(row | each for each in rows)
    folder = output / profile / dataset
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("gates.csv", gates), ("sizes.csv", sizes)):
        if table:
            write_csv(folder / name, table)
            click.echo(f"{folder / name}: {len(table)} rows")


if __name__ == "__main__":
    main()
