"""Right and wrong answers to the exercises of the course, and words that must be in the help for a wrong one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

RIGHT: dict[str, list[Any]] = defaultdict(list)
WRONG: dict[str, list[tuple[Any, tuple[str, ...]]]] = defaultdict(list)


def right(exercise: str, *answers: Any) -> Callable[[Any], Any]:
    """Add right answers, or the function below it."""
    RIGHT[exercise] += answers
    return lambda function: RIGHT[exercise].append(function) or function


def wrong(exercise: str, words: str | tuple[str, ...], *answers: Any) -> Callable[[Any], Any]:
    """Add wrong answers, or the function below it, and the words that the help for them must have."""
    needed = (words,) if isinstance(words, str) else words
    WRONG[exercise] += [(answer, needed) for answer in answers]
    return lambda function: WRONG[exercise].append((function, needed)) or function
