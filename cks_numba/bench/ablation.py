"""``cks-numba bench --ablation``: what each special path of the CPU backend is worth, timed with and without it.

A path is switched off where sizes are chosen, in Python, so both runs use the same compiled kernels. It serves a case
if the sizes, or the kernels and threads, then come out differently: the code finds that out, for the table of layers
in NHWC and NCHW, for one image, for few channels on large maps, and for two large sources. The lines of a path are
counted in the source: whole functions and classes with one of its names, and every other line of code with such a name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, NamedTuple
from unittest import mock

import numba
import numpy as np

from ..backends import cpu
from ..backends.cpu import compiled, few, gather, planes, repeats, tall, unpacked, weight
from ..buffers import Layout
from ..flops.text import put_between
from ..geometry import ConvShape
from . import accuracy, cases, results
from .timing import Probe, burst, clean_rounds, keep_memory

MARKERS = ("<!-- bench: ablation -->", "<!-- end of ablation -->")
MOST = 12
"""Most cases of a path that are timed: the large ones and, chosen evenly, others of those that it serves."""
LARGE = tuple(
    cases.Case("larger than the caches", operator, ConvShape(n=64, ih=32, iw=32, ic=ic, oc=oc, fh=1, fw=1))
    for operator, ic, oc in (("conv2d", 256, 512), ("conv2d_input", 512, 256))
)
"""Cases with a source of 64 MiB; those of the table fit the last cache of most CPUs."""
ALL = 2**62
"""More bytes than any array has."""


# --- the paths ------------------------------------------------------------------------------------
class SpecialPath(NamedTuple):
    """A path, and how to do without it.

    `off` has the values that switch it off, as (module, name, value). `decides` names the choices, as `choices` calls
    them, in which a case that it serves differs. `names` are its names in the files of the backend; * is a whole file.
    """

    title: str
    instead: str
    off: tuple[tuple[Any, str, Any], ...]
    decides: tuple[str, ...]
    names: Mapping[str, str]

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Do without the path for a while."""
        with ExitStack() as stack:
            for module, name, value in self.off:
                stack.enter_context(mock.patch.object(module, name, value))
            _forget()
            try:
                yield
            finally:
                stack.close()
                _forget()


def _forget() -> None:
    """Forget all sizes that were chosen before."""
    for function in (gather.sizes_of, weight.sizes_of, unpacked.best_way, planes.sizes_of, tall.sizes_of):
        function.cache_clear()
    repeats.forget()


def _never(*given: Any) -> bool:
    return False


def _always_weight(shape: ConvShape, itemsize: int) -> str:
    return "conv2d_weight"


def _class_of_each(operator: str, shape: ConvShape, together: bool) -> dict[Any, Any]:
    """Classes that share nothing: each group packs its own taps, unless it needs all of them `together`."""
    shared: dict[Any, Any] = _CLASSES(operator, shape, together)
    if together:
        return shared
    found: dict[Any, Any] = {}
    for groups in shared.values():
        for group in groups:
            axes = tuple(gather.Taps(run.f.base, run.f.term or 1, run.terms) for run in group)
            found.setdefault(axes, []).append(group)
    return found


def _copied_by_numpy(operator: str, shape: ConvShape, source: Any, w: Any, out: Any) -> None:
    _RUN(operator, shape, np.ascontiguousarray(source), w, out)


_CLASSES, _RUN = gather._classes, gather.run

