"""What is collected where: the simulator and the compiled PTX each need a process of their own."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

os.environ.setdefault("NUMBA_NUM_THREADS", "3")  # read at Numba's import: three threads can then be had anywhere
SIMULATOR = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

collect_ignore = []
if not SIMULATOR:  # Numba reads the variable once, at its import, so tests/kernels/test_simulator.py starts a process
    collect_ignore.append("kernels/sim")
if "PTXRUN" not in os.environ:  # the folder of a tool that runs compiled PTX on a CPU
    collect_ignore.append("kernels/ptx")
if find_spec("torch") is None:  # looking for doctests would import it
    collect_ignore.append("torch_networks.py")


def pytest_configure(config: pytest.Config) -> None:
    """Let the PTX tool, which is not part of the project, leave its source files for the collector to close."""
    if "PTXRUN" in os.environ:
        config.addinivalue_line("filterwarnings", "ignore:unclosed file .*ptx:ResourceWarning")


def pytest_report_header() -> str:
    """Say which optional parts this run has, so that a short run is never mistaken for a full one."""
    parts = {
        "CUDA simulator": "on" if SIMULATOR else "in its own process",
        "PTX": "on" if "PTXRUN" in os.environ else "left out (PTXRUN is not set)",
        "PyTorch": "found" if find_spec("torch") else "not installed",
    }
    return "cks-numba: " + ", ".join(f"{name} {state}" for name, state in parts.items())
