"""Readers of what a user types: problem sizes, operators, numbers.

A problem size is written as key=value pairs, for example ``i=8,ic=3,oc=4,f=3,stride=2,padding=1``.
Several numbers in one value are joined by x: ``i=8x6``, ``stride=2x1``, ``padding=1x0x1x2``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from ..geometry import OPERATORS, ConvShape

SHAPE_HELP = (
    "key=value pairs, such as i=8,ic=3,oc=4,f=3,stride=2,padding=1. Keys: n, i (or ih, iw), ic, oc, f (or fh, fw), "
    "stride, padding, dilation, groups. Join numbers with x, vertical first: i=8x6, padding=1x0x1x2 "
    '(top, bottom, left, right); padding may be "same". Defaults: n=1, i=8, ic=1, oc=1, f=3, stride=1, '
    "padding=0, dilation=1, groups=1"
)
ALIASES = {"conv_v2": "conv2d", "ks_deconv": "conv2d_input", "sk_dilated": "conv2d_weight"}
DEFAULTS: dict[str, Any] = {"n": 1, "ih": 8, "iw": 8, "ic": 1, "oc": 1, "fh": 3, "fw": 3}
KEYS = ("n", "i", "ih", "iw", "ic", "oc", "f", "fh", "fw", "stride", "padding", "dilation", "groups")
MANY = {"input": (1, 2, 3), "stride": (1, 2), "padding": (1, 2, 4), "dilation": (1, 2), "i": (1, 2), "f": (1, 2)}


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
    """
    sizes = dict(DEFAULTS)
    seen: set[str] = set()
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key not in KEYS:
            raise ValueError(f"expected key=value with a key of {', '.join(KEYS)}, got {item!r}")
        if key in seen:
            raise ValueError(f"{key} is given twice")
        seen.add(key)
        numbers = _numbers(key, value)
        if key in ("i", "f"):
            sizes[f"{key}h"], sizes[f"{key}w"] = numbers if isinstance(numbers, tuple) else (numbers, numbers)
        else:
            sizes[key] = numbers
    return ConvShape(**sizes)


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
        value = float(text)
    except ValueError:
        value = 0.0
    if not value >= 1:
        raise ValueError(f"threshold must be a number of at least 1, got {text!r}")
    return value


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
