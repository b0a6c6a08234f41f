"""What a checked run found, in words: faults, the cost of accesses, annotated source, and what is right but slow."""

from __future__ import annotations

import ast
import linecache
import math
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from html import escape
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from .layout import COPY

if TYPE_CHECKING:
    from .ptx import Instruction, Kernel

Place = tuple[str, int]
"""A file and a line of it."""
Triple = tuple[int, int, int]


class Site(NamedTuple):
    """One instruction that touches memory or waits.

    `space` is "global", "shared", "local", "generic" or ""; `action` "read", "write", "atomic", "barrier" or "warp";
    `bytes` those of the access of one lane.
    """

    instruction: Instruction
    space: str
    action: str
    bytes: int


class Finding(NamedTuple):
    """A fault as the run counts it: `count` times at the same `site` (of a race the later access) and `other` site.

    Numbers of blocks and threads are of the first time and linear, x fastest. `address` is in bytes from the beginning
    of the array; `size` in bytes, or how many are missing at a barrier or warp operation; `array` an index or -1.
    """

    kind: str
    site: Site | None
    other: Site | None
    block: int
    thread: int
    other_block: int
    other_thread: int
    address: int
    size: int
    array: int
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
    """A fault in words.

    Attributes
    ----------
    kind : str
        A key of `SAID`, or "race".
    text : str
        Several lines. The first says what is wrong.
    block, thread : tuple of 3 int
        Who did it first, x first; of a race, one of the two.
    source, other : (str, int) or None
        File and line; `other` is the second one of a race or of two barriers.
    count : int
        How often.
    """

    kind: str
    text: str
    block: Triple
    thread: Triple
    source: Place | None
    count: int  # type: ignore[assignment]
    other: Place | None = None

    def __str__(self) -> str:
        return self.text


class Cost(NamedTuple):
    """What all accesses of one kind at one source line cost: units are sectors of 32 bytes, or passes if shared."""

    site: Site
    warps: int
    lanes: int
    units: int
    least: int
    worst: int

    @property
    def times(self) -> float:
        """Cost over the least possible."""
        return self.units / self.least if self.least else 1.0

    @property
    def wasteful(self) -> bool:
        return self.times > 1.01

    @property
    def words(self) -> str:
        unit = "passes" if self.site.space == "shared" else "sectors"
        best = f"{self.least / self.warps:.1f} would do" if self.wasteful else "the least possible"
        return f"{self.site.space} {self.site.action}: {self.units / self.warps:.1f} {unit} a warp, {best}"


