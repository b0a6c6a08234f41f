"""A learner's own kernel, drawn: who writes and reads what, which products it wastes, what its lines cost, a score.

Its source is traced on a tiny case, which the picture shows. What memory costs, and how much it reads for each product,
is counted by the emulator in a launch with full warps; and in the same way for the library's kernel to beat.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import flops, kernels, plots, trace
from ..emulator import Result, check_kernel
from ..emulator.faults import line_of, quotes
from ..emulator.report import Cost
from ..geometry import Axis, ConvShape
from ..plots.cells import colour
from ..trace.elements import REAL, Element, Log, Number, Watched, blank
from ..trace.machine import Machine
from .answers import Wrong
from .trying import NAMES, Case, Filling, Index, axis_case, follow

RUNG = "shared"
"""The kernel of the library to beat."""
WIDTH, GAP, LEFT = 12.4, 0.8, 0.3
"""Of the picture in squares, between two maps, and to the left of the first one."""
LETTERS = 66
"""Characters of a line of code that fit in the picture."""
GOOD, BAD = "#CFE8F7", "#F6C9A8"
"""Colours of what costs no more than it must, and of what is wasted or costs much more."""
MUCH = 1.75
"""Cost over the least possible above which a line is marked."""

Who = tuple[Index, Index]
"""Block and thread, x first."""


class Subject(NamedTuple):
    """What is drawn of the kernel of an exercise.

    Attributes
    ----------
    tiny : Case
        Traced and drawn.
    regular : ConvShape or None
        The same as a layer, for the regular way that multiplies added zeros; None if nothing can be added.
    large : Case
        With full warps; counted in the emulator.
    layer : ConvShape
        A layer of which `large` is one pair of channels, for the kernel to beat.
    operator : str
    names : three str
        What the arrays are called.
    at : tuple of int
        The result whose thread is watched.
    """

    tiny: Case
    regular: ConvShape | None
    large: Case
    layer: ConvShape
    operator: str
    names: tuple[str, str, str]
    at: Index


class Picture(NamedTuple):
    """The score in a line; a figure and its alternative text, or why there is none."""

    score: str
    figure: Figure | None
    alt: str


def on_one_axis(operator: str, tiny: Axis, large: Axis, at: int) -> Subject:
    """What is drawn of a kernel of one axis; the layer to compare with has 8 images and 32 channels."""
    case = axis_case(operator, large)
    full = case._replace(grid=-(-case.sizes[2][0] // 32), block=32)
    regular, layer = _row(tiny, 1, 1), _row(large, 8, 32)
    return Subject(axis_case(operator, tiny), regular, full, layer, operator, NAMES[operator], (at,))


def _row(axis: Axis, images: int, channels: int) -> ConvShape:
    size = dict(n=images, ih=1, iw=axis.size, ic=channels, oc=channels, fh=1, fw=axis.taps)
    return ConvShape(**size, stride=(1, axis.stride), padding=((0, 0), (axis.before, axis.after)))


def picture(subject: Subject, kernel: Any, at: Index | int | None = None) -> Picture:
    """Look at a right kernel.

    Parameters
    ----------
    subject : Subject
    kernel : function with ``@cuda.jit`` above it
    at : tuple of int, or int, optional
        The result whose thread is watched.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there is no result `at`.
    Wrong
        If the kernel has a fault in the launch with full warps.

    Examples
    --------
    >>> from numba import cuda
    >>> @cuda.jit
    ... def conv(x, w, y, stride, padding):
    ...     o = cuda.grid(1)
    ...     if o < y.size:
    ...         acc = y.dtype.type(0)
    ...         for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
    ...             acc += x[o * stride - padding + f] * w[f]
    ...         y[o] = acc
    >>> tiny, large = (Axis(size, taps=5, stride=1, before=2, after=2, dilation=1) for size in (6, 64))
    >>> picture(on_one_axis("conv2d", tiny, large, at=0), conv).score
    'Your kernel reads 2.00 numbers for each product. To beat: `shared`, which reads 0.25.'
    """
    at = _checked(subject, at)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(2, 99, size).astype(np.float32) for size in subject.large.sizes[:2])
    _, result = subject.large.launch(kernel, a, b)
    yours = reads(result) / sum(map(len, subject.large.terms.values()))
    best = reads_to_beat(subject.operator, subject.layer)
    beat = f"You beat `{RUNG}`, which reads" if yours < best else f"To beat: `{RUNG}`, which reads"
    score = f"Your kernel reads {yours:.2f} numbers for each product. {beat} {best:.2f}."
    seen = see(kernel, subject.tiny, subject.names)
    if seen is None:
        return Picture(score, None, f"The picture cannot follow your source. By line:\n{result.profile()}")
    drawing = _Drawing(kernel.py_func.__name__, subject, seen, at, result.costs, yours, best)
    return Picture(score, drawing.figure(), drawing.alt())


def _checked(subject: Subject, at: Any) -> Index:
    index: Index = subject.at if at is None else at if isinstance(at, tuple) else (at,)
    made = subject.tiny.sizes[2]
    known = len(index) == len(made) and all(isinstance(k, (int, np.integer)) for k in index)
    if not known or not all(0 <= k < size for k, size in zip(index, made, strict=True)):
        raise ValueError(f"at must be the index of one of the results, whose shape is {made}, got {at}")
    return index


# --- counted in the emulator ------------------------------------------------------------------------
def reads(result: Result) -> float:
    """Numbers of four bytes that all threads of a launch read from global memory."""
    return _moved(result, "read")


def writes(result: Result) -> float:
    """Numbers of four bytes that all threads of a launch write to global memory."""
    return _moved(result, "write")


def _moved(result: Result, action: str) -> float:
    found = (cost for cost in result.costs if (cost.site.space, cost.site.action) == ("global", action))
    return sum(cost.lanes * cost.site.bytes for cost in found) / 4


@cache
def reads_to_beat(operator: str, layer: ConvShape) -> float:
    """Numbers that the library's kernel reads for each useful product."""
    arrays = tuple(np.ones(size, np.float32) for _, size in layer.arrays(operator))
    launches = kernels.launches(operator, layer, arrays, rung=RUNG)  # type: ignore[arg-type]
    results = [check_kernel(launch.kernel, launch.grid, launch.block, *launch.args) for launch in launches]
    return sum(map(reads, results)) / flops.count(operator, layer).useful


