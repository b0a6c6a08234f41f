"""The operators over one and three axes by the backend "emulator", which chooses the kernels as a GPU's would be."""

from __future__ import annotations

import random

import numpy as np
import pytest
from reference import brute_force, call, integers, random_shape

import cks_numba as cks
from cks_numba.geometry import OPERATORS


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axes", [1, 3])
def test_every_result_is_that_of_the_equation(operator, axes):
    rng = random.Random(axes)
    for seed in range(8):
        shape = random_shape(rng, size=9 if axes == 1 else 5, axes=axes)
        first, second, _ = integers(operator, shape, "float32", seed)
        got = call(operator, shape, first, second, backend="emulator")
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, brute_force(operator, shape, first, second), err_msg=str(shape))


def test_sixteen_bits_of_a_signal():
    x = np.array([60000, 60000, -60000, 1], np.float16).reshape(1, 4, 1)
    y = cks.conv1d(x, np.ones((1, 3, 1), np.float16), backend="emulator")
    assert y.dtype == np.float16 and y.ravel().tolist() == [60000, 1]


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_volumes_by_every_kernel_of_the_emulator(precision):
    """Products and sums of small integers are exact in every format, with a bias and transposed."""
    rng, keys = np.random.default_rng(3), {"stride": (1, 2, 2), "padding": 1, "groups": 2}
    dtype = "float16" if precision == "float16" else "float32"
    x, w = (rng.integers(-2, 3, size).astype(dtype) for size in ((2, 3, 5, 4, 6), (4, 2, 3, 2, 3)))
    bias = np.arange(4).astype(dtype)
    y = cks.conv3d(x, w, backend="cpu", **keys)
    keys |= {"backend": "emulator"} | ({"precision": "tf32"} if precision == "tf32" else {})
    np.testing.assert_array_equal(cks.conv3d(x, w, bias, **keys), y + bias)
    dx, dw = cks.conv3d_input(x.shape, w, y, **keys), cks.conv3d_weight(x, w.shape, y, **keys)
    plain = {name: value for name, value in keys.items() if name != "precision"} | {"backend": "cpu"}
    np.testing.assert_array_equal(dx, cks.conv3d_input(x.shape, w, y, **plain))
    np.testing.assert_array_equal(dw, cks.conv3d_weight(x, w.shape, y, **plain))
    np.testing.assert_array_equal(cks.conv_transpose3d(y, w, **keys), cks.conv_transpose3d(y, w, **plain))
