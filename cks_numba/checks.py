"""Every argument check and its message, in one place.

A check either returns the argument in the one form that the rest of the code uses, or raises a
``ValueError`` / ``TypeError`` that names the argument, what was expected and what came.
"""

from __future__ import annotations

import operator
from typing import Any

Pair = tuple[int, int]


def integer(name: str, value: Any, least: int) -> int:
    """Return `value` as an int of at least `least`."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def pair(name: str, value: Any, least: int) -> Pair:
    """Return an int or a pair of ints as a pair (vertical, horizontal)."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be an int or a pair, got {value!r}")
        return integer(name, value[0], least), integer(name, value[1], least)
    number = integer(name, value, least)
    return number, number


def paddings(value: Any, filter_size: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Return any accepted form of padding as ((top, bottom), (left, right))."""
    if isinstance(value, str):
        if value == "valid":
            return (0, 0), (0, 0)
        if value != "same":
            raise ValueError(f'padding must be ints, "same" or "valid", got {value!r}')
        if stride != (1, 1):
            raise ValueError(f'padding="same" needs stride 1, got stride {stride}')
        totals = [d * (f - 1) for f, d in zip(filter_size, dilation, strict=True)]
        return (totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2)
    if isinstance(value, (tuple, list)) and len(value) == 4:
        value = (value[:2], value[2:])
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(
                "padding must be an int, (vertical, horizontal), ((top, bottom), (left, right)), "
                f'four ints, "same" or "valid", got {value!r}'
            )
        return pair("padding", value[0], 0), pair("padding", value[1], 0)
    number = integer("padding", value, 0)
    return (number, number), (number, number)
