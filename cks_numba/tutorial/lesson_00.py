"""Exercises of 00_start_here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import flops
from ..geometry import ConvShape
from .answers import Wrong

LAST_MAP = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)


def corner(answer: Any) -> str:
    """Number of the nine products of the first output that are by a padded zero."""
    if answer == 4:
        raise Wrong("Four squares of the frame lie on the picture. The question is about the others.")
    if answer == 3:
        raise Wrong("The frame hangs over on two sides: a row of three above, and two more on the left.")
    if answer != 5:
        raise Wrong("Count the dotted squares inside the thick frame, one product each.")
    return "Five of nine, for every pair of channels. The inside of the picture wastes none."


def last_map(answer: Any) -> str:
    """The share of the regular multiply-adds that is wasted on a 2x2 map with a 3x3 filter and padding 1."""
    count = flops.count("conv2d", LAST_MAP)
    if not isinstance(answer, (int, float)):
        raise Wrong(f"This should be a number between 0 and 1, but it is {answer!r}. Count has a method share().")
    if abs(answer - count.share("useful")) < 1e-6:
        raise Wrong('That is the useful share. The wasted one is share("redundant").')
    if abs(answer - 100 * count.share("redundant")) < 1e-4:
        raise Wrong("Right, but in percent. The share itself is a number between 0 and 1.")
    if abs(answer - count.share("redundant")) > 1e-6:
        raise Wrong('Make a ConvShape with ih=2, iw=2, fh=3, fw=3 and padding=1, and ask the count of "conv2d".')
    return f"{count.redundant} of {count.regular} products for each pair of channels are by a zero."


EXERCISES: dict[str, Callable[[Any], str]] = {"00.1": corner, "00.2": last_map}