PATHS = (
    SpecialPath(
        "few channels",
        "the kernel `weight` for all layers",
        ((weight, "best_way", _always_weight),),
        ("kernels",),
        {"few.py": "*", "weight.py": "few best_way FEW_BYTES SAVING STARTING", "tile.py": "unpack"},
    ),
    SpecialPath(
        "sum in parts",
        "no sum cut into parts",
        ((few, "PARTS_BYTES", 0),),
        ("parts",),
        {"few.py": "parts parts_of PARTS_BYTES", "weight.py": "parts parts_of", "compiled.py": "parts kept"},
    ),
    SpecialPath(
        "large blocks",
        "blocks of one tile",
        ((few, "RESULT_BYTES", 0), (weight, "PACKED_BYTES", 0)),
        ("block_rows", "block_lanes"),
        {
            "few.py": "RESULT_BYTES busiest block blocks block_lanes",
            "weight.py": "RESULT_BYTES PACKED_BYTES TASK_BYTES PACKING busiest packed even needed fits block blocks "
            "block_rows block_lanes",
        },
    ),
    SpecialPath(
        "narrow",
        "tiles with empty lanes",
        ((gather, "NARROW", 0),),
        ("narrow",),
        {
            "gather.py": "narrow NARROW gather_narrow pack_columns sum_of_products_along products_along put_sums",
            "tile.py": "put_sums",
            "registers.py": "products_along store_sums",
        },
    ),
    SpecialPath(
        "lanes of positions",
        "tiles with empty lanes",
        ((planes, "fits", _never),),
        ("kernels",),
        {"planes.py": "*", "registers.py": "products_of dealt"},
    ),
    SpecialPath(
        "tall tiles",
        "lanes of positions, or tiles with empty lanes",
        ((tall, "fits", _never),),
        ("kernels",),
        {"tall.py": "*"},
    ),
    SpecialPath(
        "streaming",
        "results written through the caches",
        ((gather, "STREAM_BYTES", ALL), (tall, "STREAM_BYTES", ALL)),
        ("streams",),
        {
            "gather.py": "stream streams STREAM_BYTES whole_lines wait_for_streams",
            "registers.py": "stream wait_for_streams",
        },
    ),
    SpecialPath(
        "panels together",
        "one panel for each task",
        ((gather, "PANELS_BYTES", 0), (gather, "SHORT_SAVING", 1)),
        ("panels_together",),
        {"gather.py": "together panels_together PANELS_BYTES lane_blocks"},
    ),
    SpecialPath(
        "short tiles",
        "tiles with empty rows",
        ((gather, "MOST_PANELS", 1),),
        ("tile_panels",),
        {
            "gather.py": "MOST_PANELS FEW_PANELS HALF_PANELS FEW_SLOWER SHORT_SAVING few_left tile_panels rows_at_once "
            "panels_at_once place_panels tile_out tiles_of work work_of sum_of_half sum_of_few_rows",
            "registers.py": "products_in_panels",
        },
    ),
    SpecialPath(
        "rows of filters in place",
        "filters packed for every layer",
        ((gather, "IN_PLACE", (0, 0)),),
        ("in_place",),
        {"gather.py": "IN_PLACE in_place read_in_place"},
    ),
    SpecialPath(
        "shared packed taps",
        "each group packs its own",
        ((gather, "_classes", _class_of_each),),
        ("table",),
        {"gather.py": "PackedTaps _packed_taps _classes packed"},
    ),
    SpecialPath(
        "copy to channels last",
        "the copy by NumPy, on one thread",
        ((gather, "run", _copied_by_numpy),),
        ("kernels",),
        {"gather.py": "CopySizes to_channels_last copied_channels_last _pieces band COPY_BYTES COPY_COLUMNS"},
    ),
    SpecialPath(
        "taps last",
        "vectors put together from single numbers",
        ((gather, "taps_are_last", _never), (weight, "taps_are_last", _never)),
        ("turned",),
        {
            "gather.py": "turned may_be_turned pack_turned taps_are_last part_taps LATER_BYTES",
            "weight.py": "turned put_turned taps_are_last join_taps",
            "unpacked.py": "turned may_be_turned TURNING",
            "tile.py": "part_taps join_taps FEWEST_TAPS copies_of_eight copies_of_four eight_back four_back",
            "registers.py": "copy_some_columns",
        },
    ),
    SpecialPath(
        "bands",
        "the whole source copied at once",
        ((gather, "COPY_BYTES", ALL),),
        ("kernels",),
        {"gather.py": "band _pieces COPY_BYTES"},
    ),
    SpecialPath(
        "one thread for little work",
        "threads for all calls",
        ((compiled, "SERIAL_BELOW", 0),),
        ("threads",),
        {"compiled.py": "SERIAL_BELOW"},
    ),
    SpecialPath(
        "filters in place",
        "filters packed for every layer",
        ((unpacked, "SLOWER", {"along": ALL, "across": ALL}),),
        ("kernels",),
        {"unpacked.py": "*", "tile.py": "put_sums", "registers.py": "products_along store_sums"},
    ),
)


