"""The types that an editor and a type checker see: mypy checks a program that uses the public names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import numpy as np
import cks_numba as cks
from cks_numba import ConvShape, conv2d

class Tensor:
    shape = (1, 4, 4, 3)

x, tensor = np.ones((1, 4, 4, 3)), Tensor()
reveal_type(conv2d(x, x, x, stride=(2, 1), padding=((1, 0), (1, 0))))
reveal_type(conv2d(tensor, tensor, layout="NCHW", backend="cpu", precision="tf32", out=tensor))
reveal_type(cks.conv2d_input((1, 4, 4, 3), tensor, tensor, padding="valid"))
reveal_type(cks.conv_transpose2d(x, x, output_padding=1))
reveal_type(cks.sk_dilated(x, [3, 3, 3, 3], x, padding=[1, 1]))
reveal_type(cks.plan("conv2d", ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3)).useful)
conv2d(x, x, layout="NHCW")
conv2d(x, x, backend="gpu")
conv2d(x, x, precision="fp32")
conv2d(x, x, padding="full")
conv2d(x, x, stride=1.5)
conv2d([1], [1])
cks.conv4d
"""
ARRAY = "numpy.ndarray["
SEEN = [
    *(ARRAY, "Tensor", "Tensor", ARRAY, ARRAY, "int"),
    *('"layout" to "conv2d"', '"backend" to "conv2d"', '"precision" to "conv2d"'),
    *('"padding" to "conv2d"', '"stride" to "conv2d"'),
    *('"ArrayT" of "conv2d" cannot be "list[int]"', 'no attribute "conv4d"'),
]


@pytest.mark.slow
def test_types_of_the_public_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", str(program)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    said = [line.partition(": ")[2] for line in done.stdout.splitlines()[:-1]]
    assert len(said) == len(SEEN), done.stdout + done.stderr
    for line, words in zip(said, SEEN, strict=True):
        assert words in line and (words not in ("int", "Tensor") or re.search(rf'[".]{words}"', line)), line
