"""Telling a right answer from a wrong one, and which mistake a wrong one looks like.

An exercise asks for a function. Its check calls the student's function and the reference with the
same inputs; where the two differ, the student's result is compared with what typical mistakes
give, and the message names the one it equals.
"""

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np


class NotYet(AssertionError):
    """An answer that is missing or wrong, in a line for the student."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"\x1b[31m✗ {self}\x1b[0m"]


@dataclass(frozen=True)
class Exercise:
    """One function to write.

    Attributes:
        id: notebook and number, "03.2".
        name: of the function.
        stars: difficulty and points, 1 to 3.
        minutes: what a student may need.
        inputs: from a random generator, the tuples of arguments to try.
        right: the reference.
        mistakes: what is wrong, in words, to the function that does it so.
        tolerance: largest absolute difference that is still right, beside a relative 1e-4.
    """

    id: str
    name: str
    stars: int
    minutes: int
    inputs: Callable[[np.random.Generator], Iterator[tuple]]
    right: Callable
    mistakes: dict[str, Callable]
    tolerance: float = 1e-6

    def trials(self) -> Iterator[tuple]:
        """The same arguments at every call, so that a message can be worked on."""
        yield from self.inputs(np.random.default_rng(int(self.id.replace(".", ""))))


EXERCISES: dict[str, Exercise] = {}


def exercise(id: str, *, stars: int, minutes: int, tolerance: float = 1e-6) -> Callable:
    """Enter a class of `inputs`, `right` and `mistakes` as the exercise of its name."""

    def enter(cls: type) -> Exercise:
        found = Exercise(
            id, cls.__name__, stars, minutes, cls.inputs, cls.right, cls.mistakes, tolerance
        )
        EXERCISES[cls.__name__] = found
        return found

    return enter


def check(function: Callable) -> None:
    """Say that an answer is right.

    Args:
        function: the answer, under the name that the exercise gives it.

    Raises:
        NotYet: it is not; the message says on which input, and what the mistake looks like.
    """
    name = getattr(function, "__name__", repr(function))
    if name not in EXERCISES:
        raise NotYet(f"no exercise asks for a function {name!r}; there are {sorted(EXERCISES)}")
    asked = EXERCISES[name]
    trials = list(asked.trials())
    for arguments in trials:
        problem = _problem(function, asked, arguments)
        if problem:
            shown = ", ".join(map(_short, arguments))
            raise NotYet(f"{asked.id} {name}({shown}): {problem}")
    print(f"✓ {asked.id} {name}: right on {len(trials)} inputs")


def _problem(function: Callable, asked: Exercise, arguments: tuple) -> str:
    """What is wrong with the function's result; "" if nothing."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = function(*deepcopy(arguments))
    except NotImplementedError:
        given = None
    except Exception as error:  # whatever a student's code may raise is the message
        return f"stops with {type(error).__name__}: {error}"
    if given is None or given is ...:
        return "gives nothing yet; write the function, and return its result"
    try:
        got = _numbers(given)
    except (TypeError, ValueError, RuntimeError):
        return f"gives {_short(given)}, expected numbers"
    wanted = _numbers(asked.right(*deepcopy(arguments)))
    if _same(got, wanted, asked.tolerance):
        return ""
    for words, mistake in asked.mistakes.items():
        with np.errstate(all="ignore"):
            typical = _numbers(mistake(*deepcopy(arguments)))
        if _same(got, typical, asked.tolerance):
            return words
    return _difference(got, wanted, asked.tolerance)


def _difference(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> str:
    if got.shape != wanted.shape:
        return f"gives {_shape(got)}, expected {_shape(wanted)}"
    if not np.isfinite(got).all():
        return "gives infinite numbers or such that are none (nan)"
    if got.ndim == 0:
        return f"gives {got:.4g}, expected {wanted:.4g}"
    at = np.unravel_index(np.abs(got - wanted).argmax(), got.shape)
    share = np.isclose(got, wanted, rtol=1e-4, atol=tolerance).mean()
    where = ", ".join(map(str, at))
    return f"{share:.0%} of the values are right; at [{where}] {got[at]:.4g} for {wanted[at]:.4g}"


def _same(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=tolerance, equal_nan=True)


def _numbers(value) -> np.ndarray:
    """A number, list, array or tensor as an array of floats."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif isinstance(value, (list, tuple)):
        value = [_numbers(each) for each in value]
    return np.asarray(value, dtype=float)


def _shape(value: np.ndarray) -> str:
    return f"an array of shape {list(value.shape)}" if value.ndim else "one number"


def _short(value) -> str:
    """An argument, as a message shows it."""
    if getattr(value, "ndim", 0):
        return f"[{' x '.join(map(str, value.shape))}]"
    if callable(value):
        return getattr(value, "__name__", "…")
    text = f"{value:.4g}" if isinstance(value, (float, np.floating)) else repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