@dataclass(eq=False, repr=False)
class Result:
    """What a checked run found. It prints as a report; a notebook shows the annotated source.

    Attributes
    ----------
    name : str
        Of the kernel.
    grid, block : tuple of 3 int
    findings, sites, arrays : list
    counts : int64 array (sites, 5)
        Accesses of a warp, lanes, sectors or passes, the least possible of them, the most for one access.
    printed : list of str
        What the kernel printed.
    seconds : float
    ptx : str
    kernel : Kernel
    dynamic : int
        Bytes of dynamic shared memory.
    faults : list of Fault
        Empty if the run was clean.

    Examples
    --------
    >>> print(Result("copy", (2, 1, 1), (64, 1, 1), [], [], [], np.zeros((0, 5), int)))
    no fault found in copy[2, 64]
    """

    name: str
    grid: Triple
    block: Triple
    findings: list[Finding]
    sites: list[Site]
    arrays: list[ArrayInfo]
    counts: np.ndarray[Any, Any]
    printed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ptx: str = ""
    kernel: Kernel | None = None
    dynamic: int = 0

    @property
    def launch(self) -> str:
        return f"{self.name}[{_cut(self.grid, self.grid)}, {_cut(self.block, self.block)}]"

    @property
    def title(self) -> str:
        count = len(self.faults)
        return f"{count} fault{'s'[: count > 1]} in {self.launch}" if count else f"no fault found in {self.launch}"

    @cached_property
    def faults(self) -> list[Fault]:
        return list(_faults(self))

    def __str__(self) -> str:
        costs = self.costs()
        lines = len({_line(cost.site) for cost in costs})
        checked = f"\nchecked: {sum(cost.lanes for cost in costs)} accesses, at {lines} source line{'s'[: lines > 1]}"
        clean = self.title + checked if costs else self.title
        return "\n\n".join([self.title, *(fault.text for fault in self.faults)]) if self.faults else clean

    __repr__ = __str__

    def costs(self) -> list[Cost]:
        """Add up the counts by source line, memory, and reading or writing; the most wasteful come first."""
        found: dict[tuple[Place, str, str], Cost] = {}
        for site, (warps, lanes, units, least, worst) in zip(self.sites, self.counts.tolist(), strict=True):
            key = _line(site), site.space, site.action
            old = found.get(key, Cost(site, 0, 0, 0, 0, 0))
            sums = old.warps + warps, old.lanes + lanes, old.units + units, old.least + least
            found[key] = Cost(old.site, *sums, max(old.worst, worst))
        counted = (cost for cost in found.values() if cost.warps and cost.site.action in VERBS)
        return sorted(counted, key=lambda cost: (cost.least - cost.units, -cost.units))

    def profile(self) -> str:
        """Return a table of what the accesses of a warp cost on average, line by line, the most wasteful first.

        Global memory moves in sectors of 32 bytes. Shared memory serves a warp in one pass, or in several where lanes
        need different words of one bank. Of the 32 lanes of a warp, `lanes` took part.
        """
        lines = [f"what an access of a warp costs in {self.launch}, the most wasteful first"]
        lines += [" times   cost  least   most           warps  lanes  access          line"]
        for cost in self.costs():
            site, unit = cost.site, "passes" if cost.site.space == "shared" else "sectors"
            mean, least, lanes = (part / cost.warps for part in (cost.units, cost.least, cost.lanes))
            numbers = f"{cost.times:5.1f}x {mean:6.1f} {least:6.1f} {cost.worst:6} {unit:7} {cost.warps:7} {lanes:6.1f}"
            lines.append(f"{numbers}  {f'{site.space} {site.action}':14}  {_quotes(site.instruction)[0]}")
        return "\n".join(lines) if len(lines) > 2 else f"no access of memory was counted in {self.launch}"

    def lint(self) -> str:
        """Return what is right but slow, each with its line, or "nothing to say".

        float64 instructions where no array is float64; integer division in loops; local memory; accesses that cost
        more than they must. With ptxas, from the package nvidia-cuda-nvcc: registers, spills, occupancy.
        """
        said, shared = [], self.dynamic
        if self.kernel:
            said = [*_float64(self.kernel.body), *_division(self.kernel.body), *_local(self.kernel, self.sites)]
            shared += self.kernel.shared_bytes
        said = [*said, *_waste(self.costs())] or ["nothing to say"]
        return "\n\n".join([*said, *_machine(self.ptx, math.prod(self.block), shared)])

    def html(self) -> str:
        """Return the annotated source as a page that stands alone: faults and costs beside each line."""
        head = f"<title>{escape(self.title)}</title><style>:root{{color-scheme:light dark}}</style>"
        return f'<!doctype html><html lang="en"><meta charset="utf-8">{head}{self._repr_html_()}</html>'

    def _repr_html_(self) -> str:
        faults = "".join(f'<pre class="fault">{escape(fault.text)}</pre>' for fault in self.faults)
        tables = "".join(_tables(self))
        return f'<div class="emulated"><style>{STYLE}</style><h3>{escape(self.title)}</h3>{faults}{KEY}{tables}</div>'


