"""``cks-numba bench``: this library, PyTorch and the regular way, alternated in one process over the table of layers.

Every contender is first checked, then timed in rounds: one call of each a round. Before a timed call
come a pause, in which the threads of the contender before it fall asleep, and one untimed call. A
round begins and ends with a loop of multiply-adds on all threads, which shows whether the machine was
busy with something else; such a round is not counted. What uses NumPy's BLAS has rounds of its own,
after the others, because its threads stay awake for a while and slow down everybody else:
the regular way, and one large matrix product, whose rate is the limit. Memory that is freed stays with
the process (with glibc): or else it were chance whose result comes in fresh pages, which cost as much
as many a layer.
"""

from __future__ import annotations

import csv
import ctypes
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import geometric_mean, median
from tempfile import TemporaryDirectory
from typing import Any

import numba
import numpy as np

from . import layers, operators, regular, verify
from .backends.cpu.registers import TILE_ROWS, addresses_in, store, zeros
from .backends.cpu.tile import sum_of_products
from .geometry import OPERATORS, ConvShape, plan

OURS, PEER, REGULAR, LIMIT = "cks_numba", "PyTorch", "regular way", "BLAS"
BLAS_SIDE = 1024
PAUSE, LONG_PAUSE = 0.002, 0.15  # seconds; the long one after BLAS
CLEAN = 1.08  # a round is not counted if the loop of multiply-adds took so many times as long as in the best round
MAPS = (("2x2", 1, 3), ("4x4", 4, 7), ("8x8", 8, 15), ("16x16 and larger", 16, 10**9))
SPARE_BYTES = 4 * 2**20  # memory beyond a tenth of the largest array


@dataclass
class Row:
    """One contender on one case: a line of the CSV. Times in milliseconds, rates in useful GFLOP/s."""

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

    @property
    def case(self) -> tuple[Any, ...]:
        return self.operator, self.n, self.ih, self.ic, self.oc, self.fh, self.stride, self.padding


# --- contenders ----------------------------------------------------------------------------------
def _ours(case: layers.Case, first: Any, second: Any, layout: str) -> Callable[[], Any]:
    if layout == "NCHW":
        first, second = (np.ascontiguousarray(array.transpose(0, 3, 1, 2)) for array in (first, second))
    return lambda: verify.call(case.operator, case.shape, first, second, "cpu", layout)


def _peer(case: layers.Case, first: Any, second: Any, layout: str) -> Callable[[], Any]:
    import torch

    form = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    tensors = (torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=form) for a in (first, second))
    return peer_call(case, *tensors)


def peer_call(case: layers.Case, first: Any, second: Any) -> Callable[[], Any]:
    """PyTorch's operator on tensors of its own shape, whatever device and memory order they have."""
    import torch

    shape, (names, _) = case.shape, zip(*case.shape.arrays(case.operator)[:2], strict=True)
    given = dict(zip(names, (first, second), strict=True))
    pads = tuple(before for before, _ in shape.padding)
    if case.operator == "conv2d":
        return lambda: torch.nn.functional.conv2d(given["x"], given["w"], None, shape.stride, pads, shape.dilation)
    x = given["x"] if "x" in given else _unread(first, shape.x_shape)
    w = given["w"] if "w" in given else _unread(first, shape.w_shape)
    wanted = (case.operator == "conv2d_input", case.operator == "conv2d_weight", False)
    rest = (None, shape.stride, pads, shape.dilation, False, (0, 0), 1, wanted)
    return lambda: torch.ops.aten.convolution_backward(given["dy"], x, w, *rest)[wanted.index(True)]


def _unread(like: Any, nhwc: tuple[int, ...]) -> Any:
    """A tensor of which PyTorch looks at the sizes and the memory order."""
    n, h, w, c = nhwc
    empty = like.new_empty((n, c, h, w))
    form = "channels_last" if like.stride()[1] == 1 else "contiguous_format"
    return empty.contiguous(memory_format=getattr(sys.modules["torch"], form))


def _regular(case: layers.Case, first: Any, second: Any, layout: str) -> Callable[[], Any]:
    return lambda: regular.BY_OPERATOR[case.operator](first, second, case.shape)


