"""The roofline of one core of the reader's CPU, measured, and what skipping zeros saves on it: lesson 06.

All of it runs on one thread and takes a few seconds. Contenders take turns, with pauses between them, and a round in
which the computer was busy with something else is not counted: see `bench.timing`. What is returned are ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numba import njit

from .. import flops, operators, plots
from ..bench.timing import Probe, burst, clean_rounds
from ..geometry import ConvShape

Array = np.ndarray[Any, Any]
IMAGES = (1, 2, 4, 8, 16, 32, 64)
"""Images of the layers under the roof. Each has one element of each channel, so a weight is used once an image."""
CHANNELS = 4096
"""Input and output channels of those layers: 64 MiB of weights, more than most caches hold."""
POSITIONS = 512
"""Positions of all images together of the layers on which zeros are skipped."""
MAPS = (2, 4, 8, 16)
"""Rows and columns of the maps of y."""
ROUNDS = 5


class Roof(NamedTuple):
    """A core's two limits, and the layers below them.

    Attributes
    ----------
    ridge : float
        Operations per byte at which memory and arithmetic take the same time.
    layers : dict
        Operations per byte, share of the core's peak, and seconds as a multiple of those for one image, by images.
    """

    ridge: float
    layers: dict[int, tuple[float, float, float]]


class Saved(NamedTuple):
    """How many times the multiply-adds and the time of skipping the regular way takes; y has `size` rows."""

    operator: str
    size: int
    work: float
    time: float


@contextmanager
def one_thread() -> Iterator[None]:
    """Let Numba use one thread."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def fastest(calls: Mapping[Any, Callable[[], Any]], probe: Probe, rounds: int, times: int) -> dict[Any, float]:
    """Least seconds of each call over all rounds: whatever else the computer does only adds to them.

    In a round, each call is timed so many times.
    """
    found = clean_rounds({key: partial(burst, call, times=times) for key, call in calls.items()}, rounds, probe)
    return {key: min(seconds) for key, seconds in found.items()}


@njit(fastmath=True)
def total(x):  # type: ignore[no-untyped-def]
    """The sum of an array: it has to be read once, and hardly anything has to be computed."""
    found = x.dtype.type(0)
    for k in range(x.size):
        found += x[k]
    return found


def measure_roof(images: tuple[int, ...] = IMAGES, channels: int = CHANNELS, rounds: int = ROUNDS) -> Roof:
    """Measure both limits of a core, and the CPU backend on layers that use each weight once for each image."""
    weights = np.ones((channels, 1, 1, channels), np.float32)
    inputs = {n: np.ones((n, 1, 1, channels), np.float32) for n in images}
    outs = {n: np.empty((n, 1, 1, channels), np.float32) for n in images}
    calls: dict[Any, Callable[[], Any]] = {
        n: partial(operators.conv2d, inputs[n], weights, backend="cpu", out=outs[n]) for n in images
    }
    with one_thread():
        probe = Probe(1)
        probe.seconds()
        seconds = fastest({**calls, "memory": partial(total, weights.reshape(-1))}, probe, rounds, times=2)
        peak = probe.operations / min(probe.seconds() for _ in range(rounds))
    bandwidth = weights.nbytes / seconds["memory"]
    layers = {}
    for n in images:
        operations = 2 * weights.size * n
        moved = weights.nbytes + inputs[n].nbytes + outs[n].nbytes
        layers[n] = operations / moved, operations / seconds[n] / peak, seconds[n] / seconds[images[0]]
    return Roof(peak / bandwidth, layers)


def measure_saved(maps: tuple[int, ...] = MAPS, channels: int = 128, rounds: int = ROUNDS) -> list[Saved]:
    """Compare skipping with the regular way, whose zeros are put in beforehand; conv2d_input has stride 2."""
    calls: dict[Any, Callable[[], Any]] = {}
    cases = [(operator, size) for operator in ("conv2d", "conv2d_input") for size in maps]
    for case in cases:
        make = _forward if case[0] == "conv2d" else _input_gradient
        calls["skipping", case], calls["regular", case] = make(layer(*case, channels))
    with one_thread():
        seconds = fastest(calls, Probe(1), rounds, times=4)
    found = []
    for case in cases:
        count = flops.count(case[0], layer(*case, channels))
        times = seconds["regular", case] / seconds["skipping", case]
        found.append(Saved(*case, count.regular / count.useful, times))
    return found


