"""``python -m cks_numba.emulator``: a kernel without the barrier that it needs, and what a checked run says of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import cuda, float32

from . import cache, check_kernel


@cuda.jit
def reverse(x: Any, out: Any) -> None:
    """Turn each run of 64 elements around, through shared memory."""
    tile = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    i = cuda.grid(1)
    tile[t] = x[i]
    # cuda.syncthreads() belongs here: all 64 elements must have arrived before one is read
    out[i] = tile[63 - t]


def arrays() -> tuple[Any, Any]:
    """The arguments of the kernel, for two blocks."""
    return np.arange(128, dtype=np.float32), np.full(128, np.nan, np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report, and write it as a page if a file is named."""
    parser = argparse.ArgumentParser(prog="python -m cks_numba.emulator", description="A missing barrier, found.")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page too")
    arguments = parser.parse_args(argv)
    try:
        result = check_kernel(reverse, 2, 64, *arrays(), poison=np.nan)
        print(result)
        if arguments.html:
            cache.replace(arguments.html, result.html().encode())
    except (RuntimeError, OSError) as error:  # nothing that compiles kernels, or a file that cannot be written
        print(f"python -m cks_numba.emulator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