def _blas(case: layers.Case, first: Any, second: Any, layout: str) -> Callable[[], Any]:
    a, b = np.ones((2, BLAS_SIDE, BLAS_SIDE), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


CONTENDERS = ((OURS, "NHWC", _ours), (PEER, "NHWC", _peer), (OURS, "NCHW", _ours), (PEER, "NCHW", _peer))
WITH_BLAS = ((REGULAR, "NHWC", _regular), (LIMIT, "", _blas))


def has_peer() -> bool:
    """Whether PyTorch is there to be compared with."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


# --- one case ------------------------------------------------------------------------------------
def _checked(case: layers.Case, calls: dict[tuple[str, str], Callable[[], Any]]) -> None:
    """Every contender gives the same result, up to rounding."""
    want = calls[REGULAR, "NHWC"]()
    scale = float(np.abs(want).max()) or 1.0
    for (name, layout), call in calls.items():
        if name in (LIMIT, REGULAR):
            continue
        got = np.asarray(call())
        got = got.transpose(0, 2, 3, 1) if name == PEER or layout == "NCHW" else got
        error = float(np.abs(got - want).max()) / scale
        if not error < 1e-3:
            raise RuntimeError(f"{name} ({layout}) differs from the regular way by {error:.1e}: {case}")


def extra_memory(call: Callable[[], Any]) -> int:
    """Bytes that a call allocates at its peak, without its result."""
    tracemalloc.start()
    try:
        result = call()
        return max(0, tracemalloc.get_traced_memory()[1] - result.nbytes)
    finally:
        tracemalloc.stop()


def measure(case: layers.Case, rounds: int, probe: Probe) -> tuple[dict[tuple[str, str], list[float]], int]:
    """Seconds of every contender in each clean round, and the extra bytes of ours."""
    first, second = verify.operands(case.operator, case.shape, np.random.default_rng(0), np.float32)
    together, with_blas = (
        {(name, layout): make(case, first, second, layout) for name, layout, make in rows if name != PEER or has_peer()}
        for rows in (CONTENDERS, WITH_BLAS)
    )
    _checked(case, {**together, **with_blas})
    extra = max(extra_memory(call) for (name, _), call in together.items() if name == OURS)
    time.sleep(LONG_PAUSE)
    times = clean_rounds(together, rounds, probe)
    times |= clean_rounds(with_blas, min(rounds, 3), None)
    time.sleep(LONG_PAUSE)
    return times, extra


def clean_rounds(calls: Any, rounds: int, probe: Probe | None) -> dict[Any, list[float]]:
    """Seconds of each call in the rounds in which the machine was about as fast as in the best one."""
    seen: list[tuple[float, dict[tuple[str, str], float]]] = []
    kept: list[dict[tuple[str, str], float]] = []
    while len(kept) < rounds and len(seen) < 4 * rounds:
        before = probe.seconds() if probe else 0.0
        seconds = {key: _alone(call) for key, call in calls.items()}
        seen.append((max(before, probe.seconds() if probe else 0.0), seconds))
        seen.sort(key=lambda round_: round_[0])
        limit = CLEAN * seen[0][0]
        kept = [seconds for k, (worst, seconds) in enumerate(seen) if worst <= limit or k < 3]
    return {key: [seconds[key] for seconds in kept] for key in calls}


def _alone(call: Callable[[], Any]) -> float:
    """Seconds of a call, after a pause and one untimed call."""
    time.sleep(PAUSE)
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@numba.njit(parallel=True)
def _multiply_adds(zero, rows):
    """A tile of results for each thread: nothing but multiply-adds, on numbers that stay in the L1 cache."""
    for thread in numba.prange(len(rows)):
        tile, there = zeros(zero), addresses_in(rows[thread])
        for _ in range(500):
            tile = sum_of_products(tile, there, 0, rows[thread, 0], (1, 1, 512), (0, 0, 4), (0, 0, 0))
        store(tile, there)


class Probe:
    """The loop of multiply-adds, on its own numbers."""

    def __init__(self, threads: int) -> None:
        self.numbers = np.zeros((threads, TILE_ROWS, 1024), np.float32)
        first, (thread_step, row_step, _) = self.numbers.ctypes.data, self.numbers.strides
        self.rows = first + np.add.outer(np.arange(threads) * thread_step, np.arange(TILE_ROWS) * row_step)

    def seconds(self) -> float:
        """The best of three runs; the first one wakes the threads."""
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            _multiply_adds(np.float32(0), self.rows)
            runs.append(time.perf_counter() - start)
        return min(runs)


@cache
def machine() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def versions() -> str:
    """Versions of the packages that a timing depends on."""
    found = []
    for name in ("numpy", "numba", "torch"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


@cache
def _commit() -> str:
    """Commit of the checkout that this file is in, with a + where it has been changed since."""
    here = Path(__file__).parent
    try:
        git = ("git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=7")
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return metadata.version("cks-numba")


def keep_memory() -> None:
    """Make malloc of glibc keep what is freed, whatever its size."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for option, most in ((-1, 2**31 - 1), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(option, most)


def time_cases(cases: Sequence[layers.Case], rounds: int, threads: int) -> list[Row]:
    """Time all contenders on all cases, and print a line for each case."""
    numba.set_num_threads(threads)
    keep_memory()
    if has_peer():
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
    rows: list[Row] = []
    probe = Probe(threads)
    print(f"{'case':<64} {'rate':>6} {'of BLAS':>8} {'PyTorch':>8} {'regular':>8}  (times as long as ours)")
    for case in cases:
        times, extra = measure(case, rounds, probe)
        here = [
            replace(row_of(case, name, layout, seconds), extra_bytes=extra if name == OURS else 0, threads=threads)
            for (name, layout), seconds in times.items()
        ]
        rows += here
        print(_line(case, here), flush=True)
    return rows


def key(case: layers.Case) -> tuple[Any, ...]:
    """What the rows of a case have as theirs."""
    return row_of(case, OURS, "", [1.0]).case


def row_of(case: layers.Case, name: str, layout: str, seconds: list[float]) -> Row:
    """The row of a contender with so many seconds in each round."""
    s = case.shape
    flop = 2 * BLAS_SIDE**3 if name == LIMIT else 2 * plan(case.operator, s).useful
    return Row(
        source=case.source,
        operator=case.operator,
        n=s.n,
        ih=s.ih,
        ic=s.ic,
        oc=s.oc,
        fh=s.fh,
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
        commit=_commit(),
    )


def _rounded(number: float) -> float:
    """The number as it stands in the CSV."""
    return float(f"{number:.4g}")


def _line(case: layers.Case, rows: list[Row]) -> str:
    ours, blas = _of(rows, OURS), _of(rows, LIMIT)
    others = [f"{_of(rows, other) / ours:8.2f}" if _of(rows, other) else "       -" for other in (PEER, REGULAR)]
    rate = next(row.rate for row in rows if row.contender == OURS)
    share = rate / (2 * BLAS_SIDE**3 / blas / 1e6)
    return f"{case.operator:<13} {case.name:<50} {rate:6.1f} {share:8.2f} {' '.join(others)}"


def _of(rows: Iterable[Row], contender: str) -> float:
    """Median milliseconds in one case: of ours in NHWC, of PyTorch in its better layout; 0 for who is not there."""
    found = [row.median_ms for row in rows if row.contender == contender]
    return (found[0] if contender == OURS else min(found)) if found else 0.0


# --- what is said of the rows --------------------------------------------------------------------
@dataclass
class Ratio:
    """A case in four numbers: useful GFLOP, and times and rates as ratios."""

    row: Row
    gflop: float
    peer: float  # how many times as long PyTorch takes in its better layout
    regular: float
    limit: float  # our useful rate over that of BLAS


@dataclass
class Bar:
    """Something measured, and what it has to be."""

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
    """The cases of a CSV."""
    by_case: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    result = []
    for here in by_case.values():
        ours = next(row for row in here if row.contender == OURS and row.layout == "NHWC")
        blas = next(row.rate for row in here if row.contender == LIMIT)
        peer, slow = (_of(here, name) / ours.median_ms for name in (PEER, REGULAR))
        result.append(Ratio(ours, ours.rate * ours.median_ms / 1e3, peer, slow, ours.rate / blas))
    return result


def bars(rows: Sequence[Row]) -> list[Bar]:
    """The bars that the timings of the CPU backend have to clear."""
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


def summary(rows: Iterable[Row]) -> str:
    """The rows in one table, in Markdown."""
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


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(asdict(row))


def read(path: Path) -> list[Row]:
    """Read rows that `write` wrote."""
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(Row)}) for line in csv.DictReader(file)]


