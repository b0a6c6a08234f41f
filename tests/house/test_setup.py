"""`setup` decides where the kernels of a notebook run, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from shutil import which

import pytest

KERNEL = """
from numba import cuda
import numpy as np

@cuda.jit
def double(x):
    i = cuda.grid(1)
    if i {test} x.size:
        x[i] *= 2

x = np.ones(5, np.float32)
"""
CELL = "shell.run_cell({!r})"
SHELL = "from IPython.core.interactiveshell import InteractiveShell as I; shell = I.instance(); "
ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **variables: str) -> str:
    settings = {**os.environ, **variables}
    if "NUMBA_ENABLE_CUDASIM" not in variables:
        settings.pop("NUMBA_ENABLE_CUDASIM", None)
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


GPU = "import cks_numba.tutorial.setting_up as s; from types import SimpleNamespace as N; s.gpu = lambda: N(available="


@cache
def shown_without_a_gpu() -> tuple[str, str]:
    """What a process shows that runs a right kernel, and what it shows when it runs a wrong one after that."""
    right, wrong = (f"{KERNEL.format(test=test)}\ndouble[2, 4](x)\nprint(x.sum())" for test in ("<", "<="))
    before, found, after = run(f"{GPU}lambda: False)\ns.setup()\n{right}\n{wrong}").partition("Traceback")
    return before, found + after


def test_without_a_gpu_kernels_run_in_the_emulator() -> None:
    shown, _ = shown_without_a_gpu()
    assert "in the emulator" in shown and "uses the CPU" in shown and shown.endswith("10.0\n")


def test_a_fault_is_an_error() -> None:
    _, shown = shown_without_a_gpu()
    assert "KernelFault" in shown and "x[5], but x has 5 elements" in shown


def test_a_gpu_is_used_where_there_is_one() -> None:
    shown = run(f"{GPU}lambda: True)\ns.setup()\nprint(s._emulating._exit_callbacks)")
    assert "this machine's GPU" in shown and "uses the GPU" in shown and "emulator" not in shown
    assert shown.endswith("deque([])\n")


def test_auto_stays_the_cpu() -> None:
    shown = run(
        "from cks_numba.tutorial import setup; setup(); import cks_numba.backends as b; print(b.choose('auto', False))"
    )
    assert ("emulator" in shown) == shown.endswith("cpu\n")


@pytest.mark.skipif(which("make") is None, reason="make is not installed")
@pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="the tests are here without the Makefile")
@pytest.mark.parametrize("user", [0, 1000])
def test_make_learn_starts_as_root(tmp_path: Path, user: int) -> None:
    """JupyterLab does not start as root without --allow-root, and nobody else should say it."""
    identity = tmp_path / "id"
    identity.write_text(f"#!/bin/sh\necho {user}\n")
    identity.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "--dry-run", "learn", f"VENV={tmp_path}"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    (line,) = (line for line in done.stdout.splitlines() if "jupyter lab" in line)
    assert ("--allow-root" in line.split()) == (user == 0)


def test_every_cell_of_a_notebook_has_the_emulator() -> None:
    pytest.importorskip("IPython", reason="IPython is not installed (pip install cks-numba[tutorials])")
    cells = f"{GPU}lambda: False)\ns.setup()", KERNEL.format(test="<"), "1 / 0", "double[2, 4](x); print(x.sum())"
    code = SHELL + "; ".join(CELL.format(cell) for cell in (*cells, "s.setup()", cells[-1]))
    code += "; from cks_numba.tutorial import setting_up as s"
    shown = run(f"{code}; print(s._emulating._exit_callbacks)")
    assert "10.0" in shown and "20.0" in shown and shown.endswith("deque([])\n")


def test_the_simulator_is_refused() -> None:
    shown = run("from cks_numba.tutorial import setup; setup()", NUMBA_ENABLE_CUDASIM="1")
    assert "RuntimeError: NUMBA_ENABLE_CUDASIM is set" in shown and "Unset it" in shown
