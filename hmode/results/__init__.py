"""What the runs found: one table with a row a run, and what may be said of it."""

from hmode.results.summary import as_text, compare, summary
from hmode.results.table import check_ending, collect, image_errors, load, require_uniform, save

__all__ = [
    "as_text",
    "check_ending",
    "collect",
    "compare",
    "image_errors",
    "load",
    "require_uniform",
    "save",
    "summary",
]
