"""A machine without numba-cuda, such as a Mac: everything works but kernels on a GPU and their machine code.

In processes of their own, in which numba-cuda is hidden where it is installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from reference import WARNINGS_ARE_ERRORS

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = ROOT / "tests" / "kernels" / "sim" / "test_kernels.py"
HIDDEN = """
import sys
sys.modules["numba_cuda"] = None  # makes its import fail
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "_numba_cuda_redirector"]
import os.path
import numba.cuda
assert os.path.dirname(numba.cuda.__file__) == os.path.join(os.path.dirname(numba.__file__), "cuda")
"""


def run(code: str, *options: str, **variables: str) -> str:
    settings = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, *options, "-c", HIDDEN + code]
    done = subprocess.run(command, env=settings | variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_numba_cuda_is_installed_everywhere_but_on_a_mac():
    (line,) = re.findall(r'^    "(numba-cuda\b.*?)",', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    marker = Requirement(line).marker
    found = {
        system: marker is None or marker.evaluate({"sys_platform": system}) for system in ("darwin", "linux", "win32")
    }
    assert found == {"darwin": False, "linux": True, "win32": True}


def test_the_simulator_of_numba_itself_runs_every_rung():
    chosen = ["-q", "-n", "0", "-p", "no:cacheprovider", str(SIMULATED), "-k", "rung_equals and not zeros"]
    code = f"import pytest; sys.exit(pytest.main({chosen}))"
    printed = run(code, NUMBA_ENABLE_CUDASIM="1")
    assert "12 passed" in printed, printed


DYNAMIC = """
import numpy as np
from numba import float32
from cks_numba.kernels.jit import cuda

@cuda.jit
def reverse(out):
    own, given = cuda.shared.array(4, float32), out.size
    held = cuda.shared.array(0, out.dtype)
    t = cuda.threadIdx.x
    held[t], own[t] = out[t], t
    cuda.syncthreads()
    out[t] = held[given - 1 - t] + own[given - 1 - t]

out = np.arange(4, dtype=np.float32)
reverse[1, 4, 0, 16](out)
print(out.tolist())
"""


def test_other_kernels_ask_the_simulator_for_shared_arrays_as_before():
    assert run(DYNAMIC, NUMBA_ENABLE_CUDASIM="1") == "[6.0, 4.0, 2.0, 0.0]\n"


OPERATOR = """
import numpy as np
import cks_numba as cks
from cks_numba.kernels.jit import cuda
cuda.is_available = lambda: True  # a GPU alone is not enough
x, w = np.ones((1, 4, 4, 4), np.float32), np.ones((4, 3, 3, 4), np.float32)
print(int(cks.conv2d(x, w, padding=1).sum()))
try:
    cks.conv2d(x, w, backend="cuda")
except RuntimeError as error:
    print(error)
print(int(cks.conv2d(x, w, padding=1, backend="emulator").sum()))
print(int(cks.conv2d_weight(x, w.shape, x, padding=1, backend="emulator", precision="tf32").sum()))
"""


def test_the_cpu_is_used_the_cuda_backend_says_what_is_missing_and_the_emulator_needs_nothing():
    useful, message, emulated, tensor = run(OPERATOR, *WARNINGS_ARE_ERRORS).splitlines()
    assert int(useful) == 100 * 4 * 4  # taps that meet the input, for all outputs; channels in and out
    assert "numba-cuda" in message and "pip install 'cks-numba[cu13]'" in message and 'backend="cpu"' in message
    assert emulated == tensor == useful


def test_the_tiled_kernels_are_traced():
    code = """
from cks_numba import ConvShape, flops, trace
from cks_numba.geometry import OPERATORS
shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=2, fw=2, stride=2, padding=1)
for operator in OPERATORS:
    counts = trace.count(operator, shape, "tiled")
    print(counts.useful == flops.count(operator, shape).useful and counts.by_zero == 0)
"""
    assert run(code).split() == ["True"] * 3


def test_commands():
    printed = run("from cks_numba.commands import main; assert main(['info']) == 0")
    assert 'backend="auto" uses "cpu"\nnumba-cuda, which compiles the kernels, is not installed' in printed
    printed = run("sys.stderr = sys.stdout; from cks_numba.commands import main; assert main(['sass', 'conv2d']) == 1")
    assert printed.startswith("cks-numba sass: numba-cuda") and "pip install 'cks-numba[sass]'" in printed