# --- calls of almost no work, and the first call ---------------------------------------------------
def overhead(blocks: int = 10, repeats: int = 100) -> dict[str, float]:
    """Microseconds of a call beyond a bare matrix product of the same work, for layers under 1 MFLOP.

    The least of some blocks of calls, as the machine is busy with something else at times.
    """
    found = {}
    for operator in OPERATORS:
        shape = ConvShape(n=2, ih=4, iw=4, ic=16, oc=16, fh=3, fw=3, padding=1)
        first, second = verify.operands(operator, shape, np.random.default_rng(0), np.float32)
        terms = plan(operator, shape).useful // (shape.oc * shape.n * shape.oh * shape.ow)
        a, b = np.ones((shape.n * shape.oh * shape.ow, terms), np.float32), np.ones((terms, shape.oc), np.float32)
        x, w = shape.x_shape, shape.w_shape
        ours = {
            "conv2d": lambda: operators.conv2d(first, second, padding=1, backend="cpu"),  # noqa: B023
            "conv2d_input": lambda: operators.conv2d_input(x, first, second, padding=1, backend="cpu"),  # noqa: B023
            "conv2d_weight": lambda: operators.conv2d_weight(first, w, second, padding=1, backend="cpu"),  # noqa: B023
        }[operator]
        calls = (ours, lambda: a @ b)  # noqa: B023
        found[operator] = 1e6 * min(_difference(calls, repeats) for _ in range(blocks))
    return found


