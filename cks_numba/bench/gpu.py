"""``cks-numba bench --device cuda``: the rungs on a GPU, cuDNN through PyTorch, and what a call costs in Python.

For every case all contenders are first checked against each other and then timed in rounds, one sample of each a
round. A sample is a number of calls between two events of the GPU, long enough for the resolution of its clock. The
calls take turns over several sets of operands, so that not all operands are in the cache. cuDNN runs in both layouts.
Tensor cores are contenders of their own, ours and cuDNN's: float32 with TF32 on, float16 and bfloat16. Every case is
written as soon as it is done, so a run that was stopped continues where it stopped.

`StandIn` takes the place of a GPU: with ``--dry`` everything happens except the work, on a simulated clock.
"""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from importlib import metadata
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from .. import kernels, operators
from ..backends import cuda as backend
from ..flops.files import replacing
from ..geometry import OPERATORS, ConvShape, plan
from ..kernels import tiled
from ..kernels.jit import cuda
from ..kernels.launch import Launch
from . import cases
from .cpu import peer_call
from .results import OURS, PEER, REGULAR, Row, key, read, row_of, versions
from .timing import PAUSE

Contenders = dict[tuple[str, str], Callable[[], Any]]

RUNGS = {OURS: "tiled", **{rung: rung for rung in reversed(kernels.SIMULATED_RUNGS[1:-1])}, REGULAR: "with_zeros"}
TENSOR = {"TF32": "float32", "float16": "float16", "bfloat16": "bfloat16"}
"""What tensor cores multiply, and the dtype of its arrays."""
CONTENDERS = (
    *((name, "NHWC", "float32") for name in RUNGS),
    *((PEER, layout, "float32") for layout in ("NHWC", "NCHW")),
    *((f"{OURS}, {kind}", "NHWC", dtype) for kind, dtype in TENSOR.items()),
    *((f"{PEER}, {kind}", layout, dtype) for kind, dtype in TENSOR.items() for layout in ("NHWC", "NCHW")),
)
"""Name, layout and dtype of every contender."""
SAMPLE = 0.002
"""Seconds that a sample should take."""
LONG = 0.03
"""Seconds of a call; contenders that take longer are timed in one round."""
TURNS = 3
"""Sets of operands that take turns."""
TOLERANCE = {"TF32": 1e-2, "float16": 1e-2, "bfloat16": 4e-2}
"""Largest error of a contender as a share of the largest result, where it is not the 1e-3 of float32."""
MINUTES = 8.0


# --- a GPU, and a stand-in for it -------------------------------------------------------------------
class Gpu:
    """The GPU that PyTorch and Numba share."""

    torch: Any
    name: str
    versions: str
    has_tensor_cores: bool

    def __init__(self) -> None:
        backend.require()
        import torch

        self.torch = torch
        properties = torch.cuda.get_device_properties(0)
        self.name = properties.name
        self.has_tensor_cores = properties.major >= 8  # those that the rung `tensor` is made for
        driver = ".".join(map(str, cuda.runtime.get_version())) if hasattr(cuda, "runtime") else "unknown"
        self.versions = f"{versions()}, numba-cuda {metadata.version('numba-cuda')}, CUDA {driver}, cuDNN "
        self.versions += f"{torch.backends.cudnn.version()}, driver {_driver()}"
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)

    def contenders(self, case: cases.Case) -> Contenders:
        """The contenders by name and layout, checked against each other."""
        torch, sizes = self.torch, [size for _, size in case.shape.arrays(case.operator)]
        sets = [[torch.randn(size, device="cuda") for size in sizes] for _ in range(TURNS)]
        calls: Contenders = {}
        for kind, dtype in {"": "float32", **(TENSOR if self.has_tensor_cores else {})}.items():
            arrays = sets if dtype == "float32" else [[a.to(getattr(torch, dtype)) for a in one] for one in sets]
            end = f", {kind}" if kind else ""
            for name, rung in ({OURS: "tensor"} if kind else RUNGS).items():
                calls[name + end, "NHWC"] = self._rung(case, arrays, rung)
            for layout in ("NHWC", "NCHW"):
                peers = [peer_call(case, *self._in_layout(one, layout)) for one in arrays]
                calls[PEER + end, layout] = partial(self._cudnn, peers, kind == "TF32", cycle(range(TURNS)))
        self._check(case, calls)
        return calls

    def _rung(self, case: cases.Case, sets: list[list[Any]], rung: str) -> Callable[[], Any]:
        built = []
        for arrays in sets:
            first, second, out = (cuda.as_cuda_array(self._words(array)) for array in arrays)
            built.append(kernels.launches(case.operator, case.shape, (first, second, out), rung=rung))
        turns = cycle(range(TURNS))

        def call() -> Any:
            turn = next(turns)
            for launch in built[turn]:
                launch.run()
            return sets[turn][2]

        return call

    def _words(self, array: Any) -> Any:
        """bfloat16 as int16, because Numba's arrays have no bfloat16."""
        return array.view(self.torch.int16) if array.dtype == self.torch.bfloat16 else array

    def _in_layout(self, arrays: list[Any], layout: str) -> list[Any]:
        form = self.torch.channels_last if layout == "NHWC" else self.torch.contiguous_format
        return [array.permute(0, 3, 1, 2).contiguous(memory_format=form) for array in arrays[:2]]

    def _cudnn(self, calls: list[Callable[[], Any]], tf32: bool, turns: Iterator[int]) -> Any:
        self.torch.backends.cudnn.allow_tf32 = tf32
        return calls[next(turns)]().permute(0, 2, 3, 1)

    def _check(self, case: cases.Case, calls: Contenders) -> None:
        """Check that every contender gives cuDNN's result on every set of operands, up to rounding."""
        for _ in range(TURNS):
            want = calls[PEER, "NCHW"]()
            scale = float(want.abs().max()) or 1.0
            for (name, layout), call in calls.items():
                if (name, layout) == (PEER, "NCHW"):
                    continue
                error = float((call().float() - want).abs().max()) / scale
                if not error < TOLERANCE.get(name.rpartition(", ")[2], 1e-3):
                    raise RuntimeError(f"{name} ({layout}) differs from cuDNN by {error:.1e}: {case}")

    def seconds(self, call: Callable[[], Any], times: int) -> float:
        """Seconds of a call, on the GPU's own clock."""
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / times


