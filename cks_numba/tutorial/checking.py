"""`check`: looks at the answer to an exercise and says what is wrong with it, or what follows from it.

Lesson NN has a module ``lesson_NN`` with a dict ``EXERCISES`` from the number of an exercise to a
function of the answer, which returns praise or raises `Wrong`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .answers import Open, Wrong, missing

STILL_OPEN = "is still open. Replace the ... in the cell above, run it, then run this cell again."
WIDTH = 100
"""Characters of a printed line; a notebook breaks longer ones in the middle of a word."""


def check(exercise: str, answer: Any) -> None:
    """Print whether an answer is right, and help if it is not. It never raises for a wrong answer.

    Parameters
    ----------
    exercise : str
        Lesson and number, such as "01.2".
    answer : object
        A value or a function, as the exercise asks; ``...``, None and NotImplemented stand for no answer yet.

    Raises
    ------
    ValueError
        For an exercise that does not exist.

    Examples
    --------
    >>> check("00.1", ...)
    Exercise 00.1 is still open. Replace the ... in the cell above, run it, then run this cell again.
    """
    examine = _examiner(exercise)
    try:
        if missing(answer):
            raise Open
        text = f"Exercise {exercise}: right. {examine(answer)}"
    except Open:
        text = f"Exercise {exercise} {STILL_OPEN}"
    except Wrong as wrong:
        text = f"Exercise {exercise}: not yet. {wrong}"
    except Exception as error:  # a learner's code may raise anything
        text = f"Exercise {exercise}: not yet. Trying your answer raised {type(error).__name__}: {error}"
    for line in text.splitlines():
        print(
            line if len(line) <= WIDTH else textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)
        )


def _examiner(exercise: str) -> Callable[[Any], str]:
    lesson = exercise.split(".")[0]
    try:
        exercises: dict[str, Callable[[Any], str]] = import_module(f".lesson_{lesson}", __package__).EXERCISES
    except ModuleNotFoundError as error:
        raise ValueError(f'exercise must be a lesson and a number such as "01.2", got {exercise!r}') from error
    if exercise not in exercises:
        raise ValueError(f"exercise must be one of {tuple(exercises)}, got {exercise!r}")
    return exercises[exercise]
