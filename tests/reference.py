"""The operators from the equation alone, in float64: the results that kernels and operators are compared with."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cks_numba as cks
from cks_numba.geometry import Axis, ConvShape

# Options of Python for a process of its own, which does not read those of pyproject.toml.
WARNINGS_ARE_ERRORS = (
    *("-W", "error"),
    *("-W", "ignore:The 'generic' unit for NumPy timedelta:DeprecationWarning"),  # numba 0.68 with NumPy 2.5
)


def python_path() -> str:
    """Return a PYTHONPATH with which another process finds this file, and those of two folders beside it."""
    tests = Path(__file__).resolve().parent
    folders = [tests, tests / "backends", tests / "torch_and_dask"]
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def in_a_process(module: str | None, call: str, error: str = "", **environment: str) -> None:
    """Call a function of a test file, or run any code, in a process of its own, where a warning is an error."""
    code = f"import {module}; {module}.{call}" if module else call
    command = [sys.executable, *WARNINGS_ARE_ERRORS, "-c", code]
    environment = {**os.environ, "PYTHONPATH": python_path(), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode != 0) == bool(error) and error in done.stderr, done.stderr


def give_up_roots_rights() -> None:
    """Let the rights of files hold for this process too, if it is root's: drop CAP_DAC_OVERRIDE of Linux."""
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3 of capset(2)
    system = ctypes.CDLL(None, use_errno=True)
    if system.capget(header, sets) == 0:
        for k in range(3):  # effective, permitted, inheritable
            sets[k] &= ~0b110  # also CAP_DAC_READ_SEARCH
        assert system.capset(header, sets) == 0, os.strerror(ctypes.get_errno())


def meets(axis: Axis) -> np.ndarray:
    """Return M with M[i, f, o] = 1 exactly where i = o*stride - padding + f*dilation."""
    i, f, o = np.ogrid[: axis.size, : axis.taps, : axis.outputs]
    return (i == o * axis.stride - axis.before + f * axis.dilation).astype(np.float64)


def brute_force(operator: str, shape: ConvShape, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sum over all (i, f, o), real or not, weighted by M; arrays as `kernels.launches` takes them."""
    axes = len(shape.axes)
    inputs, taps, outputs = "ijk"[:axes], "fvu"[:axes], "pqr"[:axes]  # a letter for each axis
    x, w, y = f"n{inputs}c", f"o{taps}c", f"n{outputs}o"
    one, two, result = {"conv2d": (x, w, y), "conv2d_input": (w, y, x), "conv2d_weight": (x, y, w)}[operator]
    meeting = ",".join(map("".join, zip(inputs, taps, outputs, strict=True)))

    def of_groups(array: np.ndarray, letters: str) -> list[np.ndarray]:
        """The part of an array that belongs to each channel group."""
        return np.split(array.astype(np.float64), shape.groups, 0 if letters == w else -1)

    # x or dy meets the M of each axis, then the other array.
    order = ["einsum_path", (one == w, 2), *[(1, 2)] * (axes - 1), (0, 1)]
    sums = [
        np.einsum(f"{one},{two},{meeting}->{result}", *pair, *map(meets, shape.axes), optimize=order)
        for pair in zip(of_groups(first, one), of_groups(second, two), strict=True)
    ]
    return np.concatenate(sums, 0 if result == w else -1)


def integers(operator: str, shape: ConvShape, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return operands of small integers, so that every sum is exact, and a result full of NaN."""
    rng = np.random.default_rng(seed)
    first, second, result = (size for _, size in shape.arrays(operator))
    return (
        rng.integers(-4, 5, first).astype(dtype),
        rng.integers(-4, 5, second).astype(dtype),
        np.full(result, np.nan, dtype),
    )


def call(operator: str, shape: ConvShape, first: Any, second: Any, **keys: Any) -> Any:
    """Call the public operator of as many axes as the shape has, on arrays with channels last."""
    function = getattr(cks, operator.replace("2d", f"{len(shape.axes)}d"))
    keys |= {name: getattr(shape, name) for name in ("stride", "padding", "dilation", "groups")}
    if operator == "conv2d_input":
        return function(shape.x_shape, first, second, **keys)
    return function(first, *([shape.w_shape] if operator == "conv2d_weight" else []), second, **keys)


def random_shape(rng: random.Random, size: int = 9, channels: int = 5, images: int = 3, axes: int = 2) -> ConvShape:
    """Draw a shape with uneven padding, dilation and channel groups; its stride often does not divide."""

    def for_each(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randint(least, most) for _ in range(axes))

    while True:
        groups = rng.choice((1, 1, 2, 3))
        taps = for_each(1, 4)
        pads = tuple((rng.randint(0, f), rng.randint(0, f)) for f in taps)
        try:
            return ConvShape.of(
                (rng.randint(1, images), *for_each(1, size), groups * rng.randint(1, channels)),
                (groups * rng.randint(1, channels), *taps, 1),
                stride=for_each(1, 4),
                padding=pads,
                dilation=for_each(1, 3),
                groups=groups,
            )
        except ValueError:  # the filter is larger than the padded input
            continue


# Shapes with every tail at once, phases without a tap, and taps that lie only on padding.
HARD_SHAPES = {
    "odd sizes, stride does not divide": ConvShape(
        n=2, ih=5, iw=6, ic=3, oc=5, fh=3, fw=2, stride=(2, 3), padding=((1, 2), (0, 1))
    ),
    "1x1 filter, stride, two channel groups": ConvShape(n=3, ih=4, iw=5, ic=6, oc=4, fh=1, fw=1, stride=2, groups=2),
    "2x2 filter, stride 3: empty phases": ConvShape(n=1, ih=7, iw=8, ic=2, oc=9, fh=2, fw=2, stride=3, padding=1),
    "dilation 2 and 3, stride 2": ConvShape(
        n=1, ih=7, iw=5, ic=1, oc=9, fh=3, fw=3, stride=2, padding=2, dilation=(2, 3)
    ),
    "1x1 map: most taps lie on padding": ConvShape(n=9, ih=1, iw=1, ic=9, oc=3, fh=3, fw=3, padding=1),
    "depthwise": ConvShape(n=1, ih=4, iw=4, ic=3, oc=3, fh=3, fw=3, padding=1, groups=3),
}

# The same over three axes. Every axis is another kind of hard, and a filter is smaller than its stride.
HARD_VOLUMES = {
    "odd sizes, stride does not divide": ConvShape.of(
        (2, 3, 5, 4, 3), (5, 2, 3, 2, 3), stride=(3, 2, 1), padding=((1, 0), (1, 2), (0, 1))
    ),
    "filter smaller than the stride, two channel groups": ConvShape.of(
        (9, 4, 3, 5, 4), (6, 1, 2, 1, 2), stride=(2, 3, 2), padding=((0, 1), (1, 1), (0, 0)), groups=2
    ),
    "dilation, most taps lie on padding": ConvShape.of(
        (1, 2, 6, 3, 9), (3, 3, 2, 3, 9), stride=(1, 1, 2), padding=(2, 1, 3), dilation=(1, 3, 2)
    ),
    "depthwise, one depth and one row, padded at the end": ConvShape.of(
        (1, 1, 1, 4, 3), (3, 3, 3, 3, 1), padding=((0, 2), (0, 2), (1, 1)), groups=3
    ),
}
