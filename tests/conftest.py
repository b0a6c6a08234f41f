"""Which tests are collected: the simulator needs a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no fcntl; there, several processes may compile a kernel at the same time.
    fcntl = None  # type: ignore[assignment]

os.environ.setdefault("NUMBA_NUM_THREADS", "3")  # Numba reads it at its import; allows three threads on any machine
SIMULATOR = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

collect_ignore = ["emulator/foreign"]  # examples, which test_foreign.py imports
if not SIMULATOR:  # tests/kernels/test_simulator.py runs these in a process with the variable set
    collect_ignore.append("kernels/sim")
if find_spec("torch") is None:  # pytest would import it to look for doctests
    collect_ignore.append("torch_networks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests of what is not in the core without tracing: coverage is that of the core, and tracing takes long."""
    for item in items:
        if item.path.parent.name in ("emulator", "plots"):
            item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def one_process_compiles_a_kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Let a process of pytest-xdist wait for another one that compiles the same kernel, and take it from the cache."""
    from cks_numba.backends.cpu import compiled

    compile_alone, folder = compiled._compile, tmp_path_factory.getbasetemp().parent

    def compile_once(function: Any, signature: Any) -> Any:
        with Path(folder, f"{function.__name__}, {signature.args[0]}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # It is released when the file is closed.
            return compile_alone(function, signature)

    with pytest.MonkeyPatch.context() as patch:
        if fcntl and hasattr(request.config, "workerinput"):  # Only processes of pytest-xdist have it.
            patch.setattr(compiled, "_compile", compile_once)
        yield


def pytest_report_header() -> str:
    """Name the optional parts of this run, so that a short run is never mistaken for a full one."""
    parts = {
        "CUDA simulator": "on" if SIMULATOR else "in its own process",
        "PyTorch": "found" if find_spec("torch") else "not installed",
    }
    return "cks-numba: " + ", ".join(f"{name} {state}" for name, state in parts.items())