# --- traced -----------------------------------------------------------------------------------------
@dataclass
class Notes(Log):
    """A log that also knows who read and wrote what, and numbers the threads that have written.

    What was written is told by its place in the whole array, in the order of the memory, also if it was a view.
    """

    reads: Counter[tuple[Who, Element]] = field(default_factory=Counter)
    writes: list[tuple[Who, int]] = field(default_factory=list)
    writers: list[Who] = field(default_factory=list)


class Spied(Watched):
    """An array that notes who reads an element, and who wrote it last."""

    notes: Notes

    def __init__(self, cells: Any, notes: Notes, writer: Any, places: Any) -> None:
        super().__init__(cells, np.float32, notes)
        self.notes, self.writer, self.places = notes, writer, places

    def __getitem__(self, index: Any) -> Any:
        found = self.cells[index]
        if isinstance(found, np.ndarray):
            return Spied(found, self.notes, self.writer[index], self.places[index])
        if found.element is not None:
            self.notes.reads[(self.notes.block, self.notes.thread), found.element] += 1
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self.notes.writers.append((self.notes.block, self.notes.thread))
        self.notes.writes += ((self.notes.writers[-1], int(place)) for place in np.ravel(self.places[index]))
        self.writer[index] = len(self.notes.writers) - 1


class Seen(NamedTuple):
    """What a traced launch did.

    Attributes
    ----------
    writers : dict
        Block and thread of each result.
    reads : Counter
        By block and thread, and the element.
    wasted, done : int arrays of the shape of the results
        Products that do not belong to a result, and all of it.
    lost : int
        Products that went into no result.
    """

    writers: dict[Index, Who]
    reads: Counter[tuple[Who, Element]]
    wasted: Any
    done: Any
    lost: int


