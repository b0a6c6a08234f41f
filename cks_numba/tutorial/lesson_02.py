"""Exercises of 02_conv_v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..geometry import Axis, ConvShape, plan, taps_of_output
from .answers import Wrong, call
from .trying import one_axis

AXES = [
    Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1),
    Axis(size=7, taps=3, stride=2, before=1, after=1, dilation=1),
    Axis(size=2, taps=5, stride=1, before=2, after=2, dilation=1),
    Axis(size=9, taps=3, stride=2, before=3, after=3, dilation=2),
    Axis(size=6, taps=4, stride=3, before=2, after=2, dilation=1),
]


# --- 02.1 -------------------------------------------------------------------------------------------
def kept_taps(answer: Any) -> str:
    """Number of taps of a 5x5 filter with padding 2 that the first output keeps."""
    if answer == 3:
        raise Wrong("Three along each axis. An image has two axes.")
    if answer in (16, 20):
        raise Wrong("Padding 2 cuts off two rows and two columns: 5 - 2 remain along each axis.")
    if answer == 25:
        raise Wrong("That is the whole filter. Two of its rows and two of its columns lie on padding.")
    if answer != 9:
        raise Wrong("How many of the 5 rows of the filter lie on x, and how many of its columns? Multiply.")
    return "3 x 3 of 5 x 5: 16 of the 25 products of a corner would have been by a zero."


# --- 02.2 -------------------------------------------------------------------------------------------
def window(answer: Any) -> str:
    """A function that returns the first and past-the-last tap of an output."""
    for axis in AXES:
        for o in range(axis.outputs):
            sizes = (axis.size, axis.taps, axis.stride, axis.before, axis.dilation)
            got, expected = call(answer, o, *sizes), taps_of_output(o, *sizes)
            _compare_windows(o, axis, got, expected)
    return "The two ends are all that the kernel needs: between them there is no test and no zero."


def _compare_windows(o: int, axis: Axis, got: Any, expected: tuple[int, int]) -> None:
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong(f"Return two numbers, lo and hi. You returned {got!r}.")
    lo, hi = got
    if (lo, hi) == expected or (lo >= hi and expected[0] >= expected[1]):
        return
    where = (
        f"o={o}, size={axis.size}, taps={axis.taps}, stride={axis.stride}, padding={axis.before}, "
        f"dilation={axis.dilation}: lo, hi should be {expected}, and are {(lo, hi)}."
    )
    if lo < 0:
        raise Wrong(f"{where} There is no tap below 0: take the larger of 0 and your lo.")
    if hi > axis.taps:
        raise Wrong(f"{where} There are only {axis.taps} taps: take the smaller of that and your hi.")
    if hi == expected[1] - 1 and lo == expected[0]:
        raise Wrong(f"{where} hi is the first tap that is NOT used, as in range(lo, hi).")
    if axis.dilation > 1:
        raise Wrong(f"{where} Divide by the dilation: round lo up and hi down. -(-a // b) rounds up.")
    raise Wrong(f"{where} Solve 0 <= o*stride - padding + f*dilation <= size - 1 for f.")


# --- 02.3 -------------------------------------------------------------------------------------------
def group_count(answer: Any) -> str:
    """A function that counts the groups of a layer."""
    for size, taps, stride, padding in ((8, 3, 1, 1), (8, 5, 1, 2), (7, 3, 2, 1), (8, 3, 2, 1), (2, 3, 1, 1)):
        shape = ConvShape(n=1, ih=size, iw=size + 3, ic=1, oc=1, fh=taps, fw=taps, stride=stride, padding=padding)
        got, expected = call(answer, shape), len(plan("conv2d", shape).groups)
        rows, columns = (len(axis.runs("conv2d")) for axis in (shape.h, shape.w))
        if got == rows + columns and got != expected:
            raise Wrong("Every window of the rows goes with every window of the columns: multiply, do not add.")
        if got == shape.oh * shape.ow and got != expected:
            raise Wrong("That is the number of outputs. Outputs with the same (lo, hi) are one group: use a set.")
        if got != expected:
            raise Wrong(f"For {shape} there are {rows} x {columns} = {expected} groups, not {got!r}.")
    return "However large the map is, the number of groups stays the same. Only the groups grow."


# --- 02.4 -------------------------------------------------------------------------------------------
def kernel(answer: Any) -> str:
    """A kernel that convolves one axis and multiplies no padded zero."""
    one_axis(answer, "conv2d", [axis for axis in AXES if axis.dilation == 1], seed=2)
    return "You have written ConvV2. The real kernel does the same on two axes and over the channels."


EXERCISES: dict[str, Callable[[Any], str]] = {
    "02.1": kept_taps,
    "02.2": window,
    "02.3": group_count,
    "02.4": kernel,
}
