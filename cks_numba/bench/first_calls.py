"""What a first call costs: it compiles its kernel, or reads code that an earlier process has compiled.

``python -m cks_numba.bench.first_calls`` prints a table. A row is two processes, the first with an empty cache on disk;
each makes one call. Seconds are CPU time of the call alone, without imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from ..geometry import ConvShape
from . import accuracy, results

CASES = {
    "many channels": ConvShape(n=8, ih=16, iw=16, ic=64, oc=64, fh=3, fw=3, padding=1),
    "one image on a small map": ConvShape(n=1, ih=4, iw=4, ic=512, oc=512, fh=3, fw=3, padding=1),
    "few channels": ConvShape(n=1, ih=64, iw=64, ic=3, oc=8, fh=3, fw=3, padding=1),
    "depthwise": ConvShape(n=1, ih=16, iw=16, ic=64, oc=64, fh=3, fw=3, padding=1, groups=64),
}


def first_call(operator: str, name: str) -> float:
    """Return the CPU seconds of one call in a process that has made none."""
    first, second = accuracy.operands(operator, CASES[name], np.random.default_rng(0), np.float32)
    begin = time.process_time()
    accuracy.call(operator, CASES[name], first, second, "cpu")
    return time.process_time() - begin


def both(operator: str, name: str) -> tuple[float, float]:
    """Return the seconds of a first call that compiles, and of one in another process that finds the code."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "cks_numba.bench.first_calls", operator, name]
        settings = {**os.environ, "NUMBA_CACHE_DIR": folder}
        compiles, reads = (float(subprocess.check_output(run, env=settings, text=True)) for _ in range(2))
    return compiles, reads


def main(chosen: list[str]) -> None:
    """Print the table, or with an operator and a name of `CASES` the seconds of this process."""
    if chosen:
        print(first_call(*chosen))
        return
    print(f"{results.machine()}, {results.versions(('numba',))}\n")
    print("| layer | operator | compiles, CPU s | reads, CPU s |\n|---|---|---|---|")
    for name in CASES:
        for operator in ("conv2d", "conv2d_input", "conv2d_weight"):
            compiles, reads = both(operator, name)
            print(f"| {name} | `{operator}` | {compiles:.2f} | {reads:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
