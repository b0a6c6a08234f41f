"""Where an operator runs. Every backend has ``run(operator, shape, first, second, out)`` on contiguous NHWC arrays.

`first` and `second` are (x, w) for "conv2d", (w, dy) for "conv2d_input" and (x, dy) for "conv2d_weight".
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from .. import checks
from ..geometry import ConvShape

BACKENDS = ("auto", "cuda", "cpu", "steps")


def choose(backend: Any, on_gpu: bool) -> str:
    """Return the backend to use: "auto" is the GPU where the arrays live on one or one is present.

    Raises
    ------
    RuntimeError
        For "cuda" with no GPU and no simulator; says how to go on.
    """
    checks.choice("backend", backend, BACKENDS)
    if on_gpu and backend in ("cpu", "steps"):
        raise ValueError(f'backend={backend!r} needs arrays in host memory, got GPU arrays; use backend="cuda"')
    if on_gpu or backend == "cuda":
        _module("cuda").require()
        return "cuda"
    if backend == "auto":
        cuda = _module("cuda")
        return "cuda" if cuda.available() and not cuda.SIMULATED else "cpu"
    return backend


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block: Numba, interrupted in its first compilation, compiles nothing more.

    Only the main thread gets signals, and only Python's own handler, which raises KeyboardInterrupt, is held back.
    """
    own = signal.getsignal(signal.SIGINT)
    if own is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, own)
    if pressed:
        raise KeyboardInterrupt


@cache
def _module(name: str) -> Any:
    """The module of a backend, imported at its first use."""
    with uninterrupted():
        return import_module(f".{name}", __name__)


def run(backend: str, operator: str, shape: ConvShape, first: Any, second: Any, out: Any, stream: Any = None) -> None:
    """Run one operator, and write every element of `out`."""
    if backend == "cpu":
        _module("cpu").run(operator, shape, first, second, out)
    elif backend == "cuda":
        _module("cuda").run(operator, shape, first, second, out, 0 if stream is None else stream)
    else:
        from ..steps import BY_OPERATOR

        with np.errstate(all="ignore"):  # NaN, infinity and float32's range are the caller's to see
            result = BY_OPERATOR[operator](first, second, shape).skipping
        with np.errstate(over="ignore"):  # float64 to float32: too large is infinity, as in a float32 sum
            out[...] = result
