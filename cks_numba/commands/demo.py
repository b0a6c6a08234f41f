"""``cks-numba demo``: a real photograph down a stack of layers to 2x2 maps and back up, checked, timed and drawn.

Every layer of the stack halves rows and columns with 4x4 filters, stride 2, padding 1: a smooth and
an edge filter of Daubechies, down and across, so four of them a channel. They are orthonormal, so
the same filters deconvolve a map back into the picture that it holds. Where a layer has fewer outputs
than four a channel, it keeps the lowest frequencies, as JPEG does. A last 3x3 layer has random filters.

The loss 0.5*sum(map**2) has the map itself as its gradient. So going back up from the last map is
the backward pass of that loss: ``conv2d_input`` gives the gradient of every layer's input (the
deconvolved picture), and ``conv2d_weight`` that of its filter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import flops, plots
from ..backends import cuda
from ..bench import accuracy, timing
from ..flops.files import replacing
from ..geometry import OPERATORS, ConvShape
from ..steps import regular
from .arguments import at_least

Array = NDArray[Any]
WIDTHS = (12, 32, 64, 128, 256, 256, 256)  # channels after each layer
BATCH = 2
LONG = 0.3
"""Seconds of two regular runs from which on three timed runs are enough."""
GREY = "#BBBBBB"


@dataclass
class Layer:
    """One layer: its size and filter, and the arrays of the forward and the backward pass."""

    name: str
    shape: ConvShape
    w: Array
    x: Array = field(default_factory=lambda: np.empty(0))
    dy: Array = field(default_factory=lambda: np.empty(0))

    def operands(self, operator: str) -> tuple[Array, Array]:
        """Return the two arrays of an operator."""
        return {"conv2d": (self.x, self.w), "conv2d_input": (self.w, self.dy), "conv2d_weight": (self.x, self.dy)}[
            operator
        ]


@dataclass
class Row:
    """One line of the table: one operator of one layer."""

    layer: Layer
    operator: str
    regular_ms: float
    skipping_ms: float
    error: float
    limit: float

    @property
    def correct(self) -> bool:
        return self.error <= self.limit


# --- the filters -------------------------------------------------------------------
def bank() -> tuple[Array, Array]:
    """Return the smooth and the edge filter of Daubechies with four taps, of length one."""
    root = np.sqrt(3)
    smooth = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
    return smooth, smooth[::-1] * np.array([1, -1, 1, -1])


def halving_filters(frequencies: list[tuple[int, int]], width: int) -> tuple[Array, list[tuple[int, int]]]:
    """Build the filters of a layer that splits every channel in four and keeps the `width` smoothest.

    Parameters
    ----------
    frequencies : list of (int, int)
        Vertical and horizontal frequency of every input channel.
    width : int
        Number of output channels, at most four times that of the inputs.

    Returns
    -------
    w : (width, 4, 4, IC) float32 array
    frequencies : list of (int, int)
        Those of the output channels.
    """
    filters, found = bank(), []
    for channel, (v, h) in enumerate(frequencies):
        for a in (0, 1):  # 0 smooth, 1 edge; halving a high band reverses the order of its frequencies
            for b in (0, 1):
                found.append((2 * v + (a ^ (v & 1)), 2 * h + (b ^ (h & 1)), channel, a, b))
    found.sort(key=lambda item: (item[0] + item[1], max(item[:2]), item))
    w = np.zeros((width, 4, 4, len(frequencies)), np.float32)
    for oc, (_, _, channel, a, b) in enumerate(found[:width]):
        w[oc, :, :, channel] = np.outer(filters[a], filters[b])
    return w, [item[:2] for item in found[:width]]


def build(size: int, seed: int = 0) -> list[Layer]:
    """Build the stack: halving layers from (size, size) down to (2, 2), then a 3x3 layer of random filters."""
    layers, frequencies, side = [], [(0, 0)] * 3, size
    for k, width in enumerate(WIDTHS):
        if side == 2:
            break
        w, kept = halving_filters(frequencies, width)
        sizes = dict(ih=side, iw=side, ic=len(frequencies), oc=width, fh=4, fw=4, stride=2, padding=1)
        layers.append(Layer(f"halve {k + 1}", ConvShape(n=BATCH, **sizes), w))  # type: ignore[arg-type]
        side, frequencies = side // 2, kept
    ic = len(frequencies)
    random = np.random.default_rng(seed).standard_normal((ic, 3, 3, ic)).astype(np.float32) / (3 * ic**0.5)
    layers.append(Layer("random", ConvShape(n=BATCH, ih=2, iw=2, ic=ic, oc=ic, fh=3, fw=3, padding=1), random))
    return layers


# --- forward and backward --------------------------------------------------------------------------
def forward(layers: Sequence[Layer], pictures: Array, backend: str) -> Array:
    """Run the stack down, keep every layer's input in it, and return the last map."""
    x = pictures
    for layer in layers:
        layer.x = x
        x = accuracy.call("conv2d", layer.shape, x, layer.w, backend)
    return x