class KernelFault(RuntimeError):
    """A kernel did something wrong. `result` holds all of it; the message is its report."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        return str(self.result)


# ---- who, where, what


def _cut(numbers: Triple, sizes: Triple) -> str:
    """Numbers as one writes them in a grid or block of these sizes: `3` or `(31, 0)`."""
    used = max((axis + 1 for axis in range(3) if sizes[axis] > 1), default=1)
    return f"({', '.join(map(str, numbers[:used]))})" if used > 1 else str(numbers[0])


def _triple(number: int, sizes: Triple) -> Triple:
    return number % sizes[0], number // sizes[0] % sizes[1], number // (sizes[0] * sizes[1])


def _who(result: Result, block: int, thread: int) -> str:
    if thread == COPY:
        return f"an asynchronous copy of block {_cut(_triple(block, result.grid), result.grid)}"
    first, second = _triple(thread, result.block), _triple(block, result.grid)
    return f"thread {_cut(first, result.block)} of block {_cut(second, result.grid)}"


def _line(site: Site) -> Place:
    """Innermost source line, or the line of the PTX where there is none."""
    return next(iter(site.instruction.source), ("", site.instruction.line))


def _name(file: str) -> str:
    return "notebook cell" if "ipykernel_" in file else re.split(r"[\\/]", file)[-1]


def _quotes(one: Instruction) -> list[str]:
    """The source line and those that it was called from, or the instruction where Python's line is not known."""
    for file, _ in one.source:
        linecache.checkcache(file)
    lines = [f"{_name(file)}:{line}:  {linecache.getline(file, line).strip()}".rstrip() for file, line in one.source]
    return [*lines[:1], *(f"called from {line}" for line in lines[1:])] or [f"PTX line {one.line}:  {one.text}"]


def _at(who: str, site: Site | None) -> list[str]:
    return [f"  {who}", *(f"    {quote}" for quote in (_quotes(site.instruction) if site else []))]


def _array(result: Result, one: Finding) -> ArrayInfo:
    space = one.site.space if one.site else ""
    return result.arrays[one.array] if one.array >= 0 else ArrayInfo(f"{space} memory".strip(), space, 0, 0, (), ())


def _packed(array: ArrayInfo) -> bool:
    """Whether elements lie one after the other, so that they can be counted."""
    steps = [array.itemsize * math.prod(array.shape[axis + 1 :]) for axis in range(len(array.shape))]
    pairs = zip(array.shape, array.strides, steps, strict=True)
    return array.itemsize > 0 and all(size == 1 or stride == step for size, stride, step in pairs)


def _number(array: ArrayInfo, address: int, size: int) -> str:
    """`element 3 of x`, or its byte where elements cannot be counted."""
    if not _packed(array) or address % array.itemsize:
        return f"byte {address} of {array.name}"
    first, last = address // array.itemsize, (address + max(size, 1) - 1) // array.itemsize
    return f"elements {first} to {last} of {array.name}" if last > first else f"element {first} of {array.name}"


def _index(array: ArrayInfo, address: int) -> str:
    """`x[4, 0]` for an array of several dimensions, or "" where the strides do not tell."""
    index = [0] * len(array.shape)
    for axis in sorted(range(len(index)), key=lambda axis: -array.strides[axis]):
        if array.strides[axis] <= 0:
            return ""
        index[axis], address = divmod(address, array.strides[axis])
    return f"{array.name}[{', '.join(map(str, index))}]" if len(index) > 1 and not address else ""


def _beyond(array: ArrayInfo, address: int, size: int) -> str:
    """An access outside of an array, and how far outside."""
    unit, units = (array.itemsize, "elements") if _packed(array) else (1, "bytes")
    before, past = -address, address + size - array.bytes
    if max(before, past) > 16 * array.bytes + 2**20:
        return f"memory {max(before, past)} bytes away from {array.name}, the nearest array"
    index = _index(array, address)
    said = f"{_number(array, address, size)}, which has {array.bytes // unit} {units}"
    said += f": {index} of shape {array.shape}" if index else ""
    far = f", {-(-before // unit)} before the first" if before > 0 else ""
    return said + (f", {-(-past // unit)} past the last" if past > unit else far)


# ---- faults in words

