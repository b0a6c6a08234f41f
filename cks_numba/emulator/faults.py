"""What a checked run has found, and its faults in words."""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from .ptx import Instruction, Kernel
from .runtime import COPY

Place = tuple[str, int]
"""A file and a line of it."""
Triple = tuple[int, int, int]


class Site(NamedTuple):
    """One instruction that touches memory or waits."""

    instruction: Instruction
    space: str  # "global", "shared", "local", "generic", or "" for one that waits
    action: str  # "read", "write", "atomic", "barrier" or "warp"
    bytes: int  # of the access of one lane


class Finding(NamedTuple):
    """A fault as the run counts it. Numbers of blocks and threads are linear, x fastest, and of one example."""

    kind: str
    site: Site | None  # of a race the later access
    other: Site | None
    block: int
    thread: int
    other_block: int
    other_thread: int
    address: int  # in bytes from the beginning of the array
    size: int  # in bytes, or how many are missing at a barrier or warp operation
    array: int  # in `Run.arrays`, or -1
    count: int  # type: ignore[assignment]


class ArrayInfo(NamedTuple):
    """An argument, or an array in shared or local memory."""

    name: str
    space: str
    bytes: int
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Fault(NamedTuple):
    """A fault in words."""

    kind: str  # a key of `SAID`, or "race"
    text: str  # several lines; the first says what is wrong
    block: Triple  # an example of who did it, x first; of a race, one of the two
    thread: Triple
    source: Place | None
    count: int  # type: ignore[assignment]
    other: Place | None = None  # the second line of a race or of two barriers

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False, repr=False)
class Run:
    """What a checked run has found and counted."""

    name: str  # of the kernel
    grid: Triple
    block: Triple
    findings: list[Finding]
    sites: list[Site]
    arrays: list[ArrayInfo]
    counts: np.ndarray[Any, Any]  # of each site: accesses of a warp, lanes, sectors or passes, the least, the most
    printed: list[str] = field(default_factory=list)  # by the kernel
    seconds: float = 0.0
    ptx: str = ""  # as it ran, with marks for the checks
    kernel: Kernel | None = None
    dynamic: int = 0  # bytes of dynamic shared memory
    accesses: int = 0  # of global and shared memory, by all threads
    barriers: int = 0  # times that a block passed a barrier, summed over the blocks
    gpu_ptx: Callable[[], str] | None = None  # compiles what a GPU would get

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "gpu_ptx": None}  # kernels cannot be pickled everywhere

    @cached_property
    def faults(self) -> list[Fault]:
        """All faults, in words; empty if the run was clean."""
        return list(_faults(self))

    @property
    def launch(self) -> str:
        return f"{self.name}[{_cut(self.grid, self.grid)}, {_cut(self.block, self.block)}]"

    def who(self, block: int, thread: int) -> str:
        if thread == COPY:
            return f"an asynchronous copy of block {self.numbered(block)}"
        return f"thread {_cut(_triple(thread, self.block), self.block)} of block {self.numbered(block)}"

    def numbered(self, block: int) -> str:
        return _cut(_triple(block, self.grid), self.grid)


def _cut(numbers: Triple, sizes: Triple) -> str:
    """Numbers as one writes them in a grid or block of these sizes: `3` or `(31, 0)`."""
    used = max((axis + 1 for axis in range(3) if sizes[axis] > 1), default=1)
    return f"({', '.join(map(str, numbers[:used]))})" if used > 1 else str(numbers[0])


def _triple(number: int, sizes: Triple) -> Triple:
    return number % sizes[0], number // sizes[0] % sizes[1], number // (sizes[0] * sizes[1])


# ---- source lines
def line_of(one: Instruction) -> Place:
    """Innermost source line, or the line of the PTX where there is none."""
    return next(iter(one.source), ("", one.line))


def short(file: str) -> str:
    return "notebook cell" if "ipykernel_" in file else re.split(r"[\\/]", file)[-1]


def quotes(one: Instruction) -> list[str]:
    """The source line and those that it was called from, or the instruction where Python's line is not known."""
    for file, _ in one.source:
        linecache.checkcache(file)
    lines = [f"{short(file)}:{line}:  {linecache.getline(file, line).strip()}".rstrip() for file, line in one.source]
    return [*lines[:1], *(f"called from {line}" for line in lines[1:])] or [f"PTX line {one.line}:  {one.text}"]


def _at(who: str, site: Site | None) -> list[str]:
    return [f"  {who}", *(f"    {quote}" for quote in (quotes(site.instruction) if site else []))]