class StandIn:
    """A stand-in for a GPU: launches are built but not run, and a clock advances by what a call might take."""

    name: str = "stand-in"
    versions: str = "dry run"
    clock: float
    jitter: np.random.Generator

    def __init__(self) -> None:
        self.clock = 0.0
        self.jitter = np.random.default_rng(0)

    def contenders(self, case: cases.Case) -> Contenders:
        for name, _, dtype in CONTENDERS:
            if OURS in name or name in RUNGS:
                kind = np.dtype("int16" if dtype == "bfloat16" else dtype)  # `Gpu` passes bfloat16 as int16, too.
                first, second, out = (np.empty(size, kind) for _, size in case.shape.arrays(case.operator))
                kernels.launches(case.operator, case.shape, (first, second, out), rung=RUNGS.get(name, "tensor"))
        flop = 2 * plan(case.operator, case.shape).useful
        keys = [(name, layout) for name, layout, _ in CONTENDERS]
        return {key: partial(self._work, 5e-6 + flop / (1e13 / (1 + k))) for k, key in enumerate(keys)}

    def _work(self, seconds: float) -> None:
        self.clock += seconds * float(self.jitter.uniform(1, 1.1))

    def seconds(self, call: Callable[[], Any], times: int) -> float:
        start = self.clock
        for _ in range(times):
            call()
        return (self.clock - start) / times


def _driver() -> str:
    """Version of the driver, as nvidia-smi reports it."""
    try:
        query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


