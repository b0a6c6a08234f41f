"""A small case of an operator as text: what is added, what is skipped, and how much that saves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import checks
from ..flops import count
from ..geometry import OPERATORS, Axis, ConvShape, Run
from .conv_v2 import conv_v2
from .ks_deconv import ks_deconv
from .sk_dilated import sk_dilated
from .stages import Array, Stage, Steps, amount, named, spelled

BY_OPERATOR: dict[str, Callable[[Array, Array, ConvShape], Steps]] = {
    "conv2d": conv_v2,
    "conv2d_input": ks_deconv,
    "conv2d_weight": sk_dilated,
}

EQUATIONS = {
    "conv2d": "conv2d (ConvV2): y[o] = sum over f of x[o*stride - padding + f*dilation] * w[f]",
    "conv2d_input": "conv2d_input (KS-deconv): dx[i] = sum of dy[o] * w[f] over o*stride - padding + f*dilation = i",
    "conv2d_weight": "conv2d_weight (Sk-dilated): dw[f] = sum over o of x[o*stride - padding + f*dilation] * dy[o]",
}
SMALL = {  # the cases that explain shows by default
    "conv2d": ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1),
    "conv2d_input": ConvShape(n=1, ih=5, iw=5, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1),
    "conv2d_weight": ConvShape(n=1, ih=5, iw=5, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1),
}
NAMES = {"conv2d": ("x", "w", "y"), "conv2d_input": ("w", "dy", "dx"), "conv2d_weight": ("x", "dy", "dw")}
PADDED, INSERTED = ".", ":"
MOST_ROWS, MOST_COLS, MOST_TERMS = 16, 20, 6


def explain(
    operator: str, first: Array | None = None, second: Array | None = None, shape: ConvShape | None = None
) -> str:
    """Describe a small case of an operator as text: grids, added zeros, ranges and counts.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    first, second : ndarray or None
        (x, w), (w, dy) or (x, dy), float32 or float64. Small integers are made up where None.
    shape : ConvShape or None
        None takes a small one, in which case both arrays must be None too.

    Returns
    -------
    str
        Only the first image and channel are drawn, and of large grids the first rows and columns.

    Raises
    ------
    ValueError, TypeError
        For an unknown operator, arrays without a shape, or arrays that do not fit the shape.

    Examples
    --------
    >>> print(explain("conv2d_weight").splitlines()[-2])
    saved    176 multiply-adds by an added zero: 4.59x less work
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {OPERATORS}, got {operator!r}")
    if shape is None:
        if first is not None or second is not None:
            raise ValueError("shape must be given with the arrays, got None")
        shape = SMALL[operator]
    checks.two_axes(len(shape.axes))
    arrays = _filled(operator, first, second, shape)
    steps = BY_OPERATOR[operator](*arrays, shape)
    parts = [_opening(operator, shape), _inputs(operator, arrays)]
    parts += ["THE REGULAR WAY: add zeros, then multiply everything", *_stages(steps, "regular")]
    parts += ["THE SKIPPING WAY: never touch an added zero", _ranges(operator, shape)]
    parts += [*_stages(steps, "skipping"), _one_sum(operator, arrays, steps), _counts(steps)]
    return "\n\n".join(parts)


def _filled(operator: str, first: Array | None, second: Array | None, shape: ConvShape) -> tuple[Array, Array]:
    """Make up arrays of small integers, never 0, so that every 0 in a grid has a reason."""
    rng = np.random.default_rng(2306)
    sizes = {"x": shape.x_shape, "w": shape.w_shape, "dy": shape.y_shape}
    made = [rng.integers(1, 10, sizes[name]).astype(np.float64) for name in NAMES[operator][:2]]
    return made[0] if first is None else first, made[1] if second is None else second


# --- the parts of the text -----------------------------------------------------------------------
def _opening(operator: str, shape: ConvShape) -> str:
    legend = f"In the grids   {PADDED}  is a zero that padding added,   {INSERTED}  a zero inserted between elements."
    return f"{EQUATIONS[operator]}\n{shape}\n{legend}"


def _inputs(operator: str, arrays: tuple[Array, Array]) -> str:
    names = NAMES[operator]
    return "\n\n".join(f"{name}\n{_grid(Stage(name, '', array))}" for name, array in zip(names, arrays, strict=False))


def _stages(steps: Steps, way: str) -> list[str]:
    shown = [stage for stage in steps.stages if stage.way == way]
    return [f"{k}. {stage.name}: {stage.text}\n{_grid(stage)}" for k, stage in enumerate(shown, start=1)]


def _grid(stage: Stage) -> str:
    """Draw the first image (or filter) and channel of a stage."""
    if 0 in stage.array.shape:
        return "   (empty)"
    cells = [[f"{value:.4g}" for value in row] for row in stage.array[0, :MOST_ROWS, :MOST_COLS, 0]]
    for mask, mark in ((stage.padded, PADDED), (stage.inserted, INSERTED)):
        if mask is not None:
            for row, col in np.argwhere(mask[0, :MOST_ROWS, :MOST_COLS, 0]):
                cells[row][col] = mark
    width = max(len(cell) for row in cells for cell in row)
    lines = ["   " + "  ".join(cell.rjust(width) for cell in row) for row in cells]
    n, rows, cols, channels = stage.array.shape
    if rows > MOST_ROWS or cols > MOST_COLS:
        lines.append(f"   (a part of {rows} x {cols})")
    if n * channels > 1:
        lines.append(f"   (the first of {n} x {channels} such grids)")
    return "\n".join(lines)