def spy(kernel: Any, launch: Case | Filling, sizes: Iterable[Index], names: Iterable[str]) -> tuple[Notes, Spied]:
    """Follow the source of a right kernel: who reads and writes what, and the last array; `Wrong` if it cannot be done.

    Parameters
    ----------
    kernel : function with ``@cuda.jit`` above it
    launch : Case or Filling
        Its grid and block, and scalars if it has any.
    sizes, names : of the arrays that it takes
    """
    notes = Notes()
    arrays = [spied(size, name, notes) for size, name in zip(sizes, names, strict=True)]
    follow(Machine(notes), kernel, launch, (*arrays, *getattr(launch, "scalars", ())))
    return notes, arrays[-1]


def see(kernel: Any, case: Case, names: tuple[str, str, str]) -> Seen | None:
    """Trace a kernel; None where its source cannot be traced."""
    try:
        notes, out = spy(kernel, case, case.sizes, names)
    except Wrong:
        return None
    writers = {index: notes.writers[number] for index, number in np.ndenumerate(out.writer) if number >= 0}
    wasted, done = (np.zeros(out.shape, int) for _ in range(2))
    for index, number in np.ndenumerate(out.cells):
        places = [dict([event.first[:2], event.second[:2]]) for event in number.events]
        useful = {tuple(map(place.get, names[:2])) for place in places} & case.terms.get(index, frozenset())
        done[index] = len(places) + number.masked
        wasted[index] = done[index] - len(useful)
    if len(writers) < out.size:
        return None
    lost = len(notes.events) + notes.outside - int(done.sum())
    return Seen(writers, notes.reads, wasted, done, lost)


def spied(size: Index, name: str, notes: Notes) -> Spied:
    """An array of ones whose elements know the name of the array and their place."""
    places = np.arange(np.prod(size)).reshape(size)
    made = Spied(blank(size, np.float32, notes).cells, notes, np.full(size, -1), places)
    for index in np.ndindex(*size):
        made.cells[index] = Number(1.0, notes, Element(name, index, REAL))
    return made


# --- drawn ------------------------------------------------------------------------------------------
class _Map(NamedTuple):
    """An array as squares, each with a colour and a text."""

    title: str
    texts: Any
    colours: Any
    framed: list[tuple[int, int]]