# --- timing ---------------------------------------------------------------------------------------
def measure(machine: Gpu | StandIn, calls: Contenders, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Measure the seconds of each contender in each round; contenders take turns."""
    times = {}
    for name, call in calls.items():
        machine.seconds(call, 1)  # compiles, and lets cuDNN choose
        times[name] = machine.seconds(call, 1)
    repeats = {name: max(1, min(100, round(SAMPLE / max(seconds, 1e-7)))) for name, seconds in times.items()}
    samples: dict[tuple[str, str], list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            if number == 0 or times[name] < LONG:
                samples[name].append(machine.seconds(call, repeats[name]))
    return samples


def done(path: Path | None, device: str) -> set[tuple[Any, ...]]:
    """Cases of a device that the file already has."""
    if path is None or not path.exists():
        return set()
    return {row.case for row in read(path) if row.device == device}


def append(rows: list[Row], path: Path) -> None:
    """Add the rows of a case to the file."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with replacing(path) as file:
        file.write(before)
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if not before:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def run(rounds: int, csv_file: Path | None, only: str = "", minutes: float = MINUTES, dry: bool = False) -> int:
    """Time all contenders on the table of layers, within a limit of time.

    Parameters
    ----------
    rounds : int
        Samples of each contender on each case.
    csv_file : Path, optional
        File to add the rows to, case by case; cases that it already has are left out.
    only : str
        Time only cases with this text in their line.
    minutes : float
        Minutes after which no further case is begun.
    dry : bool
        Use no GPU: everything happens except the work, on a simulated clock.

    Returns
    -------
    int
        0, also if time ran out; the last line says what is left.

    Raises
    ------
    RuntimeError
        With no GPU, or if a contender's results are wrong.
    """
    machine = StandIn() if dry else Gpu()
    listed = [case for case in cases.gpu_table() if only in f"{case.operator} {case.name}"]
    known = done(csv_file, machine.name)
    listed = [case for case in listed if key(case) not in known]
    print(f"{machine.name}: {len(listed)} cases, {len(known)} in the file already. {machine.versions}")
    heads = "".join(f" {name:>8}" for name in ("cuDNN", "regular", *TENSOR))
    print(f"{'case':<66} {'GFLOP/s':>8}{heads}  (times as long as ours; with tensor cores, cuDNN's as long as ours)")
    end = time.monotonic() + 60 * minutes
    for number, case in enumerate(listed):
        if time.monotonic() > end:
            print(f"{len(listed) - number} cases left: run it again with the same --csv to go on")
            break
        rows = _rows(machine, case, measure(machine, machine.contenders(case), rounds))
        if csv_file is not None:
            append(rows, csv_file)
        print(_line(case, rows), flush=True)
    return 0


def _rows(machine: Gpu | StandIn, case: cases.Case, times: dict[tuple[str, str], list[float]]) -> list[Row]:
    about = {"device": machine.name, "versions": machine.versions, "threads": 0}
    dtypes = {(name, layout): dtype for name, layout, dtype in CONTENDERS}
    return [
        replace(row_of(case, *key, seconds), **about, dtype=dtypes[key])  # type: ignore[arg-type]
        for key, seconds in times.items()
    ]


def _line(case: cases.Case, rows: list[Row]) -> str:
    least = {row.contender: min(r.median_ms for r in rows if r.contender == row.contender) for row in rows}
    rate = next(row.rate for row in rows if row.contender == OURS)
    pairs = [(PEER, OURS), (REGULAR, OURS), *((f"{PEER}, {kind}", f"{OURS}, {kind}") for kind in TENSOR)]
    ratios = (f"{least[them] / least[us]:8.2f}" if us in least else f"{'-':>8}" for them, us in pairs)
    return f"{case.operator:<13} {case.name:<52} {rate:8.0f} {' '.join(ratios)}"


# --- what a call costs before the GPU has anything to do --------------------------------------------
LAYER = ConvShape(n=32, ih=8, iw=8, ic=64, oc=64, fh=3, fw=3, padding=1)


class DeviceArray:
    """The part of a Numba device array that a call looks at, with no memory behind it."""

    __cuda_ndarray__ = True
    stream = 0

    def __init__(self, shape: tuple[int, ...], address: int) -> None:
        empty = np.empty(shape, np.float32)
        self.shape, self.strides, self.dtype, self.size = empty.shape, empty.strides, empty.dtype, empty.size
        self.device_ctypes_pointer = mock.Mock(value=address)

    def is_c_contiguous(self) -> bool:
        return True


@contextmanager
def _no_gpu_needed() -> Iterator[list[Launch]]:
    """Replace the GPU: launches are listed and not run, and its arrays have no memory."""
    launched: list[Launch] = []
    with ExitStack() as stack:

        def patch(owner: Any, name: str, stand_in: Callable[..., Any]) -> None:
            stack.enter_context(mock.patch.object(owner, name, stand_in))

        patch(backend, "available", lambda: True)
        patch(tiled, "device_of", lambda array: 0)
        patch(tiled, "multiprocessors", lambda device: tiled.DEFAULT_SMS)
        patch(cuda, "to_device", lambda array, *_, **__: array)
        patch(cuda, "device_array", lambda shape, dtype: DeviceArray(shape, 2**40))
        patch(Launch, "run", lambda self, stream=0: launched.append(self))
        yield launched


def launch_cost(blocks: int = 60) -> dict[str, float]:
    """Microseconds of Python in a repeated call with `out=`, up to its launches, by operator.

    A stand-in takes the launches, so no GPU is needed. What Numba itself does in a launch is not counted.

    Parameters
    ----------
    blocks : int
        Number of blocks of 50 calls of each operator. Operators take turns, with pauses, because a computer has slow
        moments.

    Returns
    -------
    dict of str to float
        Microseconds of a call in the fastest block, as processor time of this process.
    """
    x, w, y = (DeviceArray(size, 2**30 * k) for k, size in enumerate((LAYER.x_shape, LAYER.w_shape, LAYER.y_shape), 1))
    calling: dict[str, Callable[[], Any]] = {
        "conv2d": lambda: operators.conv2d(x, w, padding=1, out=y),
        "conv2d_input": lambda: operators.conv2d_input(LAYER.x_shape, w, y, padding=1, out=x),
        "conv2d_weight": lambda: operators.conv2d_weight(x, LAYER.w_shape, y, padding=1, out=w),
    }
    samples: dict[str, list[float]] = {operator: [] for operator in OPERATORS}
    tiled._prepared.cache_clear()  # tables of a real GPU must not serve the stand-in, nor the other way round
    backend._workspaces.clear()
    try:
        with _no_gpu_needed():
            for _ in range(blocks):
                for operator, call in calling.items():
                    samples[operator].append(_block(call))
                time.sleep(PAUSE)
    finally:
        tiled._prepared.cache_clear()
        backend._workspaces.clear()
    return {operator: min(times) for operator, times in samples.items()}


def _block(call: Callable[[], Any], calls: int = 50) -> float:
    call()
    start = time.process_time_ns()
    for _ in range(calls):
        call()
    return (time.process_time_ns() - start) / calls / 1e3
