"""What the runs found: one table with a row a run, and what may be said of it."""

from hmode.results.records import collect, complete, image_errors, load, require_uniform, save
from hmode.results.summary import as_text, compare, summary

__all__ = [
    "as_text",
    "collect",
    "compare",
    "complete",
    "image_errors",
    "load",
    "require_uniform",
    "save",
    "summary",
]