def backward(layers: Sequence[Layer], dy: Array, backend: str) -> Array:
    """Run the stack back up from a gradient, keep every layer's gradient in it, and return the picture."""
    for layer in reversed(layers):
        layer.dy = dy
        dy = accuracy.call("conv2d_input", layer.shape, layer.w, dy, backend)
    return dy


# --- checks and times ------------------------------------------------------------------------------
def measure(layer: Layer, operator: str, repeats: int, backend: str) -> Row:
    """Check one operator of one layer against the regular way in float64, and time both in float32."""
    first, second = layer.operands(operator)
    regularly = regular.BY_OPERATOR[operator]
    wide = first.astype(np.float64), second.astype(np.float64)
    begin = time.perf_counter()
    expected, scale = regularly(*wide, layer.shape), regularly(abs(wide[0]), abs(wide[1]), layer.shape)
    rounds = repeats if time.perf_counter() - begin < LONG else min(repeats, 3)
    got = accuracy.call(operator, layer.shape, first, second, backend)
    error = accuracy.relative_error(got, expected, scale) if got.shape == expected.shape else float("inf")
    limit = accuracy.tolerance(operator, layer.shape, np.float32)
    ways = {
        "regular": partial(regularly, first, second, layer.shape),
        "skipping": partial(accuracy.call, operator, layer.shape, first, second, backend),
    }
    bursts = {name: partial(timing.burst, way, pause=timing.AFTER_BLAS, warm=timing.WARM) for name, way in ways.items()}
    ms = {name: 1e3 * median(seconds) for name, seconds in timing.clean_rounds(bursts, rounds).items()}
    return Row(layer, operator, ms["regular"], ms["skipping"], error, limit)


def measure_all(layers: Sequence[Layer], repeats: int, backend: str) -> list[Row]:
    """Measure every operator of every layer, and show how far it has come."""
    pairs, rows = [(layer, operator) for layer in layers for operator in OPERATORS], []
    for layer, operator in pairs:
        rows.append(measure(layer, operator, repeats, backend))
        progress(len(rows), len(pairs), f"{layer.name} {operator}")
    return rows


def progress(done: int, total: int, text: str) -> None:
    """Show a bar on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        bar = "#" * (30 * done // total)
        end = "\n" if done == total else ""
        print(f"\r[{bar:<30}] {done}/{total} {text:<28}", end=end, file=sys.stderr, flush=True)
    elif done % len(OPERATORS) == 0:
        print(f"{done}/{total} {text}", file=sys.stderr, flush=True)


def table(rows: Sequence[Row]) -> str:
    """Lay the measurements out as text, with the sums of each operator at the end."""
    head = f"{'':33}{'':22} {'multiply-adds':>23} {'':8}{'milliseconds':>19}"
    lines = [
        head,
        f"{'layer':<9}{'operator':<15}{'x':>13} -> {'y':<13} {'filter':<7}{'regular':>10}{'useful':>10}{'saved':>8}"
        f"{'regular':>10}{'skipping':>10}{'ratio':>7}  {'worst error':<12}",
    ]
    for row in rows:
        s, number = row.layer.shape, flops.count(row.operator, row.layer.shape)
        lines.append(
            f"{row.layer.name:<9}{row.operator:<15}{f'{s.ih}x{s.iw}x{s.ic}':>13} -> {f'{s.oh}x{s.ow}x{s.oc}':<13} "
            f"{f'{s.fh}x{s.fw}/{s.stride[0]}':<7}{_short(number.regular):>10}{_short(number.useful):>10}"
            f"{number.saved:>7.2f}x{row.regular_ms:>10.2f}{row.skipping_ms:>10.2f}"
            f"{row.regular_ms / row.skipping_ms:>6.1f}x  {row.error:.1e}{'' if row.correct else ' WRONG'}"
        )
    lines.append("")
    for operator in OPERATORS:
        mine = [row for row in rows if row.operator == operator]
        before, after = _sums(rows, operator)
        regularly, skipping = sum(row.regular_ms for row in mine), sum(row.skipping_ms for row in mine)
        lines.append(
            f"{'all':<9}{operator:<15}{'':>38}{_short(before):>10}{_short(after):>10}{before / after:>7.2f}x"
            f"{regularly:>10.2f}{skipping:>10.2f}{regularly / skipping:>6.1f}x  {max(row.error for row in mine):.1e}"
        )
    return "\n".join(lines)


def _sums(rows: Sequence[Row], operator: str) -> tuple[int, int]:
    """Regular and useful multiply-adds of one operator over the stack."""
    counts = [flops.count(operator, row.layer.shape) for row in rows if row.operator == operator]
    return sum(number.regular for number in counts), sum(number.useful for number in counts)


def _short(number: int) -> str:
    """A count in thousands or millions."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


