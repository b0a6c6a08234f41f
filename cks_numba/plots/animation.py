"""A GIF of an operator: the regular way beside the skipping way, one result per frame, every product marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from PIL import Image

from .. import checks, trace
from ..flops.files import replacing
from ..geometry import ConvShape
from ..steps.stages import REAL
from .cells import BLUE, INK, RED, Kinds, canvas, draw_cells, frame, single, write, zero_maps
from .products import draw_heat, draw_products, products, waste_map

MOST_RESULTS = 100
HOLD = 8
"""Extra frames for which the last picture stays."""
DPI = 64
TOP = 2.8
"""Squares above the tensors."""
OPERANDS = {"conv2d": ("x", "w"), "conv2d_input": ("dy", "w"), "conv2d_weight": ("x", "dy")}
RESULTS = {"conv2d": "y", "conv2d_input": "dx", "conv2d_weight": "dw"}
ADDED = {
    "conv2d": ("x, padded", "w"),
    "conv2d_input": ("dy, zeros added", "w"),
    "conv2d_weight": ("x, padded", "dy, zeros added"),
}


class Way(NamedTuple):
    """One way of computing: its trace, its two operands as kinds of elements, and their names."""

    title: str
    traced: trace.Trace
    first: Kinds
    second: Kinds
    names: tuple[str, str]


def ways(operator: str, shape: ConvShape) -> tuple[Way, Way]:
    """Trace the regular and the skipping way of a layer, with one image and one channel."""
    shape = single(shape)
    regular, skipping = (trace.run(operator, shape, rung) for rung in ("with_zeros", "skip_zeros"))
    sizes = {"x": shape.x_shape, "w": shape.w_shape, "dy": shape.y_shape}
    first, second = (np.full(sizes[name][1:3], REAL) for name in OPERANDS[operator])
    return (
        Way("regular", regular, *zero_maps(operator, shape), ADDED[operator]),
        Way("skipping", skipping, first, second, OPERANDS[operator]),
    )


def animate(operator: str, shape: ConvShape, path: str | Path, fps: float = 1.5, dpi: float = DPI) -> Path:
    """Write a GIF: on the left the regular way, on the right the skipping way, with running counters.

    Every frame is one result. Crosses are products by an added zero, dots are useful products, both as
    the traced kernels did them.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        Of two axes; its first image and channel are shown; at most 100 results.
    path : str or Path
        Name that ends with .gif.
    fps : float
        Results per second.
    dpi : float
        Pixels per inch; a square has 0.55 inches.

    Returns
    -------
    Path

    Raises
    ------
    ValueError, TypeError
        For too many results, another ending, a speed or a dpi that is not above 0, or what `trace.run` refuses.

    Examples
    --------
    >>> import tempfile
    >>> shape = ConvShape(n=1, ih=2, iw=1, ic=1, oc=1, fh=2, fw=1, padding=(1, 0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     animate("conv2d", shape, folder + "/small.gif").name
    'small.gif'
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path must end with .gif, got {path.name!r}")
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    if not dpi > 0:
        raise ValueError(f"dpi must be above 0, got {dpi}")
    _check_size(operator, shape)
    pair = ways(operator, shape)
    frames = list(_frames(pair, dpi))
    times = [1000 / fps] * (len(frames) - 1) + [(1 + HOLD) * 1000 / fps]
    with replacing(path, "wb") as file:
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return path


def _check_size(operator: str, shape: ConvShape) -> None:
    if not isinstance(shape, ConvShape):
        raise TypeError(f"shape must be a ConvShape, got {type(shape).__name__}")
    if operator not in OPERANDS:
        raise ValueError(f"operator must be one of {tuple(OPERANDS)}, got {operator!r}")
    checks.two_axes(len(shape.axes))
    _, rows, columns, _ = shape.arrays(operator)[2][1]
    if rows * columns > MOST_RESULTS:
        raise ValueError(f"shape must have at most {MOST_RESULTS} results to be animated, got {rows} x {columns}")


def _frames(pair: tuple[Way, Way], dpi: float) -> Iterator[Image.Image]:
    """Yield a picture for each result."""
    fig, ax = canvas(*_size(pair))
    fig.set_dpi(dpi)
    drawing = FigureCanvasAgg(fig)
    for done in range(1, pair[0].traced.result.size + 1):
        _draw_frame(ax, pair, done)
        drawing.draw()
        yield Image.fromarray(np.array(drawing.buffer_rgba())[:, :, :3])


def _width(way: Way) -> float:
    return float(way.first.shape[1] + 1.5 + max(way.second.shape[1], way.traced.result.shape[2]))


def _height(way: Way) -> float:
    return float(max(way.first.shape[0] + 1.5, way.second.shape[0] + way.traced.result.shape[1] + 3.2))


def _size(pair: tuple[Way, Way]) -> tuple[float, float]:
    return max(16.0, 3.5 + 2 * _width(pair[0])), TOP + _height(pair[0]) + 3.6


def _draw_frame(ax: Any, pair: tuple[Way, Way], done: int) -> None:
    for artist in [*ax.patches, *ax.lines, *ax.texts]:
        artist.remove()
    regular, skipping = pair
    columns = ax.get_xlim()[1]
    write(ax, columns / 2, 0.9, f"{regular.traced.operator}: {_sentence(pair)}", 26, weight="bold")
    half, bars = columns / 2, TOP + _height(regular) + 0.3
    for way, left in ((regular, 0.8), (skipping, half + 0.8)):
        _draw_way(ax, way, regular, done, left)
    longest = len(regular.traced.events)
    for number, way in enumerate(pair):
        _draw_counter(ax, way, done, bars + 1.6 * number, 3.6, (columns - 12.6) / max(1, longest))


def _sentence(pair: tuple[Way, Way]) -> str:
    regular, skipping = (len(way.traced.events) for way in pair)
    return f"{regular} products, {skipping} of them useful"


def _draw_way(ax: Any, way: Way, regular: Way, done: int, left: float) -> None:
    """Draw the operands with their products of the last result, and the results so far."""
    rows, columns = way.traced.result.shape[1:3]
    at = divmod(done - 1, columns)
    inset = (regular.first.shape[1] - way.first.shape[1]) / 2, (regular.first.shape[0] - way.first.shape[0]) / 2
    right, below = left + regular.first.shape[1] + 0.9, TOP + regular.second.shape[0] + 2.2
    write(ax, left, TOP - 0.75, f"{way.title} way", 23, weight="bold", ha="left")
    for kinds, operand, corner, name in (
        (way.first, "first", (left + inset[0], TOP + inset[1]), way.names[0]),
        (way.second, "second", (right, TOP), way.names[1]),
    ):
        draw_cells(ax, kinds, *corner)
        places = products(way.traced, at, operand)
        frame(ax, [*places[True], *places[False]], *corner)
        draw_products(ax, way.traced, at, operand, *corner)
        write(ax, corner[0] + kinds.shape[1] / 2, corner[1] + kinds.shape[0] + 0.7, name, 22)
    _draw_results(ax, way, done, at, right, below)


def _draw_results(ax: Any, way: Way, done: int, at: tuple[int, int], left: float, top: float) -> None:
    """Draw how many products each result so far took, the redder the more of them are wasted."""
    wasted, all_products = waste_map(way.traced)
    rows, columns = wasted.shape
    numbers = all_products.astype(object)
    numbers.flat[done:] = ""
    shares = np.where(np.arange(wasted.size).reshape(wasted.shape) < done, wasted / np.maximum(all_products, 1), 0)
    draw_heat(ax, numbers, shares, left, top, size=19)
    frame(ax, [at], left, top)
    name = f"products of each {RESULTS[way.traced.operator]}"
    write(ax, left + columns / 2, top + rows + 0.7, name, 20)


def _draw_counter(ax: Any, way: Way, done: int, top: float, left: float, scale: float) -> None:
    """Draw the products so far as a bar: useful ones first, then those by an added zero."""
    wasted, all_products = (int(counts.ravel()[:done].sum()) for counts in waste_map(way.traced))
    useful = all_products - wasted
    write(ax, left - 0.3, top + 0.6, way.title, 20, ha="right")
    for count, start, colour in ((useful, 0, BLUE), (wasted, useful, RED)):
        bar = Rectangle((left + start * scale, top), count * scale, 1.2, facecolor=colour, edgecolor=INK)
        ax.add_patch(bar)
    text = f"{all_products} products" + (f", {wasted} by a zero" if way.title == "regular" else "")
    write(ax, left + all_products * scale + 0.3, top + 0.6, text, 20, ha="left")
