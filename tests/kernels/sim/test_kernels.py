"""Every rung of every kernel in Numba's simulator, on tiny shapes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from reference import HARD_SHAPES, HARD_VOLUMES, brute_force, integers, random_shape

import cks_numba
from cks_numba import kernels
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import three_axes
from cks_numba.kernels.jit import SIMULATED


def test_the_simulator_is_on():
    assert SIMULATED


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
def test_rung_equals_brute_force(operator, rung):
    rng = random.Random(1)
    shapes = [HARD_SHAPES["1x1 filter, stride, two channel groups"], HARD_SHAPES["2x2 filter, stride 3: empty phases"]]
    thorough = rung in ("with_zeros", "skip_zeros")  # the others are slow: a thousand threads with barriers
    shapes += [random_shape(rng, size=5, channels=2, images=2) for _ in range(12)] if thorough else []
    for shape in shapes[: None if thorough else 1 + (rung == "tiled")]:
        first, second, out = integers(operator, shape, "float32")
        for launch in kernels.launches(operator, shape, (first, second, out), rung=rung):
            launch.run()
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second), err_msg=str(shape))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rung", three_axes.BY_OPERATOR["conv2d"])
def test_rung_over_three_axes(operator, rung):
    thorough = rung in ("with_zeros", "skip_zeros")
    tiny = ConvShape.of((1, 2, 2, 1, 2), (3, 2, 1, 1, 2), stride=(1, 2, 1), padding=((1, 0), (0, 0), (0, 0)))
    for shape in HARD_VOLUMES.values() if thorough else [tiny]:
        first, second, out = integers(operator, shape, "float32")
        for launch in kernels.launches(operator, shape, (first, second, out), rung=rung):
            launch.run()
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second), err_msg=str(shape))


@pytest.mark.parametrize("operator", OPERATORS)
def test_ptx_is_refused(operator):
    shape = HARD_SHAPES["1x1 filter, stride, two channel groups"]
    with pytest.raises(RuntimeError, match="the tensor rung is written in PTX, which Numba's simulator does not run"):
        kernels.launches(operator, shape, integers(operator, shape, "float32"), rung="tensor")


def test_operators_run_on_the_simulator():
    shape = ConvShape(n=1, ih=4, iw=4, ic=2, oc=3, fh=3, fw=3, stride=2, padding=1)
    for operator in OPERATORS:
        first, second, _ = integers(operator, shape, "float64")
        keywords = {"stride": 2, "padding": 1, "backend": "cuda"}
        if operator == "conv2d":
            result = cks_numba.conv2d(first, second, **keywords)
        elif operator == "conv2d_input":
            result = cks_numba.conv2d_input(shape.x_shape, first, second, **keywords)
        else:
            result = cks_numba.conv2d_weight(first, shape.w_shape, second, **keywords)
        assert result.dtype == np.float64
        np.testing.assert_array_equal(result, brute_force(operator, shape, first, second))