@dataclass
class _Drawing:
    """The picture of a kernel, from top to bottom."""

    name: str
    subject: Subject
    seen: Seen
    at: Index
    costs: list[Cost]
    yours: float
    best: float

    def figure(self) -> Figure:
        parts = [
            (f"1  Who writes {self.subject.names[2]}", [self._written()], self._key()),
            ("2  How often the framed thread reads", self._operands(), ""),
            ("3  Wasted products of each result", self._products(), self._waste()),
        ]
        lines = self._lines()
        rows = sum(_height(maps, text) for _, maps, text in parts)
        fig, ax = plots.canvas(WIDTH, 4.4 + rows + 1.3 + 0.55 * len(lines) + 0.5 * len(self._units().splitlines()))
        self._draw_score(ax)
        top = 4.4
        for title, maps, text in parts:
            plots.write(ax, LEFT, top, title, 15, **_LEFT, weight="bold")
            _draw_maps(ax, maps, text, top + 0.4)
            top += _height(maps, text)
        self._draw_lines(ax, lines, top)
        return fig

    def _draw_score(self, ax: Any) -> None:
        plots.write(ax, LEFT, 0.6, f"Your kernel {self.name[:32]}", 16, **_LEFT, weight="bold")
        plots.write(ax, LEFT, 1.3, "Numbers read from global memory for each product:", 13, **_LEFT)
        longest = (WIDTH - 6) / max(self.yours, self.best)
        for top, name, value, shade in ((1.8, "yours", self.yours, plots.BLUE), (2.7, RUNG, self.best, "#8A8A8A")):
            ax.add_patch(Rectangle((LEFT + 2.3, top), value * longest, 0.7, facecolor=shade))
            plots.write(ax, LEFT, top + 0.38, name, 14, **_LEFT)
            text = f"{value:.2f}" + (", to beat" if name == RUNG and self.yours >= self.best else "")
            plots.write(ax, LEFT + 2.5 + value * longest, top + 0.38, text, 14, **_LEFT, weight="bold")

    def _written(self) -> _Map:
        texts, colours = (np.full(self.subject.tiny.sizes[2], "", object) for _ in range(2))
        for index, (block, thread) in self.seen.writers.items():
            texts[index] = f"b{_short(block, self.subject.tiny.grid)}\nt{_short(thread, self.subject.tiny.block)}"
            colours[index] = colour(_number(block, self.subject.tiny.grid))
        mine = [_place(index) for index, who in self.seen.writers.items() if who == self.seen.writers[self.at]]
        return _Map("", _flat(texts), _flat(colours), mine)

    def _key(self) -> str:
        spare = _count(self.subject.tiny.grid) * _count(self.subject.tiny.block) - len(set(self.seen.writers.values()))
        return f"b: block, t: thread in it.\n{spare or 'No'} spare thread{'s'[: spare != 1]}."

    def _operands(self) -> list[_Map]:
        maps = []
        for name, size in zip(self.subject.names[:2], self.subject.tiny.sizes[:2], strict=True):
            often = np.zeros(size, int)
            for (who, element), count in self.seen.reads.items():
                if who == self.seen.writers[self.at] and element.array == name:
                    often[element.place] += count
            texts = np.where(often > 0, often.astype(str).astype(object), "")
            maps.append(_Map(name, _flat(texts), _flat(np.where(often > 0, plots.BLUE, "#F2F2F2")), []))
        return maps

    def _products(self) -> list[_Map]:
        found = [("yours", self.seen.wasted, self.seen.done)]
        if self.subject.regular is not None:
            found.append(("regular way", *self._regular()))
        return [_waste_map(*one) for one in found]

    def _regular(self) -> tuple[Any, Any]:
        assert self.subject.regular is not None
        return plots.waste_map(trace.run(self.subject.operator, self.subject.regular, "with_zeros"))

    def _waste(self) -> str:
        lost = f", and {self.seen.lost} more in no result" if self.seen.lost else ""
        text = f"Yours: {self.seen.wasted.sum()} of {self.seen.done.sum()}{lost}."
        if self.subject.regular is None:
            return text
        wasted, done = self._regular()
        return f"{text} The regular way, with zeros: {wasted.sum()} of {done.sum()}."

    def _lines(self) -> list[tuple[str, Cost | None]]:
        """Lines of code, and below each of them its costs."""
        by_line: dict[str, list[Cost]] = {}
        for cost in sorted(self.costs, key=lambda cost: line_of(cost.site.instruction)):
            by_line.setdefault(quotes(cost.site.instruction)[0].split(":  ", 1)[-1], []).append(cost)
        lines: list[tuple[str, Cost | None]] = []
        for code, costs in by_line.items():
            lines += [(text, None) for text in textwrap.wrap(code, LETTERS, subsequent_indent="    ")]
            lines += [(str(cost), cost) for cost in costs]
        return lines

    def _draw_lines(self, ax: Any, lines: list[tuple[str, Cost | None]], top: float) -> None:
        plots.write(ax, LEFT, top, "4  What a warp of 32 threads pays, line by line", 15, **_LEFT, weight="bold")
        for k, (text, cost) in enumerate(lines):
            y = top + 0.9 + 0.55 * k
            if cost is None:
                plots.write(ax, LEFT, y, text, 12, **_LEFT, family="monospace", parse_math=False)
            else:
                shade = BAD if cost.times > MUCH else GOOD
                plots.write(ax, LEFT + 0.6, y, text, 12, **_LEFT, bbox=dict(facecolor=shade, edgecolor="none", pad=1.5))
        y = top + 0.9 + 0.55 * len(lines)
        plots.write(ax, LEFT, y, self._units(), 12, **_LEFT, va="top", linespacing=1.3)

    def _units(self) -> str:
        shared = any(cost.site.space == "shared" for cost in self.costs)
        turn = "Pass: a turn of shared memory.\n" if shared else ""
        return f"{turn}Sector: 32 bytes. Lane: a thread of the warp. Orange: over {MUCH}×."

    def alt(self) -> str:
        """What the picture says, in words."""
        blocks = len({block for block, _ in self.seen.writers.values()})
        sizes = " x ".join(map(str, self.subject.tiny.sizes[2]))
        result = f"{self.subject.names[2]}[{', '.join(map(str, self.at))}]"
        read = [f"{count} of {m.title}" for m in self._operands() if (count := int((m.texts != "").sum()))]
        return (
            f"{self.name}: {sizes} results, coloured by the {blocks} blocks that write them. The thread of {result} "
            f"reads elements: {', '.join(read)}. Wasted products: {self._waste()} "
            f"Numbers read for each product: {self.yours:.2f}; {RUNG} reads {self.best:.2f}. Below, costs by line."
        )


