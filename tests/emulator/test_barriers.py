"""Every barrier of the kernels that use shared memory is needed: each one deleted, alone, is found."""

from __future__ import annotations

import inspect
import re

import pytest
from reference import integers

from cks_numba import kernels
from cks_numba.emulator import hooks, machine
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import tiled

SHAPE = ConvShape(n=5, ih=6, iw=6, ic=20, oc=20, fh=2, fw=2, padding=1)  # every loop goes round more than once
BARRIER = re.compile(r"^\s*bar(?:rier)?\.sync\b[^\n]*;\n", re.M)
ORDERS = ((0, 0), (1, 0), (2, 1))  # forward, reverse, by chance
BARRIERS = {"with_zeros": 0, "skip_zeros": 0, "shared": 2, "grouped": 2, "register_tile": 2, "tiled": 1}


def launches(operator, how):
    arrays = integers(operator, SHAPE, "float32")
    if isinstance(how, str):
        return kernels.launches(operator, SHAPE, arrays, rung=how)
    parts = 2 if operator == "conv2d_weight" else 1
    return tiled.launches(operator, SHAPE, arrays, tiled.Choice(operator, SHAPE, how, parts, sms=132))


def faults(item, text):
    """Run a launch with the given PTX; give what is found in each order of the threads."""
    program = machine.Program(text, True)
    names = list(inspect.signature(item.kernel.py_func).parameters)
    for order, seed in ORDERS:
        launch = machine.Launch(program, *hooks.dimensions(item.grid, item.block), 0, item.args, names, hooks.flatten)
        seconds = launch.run(1, order, seed, 10**7)
        yield [fault.kind for fault in launch.result("kernel", seconds, launch.poisoned(None)).faults]


@pytest.mark.parametrize("how", [*(rung for rung in kernels.SIMULATED_RUNGS if rung != "tiled"), *tiled.TILES], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_deleted_barrier_is_found(operator, how):
    count = 0
    for item in launches(operator, how):
        text = hooks.ptx_of(item.kernel, item.args)
        assert not any(faults(item, text))
        for barrier in BARRIER.finditer(text):
            without = text[: barrier.start()] + text[barrier.end() :]
            for order, kinds in zip(ORDERS, faults(item, without), strict=True):
                assert "race" in kinds, f"{order}: {barrier[0].strip()} at {barrier.start()} of {item.kernel.__name__}"
            count += 1
    assert count == BARRIERS[how if isinstance(how, str) else "tiled"]