def lines_of(path: SpecialPath) -> int:
    """Count the lines of code of a path."""
    folder = Path(gather.__file__).parent
    return sum(_lines_with(folder / file, set(names.split())) for file, names in path.names.items())


def _lines_with(file: Path, names: set[str]) -> int:
    """Count the lines of functions and classes of these names, and the other lines of code with one of them."""
    text = file.read_text(encoding="utf-8")
    found: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if not names.isdisjoint(getattr(node, key, "") or "" for key in ("id", "attr", "arg", "name")):
            whole = isinstance(node, (ast.FunctionDef, ast.ClassDef))
            found.update(range(node.lineno, (node.end_lineno or 0) + 1 if whole else node.lineno + 1))  # type: ignore[attr-defined]
    lines = text.splitlines()
    return sum(1 for number, line in enumerate(lines, 1) if line.strip() and ("*" in names or number in found))


# --- which cases a path serves --------------------------------------------------------------------
class Layered(NamedTuple):
    """A case in one order of axes."""

    case: cases.Case
    layout: Layout


def pool() -> list[Layered]:
    """List the cases from which the served ones are found.

    They are the table in NHWC and NCHW, and with one image; few channels on large maps; and `LARGE`.
    """
    table = cases.table()
    found = [Layered(case, layout) for layout in ("NHWC", "NCHW") for case in table]
    found += [Layered(case, "NHWC") for case in cases.peer_table((1,)) if case.source == "few channels"]
    known = set(table)
    one_image = [case for case in cases.table(batch=1) if case not in known]
    return found + [Layered(case, "NHWC") for case in (*one_image, *LARGE)]


def choices(call: Callable[[], Any]) -> dict[str, Any]:
    """Return what a call would do: kernels, threads, and all sizes by their names, in order; no kernel runs."""
    found: dict[str, list[Any]] = {}

    def note(name: str, value: Any) -> None:
        found.setdefault(name, []).append(value)

    def start(function: Any, dtype: Any, threads: int, *rest: Any, **arrays: Any) -> None:
        note("kernels", function.__name__)
        note("threads", threads)

    def noting(sizes_of: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            result = sizes_of(*given)
            sizes = result if isinstance(result, compiled.Sizes) else result[1]
            for name, value in {**sizes.named._asdict(), "table": sizes.table.tobytes()}.items():
                note(name, value)
            return result

        noted.cache_clear = lambda: None  # type: ignore[attr-defined]
        return noted

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(cpu, "NOTES_CALLS", False))
        for module in (gather, weight, unpacked, planes, tall):
            stack.enter_context(mock.patch.object(module, "start", start))
            stack.enter_context(mock.patch.object(module, "sizes_of", noting(module.sizes_of)))
        call()
    return found


def call_of(layered: Layered, fill: Callable[[tuple[int, ...]], Any]) -> Callable[[], Any]:
    """Return a call of a case on arrays that `fill` makes of their NHWC sizes."""
    operator, shape = layered.case.operator, layered.case.shape
    arrays = [fill(size) for _, size in shape.arrays(operator)[:2]]
    if layered.layout == "NCHW":
        arrays = [np.ascontiguousarray(array.transpose(0, 3, 1, 2)) for array in arrays]
    return lambda: accuracy.call(operator, shape, arrays[0], arrays[1], "cpu", layered.layout)


def served(path: SpecialPath, listed: Sequence[Layered]) -> list[Layered]:
    """Return the cases that do something else without the path."""
    found = []
    for layered in listed:
        call = call_of(layered, partial(np.zeros, dtype=np.float32))
        usual = choices(call)
        with path.switched_off():
            other = choices(call)
        if any(usual.get(name) != other.get(name) for name in path.decides):
            found.append(layered)
    return found