VERBS = {"read": "reads", "write": "writes", "atomic": "updates"}
DONE = {"read": "read", "write": "written", "atomic": "updated"}
SAID = {  # what is wrong; what the thread does; what the other thread does; a hint
    "out of bounds": ("{verb} {beyond}", ", in", "", ""),
    "misaligned": ("a {size}-byte {action} at byte {address} of {name}, {which} no multiple of {size}", ", in", "", ""),
    "negative index": (
        "{negative} of {name} counted from the end", ", in", "",
        "index -1 is the last element, as in Python; is a test of the border missing?",
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
        "{size} of the lanes that the mask of a warp operation names do not come", " waits at", " does not come",
        "the mask must name just the lanes that come here: does it stand in an if, or after a return?",
    ),
    "endless loop": ("a loop does not end", " is still in", "", ""),
    "never written": ("{count} of the {elements} elements of {name}, the first is {element}", "", "", ""),
    "assertion": ("{raised}", ", in", "", ""),
}  # fmt: skip


def _say(result: Result, group: list[Finding]) -> list[str]:
    """The lines on a fault that is no race."""
    one = group[0]
    first, does, other, hint = SAID[one.kind]
    array, action = _array(result, one), one.site.action if one.site else ""
    element = _index(array, one.address) or _number(array, one.address, one.size)
    index = one.address // max(array.itemsize, 1) - (array.shape[0] if array.shape and one.address >= 0 else 0)
    local = "local" in (array.space, one.site.space if one.site else "")
    facts = dict(
        verb=VERBS.get(action, ""), action=action, name=array.name, address=one.address, size=one.size, count=one.count,
        element=element, elements=array.bytes // max(array.itemsize, 1), threads=math.prod(result.block),
        beyond=_beyond(array, one.address, one.size) if one.array >= 0 else f"{one.size} bytes that are of no array",
        which="which is" if one.address % max(one.size, 1) else "whose own address is",
        block=_cut(_triple(one.block, result.grid), result.grid),
        nobody="this thread has not" if local else "nobody has", raised=_raised(one.site),
        negative=f"the index {index}" if len(array.shape) == 1 else "a negative index",
    )  # fmt: skip
    lines = _at(_who(result, one.block, one.thread) + does, one.site) if does else []
    if other and one.other_thread >= 0:
        lines += _at(_who(result, one.block, one.other_thread) + other, one.other)
    return [first.format(**facts), *lines, *([f"  {hint}"] if hint else [])]


def _raised(site: Site | None) -> str:
    """What a note in the PTX says of an exception."""
    text = site.instruction.text if site else ""
    if not text.startswith("raise "):
        return "an assertion failed, or an exception was raised"
    return f"raises {unquote(text[6:])}"


def _race(result: Result, group: list[Finding]) -> list[str]:
    """The lines on a race. Nothing orders the two, so they come in the order of the program."""
    one = group[0]
    array = _array(result, one)
    both = ((one.site, one.block, one.thread), (one.other, one.other_block, one.other_thread))
    sides = [(site, _who(result, block, thread)) for site, block, thread in both if site]
    sides.sort(key=lambda side: side[0].instruction.line)
    done = [DONE[site.action] for site, _ in sides]
    how = f"{done[0]} by two threads" if done[0] == done[-1] else f"{done[0]} by one thread, {done[-1]} by another"
    lines = [f"{_index(array, one.address) or _number(array, one.address, one.size)} is {how}, in no certain order"]
    for site, who in sides:
        lines += _at(f"{who} {VERBS[site.action]} it in", site)
    return [*lines, f"  {_hint(group)}"]


