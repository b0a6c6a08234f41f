"""`setup` chooses the simulator before Numba is imported, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest

from cks_numba.tutorial import setting_up

ROOT = Path(__file__).resolve().parents[2]
COUNT = "import cks_numba.tutorial.setting_up as s; s.gpus = lambda: {}; "


def run(code: str, **variables: str) -> str:
    settings = {**os.environ, **variables}
    if "NUMBA_ENABLE_CUDASIM" not in variables:
        settings.pop("NUMBA_ENABLE_CUDASIM", None)
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True).stdout


def test_the_tutorial_package_imports_no_numba() -> None:
    code = "import sys, cks_numba.tutorial as t; print('numba' in sys.modules, 'matplotlib' in sys.modules)"
    assert run(code) == "False False\n"


@pytest.mark.parametrize(("gpus", "simulated"), [(0, True), (1, False)])
def test_the_simulator_is_for_machines_without_a_gpu(gpus: int, simulated: bool) -> None:
    if gpus and find_spec("numba_cuda") is None:
        pytest.skip("a GPU is used through numba-cuda, which is not installed")
    shown = run(COUNT.format(gpus) + "s.setup(); from cks_numba.kernels.jit import SIMULATED; print(SIMULATED)")
    assert shown.splitlines()[-1] == str(simulated)
    assert ("simulator" in shown) == simulated and ("uses the GPU" in shown) != simulated


def test_without_numba_cuda_a_gpu_is_of_no_use() -> None:
    hidden = "import sys; sys.modules['numba_cuda'] = None; "
    shown = run(hidden + COUNT.format(1) + "s.setup(); import os; print(os.environ['NUMBA_ENABLE_CUDASIM'])")
    assert "simulator" in shown and shown.endswith("uses the CPU.\n1\n")


def test_a_variable_that_is_set_stays() -> None:
    shown = run(
        COUNT.format(1) + "s.setup(); import os; print(os.environ['NUMBA_ENABLE_CUDASIM'])", NUMBA_ENABLE_CUDASIM="1"
    )
    assert "simulator" in shown and shown.endswith("1\n")


@pytest.mark.skipif(which("make") is None, reason="make is not installed")
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


def test_too_late() -> None:
    assert "restart the kernel" in run(COUNT.format(0) + "import numba; s.setup()")


def test_counting_gpus_needs_no_driver(monkeypatch) -> None:
    monkeypatch.setattr(setting_up, "DRIVERS", ("no_such_driver.so",))
    assert setting_up.gpus() == 0
