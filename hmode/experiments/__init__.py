"""The experiments by name, and how to run one."""

from hmode.experiments.registry import (
    EXPERIMENTS,
    TABLES,
    Experiment,
    canonical,
    rows,
    select,
)
from hmode.experiments.running import Result, initial_model, run, splits

__all__ = [
    "EXPERIMENTS",
    "TABLES",
    "Experiment",
    "Result",
    "canonical",
    "initial_model",
    "rows",
    "run",
    "select",
    "splits",
]