_LEFT: dict[str, Any] = dict(ha="left")


def _waste_map(title: str, wasted: Any, done: Any) -> _Map:
    texts = np.array([f"{w}\nof {d}" for w, d in zip(wasted.flat, done.flat, strict=True)], object)
    share = wasted / np.maximum(done, 1)
    colours = np.array([BAD if one > 0 else GOOD for one in share.flat], object)
    return _Map(title, _flat(texts.reshape(wasted.shape)), _flat(colours.reshape(wasted.shape)), [])


def _flat(array: Any) -> Any:
    """An array of one or two axes as rows and columns."""
    return array.reshape(1, -1) if array.ndim == 1 else array


def _place(index: Index) -> tuple[int, int]:
    return (0, index[0]) if len(index) == 1 else (index[0], index[1])


def _count(size: Any) -> int:
    return int(np.prod(size))


def _short(place: Index, size: Any) -> str:
    """A place in a grid or block: 3, or 1,0 where it has two axes."""
    axes = len(size) if isinstance(size, tuple) else 1
    return ",".join(map(str, place[:axes]))


def _number(place: Index, size: Any) -> int:
    sizes = size if isinstance(size, tuple) else (size,)
    return int(sum(at * _count(sizes[:axis]) for axis, at in enumerate(place[: len(sizes)])))


def _corners(maps: list[_Map]) -> list[tuple[float, float]]:
    """Left and top of each map: beside each other where they fit, or else below each other."""
    corners, left, top = [], LEFT, 0.0
    for number, one in enumerate(maps):
        rows, columns = one.texts.shape
        if number and left + columns > WIDTH - LEFT:
            left, top = LEFT, top + maps[number - 1].texts.shape[0] + 0.9
        corners.append((left, top + 0.7 * bool(one.title)))
        left += columns + GAP
    return corners


def _beside(maps: list[_Map], text: str) -> bool:
    """Whether a text has room to the right of a single map."""
    return bool(text) and len(maps) == 1 and maps[0].texts.shape[0] > 2 and maps[0].texts.shape[1] < 7


def _height(maps: list[_Map], text: str) -> float:
    """Of a title, its maps and a text."""
    lowest: float = max(top + one.texts.shape[0] for one, (_, top) in zip(maps, _corners(maps), strict=True))
    lines = 0 if _beside(maps, text) or not text else len(_below(text).splitlines())
    return lowest + 1.2 + 0.6 * lines


def _below(text: str) -> str:
    """A text in the lines that it takes below a map."""
    return textwrap.fill(text, 60)


def _draw_maps(ax: Any, maps: list[_Map], text: str, top: float) -> None:
    if _beside(maps, text):
        plots.write(ax, LEFT + maps[0].texts.shape[1] + GAP, top + 0.2, text, 13, **_LEFT, va="top", linespacing=1.5)
    elif text:
        y = top + _height(maps, "") - 0.8
        plots.write(ax, LEFT, y, _below(text), 13, **_LEFT, va="top", linespacing=1.3)
    for one, (left, below) in zip(maps, _corners(maps), strict=True):
        if one.title:
            plots.write(ax, left, top + below - 0.35, one.title, 14, **_LEFT)
        for (row, column), text in np.ndenumerate(one.texts):
            shade = one.colours[row, column] or "white"
            corner = left + column, top + below + row
            ax.add_patch(Rectangle(corner, 1, 1, facecolor=shade, edgecolor="#777777", linewidth=0.9))
            ink = "white" if shade == plots.BLUE else plots.INK
            plots.write(ax, corner[0] + 0.5, corner[1] + 0.5, str(text), 12, color=ink, linespacing=1.0)
        if one.framed:
            plots.frame(ax, one.framed, left, top + below)
