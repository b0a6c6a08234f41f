"""Answers of a learner: still open, wrong, or a function to call."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import traceback
from numbers import Rational, Real
from typing import Any

import numpy as np

STEPS = 500_000
"""Instructions of a learner's function after which it counts as running without end."""
LONG, MANY = 160, 12
"""Characters and elements above which a value is described, and not printed."""


ONLY_IN_KERNELS = ("launch configuration was not specified", "not usable in pure-python", "called from host code")
"""What Numba says if plain Python calls a kernel, a device function, or something of `cuda`."""


class Wrong(Exception):
    """An answer is wrong; the message helps with that kind of mistake."""


class Open(Exception):
    """There is no answer yet."""


class Endless(BaseException):
    """A function runs without end. It is no `Exception`, so that a learner's `except Exception` lets it through."""


def missing(answer: Any) -> bool:
    """Whether the `...` still stands where the answer belongs.

    Examples
    --------
    >>> missing(...), missing({...}), missing(None)
    (True, True, False)
    """
    return answer is ... or (isinstance(answer, (set, list, tuple)) and any(one is ... for one in answer))


def unwritten(function: Any) -> bool:
    """Whether the `...` still stands in the source of a function or kernel."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(function, "py_func", function))))
    except (OSError, TypeError, SyntaxError):
        return False
    alone = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return any(isinstance(value, ast.Constant) and value.value is ... for value in alone)


def shown(value: Any) -> str:
    """A value in a line at most; of a large one only what it is.

    Examples
    --------
    >>> import numpy as np
    >>> shown(np.zeros((3, 5))), shown((1, 2))
    ('a float64 array of shape (3, 5)', '(1, 2)')
    """
    if isinstance(value, np.ndarray) and value.size > MANY:
        return f"a {value.dtype} array of shape {value.shape}"
    if isinstance(value, np.generic):
        value = value.item()
    text = " ".join(repr(value).split())
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def whole(answer: Any) -> int:
    """The answer as a whole number; raise `Wrong` if it is none.

    Examples
    --------
    >>> whole(3.0)
    3
    """
    number = isinstance(answer, (int, float, np.number)) and not isinstance(answer, bool)
    if not number or answer != answer // 1:
        raise Wrong(f"This should be a whole number, but it is {shown(answer)}.")
    return int(answer)


def call(function: Any, *args: Any) -> Any:
    """Call a learner's function.

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
    Open
        If it returns nothing, and the `...` still stands in it.
    Wrong
        If it is no function, fails, does not end, returns nothing, or changes an array that it is given.

    Examples
    --------
    >>> call(max, 1, 2)
    2
    """
    if not callable(function):
        raise Wrong(f"This should be a function, but it is {shown(function)}.")
    if hasattr(function, "py_func"):
        raise Wrong("This should be a plain Python function: leave out what stands above it, such as @cuda.jit.")
    given = f"For {_with_names(function, args)}" if args else "Without arguments,"
    before = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
    try:
        result = _within(STEPS, function, *args)
    except Endless:
        raise Wrong(f"{given} your function does not end: which of its loops never stops?") from None
    except Exception as error:
        if unwritten(function):
            raise Open from error
        if any(words in str(error) for words in ONLY_IN_KERNELS):
            raise Wrong(
                f"Your function is plain Python, but it calls what only a kernel can call:{line_of(error, function)}\n"
                "Compute the answer from the arguments, with plain Python alone."
            ) from error
        raise Wrong(f"{given} it raised {type(error).__name__}: {error}") from error
    if result is not None and result is not NotImplemented:
        known = [*_names(function, args), *(f"argument {k}" for k in range(1, len(args) + 1))]
        for name, arg, kept in zip(known, args, before, strict=False):
            if isinstance(arg, np.ndarray) and not np.array_equal(arg, kept, equal_nan=kept.dtype.kind == "f"):
                raise Wrong(f"{given} your function changes {name}, which others still need: write into a new array.")
        return result
    if unwritten(function):
        raise Open
    raise Wrong(f"{given} your function returns {result}. Does every path through it end with a return?")


def line_of(error: Exception, function: Any) -> str:
    """The last line of a function's file that ran before an error, below the text so far; nothing if there is none."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file and frame.line]
    return f"\n    {lines[-1]}" if lines else ""


def agree(answer: Any, right: Any, cases: Any, mistakes: dict[str, Any], else_: str = "", named: Any = None) -> None:
    """Raise `Wrong` if a learner's function of numbers differs from the right one, with the mistake that explains it.

    Parameters
    ----------
    answer, right : function
        Both take the arguments of a case, and return a number.
    cases : sequence of tuple
    mistakes : dict
        From what is wrong to a function that is wrong in just that way, in all cases.
    else_ : str
        What to say if it is none of these.
    named : function, optional
        Says in words what the arguments of a case are.

    Raises
    ------
    Open, Wrong

    Examples
    --------
    >>> agree(lambda n: n, lambda n: n * n, [(1,), (2,)], {"Square it.": lambda n: n})
    Traceback (most recent call last):
    cks_numba.tutorial.answers.Wrong: For n=2 it should be 4, and yours is 2. Square it.
    """
    named = named or (lambda *case: _with_names(right, case))
    values = [call(answer, *case) for case in cases]
    expected = [right(*case) for case in cases]
    for case, value in zip(cases, values, strict=True):
        if isinstance(value, (bool, str)) or not isinstance(value, (Real, np.number)):
            raise Wrong(f"For {named(*case)} your function should return a number, not {shown(value)}.")
    values = [float(value) if isinstance(value, Rational) else value for value in values]
    if np.allclose(values, expected):
        return
    where = int(np.argmax(~np.isclose(values, expected)))
    wrong_ways = ((text, [way(*case) for case in cases]) for text, way in mistakes.items())
    cause = next((text for text, way in wrong_ways if np.allclose(values, way)), else_)
    case = f"For {named(*cases[where])} it should be {expected[where]:g}"
    raise Wrong(f"{case}, and yours is {values[where]:g}. {cause}".rstrip())


def _names(function: Any, args: tuple[Any, ...]) -> list[str]:
    """The names of the first arguments, as far as they have one each."""
    try:
        bound = inspect.signature(function).bind(*args).arguments
    except (TypeError, ValueError):
        return []
    return [name for name, arg in zip(bound, args, strict=False) if bound[name] is arg]


def _with_names(function: Any, args: tuple[Any, ...]) -> str:
    names = _names(function, args)
    if len(names) != len(args):
        return f"the arguments ({', '.join(map(shown, args))})"
    return ", ".join(f"{name}={shown(value)}" for name, value in zip(names, args, strict=True))


def _within(steps: int, function: Any, *args: Any) -> Any:
    """Call a function, and stop it after so many instructions of its own file."""
    code = getattr(function, "__code__", None)
    if code is None:
        return function(*args)
    left, before = steps, sys.gettrace()

    def watch(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != code.co_filename:
            return None
        frame.f_trace_opcodes = True  # a loop of one line may never come to another one
        left -= 1
        if left < 0:
            raise Endless
        return watch

    sys.settrace(watch)
    try:
        return function(*args)
    finally:
        sys.settrace(before)