# --- the drawing -----------------------------------------------------------------------------------
def draw(path: Path, layers: Sequence[Layer], rows: Sequence[Row], backend: str) -> None:
    """Save the picture: down, back up, where the zeros were, and the counts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 12.2), facecolor="white")
    FigureCanvasAgg(figure)  # no window, whatever the reader's settings are
    halves: Any = figure.subfigures(2, 1, height_ratios=(6.9, 5.3))
    _draw_stack(halves[0], layers[:-1], layers[-1].x, backend)
    _draw_zeros(halves[1], layers[-2].shape, rows)
    with replacing(path, "wb") as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=100)


def _draw_stack(figure: Any, layers: Sequence[Layer], last: Array, backend: str) -> None:
    maps = [layer.x for layer in layers] + [last]
    axes = figure.subplots(3, len(maps), squeeze=False)
    figure.subplots_adjust(left=0.1, right=0.99, top=0.86, bottom=0.02, wspace=0.08, hspace=0.16)
    figure.suptitle("A photograph down to 2x2 maps and back up, without multiplying one added zero", fontsize=20)
    texts = ("down\n(conv2d)\n\nits colour\nchannels", "down\n(conv2d)\n\nits edge\nchannels")
    for row, text in enumerate((*texts, "back up\n(conv2d_input)\n\nfrom there to\nfull size")):
        axes[row, 0].text(-0.12, 0.5, text, transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=13)
    for k, a in enumerate(maps):
        n, h, w, c = a.shape
        axes[0, k].set_title("photograph\n" * (k == 0) + f"{h}x{w}" + f"\n{c} channels" * (k > 0), fontsize=13)
        _show(axes[0, k], a[0, :, :, :3] / 2**k)
        if k:
            edges = a[0, :, :, 3:6].mean(axis=-1)
            axes[1, k].imshow(edges, cmap="gray", vmin=-3 * np.std(edges), vmax=3 * np.std(edges))
        _show(axes[2, k], climb(layers[:k], a, backend)[0])
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    axes[1, 0].set_box_aspect(1)  # the same as its neighbours, so that the text beside it lines up
    axes[1, 0].axis("off")


def climb(layers: Sequence[Layer], a: Array, backend: str) -> Array:
    """Deconvolve a map back up to the picture's size."""
    for layer in reversed(layers):
        a = accuracy.call("conv2d_input", layer.shape, layer.w, a, backend)
    return a


def _show(axis: Any, picture: Array) -> None:
    axis.imshow(np.clip((picture + 1) / 2, 0, 1), interpolation="nearest")


def _draw_zeros(figure: Any, shape: ConvShape, rows: Sequence[Row]) -> None:
    axes = figure.subplots(1, 4, width_ratios=(1, 1.1, 1.45, 1.45))
    figure.subplots_adjust(left=0.02, right=0.99, top=0.76, bottom=0.16, wspace=0.14)
    s = shape
    figure.suptitle(
        f"Where the zeros were: the last halving layer, {s.ih}x{s.iw} maps, {s.fh}x{s.fw} filter, "
        f"stride {s.stride[0]}, padding {s.padding[0][0]}",
        fontsize=17,
    )
    _cells(axes[0], plots.zero_maps("conv2d", s)[:1], (s.h.span, s.w.span))
    axes[0].set_title("conv2d\nthe filter slides over padded x", fontsize=13)
    _cells(axes[1], plots.zero_maps("conv2d_input", s)[:1], (s.h.span, s.w.span))
    axes[1].set_title("conv2d_input\nthe flipped filter slides over\nzero-inserted, padded dy", fontsize=13)
    padded, spread = plots.zero_maps("conv2d_weight", s)
    _cells(axes[2], (padded, spread), spread.shape)
    axes[2].text(
        padded.shape[1] + 1.2 + spread.shape[1] / 2, spread.shape[0] + 0.3, "dy", ha="center", va="top", fontsize=13
    )
    axes[2].set_title("conv2d_weight\nzero-inserted dy slides over padded x", fontsize=13)
    _legend(figure)
    _bars(axes[3], s, rows)


