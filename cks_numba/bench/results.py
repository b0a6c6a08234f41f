"""Results of a benchmark: rows, the CSV and the table made of them, and the bars that they have to clear."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from ..backends.cpu.registers import VECTOR_BYTES
from ..flops.files import replacing
from ..geometry import OPERATORS, plan
from . import cases

OURS, PEER, REGULAR, LIMIT, PEAK = "cks_numba", "PyTorch", "regular way", "BLAS", "multiply-adds in registers"
BLAS_SIDE = 1024
"""Rows and columns of the matrices whose product is the limit."""
MAPS = (("2x2", 1, 3), ("4x4", 4, 7), ("8x8", 8, 15), ("16x16 and larger", 16, 10**9))
"""Columns of the summary: heading, and the least and the most rows of x."""
SPARE_BYTES = 4 * 2**20
"""Bar: bytes that a call may allocate beyond a tenth of the largest array."""


@dataclass
class Row:
    """One contender on one case: a line of the CSV. Times in milliseconds, rates in useful GFLOP/s.

    All spatial axes of a case have the same size, taps, stride, padding and dilation.
    """

    source: str
    operator: str
    n: int
    ih: int
    ic: int
    oc: int
    fh: int
    stride: int
    padding: int
    contender: str
    layout: str
    dtype: str
    median_ms: float
    min_ms: float
    max_ms: float
    rate: float
    rounds: int
    extra_bytes: int
    device: str
    threads: int
    versions: str
    commit: str
    groups: int = 1
    axes: int = 2
    dilation: int = 1

    @property
    def case(self) -> tuple[Any, ...]:
        """What tells the cases of a source apart: all have as many axes, and each dilation its own padding."""
        sizes = self.ih, self.ic, self.oc, self.fh, self.stride, self.padding, self.groups
        return self.operator, self.n, *sizes


# --- one row -------------------------------------------------------------------------------------
@cache
def machine() -> str:
    """Name of the CPU and width of its vectors, because some names say little."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} with {8 * VECTOR_BYTES}-bit vectors"


