"""Readers of what a user types: problem sizes, operators, numbers.

A problem size is written as key=value pairs, for example ``i=8,ic=3,oc=4,f=3,stride=2,padding=1``.
Several numbers in one value are joined by x: ``i=8x6``, ``stride=2x1``, ``padding=1x0x1x2``. So are those of one or
three spatial axes: ``i=8x16x16`` is a volume, ``axes=1,i=100`` a signal.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from .. import checks
from ..geometry import OPERATORS, ConvShape

SHAPE_HELP = (
    "key=value pairs, such as i=8,ic=3,oc=4,f=3,stride=2,padding=1. Keys: n, i (or ih, iw), ic, oc, f (or fh, fw), "
    "stride, padding, dilation, groups, axes. Join numbers with x, vertical first: i=8x6, padding=1x0x1x2 "
    '(top, bottom, left, right); padding may be "same". Three numbers make a volume, depth first: i=4x8x8; '
    "axes=1 or axes=3 says how many axes a single number is for. Defaults: n=1, i=8, ic=1, oc=1, f=3, stride=1, "
    "padding=0, dilation=1, groups=1, axes=2"
)
ALIASES = {"conv_v2": "conv2d", "ks_deconv": "conv2d_input", "sk_dilated": "conv2d_weight"}
DEFAULTS: dict[str, Any] = {"n": 1, "ic": 1, "oc": 1}
KEYS = ("n", "i", "ih", "iw", "ic", "oc", "f", "fh", "fw", "stride", "padding", "dilation", "groups", "axes")
FORMS = (1, 2, 3)
"""How many numbers a value of one axis or of all may have."""
MANY = {"input": FORMS, "stride": FORMS, "dilation": FORMS, "i": FORMS, "f": FORMS, "padding": (1, 2, 3, 4, 6)}


def parse_shape(text: str) -> ConvShape:
    """Read a problem size written as key=value pairs.

    Parameters
    ----------
    text : str
        As in ``cks-numba plan --help``; an empty text gives the defaults.

    Returns
    -------
    ConvShape

    Raises
    ------
    ValueError
        For an unknown key, a value that is no number, or an impossible size.

    Examples
    --------
    >>> print(parse_shape("i=8x6,ic=2,oc=4,stride=2,padding=1"))
    x (1, 8, 6, 2) w (4, 3, 3, 2) y (1, 4, 3, 4) stride (2, 2) padding (1, 1, 1, 1)
    >>> print(parse_shape("i=4x8x8,padding=1"))
    x (1, 4, 8, 8, 1) w (1, 3, 3, 3, 1) y (1, 4, 8, 8, 1) stride (1, 1, 1) padding (1, 1, 1, 1, 1, 1)
    """
    given: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key not in KEYS:
            raise ValueError(f"expected key=value with a key of {', '.join(KEYS)}, got {item!r}")
        if key in given:
            raise ValueError(f"{key} is given twice")
        given[key] = _numbers(key, value)
    axes = _axes(given)
    sizes = DEFAULTS | given
    x_shape, w_shape = (sizes.pop("n"), *_sizes(sizes, "i", 8, axes), sizes.pop("ic")), _sizes(sizes, "f", 3, axes)
    return ConvShape.of(x_shape, (sizes.pop("oc"), *w_shape, 1), **sizes)


def _axes(given: dict[str, Any]) -> int:
    """Take the number of spatial axes from the others: as many as i, f, stride or dilation has numbers, or else two."""
    several = [len(given[key]) for key in ("i", "f", "stride", "dilation") if isinstance(given.get(key), tuple)]
    axes: int = given.pop("axes", several[0] if several else 2)
    if axes not in FORMS:
        raise ValueError(f"axes must be 1, 2 or 3, got {axes}")
    return axes


def _sizes(sizes: dict[str, Any], key: str, default: int, axes: int) -> tuple[int, ...]:
    """Take the size of every axis out of the others; rows and columns may have keys of their own."""
    apart = [name for name in (f"{key}h", f"{key}w") if name in sizes]
    if apart and axes != 2:
        raise ValueError(f"{apart[0]} is for two axes, got {axes}: write {key}={'x'.join([str(default)] * axes)}")
    size = sizes.pop(key, default)
    numbers: tuple[int, ...] = size if isinstance(size, tuple) else (size,) * axes
    if len(numbers) != axes:
        raise ValueError(f"{key} must have a number for each axis, {axes} in all, got {'x'.join(map(str, numbers))}")
    if not apart:
        return numbers
    return tuple(sizes.pop(f"{key}{letter}", number) for letter, number in zip("hw", numbers, strict=True))


def _numbers(key: str, value: str) -> Any:
    """One int, or a tuple of the ints joined by x."""
    if key == "padding" and value in ("same", "valid"):
        return value
    parts = value.split("x")
    allowed = MANY.get(key, (1,))
    if len(parts) not in allowed:
        raise ValueError(f"{key} takes {' or '.join(map(str, allowed))} number{'s' * (allowed != (1,))}, got {value!r}")
    try:
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        raise ValueError(f"{key} must be an integer, or integers joined by x, got {value!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]


def parse_operator(name: str) -> str:
    """Return the operator with a name, which may be the paper's."""
    name = ALIASES.get(name, name)
    if name not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join((*OPERATORS, *ALIASES))}, got {name!r}")
    return name


def parse_input(text: str) -> int | tuple[int, ...]:
    """Return the size of an input, written as one number for every axis or as numbers joined by x."""
    numbers: int | tuple[int, ...] = _numbers("input", text)
    return numbers


def parse_size(text: str) -> tuple[int, ...]:
    """Return the size of a tensor, written as numbers joined by x."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ValueError(f"input must be sizes of at least 1 joined by x, such as 1x3x32x32, got {text!r}")
    return tuple(map(int, text.split("x")))


def parse_named_size(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name of an input and its size, written as NAME=1x3x32x32; the name is empty without NAME=."""
    name, _, size = text.rpartition("=")
    return name, parse_size(size)


def parse_threshold(text: str) -> float:
    """Return a factor of at least 1."""
    try:
        value: Any = float(text)
    except ValueError:
        value = text
    return checks.factor("threshold", value)


def at_least(least: int) -> Callable[[str], int]:
    """Return a parser of integers from `least` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    number.__name__ = "int"
    return number


def converted(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make argparse print a parser's own message."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def add_operator(command: argparse.ArgumentParser) -> None:
    """Add an operator and a problem size to the arguments of a command."""
    command.add_argument("operator", type=converted(parse_operator), metavar="OP", help=", ".join(OPERATORS))
    command.add_argument("shape", nargs="?", type=converted(parse_shape), metavar="SHAPE", help=SHAPE_HELP)
