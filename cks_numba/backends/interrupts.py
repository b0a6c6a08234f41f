"""Ctrl-C and the garbage collector, held back while Numba is imported or compiles."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def uncollected() -> Iterator[None]:
    """Let Python's garbage collector wait until the end of the block, which makes many objects and keeps most of them.

    Looking through them again and again takes up to a tenth of the time to compile a kernel.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
