"""`check` an answer to an exercise, ask for a `hint`, `look` at a right kernel, and see your `progress`.

Lesson NN, such as 01 or 01b, has a module ``lesson_NN`` with dicts by the number of an exercise. ``EXERCISES`` has a
function of the answer, which returns praise or raises `Wrong`; ``HINTS`` has three hints, each of which gives away
more. Where the answer is a kernel that can be drawn, ``LOOKS`` says on which case.
"""

from __future__ import annotations

import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from . import solved
from .answers import Open, Wrong, missing
from .showing import show

STILL_OPEN = "is still open. Replace the ... in the cell above, run it, then run this cell again."
WIDTH = 100
"""Characters of a printed line; a notebook breaks longer ones in the middle of a word."""
LESSONS = tuple(sorted(path.stem.split("_")[1] for path in Path(__file__).parent.glob("lesson_*.py")))
"""What stands before the first underscore in the name of a notebook: two digits, and perhaps a letter."""

_given: dict[str, int] = {}
"""How many hints were given, by exercise."""
_right: dict[str, Any] = {}
"""The last right answer, by exercise."""


def check(exercise: str, answer: Any) -> None:
    """Print whether an answer is right, and help if it is not. It never raises for a wrong answer.

    Parameters
    ----------
    exercise : str
        Lesson and number, such as "01.2".
    answer : object
        A value or a function, as the exercise asks; while it is ``...`` the exercise is open.

    Raises
    ------
    ValueError
        For an exercise that does not exist.

    Examples
    --------
    >>> check("00.1", ...)
    Exercise 00.1 is still open. Replace the ... in the cell above, run it, then run this cell again.
    """
    examine = _lesson(exercise).EXERCISES[exercise]
    try:
        if missing(answer):
            raise Open
        if answer is None or answer is NotImplemented:
            raise Wrong(f"Your answer is {answer}. Did you print the result instead of keeping it?")
        if isinstance(answer, np.ndarray) and answer.shape == ():
            answer = answer.item()
        text = f"Exercise {exercise}: right. {examine(answer)}"
        solved.add(exercise)
        _right[exercise] = answer
    except Open:
        text = f"Exercise {exercise} {STILL_OPEN}"
    except Wrong as wrong:
        text = f"Exercise {exercise}: not yet. {wrong}"
    except Exception as error:  # a learner's code may raise anything
        text = f"Exercise {exercise}: not yet. Trying your answer raised {type(error).__name__}: {error}"
    _print(text)


def hint(exercise: str) -> None:
    """Print the next of three hints; the last one is nearly the solution, and stays.

    Parameters
    ----------
    exercise : str
        Lesson and number, such as "01.2".

    Raises
    ------
    ValueError
        For an exercise that does not exist.
    """
    hints = _lesson(exercise).HINTS[exercise]
    number = min(_given.get(exercise, 0), len(hints) - 1)
    _given[exercise] = number + 1
    _print(f"Hint {number + 1} of {len(hints)} for {exercise}: {hints[number]}")


def look(exercise: str, kernel: Any, at: tuple[int, ...] | int | None = None) -> None:
    """Show a picture of a kernel that `check` has found right, and print its score.

    Parameters
    ----------
    exercise : str
        Lesson and number of an exercise whose answer is a kernel, such as "05.4".
    kernel : function with ``@cuda.jit`` above it
        The answer that was checked.
    at : tuple of int, or int, optional
        The result whose thread is watched, such as ``(1, 2)``.

    Raises
    ------
    ValueError
        For an exercise that does not exist or has no such kernel, and if there is no result `at`.

    Examples
    --------
    >>> look("05.4", ...)
    First make check("05.4", ...) pass. Then this cell draws your kernel.
    """
    lesson = _lesson(exercise)
    if exercise not in getattr(lesson, "LOOKS", {}):
        raise ValueError(f'exercise must be one in which you write a kernel, such as "05.4", got {exercise!r}')
    if exercise not in _right or _right[exercise] is not kernel:
        print(f'First make check("{exercise}", ...) pass. Then this cell draws your kernel.')
        return
    try:
        found = import_module(".own_kernel", __package__).picture(lesson.LOOKS[exercise], kernel, at)
    except Wrong as wrong:
        _print(str(wrong))
        return
    _print(found.score)
    if found.figure is None:
        print(found.alt)
    else:
        show(found.figure, found.alt)


def progress() -> None:
    """Print how many exercises are solved, and which ones are open. It is kept when a notebook is closed."""
    known = {lesson: list(import_module(f".lesson_{lesson}", __package__).EXERCISES) for lesson in LESSONS}
    done = solved.read()
    print(
        f"{sum(name in done for names in known.values() for name in names)} of {sum(map(len, known.values()))} solved"
    )
    for names in known.values():
        if still := [name for name in names if name not in done]:
            print(f"  open: {', '.join(still)}")


def lesson_of(name: str) -> Any:
    """The module of the lesson to which an exercise or a prediction belongs; ModuleNotFoundError if there is none."""
    return import_module(f".lesson_{name.split('.')[0]}", __package__)


def _lesson(exercise: str) -> Any:
    try:
        lesson = lesson_of(exercise)
    except ModuleNotFoundError as error:
        raise ValueError(f'exercise must be a lesson and a number such as "01.2", got {exercise!r}') from error
    if exercise not in lesson.EXERCISES:
        raise ValueError(f"exercise must be one of {tuple(lesson.EXERCISES)}, got {exercise!r}")
    return lesson


def _print(text: str) -> None:
    """Print words in lines that fit, and code as it is, which is indented."""
    for line in text.splitlines():
        fits = len(line) <= WIDTH or line.startswith(" ")
        print(line if fits else textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False))
