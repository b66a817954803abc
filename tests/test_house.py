"""The rules of the house (CONTRIBUTING.md): who may import whom, and how large it may grow."""

import ast
from pathlib import Path

import pytest
import torch
from conftest import crowds

import hmode
import hmode.data
import hmode.step
from hmode.method import crops, mixture, training
from hmode.profiles import Schedule

PROJECT = Path(__file__).resolve().parents[1]
# Lines, docstrings included. They may be lowered, never raised.
HOUR, PACKAGE = 1700, 17550


def our_imports(path: Path) -> set[str]:
    """Names of our modules and of what is taken from them: {"hmode.data", "hmode.data.Batch"}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "hmode"}


def module(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module(path): path for path in sorted((PROJECT / "hmode").rglob("*.py"))}
IMPORTS = {name: our_imports(path) for name, path in FILES.items()}


def within(name: str, *rooms: str) -> bool:
    return any(f"{name}.".startswith(f"hmode.{room}.") for room in rooms)


def inside(room: str) -> list[str]:
    found = [name for name in IMPORTS if within(name, room)]
    assert found, room
    return found


def lines(names) -> int:
    return sum(len(FILES[name].read_text().splitlines()) for name in names)


def test_the_hour_takes_an_hour():
    assert lines(inside("method")) <= HOUR


def test_the_package_grows_no_more():
    """The checks of the exercises aside, which nobody reads to understand the network."""
    assert lines([name for name in FILES if not within(name, "course")]) <= PACKAGE


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("errors", ()),
        ("method", ("errors", "method")),
        ("fast", ("errors", "method", "fast")),
        ("losses", ("errors", "method", "losses")),
        ("models", ("errors", "method", "fast", "models")),
        ("metrics", ("errors", "method", "metrics")),
    ],
)
def test_the_lower_rooms_import_each_other_only(room, allowed):
    for name in inside(room):
        beyond = {each for each in IMPORTS[name] if each != "hmode" and not within(each, *allowed)}
        assert not beyond, name


# What trains, keeps and compares runs, and what shows them.
LAB = ("training", "runs", "experiments", "results", "sweep", "cluster", "report", "submission")
SHOWN = ("lab", "plots", "widgets", "notebooks")


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("data", ("models", "losses", "fast", "evaluation", "step", "profiles", *LAB, *SHOWN)),
        ("profiles", ("data", "models", *LAB, *SHOWN)),
        ("runs", ("data", "models", "losses", "training", "experiments", *SHOWN)),
        ("training", ("experiments", "results", "sweep", *SHOWN)),
        ("analysis", ("training", "profiles", "runs", "experiments", *SHOWN)),
        ("experiments", ("results", "sweep", *SHOWN)),
    ],
)
def test_imports_run_downwards(room, forbidden):
    for name in inside(room):
        assert not [each for each in IMPORTS[name] if within(each, *forbidden)], name


def test_nothing_but_the_command_imports_the_command_line():
    for name in IMPORTS:
        if not within(name, "cli", "__main__"):
            assert not [each for each in IMPORTS[name] if within(each, "cli")], name


def test_what_is_for_notebooks_is_imported_by_notebooks():
    """And by what draws or runs them on the command line."""
    allowed = {
        "hmode.notebooks": ("lab",),
        "hmode.diagram": ("plots",),
        "hmode.course.__main__": ("lab",),
        "hmode.report": ("plots",),
        "hmode.cli.data": ("plots",),
        "hmode.cli.evaluate": ("report",),
        "hmode.cli.reproduce": ("notebooks",),
    }
    for name in IMPORTS:
        if within(name, "plots", "widgets"):  # they may use each other
            continue
        forbidden = {*SHOWN, "report"} - {*allowed.get(name, ())}
        # `from hmode import notebooks` names it as an attribute of the package.
        assert not [each for each in IMPORTS[name] if within(each, *forbidden)], name


def test_the_command_line_imports_the_notebooks_only_when_asked():
    """`hmode train` works where papermill is not installed."""
    tree = ast.parse(FILES["hmode.cli.reproduce"].read_text())
    top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in top for alias in node.names}
    assert not [name for name in names if within(name, "notebooks", "lab")]


def trained(network, sampler, step, schedule):
    """The history of two epochs, and the shapes of what was trained."""
    torch.manual_seed(0)
    model = network(width=1 / 16)
    settings = schedule(epochs=2, batch_size=2, crop=64, learning_rate=1e-3, halve_after=(1,))
    batches = sampler(crowds([9, 4, 12, 0, 7], (70, 90)), crop=64, batch_size=2, seed=3)
    take = step(hmode.step.make_accelerator("cpu", "no"), model, settings)
    history = [training.run_epoch(take, batches, epoch) for epoch in range(settings.epochs)]
    return history, {name: value.shape for name, value in model.state_dict().items()}


def test_the_package_at_its_defaults_is_the_hour():
    """Networks, crops, losses and step with room for all variants train as the hour's do."""
    plain = trained(mixture.HMoDE, crops.CropSampler, training.TrainingStep, training.Schedule)
    ours = trained(hmode.HMoDE, hmode.data.CropSampler, hmode.step.TrainingStep, Schedule)
    for row, again in zip(plain[0], ours[0], strict=True):
        assert again == pytest.approx(row, rel=1e-2)
    assert plain[1] == ours[1]
