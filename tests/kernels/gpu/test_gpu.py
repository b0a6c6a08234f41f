"""Kernels and operators on a real GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from reference import HARD_SHAPES, brute_force, integers

import cks_numba
from cks_numba import kernels
from cks_numba.backends import cuda as backend
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import tiled
from cks_numba.kernels.jit import cuda

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not cuda.is_available(), reason="no CUDA GPU on this machine")]

LARGE = ConvShape(n=33, ih=17, iw=15, ic=70, oc=131, fh=3, fw=3, stride=2, padding=1)
VECTORS = ConvShape(n=33, ih=17, iw=15, ic=68, oc=132, fh=3, fw=3, stride=2, padding=1)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rung_equals_brute_force(operator, rung, dtype):
    for shape in (*HARD_SHAPES.values(), LARGE, VECTORS):
        arrays = [cuda.to_device(array) for array in integers(operator, shape, dtype)]
        with backend.launching:
            for launch in kernels.launches(operator, shape, tuple(arrays), rung=rung):
                launch.run()
        first, second, out = (array.copy_to_host() for array in arrays)
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second), err_msg=str(shape))


@pytest.mark.parametrize("tile", tiled.TILES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile(operator, tile):
    for shape in (LARGE, VECTORS):
        choice = tiled.Choice(operator, shape, tile, 3 if operator == "conv2d_weight" else 1, sms=132)
        arrays = [cuda.to_device(array) for array in integers(operator, shape, "float32")]
        with backend.launching:
            for launch in tiled.launches(operator, shape, tuple(arrays), choice):
                launch.run()
        first, second, out = (array.copy_to_host() for array in arrays)
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second), err_msg=str(shape))


def test_repeated_calls_use_their_workspace_again():
    x, dy, out = (cuda.to_device(array) for array in integers("conv2d_weight", VECTORS, "float32"))
    calls = [cks_numba.conv2d_weight(x, VECTORS.w_shape, dy, stride=2, padding=1, out=out) for _ in range(3)]
    assert all(call is out for call in calls)
    wanted = brute_force("conv2d_weight", VECTORS, x.copy_to_host(), dy.copy_to_host())
    np.testing.assert_array_equal(out.copy_to_host(), wanted)


def test_device_arrays_stay_on_their_stream():
    stream = cuda.stream()
    x, w, _ = integers("conv2d", LARGE, "float32")
    on_gpu = [cuda.to_device(array, stream=stream) for array in (x, w)]
    y = cks_numba.conv2d(*on_gpu, stride=2, padding=1, stream=stream)
    again = cks_numba.conv2d(*on_gpu, stride=2, padding=1, stream=stream)
    stream.synchronize()
    np.testing.assert_array_equal(y.copy_to_host(), brute_force("conv2d", LARGE, x, w))
    assert y.copy_to_host().tobytes() == again.copy_to_host().tobytes()


def test_numpy_arrays_go_to_the_gpu_and_back():
    w, dy, _ = integers("conv2d_input", LARGE, "float64")
    dx = cks_numba.conv2d_input(LARGE.x_shape, w, dy, stride=2, padding=1)
    assert isinstance(dx, np.ndarray)
    np.testing.assert_array_equal(dx, brute_force("conv2d_input", LARGE, w, dy))
