"""Other processes, and Ctrl-C in the middle of a call: right results, nothing hangs, nothing half done stays behind."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cks_numba as cks

SIZES = (4, 15, 15, 32), (40, 3, 3, 32), (4, 8, 8, 40)  # of x, w and dy: work for more than one thread
GIVEN = {"stride": 2, "padding": 1}
CALLS = {
    "conv2d": lambda x, w, dy, backend="cpu": cks.conv2d(x, w, **GIVEN, backend=backend),
    "conv2d_input": lambda x, w, dy, backend="cpu": cks.conv2d_input(x.shape, w, dy, **GIVEN, backend=backend),
    "conv2d_weight": lambda x, w, dy, backend="cpu": cks.conv2d_weight(x, w.shape, dy, **GIVEN, backend=backend),
}


def results(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    x, w, dy = (rng.standard_normal(size, np.float32) for size in SIZES)
    return [call(x, w, dy) for call in CALLS.values()]


@pytest.mark.slow
def test_spawned_workers():
    wanted = [results(seed) for seed in range(4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        got = pool.map_async(results, range(4)).get(timeout=180)
    for ours, theirs in zip(wanted, got, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


INTERRUPTED = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_processes import CALLS, SIZES

rng = np.random.default_rng(0)
x, w, dy = (rng.integers(-3, 4, size).astype(np.float32) for size in SIZES)
wanted = [call(x, w, dy, "steps") for call in CALLS.values()]
for k in range(int(sys.argv[2])):
    try:
        print("ready", flush=True)
        while True:
            for call in CALLS.values():
                call(x, w, dy)
    except KeyboardInterrupt:
        pass
    for call, array in zip(CALLS.values(), wanted):
        np.testing.assert_array_equal(call(x, w, dy), array)
    print("right", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_interrupts(tmp_path):
    """The first ones come while Numba compiles. Of whole numbers, every order of adding up gives the same sum."""
    times = 8
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", INTERRUPTED, str(Path(__file__).parent), str(times)]
    chance = random.Random(0)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        watch = signal.signal(signal.SIGALRM, lambda *_: child.kill())
        signal.alarm(240)
        try:
            for _ in range(times):
                if child.stdout.readline() != "ready\n":
                    break
                try:
                    child.wait(chance.uniform(0.05, 1.5))
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGINT)
                if child.stdout.readline() != "right\n":
                    break
            out, err = child.communicate(timeout=60)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, watch)
    assert child.returncode == 0, err[-2000:]
