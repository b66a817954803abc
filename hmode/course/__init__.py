"""The course around the notebooks: exercises that check themselves, copies for students, grading,
slides and a book. `python -m hmode.course` makes all but the first."""

from hmode.course import basics, evidence  # noqa: F401  (they enter their exercises)
from hmode.course.checking import EXERCISES, Exercise, NotYet, check

__all__ = ["EXERCISES", "Exercise", "NotYet", "check"]