# --- windows, phases and ranges ------------------------------------------------------------------
def _ranges(operator: str, shape: ConvShape) -> str:
    """Write which indices meet, axis by axis, from the runs of the plan."""
    if shape.h == shape.w:
        return f"Along rows, and the same along columns:\n{_axis_text(operator, shape.h)}"
    rows, cols = _axis_text(operator, shape.h), _axis_text(operator, shape.w)
    return f"Along rows:\n{rows}\nAlong columns:\n{cols}"


def _axis_text(operator: str, axis: Axis) -> str:
    describe = {"conv2d": _window_text, "conv2d_input": _phase_text, "conv2d_weight": _range_text}[operator]
    runs = axis.runs(operator)
    if operator == "conv2d_input":
        runs = tuple(sorted(runs, key=lambda run: (_phase(run, axis), run.i.base)))
    return "\n".join(f"   {describe(run, axis)}" for run in runs)


def _phase(run: Run, axis: Axis) -> int:
    return (run.i.base + axis.before) % axis.stride


def _window_text(run: Run, axis: Axis) -> str:
    where = f"window of y {spelled([run.o.at(k, 0) for k in range(run.positions)])}: "
    if not run.terms:
        return where + "no tap lies on x, so y is 0"
    return where + f"{named('tap', [run.f.at(0, t) for t in range(run.terms)])} ({run.terms} of {axis.taps})"


def _phase_text(run: Run, axis: Axis) -> str:
    inputs = [run.i.at(k, 0) for k in range(run.positions)]
    where = f"phase {_phase(run, axis)}, dx {spelled(inputs)}: "
    if not run.terms:
        return where + "no tap meets dy, so dx is 0"
    taps, outputs = ([index.at(0, t) for t in range(run.terms)] for index in (run.f, run.o))
    further = ", each next one is one further" if run.positions > 1 else ""
    meets = f"dx {inputs[0]} meets dy {spelled(outputs)}{further}"
    return where + f"{named('tap', taps)} ({run.terms} of {axis.taps}); {meets}"


def _range_text(run: Run, axis: Axis) -> str:
    where = f"range of tap {spelled([run.f.at(k, 0) for k in range(run.positions)])}: "
    if not run.terms:
        return where + "never on x, so dw is 0"
    return where + f"dy {spelled([run.o.at(0, t) for t in range(run.terms)])} ({run.terms} of {axis.outputs})"


# --- one result by hand, and the counts ----------------------------------------------------------
def _one_sum(operator: str, arrays: tuple[Array, Array], steps: Steps) -> str:
    """Write out the products of the first element of the result."""
    shape, result = steps.shape, NAMES[operator][2]
    title = f"BY HAND: {result}[0, 0], the skipping way"
    if shape.n == 0:
        return f"{title}\n   there is no image, so there is no product"
    terms = [_product(operator, arrays, h, w) for h in _met(operator, shape.h) for w in _met(operator, shape.w)]
    if not terms:
        return f"{title}\n   no product reaches it, so it is written as 0"
    more = [f"({len(terms) - MOST_TERMS} more products)"] if len(terms) > MOST_TERMS else []
    lines = "\n   + ".join(terms[:MOST_TERMS] + more)
    total = f"   = {steps.skipping[0, 0, 0, 0]:.6g}"
    return f"{title}{_channel_note(operator, shape)}\n     {lines}\n{total}\n{_what_regular_does(steps, len(terms))}"


def _what_regular_does(steps: Steps, useful: int) -> str:
    shape, positions = steps.shape, steps.regular.shape[1] * steps.regular.shape[2]
    done = steps.regular_madds // (shape.n * shape.ic // shape.groups * shape.oc * positions)
    return f"   The regular way does {amount(done, 'product')} for it, {done - useful} of them by an added zero."


def _met(operator: str, axis: Axis) -> list[tuple[int, int, int]]:
    """List the real triples (i, f, o) of result 0 along one axis."""
    place = {"conv2d": 2, "conv2d_input": 0, "conv2d_weight": 1}[operator]
    return [triple for run in axis.runs(operator) for triple in run.triples() if triple[place] == 0]


def _product(operator: str, arrays: tuple[Array, Array], h: tuple[int, int, int], w: tuple[int, int, int]) -> str:
    """Write one product, of the first image and channels, with its indices and its numbers."""
    place = {"x": 0, "w": 1, "dy": 2}
    names = NAMES[operator][:2]
    at = [(h[place[name]], w[place[name]]) for name in names]
    left, right = (array[0, row, col, 0] for array, (row, col) in zip(arrays, at, strict=True))
    indices = " * ".join(f"{name}[{row}, {col}]" for name, (row, col) in zip(names, at, strict=True))
    return f"{indices} = {left:.4g} * {right:.4g}"


def _channel_note(operator: str, shape: ConvShape) -> str:
    """Say what else the sum runs over, if the printed products are only a part of it."""
    over = {"conv2d": shape.ic // shape.groups, "conv2d_input": shape.oc // shape.groups, "conv2d_weight": shape.n}
    if over[operator] == 1:
        return ""
    what = "images" if operator == "conv2d_weight" else "channels"
    return f" (the products of the first of {over[operator]} {what}; the total is over all)"


def _counts(steps: Steps) -> str:
    counts = count(steps.operator, steps.shape)
    lines = [
        "MULTIPLY-ADDS, counted while they were done",
        f"regular  {steps.regular_madds}",
        f"useful   {steps.skipping_madds}",
        f"saved    {counts.redundant} multiply-adds by an added zero: {counts.saved:.3g}x less work",
    ]
    gap = np.max(np.abs(steps.regular - steps.skipping), initial=0.0)
    lines.append(f"largest difference between the two results: {gap:.3g}")
    return "\n".join(lines)