def layer(operator: str, size: int, channels: int) -> ConvShape:
    """A layer with a y of so many rows and columns; that of conv2d_input halves the map."""
    stride = 2 if operator == "conv2d_input" else 1
    sizes = dict(n=max(1, POSITIONS // size**2), ih=stride * size, iw=stride * size, ic=channels, oc=channels)
    return ConvShape(**sizes, fh=3, fw=3, stride=stride, padding=1)


def _forward(shape: ConvShape) -> tuple[Callable[[], Array], Callable[[], Array]]:
    """conv2d, and the same on a map that is already padded."""
    x, w, y = _arrays("conv2d", shape)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return (
        partial(operators.conv2d, x, w, padding=1, backend="cpu", out=y),
        partial(operators.conv2d, padded, w, backend="cpu", out=np.empty_like(y)),
    )


def _input_gradient(shape: ConvShape) -> tuple[Callable[[], Array], Callable[[], Array]]:
    """conv2d_input, and the same as a convolution of a dy with zeros, by filters that are already turned around."""
    w, dy, dx = _arrays("conv2d_input", shape)
    with_zeros = np.zeros((shape.n, shape.ih + 2, shape.iw + 2, shape.oc), dy.dtype)
    with_zeros[:, 1:-2:2, 1:-2:2] = dy
    turned = np.ascontiguousarray(w[:, ::-1, ::-1].transpose(3, 1, 2, 0))
    return (
        partial(operators.conv2d_input, shape.x_shape, w, dy, stride=2, padding=1, backend="cpu", out=dx),
        partial(operators.conv2d, with_zeros, turned, backend="cpu", out=np.empty_like(dx)),
    )


def _arrays(operator: str, shape: ConvShape) -> list[Array]:
    """Operands of whole numbers, so that every order of a sum gives the same, and a result."""
    rng = np.random.default_rng(0)
    return [rng.integers(-3, 4, size).astype(np.float32) for _, size in shape.arrays(operator)]


# --- pictures ---------------------------------------------------------------------------------------
def draw_roof(roof: Roof) -> Figure:
    """The layers of `measure_roof` under the two limits of the core."""
    fig = Figure(figsize=(9, 4.8), layout="constrained")
    ax = fig.subplots()
    left, right = 0.3, 70.0
    ax.plot([left, roof.ridge, right], [100 * left / roof.ridge, 100, 100], color=plots.INK, linewidth=2.5)
    at = [intensity for intensity, _, _ in roof.layers.values()]
    shares = [100 * share for _, share, _ in roof.layers.values()]
    ax.plot(at, shares, "o-", color=plots.BLUE, markersize=11, markeredgecolor="black")
    for n, x, y in zip(roof.layers, at, shares, strict=True):
        ax.annotate(f"{n}", (x, y), (6, -18), textcoords="offset points", fontsize=13)
    ax.text(0.62 * roof.ridge, 70, "memory", rotation=36, fontsize=13, ha="right")
    ax.text(right, 112, "arithmetic", fontsize=13, ha="right")
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(1.5, 170))
    ax.set_xlabel("operations per byte", fontsize=13)
    ax.set_ylabel("% of this core's peak", fontsize=13)
    ax.tick_params(labelsize=12)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.set_title("one core of this CPU; the numbers are images", fontsize=13)
    ax.grid(color="#DDDDDD")
    return fig


def roof_in_words(roof: Roof) -> str:
    """What the picture of the roof shows."""
    shares = ", ".join(f"{n} {share:.0%}" for n, (_, share, _) in roof.layers.items())
    return (
        "Roofline of one core, both axes logarithmic: a slope of memory, and a flat roof of arithmetic from "
        f"{roof.ridge:.1f} operations per byte on. Below it a point for each number of images, with its share of the "
        f"peak: {shares}."
    )


def draw_saved(saved: list[Saved]) -> Figure:
    """How many times as much the regular way does, and how many times as long it takes, by operator and size."""
    names = list(dict.fromkeys(one.operator for one in saved))
    fig = Figure(figsize=(9.5, 4), layout="constrained")
    for ax, name in zip(np.atleast_1d(fig.subplots(1, len(names))), names, strict=True):
        mine = [one for one in saved if one.operator == name]
        places = np.arange(len(mine))
        for offset, values, colour, label in (
            (-0.2, [one.work for one in mine], "#C9C9C9", "multiply-adds, counted"),
            (0.2, [one.time for one in mine], plots.BLUE, "time, measured"),
        ):
            bars = ax.bar(places + offset, values, width=0.38, color=colour, label=label if name == names[0] else None)
            ax.bar_label(bars, fmt="%.1f", fontsize=12)
        ax.axhline(1, color=plots.INK, linewidth=1.5)
        ax.set_xticks(places, [f"{one.size}x{one.size}" for one in mine], fontsize=12)
        ax.set_title(f"{name}{', stride 2' if name == 'conv2d_input' else ''}", fontsize=13)
        ax.set_xlabel(f"rows x columns of {'y' if name == 'conv2d' else 'dy'}", fontsize=12)
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(y=0.12)
    fig.supylabel("regular way / skipping", fontsize=12)
    fig.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=12)
    return fig


def saved_in_words(saved: list[Saved]) -> str:
    """What the picture of `draw_saved` shows."""
    pairs = (f"{one.operator} {one.size}x{one.size}: {one.work:.1f} and {one.time:.1f}" for one in saved)
    return (
        f"Two bars for each size, how many times as much the regular way does and as long it takes. {'; '.join(pairs)}."
    )
