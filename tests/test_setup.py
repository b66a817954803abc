"""Requirements that agree with each other, and a light import."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch", "playwright-python": "playwright"}


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


def test_counting_needs_no_notebook_no_plots_and_no_compiler(fresh_interpreter_environment):
    count = "hmode.pretrained('scales')(torch.zeros(1, 3, 64, 64))"
    code = f"import sys, hmode, torch; {count}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=fresh_interpreter_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stdout.split())
    loaded = {name.split(".")[0] for name in modules}
    assert {"hmode", "torch"} <= loaded
    assert "torch._dynamo" not in modules
    assert not loaded & set(HEAVY)
    assert not [name for name in loaded if name.startswith("jupyter")]