def _difference(calls: tuple[Callable[[], Any], Callable[[], Any]], repeats: int) -> float:
    """How many seconds more the first call takes than the second."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return median(times[0]) - median(times[1])


FIRST_CALL = """
import sys, time
import numba
import numpy as np
start = time.perf_counter()
import cks_numba
import_seconds = time.perf_counter() - start
x, w = np.ones((8, 16, 16, 32), np.float32), np.ones((32, 3, 3, 32), np.float32)
given = {"conv2d": (x, w), "conv2d_input": (x.shape, w, x), "conv2d_weight": (x, w.shape, x)}[sys.argv[1]]
start = time.perf_counter()
getattr(cks_numba, sys.argv[1])(*given, padding=1, backend="cpu")
print(import_seconds, time.perf_counter() - start)
"""


def first_calls() -> dict[str, tuple[float, float, float]]:
    """Seconds in a new process: to import, of the first call with nothing compiled, and with all compiled before.

    The least of two compilations and of four calls after them, as the machine is busy with something else at times.
    """
    found = {}
    for operator in OPERATORS:
        runs = []
        for _ in range(2):
            with TemporaryDirectory() as folder:
                environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
                runs.append([_first_call(operator, environment) for _ in range(3)])
        found[operator] = (
            min(imports for run in runs for imports, _ in run),
            min(run[0][1] for run in runs),
            min(seconds for run in runs for _, seconds in run[1:]),
        )
    return found


def _first_call(operator: str, environment: dict[str, str]) -> tuple[float, float]:
    command = (sys.executable, "-c", FIRST_CALL, operator)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    imports, seconds = map(float, done.stdout.split())
    return imports, seconds


# --- the command ---------------------------------------------------------------------------------
def run(
    rounds: int, threads: int, quick: bool, check: bool, csv_file: Path | None, readme: Path | None, only: str
) -> int:
    """Run the benchmark of the CPU backend.

    Parameters
    ----------
    rounds : int
        Clean rounds of each case.
    threads : int
        For all contenders.
    quick : bool
        Small batches, and every tenth case: to see that all of it works.
    check : bool
        Fail when a bar is missed; needs PyTorch.
    csv_file, readme : Path, optional
        File to write the rows to; file with markers to put the summary between.
    only : str
        Cases whose line has this text.

    Returns
    -------
    int
        0, or 1 when a bar was missed.
    """
    if (check or readme) and not has_peer():
        raise RuntimeError("--check and --readme compare with PyTorch, which is not installed: pip install torch")
    if check and (quick or only):
        raise RuntimeError("--check needs all cases: leave out --quick and --only")
    cases = layers.table(flop=2e7, batch=2)[::10] if quick else layers.table()
    cases = [case for case in cases if only in f"{case.source} {case.operator} {case.shape}"]
    if not cases:
        raise RuntimeError(f"no case has {only!r} in it")
    rows = time_cases(cases, rounds, threads)
    if has_peer():
        print(f"\n{summary(rows)}")
    if csv_file:
        write(rows, csv_file)
        print(f"\nwrote {csv_file}")
    if readme:
        put_between(readme, summary(rows))
    print()
    missed = 0
    found = [] if quick or only or not has_peer() else bars(rows)
    for bar in (*found, *call_bars()):
        print(bar)
        missed += bar.missed
    kept = [row.rounds for row in rows if row.contender == OURS]
    print(f"{len(cases)} cases, {len(rows)} rows; {min(kept)} to {max(kept)} clean rounds of a case, {rounds} wanted")
    return int(check and missed > 0)


def call_bars() -> Iterator[Bar]:
    """The bars for what a call costs beside its work."""
    for operator, microseconds in overhead().items():
        yield Bar(f"{operator}: microseconds of a tiny call beyond its matrix product", microseconds, 40, at_most=True)
    for operator, (imported, cold, warm) in first_calls().items():
        yield Bar(f"{operator}: seconds to import cks_numba, after numba", imported, 0.4, at_most=True)
        yield Bar(f"{operator}: seconds of the first call, nothing compiled", cold, 8, at_most=True)
        yield Bar(f"{operator}: seconds of the first call, compiled before", warm, 0.5, at_most=True)


MARKERS = ("<!-- bench: cpu -->", "<!-- end of bench -->")


def put_between(path: Path, text: str, markers: tuple[str, str] = MARKERS) -> None:
    """Replace what stands between the markers of a file."""
    content = path.read_text(encoding="utf-8")
    before, start, rest = content.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not start or not end:
        raise RuntimeError(f"{path} has no {markers[0]} ... {markers[1]}")
    path.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")
