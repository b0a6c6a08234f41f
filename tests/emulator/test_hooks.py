"""Kernels become PTX with both compilers; the cache on disk; parameters; launches and arrays without a driver."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hook_cases import CASES
from numba import cuda

from cks_numba.emulator import hooks

COMPILERS = [
    pytest.param("nvvm", marks=pytest.mark.skipif(hooks.nvvm_version() is None, reason="NVVM is not installed")),
    "llvm",
]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_features_compile(name, compiler):
    """Every feature of Numba for CUDA reaches PTX, with the instructions that stand for it."""
    kernel, arguments, holds = CASES[name]
    ptx = hooks.ptx_of(kernel, arguments, compiler, cached=False)
    assert not [word for word in holds if word not in ptx]
    assert "llvm." not in ptx


def test_lines_are_those_of_the_functions(tmp_path):
    """Instructions of device functions name the file and line where these are written, however they are inlined."""


@cuda.jit
def adding(a, b, n):
    i = cuda.grid(1)
    if i < n:
        a[i] += b[i]


def parameters_of(ptx):
    """Bytes of each parameter of the kernel in a PTX text."""
    entry = re.search(r"\.entry [^(]*\((.*?)\n\)", ptx, re.S)[1]
    kinds = re.findall(
        r"\.param\s+(?:\.align \d+ )?\.\w*?(\d+) (?:\.ptr (?:\.\w+ )*\.align \d+ )?\S+?(?:\[(\d+)\])?,?\n", entry + "\n"
    )
    return [int(bits) // 8 * int(count or 1) for bits, count in kinds]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_parameters_have_the_sizes_of_the_ptx(name, compiler):
    """Every kernel of the table gets as many parameters as its PTX has, of the same sizes."""
    kernel, arguments, _ = CASES[name]
    values = [*hooks.flatten(arguments, lambda array: array.ctypes.data)]
    assert [len(value) for value in values] == parameters_of(hooks.ptx_of(kernel, arguments, compiler, cached=False))
