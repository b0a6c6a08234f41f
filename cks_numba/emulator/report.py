"""The report of a checked run: its faults, what its accesses cost, annotated source, and what is right but slow."""

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
from contextlib import suppress
from functools import cached_property
from html import escape
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from .faults import VERBS, Place, Run, Site, line_of, quotes, short
from .ptx import Instruction, loops


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

    def __str__(self) -> str:
        one = self.units == self.warps
        unit = ("pass" if one else "passes") if self.site.space == "shared" else "sector" if one else "sectors"
        need = f", {self.least / self.warps:.3g} would do: {self.times:.3g}×" if self.times > 1.01 else ""
        lanes = f"; {self.lanes / self.warps:.3g} of 32 lanes" if self.lanes < 32 * self.warps else ""
        return f"{self.site.space} {self.site.action}: {self.units / self.warps:.3g} {unit}{need}{lanes}"


class Result(Run):
    """What a checked run found. It prints as a report; a notebook shows the annotated source.

    Examples
    --------
    >>> import numpy as np
    >>> print(Result("copy", (2, 1, 1), (64, 1, 1), [], [], [], np.zeros((0, 5), int)))
    no fault found in copy[2, 64]
    """

    @property
    def title(self) -> str:
        count = len(self.faults)
        return f"{count} fault{'s'[: count > 1]} in {self.launch}" if count else f"no fault found in {self.launch}"

    def __str__(self) -> str:
        if self.faults:
            return "\n\n".join([self.title, *(fault.text for fault in self.faults)])
        lines = len({line_of(cost.site.instruction) for cost in self.costs})
        checked = f"\nchecked: {self.accesses} accesses, at {lines} source line{'s'[: lines > 1]}"
        return self.title + (checked if lines else "")

    __repr__ = __str__

    @cached_property
    def costs(self) -> list[Cost]:
        """Add up the counts by source line, memory, and reading or writing; the most wasteful come first."""
        found: dict[tuple[Place, str, str], Cost] = {}
        for site, (warps, lanes, units, least, worst) in zip(self.sites, self.counts.tolist(), strict=True):
            key = line_of(site.instruction), site.space, site.action
            old = found.get(key, Cost(site, 0, 0, 0, 0, 0))
            sums = old.warps + warps, old.lanes + lanes, old.units + units, old.least + least
            found[key] = Cost(old.site, *sums, max(old.worst, worst))
        counted = (cost for cost in found.values() if cost.warps and cost.site.action in VERBS)
        return sorted(counted, key=lambda cost: (cost.least - cost.units, -cost.units))

    def profile(self) -> str:
        """Return a table of what the accesses of a warp cost on average, line by line, the most wasteful first.

        Global memory moves in sectors of 32 bytes. Shared memory serves a warp in one pass, or in several where lanes
        need different words of one bank. Lanes are counted where not all 32 took part.
        Of a loop that has no barrier the first 64 rounds count.
        """
        costs = self.costs
        if not costs:
            return f"no access of memory was counted in {self.launch}"
        wide = max(len(str(cost)) for cost in costs)
        wasteful = {cost.site.space for cost in costs if cost.times > 1.01}
        lines = [f"what an access of a warp costs in {self.launch}, on average, the most wasteful first"]
        lines += [f"  {cost!s:{wide}}  {quotes(cost.site.instruction)[0]}" for cost in costs]
        return "\n".join([*lines, *(hint for space, hint in HINTS.items() if space in wasteful)])

    def lint(self) -> str:
        """Return what is right but slow, each with its line, or "nothing to say".

        float64 instructions where no array in global memory is float64, integer division in loops, local memory. With
        ptxas, from the package nvidia-cuda-nvcc: registers, spills, occupancy.
        """
        said: list[str] = []
        shared = self.dynamic
        if self.kernel:
            body = self.kernel.body
            said = [*_float64(body), *_division(body), *_local(self.kernel.local_bytes, self.sites)]
            shared += self.kernel.shared_bytes
        ptx = self.gpu_ptx() if self.gpu_ptx else self.ptx
        return "\n\n".join([*(said or ["nothing to say"]), *_machine(ptx, math.prod(self.block), shared)])

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


# ---- what is right but slow
HINTS = {
    "global": "global memory: neighbouring threads should touch neighbours; is threadIdx.x in the last index?",
    "shared": "shared memory: lanes need different words of one bank; do rows that are one element longer help?",
}


def _by_line(instructions: Iterable[Instruction]) -> list[tuple[str, list[Instruction]]]:
    """The quoted line and the instructions of each source line, the line with most of them first."""
    found: dict[Place, list[Instruction]] = {}
    for one in instructions:
        found.setdefault(line_of(one), []).append(one)
    groups = sorted(found.values(), key=len, reverse=True)
    return [("".join(f"\n  {quote}" for quote in quotes(group[0])), group) for group in groups]


def _float64(body: list[Instruction]) -> Iterator[str]:
    """Lines that compute in float64 though no array in global memory is float64, and the likely cause."""
    memory = [one for one in body if one.op and one.op[0] in ("ld", "st", "atom", "red")]
    floats: set[str] = set().union(*map(_float64_registers, body))
    wide = [one for one in memory if "f64" in one.op or floats.intersection(re.findall(r"%\w+", " ".join(one.args)))]
    spaces = {next((space for space in ("param", "local", "shared") if space in one.op), "") for one in wide}
    if "" in spaces:
        return
    for line, group in _by_line(one for one in body if "f64" in one.op and one.op[0] not in ("ld", "st", "mov")):
        texts = {arg for one in group for arg in one.args if re.fullmatch("0[dD][0-9a-fA-F]{16}", arg)}
        values = sorted(struct.unpack(">d", bytes.fromhex(text[2:]))[0] for text in texts)
        whole = any(one.op[0] == "cvt" and one.op[-1][0] in "su" for one in group)
        cause = f"\n  {values[0]!r} is float64 in Python: float32({values[0]!r})?" if values else ""
        cause = cause or ("\n  a whole number that meets a float becomes float64: float32(...)?" if whole else "")
        cause = cause or ("\n  a shared array of float64: float32 there, too?" if "shared" in spaces else "")
        cause = cause or ("\n  a Python float as an argument is float64: np.float32(...)?" if wide else "")
        few = "most GPUs do 1/32 or 1/64 as many of them"
        yield f"{len(group)} x float64, though no array in global memory is: {few}{line}{cause}"