def _cells(axis: Any, shown: Sequence[Array], window: tuple[int, int]) -> None:
    """Draw the tensor that is read and, unless it is the filter, the tensor that slides over it."""
    plots.draw_cells(axis, shown[0], window=window)
    columns, rows = shown[0].shape[1], max(kinds.shape[0] for kinds in shown)
    for kinds in shown[1:]:
        plots.draw_cells(axis, kinds, columns + 1.2, window=window)
        columns += 1.2 + kinds.shape[1]
    axis.set(xlim=(-0.2, columns + 0.2), ylim=(rows + 0.2, -0.2), aspect="equal")
    axis.axis("off")


def _legend(figure: Any) -> None:
    from matplotlib.patches import Patch

    handles = plots.legend_of_kinds()
    handles.append(Patch(facecolor="white", edgecolor="black", linewidth=3, label="what slides, at its first place"))
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.02, 0.0), ncols=4, fontsize=13, frameon=False)


def _bars(axis: Any, shape: ConvShape, rows: Sequence[Row]) -> None:
    """Draw regular and useful multiply-adds of the three operators, for one pair of channels."""
    pairs = shape.n * shape.ic * shape.oc // shape.groups
    for k, operator in enumerate(OPERATORS):
        number = flops.count(operator, shape)
        values = number.regular // pairs, number.useful // pairs
        for offset, value, colour in zip((-0.2, 0.2), values, (GREY, plots.BLUE), strict=True):
            axis.bar(k + offset, value, 0.38, color=colour)
            axis.text(k + offset, value, f"{value}", ha="center", va="bottom", fontsize=12)
        text = f"{operator}\n{number.saved:.1f}x fewer"
        axis.text(k, -0.03, text, transform=axis.get_xaxis_transform(), ha="center", va="top", fontsize=12)
    sums = [before / after for before, after in (_sums(rows, operator) for operator in OPERATORS)]
    text = "whole stack: " + ", ".join(f"{value:.1f}x" for value in sums) + " fewer"
    axis.text(0.5, -0.2, text, transform=axis.transAxes, ha="center", va="top", fontsize=12)
    axis.set_title("multiply-adds for each pair of channels:\nregular (grey) and useful (blue)", fontsize=13, pad=14)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


# --- the command -----------------------------------------------------------------------------------
def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    command.add_argument("--out", type=Path, default=Path("demo_out"), help="folder of demo.png (default demo_out)")
    command.add_argument("--size", type=int, default=256, choices=(16, 32, 64, 128, 256), help="side of the picture")
    command.add_argument("--repeats", type=at_least(1), default=5, help="timed runs of each way (default 5)")
    command.add_argument("--backend", default="auto", choices=("auto", "cpu", "cuda"), help="who skips (default auto)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 1 if a result differs from the regular way by more than rounding."""
    return show(arguments.out, arguments.size, arguments.repeats, arguments.backend)


def show(out: Path, size: int = 256, repeats: int = 5, backend: str = "auto") -> int:
    """Run the demo.

    Parameters
    ----------
    out : Path
        Folder of ``demo.png``; made if it does not exist.
    size : int
        Side of the picture, a power of two from 16 to 256.
    repeats : int
        Timed runs of each way; the table shows medians.
    backend : str
        Backend that skips the zeros, as in ``conv2d``.

    Returns
    -------
    int
        0, or 1 when a result differs from the regular way by more than rounding.

    Raises
    ------
    RuntimeError
        For backend="cuda" with no GPU and no simulator.
    OSError
        If the picture cannot be written.
    """
    if backend == "cuda":
        cuda.require()
    out.mkdir(parents=True, exist_ok=True)
    layers = build(size)
    last = forward(layers, plots.photograph(size), backend)
    backward(layers, last, backend)
    rows = measure_all(layers, repeats, backend)
    print(table(rows))
    print(f"\n{BATCH} pictures. regular: zeros really added, one large NumPy product. Medians of up to {repeats} runs")
    print("ratio: regular over skipping; below 1, skipping was slower")
    print("error: relative to the sum of absolute products, against the regular way in float64")
    draw(out / "demo.png", layers, rows, backend)
    print(f"saved {out / 'demo.png'}")
    wrong = sum(not row.correct for row in rows)
    print("every result is the regular one" if not wrong else f"{wrong} results are WRONG")
    return 1 if wrong else 0
