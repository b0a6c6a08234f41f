"""Answers of a learner: still open, wrong, or a function to call."""

from __future__ import annotations

from typing import Any

MISSING = (None, Ellipsis, NotImplemented)


class Wrong(Exception):
    """An answer is wrong; the message helps with that kind of mistake."""


class Open(Exception):
    """There is no answer yet."""


def missing(answer: Any) -> bool:
    """Whether there is no answer yet."""
    return any(answer is nothing for nothing in MISSING)


def call(function: Any, *args: Any) -> Any:
    """Call a learner's function: raise `Open` if it returns nothing yet, `Wrong` if it is no function or fails.

    Parameters
    ----------
    function : object
        The answer, which should be a function.
    *args
        Its arguments.

    Returns
    -------
    object
        What the function returns.

    Raises
    ------
    Open, Wrong

    Examples
    --------
    >>> call(max, 1, 2)
    2
    """
    if not callable(function):
        raise Wrong(f"This should be a function, but it is {function!r}.")
    given = ", ".join(map(repr, args))
    try:
        result = function(*args)
    except Exception as error:
        raise Wrong(f"For the arguments ({given}) it raised {type(error).__name__}: {error}") from error
    if missing(result):
        raise Open
    return result