def _float64_registers(one: Instruction) -> tuple[str, ...]:
    """Registers that an instruction takes as float64. Where LLVM loads or stores them, it says 64 bits of no type."""
    if "f64" not in one.op:
        return ()
    if one.op[0] == "cvt":  # the type that it makes, then the type that it is made from
        return one.args[:1] if one.op[-2] == "f64" else one.args[1:]
    return one.args


def _division(body: list[Instruction]) -> Iterator[str]:
    """Lines that divide whole numbers between a label and a later branch back to it."""
    inside = [body[number] for number in sorted(loops(body))]
    for line, _ in _by_line(one for one in inside if one.op[:1] in (("div",), ("rem",)) and one.op[-1][0] in "su"):
        what = "integer division or remainder in a loop: tens of instructions each time"
        yield f"{what}{line}\n  can a counter take its place?"


def _local(size: int, sites: list[Site]) -> Iterator[str]:
    if size:
        lines = "".join(line for line, _ in _by_line(site.instruction for site in sites if site.space == "local")[:3])
        what = f"{size} bytes of local memory for each thread: it is as far away as global memory"
        yield f"{what}{lines}\n  an array whose index the compiler does not know?"


def _ptxas() -> str | None:
    """The path of NVIDIA's assembler, where it is installed."""
    for package in ("nvidia-cuda-nvcc", "nvidia-cuda-nvcc-cu12"):
        with suppress(metadata.PackageNotFoundError):
            for file in metadata.files(package) or []:
                if file.stem == "ptxas":
                    return str(file.locate())
    return shutil.which("ptxas")


def _machine(ptx: str, threads: int, shared: int) -> Iterator[str]:
    """Registers, spills and occupancy, if ptxas is installed."""
    tool, target = _ptxas(), re.search(r"^\.target\s+sm_(\d+)(\w*)", ptx, re.M)
    if not tool or not target:
        return
    arch = "sm_80" if int(target[1]) <= 80 else f"sm_{target[1]}{target[2]}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx, encoding="utf-8")
        command = [tool, "-v", f"-arch={arch}", str(source), "-o", str(Path(folder, "kernel.cubin"))]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    if used := re.search(r"Used (\d+) registers", said):
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
        spills = f"{spilled} bytes spilled" if spilled else "no spills"
        yield f"{used[1]} registers a thread, {spills} ({arch})\n  {_occupancy(int(used[1]), shared, threads)}"
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
shared memory takes one pass, or more where lanes need different words of one bank. Blue: more than needed.</p>"""
STYLE = """
.emulated pre, .emulated code { font: 13px/1.5 monospace; background: none; white-space: pre-wrap; margin: 0; }
.emulated table { border-collapse: collapse; width: 100%; font: 13px/1.5 system-ui, sans-serif; }
.emulated td { text-align: left; vertical-align: top; padding: 0 .6em; }
.emulated .fault { background: #d55e0029; border-left: 5px solid #d55e00; }
.emulated pre.fault { margin: .5em 0; padding: .2em .6em; }
.emulated .bad { background: #56b4e933; }
.emulated .worst { background: #56b4e973; }
"""


def _functions(file: str) -> list[tuple[int, int]]:
    """First and last line of each function in a source file."""
    try:
        nodes = list(ast.walk(ast.parse("".join(linecache.getlines(file)))))
    except SyntaxError:
        return []
    found = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [(min([f.lineno, *(d.lineno for d in f.decorator_list)]), f.end_lineno or f.lineno) for f in found]


def _tables(result: Result) -> Iterator[str]:
    """The source of the kernel, then of each function that was inlined into it; lines alone where there is none."""
    instructions = [*(result.kernel.body if result.kernel else []), *(site.instruction for site in result.sites)]
    places = dict.fromkeys(place for one in instructions for place in reversed(one.source))
    functions = {file: _functions(file) for file, _ in places}
    spans = dict.fromkeys(
        (file, *max((span for span in functions[file] if span[0] <= line <= span[1]), default=(line, line)))
        for file, line in places
    )
    for file, first, last in spans:
        rows = "".join(_row(result, (file, line)) for line in range(first, last + 1))
        yield f"<h4>{escape(short(file))}</h4><table>{rows}</table>"


def _row(result: Result, place: Place) -> str:
    """A line of source, what it costs, and its faults."""
    costs = [cost for cost in result.costs if line_of(cost.site.instruction) == place]
    times = max((cost.times for cost in costs), default=1)
    kind = "worst" if times >= 4 else "bad" if times > 1.01 else "good"
    words = "<br>".join(escape(str(cost)) for cost in costs)
    source = escape(linecache.getline(*place).rstrip())
    row = f'<tr class="{kind}"><td>{place[1]}</td><td><code>{source}</code></td><td>{words}</td></tr>'
    for fault in result.faults:
        if place in (fault.source, fault.other):
            said = escape(fault.text.splitlines()[0])
            row += f'<tr class="fault"><td></td><td colspan="2">✗ {said}</td></tr>'
    return row