@cache
def versions(packages: tuple[str, ...] = ("numpy", "numba", "torch")) -> str:
    """Versions of the packages that a timing depends on, without those that are not installed."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


@cache
def commit() -> str:
    """Commit of the checkout that this file is in, with a + if something has been changed since."""
    here = Path(__file__).parent
    try:
        git = ("git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=7")
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return metadata.version("cks-numba")


def key(case: cases.Case) -> tuple[Any, ...]:
    """Key of a case: what `Row.case` is for each of its rows."""
    return row_of(case, OURS, "", [1.0]).case


def row_of(case: cases.Case, name: str, layout: str, seconds: list[float], flop: int = 0) -> Row:
    """Make the row of a contender from its seconds in each round; `flop` are its operations if it does another work."""
    s = case.shape
    flop = flop or 2 * plan(case.operator, s).useful
    return Row(
        source=case.source,
        operator=case.operator,
        n=s.n,
        ih=s.axes[0].size,
        ic=s.ic,
        oc=s.oc,
        fh=s.axes[0].taps,
        stride=s.stride[0],
        padding=s.padding[0][0],
        contender=name,
        layout=layout,
        dtype="float32",
        median_ms=_rounded(1e3 * median(seconds)),
        min_ms=_rounded(1e3 * min(seconds)),
        max_ms=_rounded(1e3 * max(seconds)),
        rate=_rounded(flop / median(seconds) / 1e9),
        rounds=len(seconds),
        extra_bytes=0,
        device=machine(),
        threads=0,
        versions=versions(),
        commit=commit(),
        groups=s.groups,
        axes=len(s.axes),
        dilation=s.dilation[0],
    )


def _rounded(number: float) -> float:
    """Round a number to the four digits that the CSV has."""
    return float(f"{number:.4g}")


def median_of(rows: Iterable[Row], contender: str) -> float:
    """Median milliseconds in one case: ours in NHWC, PyTorch in its better layout; 0 for a contender without a row."""
    found = [row.median_ms for row in rows if row.contender == contender]
    return (found[0] if contender == OURS else min(found)) if found else 0.0


# --- ratios, bars and the table ------------------------------------------------------------------
@dataclass
class Ratio:
    """A case in four numbers.

    Attributes
    ----------
    row : Row
        Ours.
    gflop : float
        Useful work in GFLOP.
    peer, regular : float
        Time of PyTorch, in its better layout, and of the regular way, over ours.
    limit : float
        Our useful rate over that of BLAS.
    """

    row: Row
    gflop: float
    peer: float
    regular: float
    limit: float


@dataclass
class Bar:
    """A measured number, and what it has to be at least, or at most."""

    what: str
    value: float
    wanted: float
    at_most: bool = False

    @property
    def missed(self) -> bool:
        return self.value > self.wanted if self.at_most else self.value < self.wanted

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'MISSED' if self.missed else 'ok    '} {self.value:7.2f} {sign} {self.wanted:<5g} {self.what}"


def ratios(rows: Iterable[Row]) -> list[Ratio]:
    """Compare the contenders of each case."""
    by_case: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    result = []
    for here in by_case.values():
        ours = next(row for row in here if row.contender == OURS and row.layout == "NHWC")
        blas = next(row.rate for row in here if row.contender == LIMIT)
        peer, slow = (median_of(here, name) / ours.median_ms for name in (PEER, REGULAR))
        result.append(Ratio(ours, ours.rate * ours.median_ms / 1e3, peer, slow, ours.rate / blas))
    return result


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Return the bars that the timings of the CPU backend have to clear."""
    found = []
    everything = ratios(rows)
    for operator in OPERATORS:
        mine = [r for r in everything if r.row.operator == operator]
        tiny = [r.peer for r in mine if r.row.ih == 2 or (r.row.ih == 4 and r.row.stride == 2)]
        large = [r.peer for r in mine if r.gflop > 0.2]
        wide = [r.limit for r in mine if _outputs(r.row) >= 8 and min(r.row.ic, r.row.oc) >= 64]
        found += [
            Bar(f"{operator}: PyTorch's time over ours, mean of all", geometric_mean(r.peer for r in mine), 1.25),
            Bar(f"{operator}: the same, 2x2 maps and 4x4 with stride 2", geometric_mean(tiny), 1.6),
            Bar(f"{operator}: the same, least of {len(large)} above 0.2 GFLOP", min(large), 0.9),
            Bar(f"{operator}: rate over BLAS, maps from 8x8, channels from 64", geometric_mean(wide), 0.85),
        ]
    extra = max(row.extra_bytes - _largest(row) // 10 for row in rows if row.contender == OURS)
    return [*found, Bar("MiB beyond a tenth of the largest array", extra / 2**20, SPARE_BYTES / 2**20, at_most=True)]


def _outputs(row: Row) -> int:
    return (row.ih + 2 * row.padding - row.fh) // row.stride + 1


def _largest(row: Row) -> int:
    """Bytes of the largest of the three arrays."""
    out = _outputs(row)
    return 4 * max(row.n * row.ih**2 * row.ic, row.n * out**2 * row.oc, row.fh**2 * row.ic * row.oc)


def markers(what: str) -> tuple[str, str]:
    """Return the lines of a page between which the summary of a benchmark is put."""
    return f"<!-- bench: {what} -->", "<!-- end of bench -->"


def summary(rows: Iterable[Row]) -> str:
    """Summarise the rows in one table, in Markdown."""
    everything = ratios(rows)
    first = everything[0].row
    lines = [
        f"PyTorch's time over ours, its better layout ({first.device}, {first.threads} threads, float32, "
        f"{first.versions}):",
        "",
        "| operator | cases | " + " | ".join(name for name, _, _ in MAPS) + " | all | regular way | of BLAS |",
        "|---|---|" + "---|" * (len(MAPS) + 3),
    ]
    for operator in dict.fromkeys(r.row.operator for r in everything):
        mine = [r for r in everything if r.row.operator == operator]
        cells = [f"`{operator}`", str(len(mine))]
        for _, least, most in MAPS:
            here = [r.peer for r in mine if least <= r.row.ih <= most]
            cells.append(f"{geometric_mean(here):.2f} ({min(here):.2f}-{max(here):.2f})" if here else "")
        means = [geometric_mean(getattr(r, name) for r in mine) for name in ("peer", "regular", "limit")]
        lines.append("| " + " | ".join(cells + [f"{mean:.2f}" for mean in means]) + " |")
    return "\n".join(lines)


def write(rows: Sequence[Any], path: Path) -> None:
    """Write rows, which are dataclasses of one kind, as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(asdict(row))


def read(path: Path, kind: Any = Row) -> list[Any]:
    """Read rows of a kind that `write` wrote; a file from before a column was added has its default."""
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            kind(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(kind) if f.name in line})
            for line in csv.DictReader(file)
        ]