def _hint(group: list[Finding]) -> str:
    """What would order the accesses of a race."""
    if any(COPY in (one.thread, one.other_thread) for one in group):
        return "the copy may still be under way: wait for it before the barrier, by cp.async.wait_group or wait_all"
    lines = {_line(site) for one in group for site in (one.site, one.other) if site}
    pairs = {tuple(sorted(site.action for site in (one.site, one.other) if site)) for one in group}
    if len(lines) == 1 and ({("read", "write"), ("write", "write")} <= pairs or _adds(linecache.getline(*min(lines)))):
        return "it reads, computes and writes, and another thread comes in between: cuda.atomic.add?"
    if len(lines) == 1 and pairs == {("write", "write")}:
        return "whose value stays is chance: should only one thread write, or each its own element?"
    if any(one.block != one.other_block for one in group):
        return "blocks run in any order, and no barrier is for all of them: cuda.atomic, or a second launch?"
    where = "between them" if len(lines) > 1 else "between its read and its write, or, in a loop, behind the line"
    if any(one.thread // 32 != one.other_thread // 32 for one in group):
        return f"cuda.syncthreads() {where}?"
    return f"cuda.syncwarp() {where}? (cuda.syncthreads() if other warps take part)"


def _adds(source: str) -> bool:
    """Whether a line updates one element in place, as ``out[i] += x`` does; ``s[i] += s[j]`` also reads another."""
    found = re.search(r"(\w+)\[[^=]*\]\s*(?:[-+*/|&^]|//|<<|>>)=(.*)", source)
    return found is not None and not re.search(rf"\b{found[1]}\[", found[2])


def _faults(result: Result) -> Iterator[Fault]:
    """Merge findings by kind, array and lines. Reads that came too early are told with the race that explains them."""
    groups: dict[tuple[str, int, frozenset[Place]], list[Finding]] = {}
    for one in result.findings:
        key = one.kind, one.array, frozenset(_line(site) for site in (one.site, one.other) if site)
        groups.setdefault(key, []).append(one)
    for (kind, array, lines), group in groups.items():
        races = [key[2] for key in groups if key[:2] == ("race", array)]
        if kind == "uninitialised" and any(lines <= race for race in races):
            continue
        early = [key for key in groups if kind == "race" and key[:2] == ("uninitialised", array) and key[2] <= lines]
        count = sum(one.count for key in early for one in groups[key])
        first, *below = (_race if kind == "race" else _say)(result, group)
        below += [f"  in this run {count} reads came before anything was written"] if count else []
        yield _fault(result, group, first, below)


def _fault(result: Result, group: list[Finding], first: str, below: list[str]) -> Fault:
    one, count = group[0], sum(one.count for one in group)
    often = f" ({count} times)" if count > 1 and one.kind != "never written" else ""
    places = [next(iter(site.instruction.source), None) if site else None for site in (one.site, one.other)]
    block, thread = _triple(one.block, result.grid), _triple(one.thread, result.block)
    text = "\n".join([f"{one.kind}: {first}{often}", *below])
    return Fault(one.kind, text, block, thread, places[0], count, places[1])


# ---- what is right but slow


def _by_line(instructions: Iterable[Instruction]) -> list[tuple[str, list[Instruction]]]:
    """The quoted line and the instructions of each source line, the line with most of them first."""
    found: dict[Place, list[Instruction]] = {}
    for one in instructions:
        found.setdefault(next(iter(one.source), ("", one.line)), []).append(one)
    groups = sorted(found.values(), key=len, reverse=True)
    return [("".join(f"\n  {quote}" for quote in _quotes(group[0])), group) for group in groups]


def _float64(body: list[Instruction]) -> Iterator[str]:
    """Lines that compute in float64 though no array is float64, and the likely cause."""
    memory = [one for one in body if one.op and one.op[0] in ("ld", "st", "atom", "red")]
    wide = [one for one in memory if "f64" in one.op or "%fd" in "".join(one.args)]
    if any("param" not in one.op and "local" not in one.op for one in wide):
        return
    for line, group in _by_line(one for one in body if "f64" in one.op and one.op[0] not in ("ld", "st", "mov")):
        texts = {arg for one in group for arg in one.args if re.fullmatch("0[dD][0-9a-fA-F]{16}", arg)}
        values = sorted(struct.unpack(">d", bytes.fromhex(text[2:]))[0] for text in texts)
        cause = ""
        if values:
            cause = f"\n  {', '.join(map(repr, values[:3]))} is float64 in Python: write float32({values[0]!r})"
        elif wide:
            cause = "\n  is an argument a Python float, which is float64? np.float32(...) is not"
        elif any(one.op[0] == "cvt" and one.op[-1][0] in "su" for one in group):
            cause = "\n  a whole number that is divided or meets a float becomes float64: float32(...) around it"
        many = f"{len(group)} float64 instructions" if len(group) > 1 else "a float64 instruction"
        yield f"{many}, though no array is float64: most GPUs do 1/32 or 1/64 as many of them{line}{cause}"


def _division(body: list[Instruction]) -> Iterator[str]:
    """Lines that divide whole numbers between a label and a later branch back to it."""
    labels = {one.label: number for number, one in enumerate(body) if one.label}
    ends = ((labels.get(one.args[-1], len(body)), at) for at, one in enumerate(body) if one.op[:1] == ("bra",))
    inside = {number for start, end in ends for number in range(start, end)}
    divisions = (
        body[at] for at in sorted(inside) if body[at].op[:1] in (("div",), ("rem",)) and body[at].op[-1][0] in "su"
    )
    for line, _ in _by_line(divisions):
        what = "integer division or remainder in a loop: tens of instructions each time"
        yield f"{what}{line}\n  can a counter take its place?"


def _local(kernel: Kernel, sites: list[Site]) -> Iterator[str]:
    if kernel.local_bytes:
        lines = "".join(line for line, _ in _by_line(site.instruction for site in sites if site.space == "local")[:3])
        what = f"{kernel.local_bytes} bytes of local memory for each thread: it is as far away as global memory"
        yield f"{what}{lines}\n  an array whose index the compiler does not know?"


def _waste(costs: list[Cost]) -> Iterator[str]:
    hints = {
        "shared": "bank conflicts: lanes need different words of one bank. Do rows longer by one element help?",
        "global": "neighbouring threads should touch neighbouring elements: is threadIdx.x in the last index?",
    }
    for cost in costs:
        if cost.wasteful:
            hint = hints.pop(cost.site.space, "")  # once is enough
            yield "\n  ".join(filter(None, [cost.words, *_quotes(cost.site.instruction), hint]))


@lru_cache(maxsize=1)
def _ptxas() -> str | None:
    """The path of NVIDIA's assembler, where it is installed."""
    for package in ("nvidia-cuda-nvcc", "nvidia-cuda-nvcc-cu12"):
        try:
            for file in metadata.files(package) or []:
                if file.name in ("ptxas", "ptxas.exe"):
                    return str(file.locate())
        except metadata.PackageNotFoundError:
            pass
    return shutil.which("ptxas")


def _machine(ptx: str, threads: int, dynamic: int) -> Iterator[str]:
    """Registers, spills and occupancy, if ptxas is installed."""
    tool, target = _ptxas(), re.search(r"^\.target\s+sm_(\d+)(\w*)", ptx, re.M)
    if tool and target:
        arch = "sm_80" if int(target[1]) <= 80 else f"sm_{target[1]}{target[2]}"
        with tempfile.TemporaryDirectory() as folder:
            source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
            source.write_text(ptx, encoding="utf-8")
            command = [tool, "-v", f"-arch={arch}", str(source), "-o", str(binary)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        used = re.search(r"Used (\d+) registers", said)
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
        if used and not done.returncode:
            spills = f"{spilled} bytes spilled" if spilled else "no spills"
            yield f"{used[1]} registers a thread, {spills} ({arch})\n  {_occupancy(int(used[1]), dynamic, threads)}"
        else:
            yield f"ptxas did not take the kernel: {said.strip()}"


def _occupancy(registers: int, shared: int, threads: int) -> str:
    """Say how many blocks a multiprocessor of compute capability 8.0 holds.

    Its limits are in the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
    """
    warps = -(-threads // 32)
    limits = {
        "threads": 64 // warps,
        "blocks": 32,
        "registers": 65536 // (-(-max(registers, 1) * 32 // 256) * 256) // 4 * 4 // warps,
        "shared memory": 164 * 1024 // (-(-(shared + 1024) // 128) * 128),
    }
    name, blocks = min(limits.items(), key=lambda item: item[1])
    held = f"a multiprocessor of compute capability 8.0 holds {blocks} block{'s'[: blocks != 1]} of {threads} threads"
    return f"{held}, {blocks * warps} of 64 warps: limited by {name}"


# ---- annotated source

KEY = """<p>Beside a line: what one access of a warp (32 threads) costs. Global memory moves in sectors of 32 bytes;
shared memory needs one pass, or more where lanes need different words of one bank.
<b>2.0×</b>: twice the least possible (blue). ✗: a fault (orange).</p>"""
STYLE = """
.emulated { font: 14px/1.5 system-ui, sans-serif; max-width: 85rem; }
.emulated h3, .emulated h4 { margin: .8em 0 .3em; }
.emulated pre, .emulated code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; color: inherit;
  background: none; white-space: pre-wrap; margin: 0; padding: 0; text-align: left; }
.emulated table { border-collapse: collapse; width: 100%; }
.emulated td { padding: 0 .6em; text-align: left; vertical-align: top; border: 0; }
.emulated td.line { text-align: right; opacity: .65; width: 1%; }
.emulated td.cost { width: 42%; }
.emulated .fault { border-left: 5px solid #d55e00; background: rgba(213, 94, 0, .16); }
.emulated pre.fault { margin: .4em 0; padding: .2em .6em; }
.emulated .bad { background: rgba(86, 180, 233, .2); }
.emulated .worst { background: rgba(86, 180, 233, .45); }
"""


@lru_cache(maxsize=64)
def _functions(text: str) -> list[tuple[int, int]]:
    """First and last line of each function in a source, the shortest last."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return []
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    spans = [(min([f.lineno, *(d.lineno for d in f.decorator_list)]), f.end_lineno or f.lineno) for f in functions]
    return sorted(spans, key=lambda span: span[0] - span[1])


def _span(place: Place) -> tuple[str, int, int]:
    """The function that a line stands in, or the line alone where its source cannot be had."""
    file, line = place
    around = [span for span in _functions("".join(linecache.getlines(file))) if span[0] <= line <= span[1]]
    return (file, *(around or [(line, line)])[-1])


def _tables(result: Result) -> Iterator[str]:
    """The source of the kernel, then of each function that was inlined into it."""
    instructions = [*(result.kernel.body if result.kernel else []), *(site.instruction for site in result.sites)]
    places = dict.fromkeys(place for one in instructions for place in reversed(one.source))
    costs = result.costs()
    for file, first, last in dict.fromkeys(map(_span, places)):
        yield f"<h4>{escape(_name(file))}</h4><table>"
        for line in range(first, last + 1):
            place = file, line
            yield from _row(place, [cost for cost in costs if _line(cost.site) == place])
            for fault in result.faults:
                if place in (fault.source, fault.other):
                    said = escape(fault.text.splitlines()[0])
                    yield f'<tr class="fault"><td></td><td colspan="2">✗ {said}</td></tr>'
        yield "</table>"


def _row(place: Place, costs: list[Cost]) -> Iterator[str]:
    """A line of source, and what it costs."""
    times = max((cost.times for cost in costs if cost.wasteful), default=0)
    words = "<br>".join(
        f"{f'<b>{cost.times:.1f}×</b> ' if cost.wasteful else ''}{escape(cost.words)}; "
        f"{cost.lanes / cost.warps:.0f} of 32 lanes"
        for cost in costs
    )
    source = f"<code>{escape(linecache.getline(*place).rstrip())}</code>"
    kind = "worst" if times >= 4 else "bad" if times else "good"
    yield f'<tr class="{kind}"><td class="line">{place[1]}</td><td>{source}</td><td class="cost">{words}</td></tr>'
