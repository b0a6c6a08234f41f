"""The three operators of steps/minimal.py, against brute force over the equation and against the plan's count."""

from __future__ import annotations

import ast
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cks_numba.geometry import OPERATORS, ConvShape, plan
from cks_numba.steps import minimal

# x rows and columns, filter, stride, padding, dilation
CASES: dict[str, tuple[Any, ...]] = {
    "one of everything": ((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "3x3, padding 1": ((5, 4), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "stride that does not divide": ((8, 6), (3, 2), (3, 4), ((1, 1), (0, 0)), (1, 1)),
    "filter smaller than stride": ((7, 8), (2, 1), (3, 4), ((0, 0), (0, 0)), (1, 1)),
    "asymmetric padding": ((5, 4), (3, 4), (2, 1), ((0, 3), (2, 1)), (1, 1)),
    "dilation": ((9, 8), (3, 3), (1, 1), ((2, 2), (0, 1)), (3, 2)),
    "dilation and stride": ((9, 8), (4, 3), (4, 2), ((1, 1), (2, 2)), (2, 3)),
    "taps that never lie on x": ((2, 1), (5, 4), (1, 1), ((3, 3), (3, 3)), (1, 1)),
    "outputs that see padding alone": ((2, 3), (2, 2), (1, 1), ((4, 4), (4, 4)), (1, 1)),
}
IMAGES, IC, OC = 2, 2, 3


def random_case(rng: random.Random) -> tuple[Any, ...]:
    """Draw a small case in which the filter fits; the stride mostly does not divide."""
    while True:
        size, taps, stride, dilation = ((rng.randint(1, most), rng.randint(1, most)) for most in (7, 4, 4, 3))
        pads = tuple((rng.randint(0, taps[k]), rng.randint(0, taps[k])) for k in (0, 1))
        if all(size[k] + sum(pads[k]) > (taps[k] - 1) * dilation[k] for k in (0, 1)):
            return size, taps, stride, pads, dilation


ALL = [*CASES.values(), *(random_case(random.Random(seed)) for seed in range(150))]


def tried(size: int, taps: int, stride: int, pads: tuple[int, int], dilation: int) -> tuple[int, list[Any]]:
    """Return the number of outputs of an axis, and all (i, f, o) that fulfil the equation, found by trying each."""
    padded = size + sum(pads)
    outputs = len([first for first in range(0, padded, stride) if first + (taps - 1) * dilation < padded])
    every = itertools.product(range(size), range(taps), range(outputs))
    return outputs, [(i, f, o) for i, f, o in every if i == o * stride - pads[0] + f * dilation]


def axes(case: tuple[Any, ...]) -> list[tuple[int, list[Any]]]:
    size, taps, stride, pads, dilation = case
    return [tried(size[k], taps[k], stride[k], pads[k], dilation[k]) for k in (0, 1)]


def arrays(case: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Return integers, so that sums are exact; none is 0, so that every 0 in a result has a reason."""
    rng = np.random.default_rng(sum(case[0]))
    (oh, _), (ow, _) = axes(case)
    sizes = {"x": (IMAGES, *case[0], IC), "w": (OC, *case[1], IC), "dy": (IMAGES, oh, ow, OC)}
    return {name: rng.integers(1, 9, size) * rng.choice([-1.0, 1.0], size) for name, size in sizes.items()}


def run(operator: str, case: tuple[Any, ...], x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    first, second = {
        "conv2d": ((x,), (w,)),
        "conv2d_input": ((x.shape,), (w, dy)),
        "conv2d_weight": ((x,), (w.shape, dy)),
    }[operator]
    return getattr(minimal, operator)(*first, *second, *case[2:])


def brute_force(operator: str, case: tuple[Any, ...], x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Compute the operator as one sum over all (i, f, o) that fulfil the equation."""
    result = np.zeros_like({"conv2d": dy, "conv2d_input": x, "conv2d_weight": w}[operator])
    (_, rows), (_, columns) = axes(case)
    for (ih, fh, oh), (iw, fw, ow) in itertools.product(rows, columns):
        if operator == "conv2d":
            result[:, oh, ow] += x[:, ih, iw] @ w[:, fh, fw].T
        elif operator == "conv2d_input":
            result[:, ih, iw] += dy[:, oh, ow] @ w[:, fh, fw]
        else:
            result[:, fh, fw] += dy[:, oh, ow].T @ x[:, ih, iw]
    return result


@pytest.mark.parametrize("operator", OPERATORS)
def test_equals_brute_force(operator: str) -> None:
    for case in ALL:
        given = arrays(case)
        got, want = run(operator, case, **given), brute_force(operator, case, **given)
        assert got.shape == want.shape and got.dtype == np.float64, case
        np.testing.assert_array_equal(got, want, err_msg=str(case))


def test_some_cases_have_results_that_no_product_reaches() -> None:
    """The cases of the test above have inputs, outputs and taps without any product."""
    lonely = {operator: 0 for operator in OPERATORS}
    for case in ALL:
        for operator in OPERATORS:
            lonely[operator] += bool((run(operator, case, **arrays(case)) == 0).all(axis=(0, 3)).any())
    assert min(lonely.values()) >= 3, lonely


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_added_zero_is_multiplied(operator: str) -> None:
    """Infinity times an added zero would give NaN; infinity times the data here gives infinity."""
    for case in ALL:
        given = {name: np.abs(array) for name, array in arrays(case).items()}
        given["x" if operator == "conv2d_weight" else "w"] *= np.inf
        assert set(np.unique(run(operator, case, **given))) <= {0.0, np.inf}, case


def test_there_are_as_many_products_as_the_plan_counts() -> None:
    for size, taps, stride, pads, dilation in ALL:
        shape = ConvShape(
            n=1, ih=size[0], iw=size[1], ic=1, oc=1, fh=taps[0], fw=taps[1], stride=stride, padding=pads,
            dilation=dilation,
        )  # fmt: skip
        listed = minimal.products(shape.x_shape, shape.w_shape, shape.y_shape, stride, pads, dilation)
        done = sum((oh.stop - oh.start) * (ow.stop - ow.start) for (_, _, oh), (_, _, ow) in listed)
        assert done == plan("conv2d", shape).useful, str(shape)


def test_float32_stays_float32() -> None:
    given = {name: array.astype(np.float32) for name, array in arrays(CASES["dilation and stride"]).items()}
    for operator in OPERATORS:
        assert run(operator, CASES["dilation and stride"], **given).dtype == np.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, w, dy, rest = np.ones((1, 4, 4, 2)), np.ones((3, 3, 3, 2)), np.ones((1, 2, 2, 3)), CASES["one of everything"][2:]
    with pytest.raises(ValueError, match="same channels"):
        minimal.conv2d(x[..., :1], w, *rest)
    with pytest.raises(ValueError, match="w must fit"):
        minimal.conv2d(x[:, :2], w, *rest)
    for wrong in (dy[:, :1], dy[..., :1], np.ones((2, 2, 2, 3))):
        with pytest.raises(ValueError, match=r"dy must have shape \(1, 2, 2, 3\)"):
            minimal.conv2d_input(x.shape, w, wrong, *rest)
        with pytest.raises(ValueError, match=r"dy must have shape \(1, 2, 2, 3\)"):
            minimal.conv2d_weight(x, w.shape, wrong, *rest)


def test_it_is_short_and_imports_numpy_alone() -> None:
    text = Path(minimal.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}
    assert names == {"__future__", "numpy", "numpy.typing"}
