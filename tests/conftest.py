"""Which tests are collected: the simulator needs a process of its own."""

from __future__ import annotations

import os
import zlib
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--one-in K``, for a second run of tests whose cases have all run elsewhere."""
    text = "run the first case of each test, and of the others about one in K, the same ones every time"
    parser.addoption("--one-in", type=int, default=1, metavar="K", help=text)


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--one-in`` leaves out, and trace nothing outside the core, as that takes long."""
    for item in items:
        if item.path.parent.name in ("emulator", "plots"):
            item.add_marker("no_cover")
    seen: set[str] = set()
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        # A checksum has no period, which could be that of a parameter.
        is_chosen = test not in seen or zlib.crc32(item.nodeid.encode()) % config.getoption("--one-in", 1) == 0
        (chosen if is_chosen else left_out).append(item)
        seen.add(test)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen


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
