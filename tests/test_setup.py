"""Requirements that agree with each other, a light import, and imports that run downwards."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}


def requirement(text):
    name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", text).groups()
    return CONDA_NAMES.get(name, name), bound


@pytest.fixture(scope="module")
def required():
    """{name: lower bound} of everything pyproject.toml asks for."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    texts = list(project["dependencies"])
    for name, extra in project["optional-dependencies"].items():
        # Gradio wants Pillow below 13, and jupyter-book 1 has requirements of its own too: both
        # are installed by themselves, without constraints.txt.
        texts += extra if name not in ("demo", "course") else []
    found = dict(requirement(text) for text in texts if not text.startswith("hmode["))
    assert len(found) > 15
    return found | {"python": project["requires-python"].removeprefix(">=")}


def test_conda_and_pip_ask_for_the_same(required):
    lines = (PROJECT / "environment.yml").read_text().split("dependencies:")[1].splitlines()
    texts = [line.strip().removeprefix("- ") for line in lines if line.strip()]
    assert len(texts) == len({requirement(text)[0] for text in texts})
    assert dict(map(requirement, texts)) == required


def test_constraints_pin_every_direct_dependency_once_within_its_bound(required):
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert sorted(name for name, _ in pins) == sorted(required.keys() - {"python"})
    for name, version in pins:
        found, least = (tuple(map(int, v.split("."))) for v in (version, required[name]))
        assert found >= least, name


HEAVY = ["papermill", "ipywidgets", "IPython", "matplotlib", "seaborn", "pandas", "nbformat"]
HEAVY += ["distributed", "dask", "torchvision"]


def test_importing_hmode_needs_no_notebook_and_no_plot_library(fresh_interpreter_environment):
    code = "import sys, hmode; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=fresh_interpreter_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert {"hmode", "torch"} <= loaded
    assert not loaded & set(HEAVY)
    assert not [name for name in loaded if name.startswith("jupyter")]


# Imports of our own modules, by module: {"hmode.training": {"hmode.data", ...}}.


def our_imports(path: Path) -> set[str]:
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


IMPORTS = {module(path): our_imports(path) for path in sorted((PROJECT / "hmode").rglob("*.py"))}


def imports_any(name, *others):
    """What `name` imports of `others` or from inside them."""
    return {
        found
        for found in IMPORTS[name]
        for other in others
        if found == f"hmode.{other}" or found.startswith(f"hmode.{other}.")
    }


def inside(package):
    found = [name for name in IMPORTS if f"{name}.".startswith(f"hmode.{package}.")]
    assert found
    return found


@pytest.mark.parametrize("ground", ["density", "metrics"])
def test_the_ground_floor_imports_nothing_but_errors(ground):
    """And, where it is a package, its own modules."""
    own = ("hmode.errors", f"hmode.{ground}.")
    for name in inside(ground):
        assert all(found.startswith(own) for found in IMPORTS[name]), name


def test_errors_import_nothing():
    assert IMPORTS["hmode.errors"] == set()


@pytest.mark.parametrize(
    ("package", "above"),
    [
        ("models", ("data", "losses", "training", "profiles", "runs", "experiments")),
        ("data", ("models", "losses", "training", "profiles", "runs", "experiments")),
        ("losses", ("data", "training", "profiles", "runs", "experiments")),
        ("profiles", ("data", "training", "runs", "experiments")),
        ("runs", ("data", "models", "losses", "training", "experiments")),
        ("analysis", ("training", "profiles", "runs", "experiments")),
        ("training", ("experiments",)),
    ],
)
def test_imports_run_downwards(package, above):
    for name in inside(package):
        assert not imports_any(name, *above), name


def test_what_is_for_notebooks_is_imported_by_nothing_below_it():
    side = ("lab", "plots", "report", "widgets", "notebooks", "cli")
    allowed = {
        "hmode.notebooks": {"lab"},
        "hmode.report": {"plots"},
        "hmode.course.__main__": {"lab"},
        "hmode.cli.data": {"plots"},
        "hmode.cli.evaluate": {"report"},
        "hmode.cli.reproduce": {"notebooks"},
        "hmode.__main__": {"cli"},
    }
    for name in IMPORTS:
        within = ("cli",) if name.startswith("hmode.cli") else ()
        forbidden = [each for each in side if each not in (*allowed.get(name, ()), *within)]
        if name.removeprefix("hmode.") in ("plots", "widgets"):
            continue  # they may use each other
        # `from hmode import notebooks` names it as an attribute of the package.
        assert not imports_any(name, *forbidden), name


def test_the_command_line_imports_the_notebooks_only_when_asked():
    """`hmode train` works where papermill is not installed."""
    tree = ast.parse((PROJECT / "hmode" / "cli" / "reproduce.py").read_text())
    top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in top for alias in node.names}
    assert not [name for name in names if "notebooks" in name or ".lab" in name]
