"""The README says what is so."""

import re

from hmode.cli import main
from hmode.lab import project_folder

README = (project_folder() / "README.md").read_text(encoding="utf-8")


def test_its_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    scope: dict = {}
    exec(code, scope)
    people = len(scope["sample"].points)
    assert abs(scope["target"].sum().item() - people) < 1e-3 * people
    parameters = sum(p.numel() for p in scope["model"].parameters())
    assert f"{parameters / 1e6:.2f} million" in code
    assert {"density", "relative", "attention", "importance", "total"} == set(scope["losses"])


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (project_folder() / target).exists(), target


def test_every_command_and_option_it_names_exists():
    for line in re.findall(r"^hmode .*$", README, flags=re.M):
        name, *rest = line.split("#")[0].split()[1:]
        command = main.commands[name]
        if hasattr(command, "commands") and rest:  # `hmode models` lists them by itself
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for p in command.params for option in p.opts}
        for word in rest:
            if word.startswith("--"):
                assert word in known, line