# ---- elements of arrays
def _indices(array: ArrayInfo, address: int) -> tuple[list[int], int]:
    """The index of an element at an address, or what it would be outside, and the bytes from there on."""
    steps = [abs(stride) for stride in array.strides]
    ends = [size - 1 if stride < 0 else 0 for size, stride in zip(array.shape, array.strides, strict=True)]
    address += sum(end * step for end, step in zip(ends, steps, strict=True))
    index = [0] * len(steps)
    for axis in sorted(range(len(steps)), key=lambda axis: -steps[axis]):
        if steps[axis]:
            index[axis], address = divmod(address, steps[axis])
    return [end - i if stride < 0 else i for end, i, stride in zip(ends, index, array.strides, strict=True)], address


def _element(array: ArrayInfo, one: Finding) -> str:
    """`x[4, 0]` of an argument, `element 3 of the shared array`, or the byte where no element begins."""
    first, rest = _indices(array, one.address)
    last, _ = _indices(array, one.address + max(one.size, 1) - 1)
    if " " in array.name:  # not a name in Python
        noun = "byte" if array.itemsize == 1 else "element"
        return f"{noun}{f's {first[0]} to {last[0]}' if last > first else f' {first[0]}'} of {array.name}"
    text, end = (f"{array.name}{index or ''}" for index in (first, last))
    return f"byte {rest} of {text}" if rest else text if last == first else f"{text} to {end}"


def _beyond(array: ArrayInfo, one: Finding) -> str:
    """An access outside of an array, and how large the array is."""
    far = max(-one.address, one.address + one.size - array.bytes)
    if far > 16 * array.bytes + 2**20:
        return f"memory {far} bytes away from {array.name}, the nearest array"
    noun = "byte" if array.itemsize == 1 and " " in array.name else "element"
    count = array.bytes // max(array.itemsize, 1)
    has = f"shape {array.shape}" if len(array.shape) > 1 else f"{count} {noun}{'s'[: count != 1]}"
    return f"{_element(array, one)}, but {'it' if ' ' in array.name else array.name} has {has}"


# ---- words
VERBS = {"read": "reads", "write": "writes", "atomic": "updates"}
SAID = {  # what is wrong; what the thread does; what the other thread does; a hint
    "out of bounds": ("{verb} {beyond}", ", in", "", ""),
    "misaligned": ("a {size}-byte {action} at byte {address} of {name}, {which} no multiple of {size}", ", in", "", ""),
    "negative index": (
        "the index {address} counts from the end, as in Python", ", in", "", "is a test for the border missing?",
    ),
    "uninitialised": (
        "reads {element}, which {nobody} written", ", in", "", "is a part of it never filled, or only later?",
    ),
    "divergent barrier": (
        "threads of block {block} wait at different barriers", " waits at", " waits at",
        "all threads of a block must come to the same cuda.syncthreads(): does it stand in an if?",
    ),
    "missing threads": (
        "{size} of the {threads} threads of block {block} never reach a barrier: they have returned", " waits at",
        " has returned", "all must come to cuda.syncthreads(): put the work into an if, and return after the barrier",
    ),
    "missing lanes": (
        "{lanes} named in the mask of a warp operation, but not there", " waits at", " is not there",
        "the mask must name just the threads that come here: does it stand in an if, or after a return?",
    ),
    "endless loop": ("a loop does not end", " is still in", "", ""),
    "never written": (
        "{count} of the {elements} elements of {name}, the first is {element}", "", "",
        "are there too few threads, or does a test leave some out?",
    ),
    "assertion": ("{raised}", ", in", "", ""),
}  # fmt: skip


def _say(run: Run, one: Finding) -> list[str]:
    """The lines on a fault that is no race."""
    first, does, other, hint = SAID[one.kind]
    action, space, text = (one.site.action, one.site.space, one.site.instruction.text) if one.site else ("", "", "")
    array = run.arrays[one.array] if one.array >= 0 else ArrayInfo(f"{space} memory".strip(), space, 0, 1, (0,), (1,))
    words = first.format(
        verb=VERBS.get(action), action=action, name=array.name, address=one.address, size=one.size, count=one.count,
        element=_element(array, one), elements=array.bytes // max(array.itemsize, 1), threads=math.prod(run.block),
        beyond=_beyond(array, one) if one.array >= 0 else f"{one.size} bytes that are of no array",
        which="which is" if one.address % max(one.size, 1) else "whose own address is",
        raised=unquote(text.replace("raise ", "raises ", 1)) if text[:6] == "raise " else "an assertion failed",
        nobody="this thread has not" if "local" in (array.space, space) else "nobody has",
        block=run.numbered(one.block), lanes="one lane is" if one.size == 1 else f"{one.size} lanes are",
    )  # fmt: skip
    lines = _at(run.who(one.block, one.thread) + does, one.site) if does else []
    if other and one.other_thread not in (one.thread, -1):
        lines += _at(run.who(one.block, one.other_thread) + other, one.other)
    return [words, *lines, *([f"  {hint}"] if hint else [])]