def chosen(listed: Sequence[Layered], most: int = MOST) -> list[Layered]:
    """Choose at most `most` cases to time."""
    large = [layered for layered in listed if layered.case in LARGE]
    others = [layered for layered in listed if layered.case not in LARGE]
    count = min(most - len(large), len(others))
    return large + [others[k * len(others) // count] for k in range(count)]


# --- with and without -----------------------------------------------------------------------------
def gain(path: SpecialPath, layered: Layered, rounds: int, probe: Probe) -> float:
    """Median time without the path over the median time with it.

    Raises
    ------
    RuntimeError
        If the results differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    call = call_of(layered, lambda size: rng.standard_normal(size, np.float32))
    result = call()
    with path.switched_off():
        other = call()
    error = float(np.abs(result - other).max()) / (float(np.abs(result).max()) or 1.0)
    if not error < 1e-4:
        raise RuntimeError(f"without {path.title} the result differs by {error:.1e}: {layered}")

    def without() -> list[float]:
        with path.switched_off():
            return burst(call, times=3)

    times = clean_rounds({"with": partial(burst, call, times=3), "without": without}, rounds, probe)
    return median(times["without"]) / median(times["with"])


@dataclass
class AblationRow:
    """A path: a line of the CSV. The gain is the time without the path over the time with it."""

    path: str
    instead: str
    lines: int
    served: int
    timed: int
    mean: float
    least: float
    most: float
    least_case: str
    most_case: str
    rounds: int
    device: str
    threads: int
    versions: str
    commit: str


def measure(path: SpecialPath, listed: Sequence[Layered], rounds: int, threads: int) -> AblationRow | None:
    """Time a path, or return None if it serves none of the cases."""
    found = served(path, listed)
    if not found:
        return None
    probe = Probe(threads)
    gains = {layered: gain(path, layered, rounds, probe) for layered in chosen(found)}
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    return AblationRow(
        path=path.title,
        instead=path.instead,
        lines=lines_of(path),
        served=len(found),
        timed=len(gains),
        mean=round(geometric_mean(gains.values()), 3),
        least=round(gains[least], 3),
        most=round(gains[most], 3),
        least_case=_name(least),
        most_case=_name(most),
        rounds=rounds,
        device=results.machine(),
        threads=threads,
        versions=results.versions(),
        commit=results.commit(),
    )


def _name(layered: Layered) -> str:
    return f"{layered.case.operator} {layered.layout} {' '.join(layered.case.name.split())}"


def summary(rows: Sequence[AblationRow]) -> str:
    """Summarise the rows in one table, in Markdown."""
    first = rows[0]
    lines = [
        f"Time without a path over time with it ({first.device}, {first.threads} threads, float32, {first.versions}):",
        "",
        "| path | without it | lines | cases served | cases timed | mean | range |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = f"{row.lines} | {row.served} | {row.timed} | {row.mean:.2f} | {row.least:.2f}-{row.most:.2f}"
        lines.append(f"| {row.path} | {row.instead} | {numbers} |")
    return "\n".join(lines)


def run(rounds: int, threads: int, quick: bool, csv_file: Path | None, readme: Path | None, only: str) -> int:
    """Run the ablation.

    Parameters
    ----------
    rounds : int
        Clean rounds of each case.
    threads : int
        Threads of each call.
    quick : bool
        Use every tenth case, to see that everything works.
    csv_file, readme : Path, optional
        File to write the rows to; file with markers to put the table between.
    only : str
        Time only paths with this text in their title.

    Returns
    -------
    int
        0.
    """
    paths = [path for path in PATHS if only in path.title]
    if not paths:
        raise RuntimeError(f"no path has {only!r} in its name: {', '.join(path.title for path in PATHS)}")
    numba.set_num_threads(threads)
    keep_memory()
    listed = pool()[::10] if quick else pool()
    rows = []
    print(f"{'path':<28} {'lines':>5} {'served':>6} {'timed':>5} {'mean':>6} {'least':>6} {'most':>6}")
    for path in paths:
        row = measure(path, listed, rounds, threads)
        if row is None:
            print(f"{path.title:<28} {lines_of(path):>5}      0")
            continue
        rows.append(row)
        print(
            f"{row.path:<28} {row.lines:>5} {row.served:>6} {row.timed:>5} {row.mean:>6.2f} {row.least:>6.2f} "
            f"{row.most:>6.2f}   least: {row.least_case}",
            flush=True,
        )
    if rows and csv_file:
        results.write(rows, csv_file)
        print(f"\nwrote {csv_file}")
    if rows and readme:
        put_between(readme, summary(rows), MARKERS)
    return 0
