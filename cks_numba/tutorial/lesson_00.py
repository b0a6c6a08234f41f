"""Exercises of 00_start_here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .checking import Wrong

CORNER_ZEROS = 5  # of the nine products of a corner of a 3x3 filter with padding 1


def corner_zeros(answer: Any) -> str:
    """How many products of the first output are by a padded zero."""
    if answer == 9 - CORNER_ZEROS:
        raise Wrong("That many taps lie on the picture. Count the others.")
    if answer == 3:
        raise Wrong("Both sides of the corner hang over: a row of three above, and two more on the left.")
    if answer != CORNER_ZEROS:
        raise Wrong("Put the middle of the 3x3 window on the corner pixel, and count the squares outside the picture.")
    return "Over half of the nine, for each pair of channels. Inside the picture it is none."


EXERCISES: dict[str, Callable[[Any], str]] = {"00.1": corner_zeros}