# ---- races
def _race(run: Run, group: list[Finding], races: list[Finding]) -> list[str]:
    """The lines on a race, in the order of the program; `races` are all on the same array."""
    one = group[0]
    both = ((one.site, one.block, one.thread), (one.other, one.other_block, one.other_thread))
    sides = [(site, run.who(block, thread)) for site, block, thread in both if site]
    sides.sort(key=lambda side: (line_of(side[0].instruction), side[0].instruction.line))
    what, first, last = _element(run.arrays[one.array], one), VERBS[sides[0][0].action], VERBS[sides[-1][0].action]
    how = f"two threads {first[:-1]} {what}" if first == last else f"one thread {first} {what}, another {last} it"
    quoted = [line for site, who in sides for line in _at(f"{who} {VERBS[site.action]} it in", site)]
    return [f"{how}, and nothing says which comes first", *quoted, f"  {_hint(run, group, races)}"]


def _hint(run: Run, group: list[Finding], races: list[Finding]) -> str:
    """What would order the accesses of a race."""
    if any(COPY in (one.thread, one.other_thread) for one in group):
        return "the copy may still be under way: wait for it before the barrier, by cp.async.wait_group or wait_all"
    alone = len(set().union(*map(_lines, races))) == 1
    pairs = {tuple(sorted(site.action for site in (one.site, one.other) if site)) for one in group}
    if alone and {("read", "write"), ("write", "write")} <= pairs:
        return "other threads come between its reading and its writing: a case for cuda.atomic?"
    if pairs == {("write", "write")} and (alone or run.arrays[group[0].array].space == "global"):
        return "which value stays is chance: should each thread write elements of its own?"
    if any(one.block != one.other_block for one in races):
        return "blocks run in any order, and no barrier waits for all of them: cuda.atomic, or a second launch?"
    warps = any(one.thread // 32 != one.other_thread // 32 for one in races)
    return f"cuda.{'syncthreads' if warps else 'syncwarp'}() {_where(run, group[0])}?"


def _where(run: Run, one: Finding) -> str:
    """Where a barrier is missing: on a way from one access to the other that has none."""
    ends = sorted((line_of(site.instruction), site.action) for site in (one.site, one.other) if site)
    (upper, does), (lower, then) = ends[0], ends[-1]
    first, last = (
        {site.instruction.line for site in run.sites if (line_of(site.instruction), site.action) == end}
        for end in (ends[0], ends[-1])
    )
    filled = (does, then) == ("write", "read") and run.kernel and _leads(run.kernel, first, last, False)
    if run.kernel and not filled and _leads(run.kernel, last, first, True):  # by a jump back
        return "at the end of the loop"
    return "between the two lines" if upper != lower else "between reading and writing"


def _leads(kernel: Kernel, first: set[int], last: set[int], back: bool) -> bool:
    """Whether one of the first PTX lines leads to one of the last without a barrier; also through a jump back."""
    follow, body = kernel.followers(), kernel.body
    todo = [at for at, one in enumerate(body) if one.line in first]
    seen: set[int] = set()
    while todo:
        at = todo.pop()
        ways = {to for to in follow[at] if (back or to > at) and to < len(body)} - seen
        seen |= ways
        if any(body[to].line in last for to in ways):
            return True
        todo += [to for to in ways if body[to].op[:1] not in (("bar",), ("barrier",))]
    return False


# ---- all faults
def _lines(one: Finding) -> frozenset[Place]:
    return frozenset(line_of(site.instruction) for site in (one.site, one.other) if site)


def _faults(run: Run) -> Iterator[Fault]:
    """Merge findings by kind, array and lines, and leave out what follows from another one."""
    groups: dict[tuple[str, int, frozenset[Place]], list[Finding]] = {}
    for one in run.findings:
        groups.setdefault((one.kind, one.array, _lines(one)), []).append(one)
    barriers = [key for key in groups if key[0] in ("divergent barrier", "missing threads")]
    for key, group in groups.items():
        races = [one for one in run.findings if (one.kind, one.array) == ("race", key[1])]
        early = key[0] == "uninitialised" and any(key[2] <= _lines(race) for race in races)
        ended = key[0] == "never written" and any(one.kind == "endless loop" for one in run.findings)
        if not early and not ended and key not in barriers[1:]:  # after the first of these, threads are out of step
            yield _fault(run, group, _race(run, group, races) if key[0] == "race" else _say(run, group[0]))


def _fault(run: Run, group: list[Finding], text: list[str]) -> Fault:
    one, count = group[0], sum(one.count for one in group)
    often = f" ({count} times)" if count > 1 and one.kind != "never written" else ""
    source, other = (next(iter(site.instruction.source), None) if site else None for site in (one.site, one.other))
    whole = "\n".join([f"{one.kind}: {text[0]}{often}", *text[1:]])
    return Fault(one.kind, whole, _triple(one.block, run.grid), _triple(one.thread, run.block), source, count, other)
