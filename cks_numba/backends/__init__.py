"""Where an operator runs: on a GPU, on the CPU, by the GPU's kernels on the CPU, or step by step.

Every backend has ``run(operator, shape, first, second, out)`` on contiguous NHWC arrays.

`first` and `second` are (x, w) for "conv2d", (w, dy) for "conv2d_input" and (x, dy) for "conv2d_weight".
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np

from .. import checks
from ..buffers import HALVES, bits, with_unit_axes
from ..checks import Precision
from ..geometry import ConvShape
from ..steps import BY_OPERATOR
from .interrupts import uncollected, uninterrupted

with uninterrupted(), uncollected():
    from . import cpu

Backend = Literal["auto", "cuda", "cpu", "emulator", "steps"]
"""Where an operator runs; "auto" is the GPU where the arrays live on one or one is present, else the CPU."""

BACKENDS: tuple[Backend, ...] = ("auto", "cuda", "cpu", "emulator", "steps")


@cache
def gpu() -> Any:
    """Return the module `cuda`, imported at its first use: numba.cuda takes longer to import than everything else."""
    with uninterrupted():
        return import_module(".cuda", __name__)


@cache
def emulated() -> Any:
    """Return the module `emulator`, imported at its first use, because it imports numba.cuda too."""
    with uninterrupted():
        return import_module(".emulator", __name__)


def choose(backend: Backend, on_gpu: bool, dtype: str = "float32") -> Backend:
    """Return the backend to use: "auto" is the GPU where the arrays live on one or one that takes them is present.

    Raises
    ------
    ValueError
        For a backend that cannot read the arrays.
    RuntimeError
        For "cuda" with no GPU and no simulator, or with 16 bits and a GPU that cannot multiply them, and for "emulator"
        in the simulator; says how to go on.
    """
    checks.choice("backend", backend, BACKENDS)
    if on_gpu and backend in ("cpu", "emulator", "steps"):
        raise ValueError(f'backend={backend!r} needs arrays in host memory, got GPU arrays; use backend="cuda"')
    if on_gpu or backend == "cuda":
        gpu().require(dtype)
        return "cuda"
    if backend == "emulator":
        emulated().require()
    if backend == "auto":
        takes = gpu().tensor_cores if dtype in HALVES else gpu().available
        return "cuda" if takes() and not gpu().SIMULATED else "cpu"
    return backend


def run(
    backend: Backend,
    operator: str,
    shape: ConvShape,
    first: Any,
    second: Any,
    out: Any,
    bias: Any = None,
    stream: Any = None,
    precision: Precision = "float32",
) -> None:
    """Run one operator, and write every element of `out`; cuda and emulator take 16 bits, and steps adds no bias."""
    if backend == "cpu":
        cpu.run(operator, shape, first, second, out, bias)
        return
    if len(shape.axes) == 1:
        shape = shape.with_unit_axes(2)
    first, second, out = (with_unit_axes(bits(array), len(shape.axes)) for array in (first, second, out))
    bias = None if bias is None else bits(bias)
    tensor = precision == "tf32" or out.dtype.itemsize == 2
    if backend == "cuda":
        gpu().run(operator, shape, first, second, out, bias, 0 if stream is None else stream, tensor)
    elif backend == "emulator":
        emulated().run(operator, shape, first, second, out, bias, tensor)
    elif len(shape.axes) > 2:
        cpu.plain.run(operator, shape, first, second, out)
    else:
        with np.errstate(all="ignore"):  # NaN, infinity and float32's range are the caller's to see
            result = BY_OPERATOR[operator](first, second, shape).skipping
        with np.errstate(over="ignore"):  # float64 to float32: too large is infinity, as in a float32 sum
            out[...] = result
