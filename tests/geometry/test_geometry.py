"""Plans against brute force over the one equation: i = o*stride - padding + f*dilation."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest

from cks_numba.geometry import OPERATORS, Axis, ConvShape, Plan, Run, plan

AXIS_CASES = 3500
PLANE_CASES = 600
FIXED = {"conv2d": 2, "conv2d_input": 0, "conv2d_weight": 1}  # place of the fixed index in (i, f, o)


def brute_force(axis: Axis) -> set[tuple[int, int, int]]:
    """Find all real triples by trying every (i, f, o)."""
    return {
        (i, f, o)
        for i in range(axis.size)
        for f in range(axis.taps)
        for o in range(axis.outputs)
        if i == o * axis.stride - axis.before + f * axis.dilation
    }


def draw_axis(rng: np.random.Generator, largest: int = 17) -> Axis:
    """Draw an axis in the ranges that the project promises; draw again if it has no output."""
    while True:
        size, taps = int(rng.integers(1, largest + 1)), int(rng.integers(1, 8))
        before, after = (int(p) for p in rng.integers(0, taps + 1, 2))
        after = before if rng.random() < 0.5 else after
        axis = Axis(size, taps, int(rng.integers(1, 5)), before, after, int(rng.integers(1, 4)))
        if axis.outputs >= 1:
            return axis


def axes() -> list[Axis]:
    rng = np.random.default_rng(2306)
    return [draw_axis(rng) for _ in range(AXIS_CASES)]


def fixed_indices(axis: Axis, operator: str) -> range:
    return range((axis.size, axis.taps, axis.outputs)[FIXED[operator]])


def fixed_of_run(run: Run, operator: str) -> list[int]:
    """Return the fixed indices of a run, which must not depend on the term."""
    index = (run.i, run.f, run.o)[FIXED[operator]]
    assert index.term == 0 or run.terms == 0
    return [index.at(k, 0) for k in range(run.positions)]


def test_the_draws_hold_every_promised_kind() -> None:
    cases = axes()
    kinds = {
        "stride does not divide": lambda a: (a.size + a.before + a.after - a.span) % a.stride,
        "filter smaller than stride": lambda a: a.taps < a.stride,
        "filter larger than input": lambda a: a.taps > a.size,
        "uneven padding": lambda a: a.before != a.after,
        "padding as wide as the filter": lambda a: a.before == a.taps,
        "one output": lambda a: a.outputs == 1,
        "one element": lambda a: a.size == 1,
        "stride and dilation share a factor": lambda a: a.stride == a.dilation > 1,
    }
    for name, kind in kinds.items():
        assert sum(bool(kind(axis)) for axis in cases) >= 30, name
    assert {axis.size for axis in cases} == set(range(1, 18))
    assert {axis.taps for axis in cases} == set(range(1, 8))
    assert {(axis.stride, axis.dilation) for axis in cases} == set(product(range(1, 5), range(1, 4)))


@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_cover_every_real_triple_exactly_once(operator: str) -> None:
    for axis in axes():
        expected = brute_force(axis)
        covered = [triple for run in axis.runs(operator) for triple in run.triples()]
        assert len(covered) == len(set(covered)), f"{axis} covers a triple twice"
        assert set(covered) == expected, axis  # no added zero is in a run either
        assert axis.triples == len(expected), axis


@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_cover_every_fixed_index_exactly_once(operator: str) -> None:
    place = FIXED[operator]
    for axis in axes():
        terms = Counter(triple[place] for triple in brute_force(axis))
        listed = []
        for run in axis.runs(operator):
            for index in fixed_of_run(run, operator):
                listed.append(index)
                assert run.terms == terms[index], (axis, index)  # an index without a term is listed too
        assert sorted(listed) == list(fixed_indices(axis, operator)), axis


@pytest.mark.parametrize("operator", OPERATORS)
def test_neighbouring_runs_really_differ(operator: str) -> None:
    """Runs are as long as possible: no two neighbours, or neighbours of one phase, could be joined."""
    for axis in axes()[:1000]:
        step = axis.stride if operator == "conv2d_input" else 1
        windows = {}
        for number, run in enumerate(axis.runs(operator)):
            for k, index in enumerate(fixed_of_run(run, operator)):
                windows[index] = (number, _window(run, k, operator))
        for index, (number, window) in windows.items():
            following = windows.get(index + step)
            if following is not None and following[1] == window:
                assert following[0] == number, (axis, index)


def _window(run: Run, k: int, operator: str) -> tuple[int, ...]:
    """Return the summed taps of a fixed index, or its summed outputs for the filter gradient."""
    summed = run.o if operator == "conv2d_weight" else run.f
    return tuple(summed.at(k, t) for t in range(run.terms))


def draw_shape(rng: np.random.Generator) -> ConvShape:
    h, w = draw_axis(rng, 9), draw_axis(rng, 9)
    groups = int(rng.integers(1, 4))
    return ConvShape(
        n=int(rng.integers(0, 4)),
        ih=h.size,
        iw=w.size,
        ic=groups * int(rng.integers(1, 4)),
        oc=groups * int(rng.integers(1, 4)),
        fh=h.taps,
        fw=w.taps,
        stride=(h.stride, w.stride),
        padding=(h.before, h.after, w.before, w.after),
        dilation=(h.dilation, w.dilation),
        groups=groups,
    )


def shapes() -> list[ConvShape]:
    rng = np.random.default_rng(15951)
    return [draw_shape(rng) for _ in range(PLANE_CASES)]


def count_products(planned: Plan, target: np.ndarray) -> None:
    """Add 1 to target[ih, fh, oh, iw, fw, ow] for every product of the plan."""
    for h, w in planned.groups:
        rows, columns = list(h.triples()), list(w.triples())
        if rows and columns:
            np.add.at(target, tuple(np.array([(*r, *c) for r in rows for c in columns]).T), 1)


@pytest.mark.parametrize("operator", OPERATORS)
def test_groups_cover_every_product_of_the_plane_exactly_once(operator: str) -> None:
    for shape in shapes():
        rows, columns = brute_force(shape.h), brute_force(shape.w)
        got = np.zeros((shape.ih, shape.fh, shape.oh, shape.iw, shape.fw, shape.ow), np.uint8)
        count_products(plan(operator, shape), got)
        assert got.max(initial=0) <= 1, shape
        assert got.sum() == len(rows) * len(columns), shape
        inside = [np.zeros(got.shape[:3], bool), np.zeros(got.shape[3:], bool)]
        for axis, triples in zip(inside, (rows, columns), strict=True):
            for triple in triples:
                axis[triple] = True
        assert np.array_equal(got == 1, np.multiply.outer(*inside)), shape


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_result_lies_in_exactly_one_group(operator: str) -> None:
    for shape in shapes():
        planned = plan(operator, shape)
        results = np.zeros([len(fixed_indices(axis, operator)) for axis in (shape.h, shape.w)], int)
        for h, w in planned.groups:
            results[np.ix_(fixed_of_run(h, operator), fixed_of_run(w, operator))] += 1
        assert (results == 1).all(), shape
        assert planned.empty == tuple(group for group in planned.groups if group.terms == 0)
        lengths = [group.terms for group in planned.groups]
        assert lengths == sorted(lengths, reverse=True), shape


def test_useful_is_the_same_for_the_three_operators_and_for_brute_force() -> None:
    for shape in shapes():
        pairs = len(brute_force(shape.h)) * len(brute_force(shape.w))
        expected = shape.n * shape.ic * shape.oc // shape.groups * pairs
        assert [plan(operator, shape).useful for operator in OPERATORS] == [expected] * 3, shape


def test_inputs_without_a_tap_are_listed_as_empty() -> None:
    """A 1x1 filter with stride 2 meets one input in four; the other three must still be written, as 0."""
    planned = plan("conv2d_input", ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=1, fw=1, stride=2))
    assert sum(group.positions for group in planned.empty) == 12
    assert sum(group.positions for group in planned.groups) == 16
    assert "no product: written as 0" in str(planned)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_table_of_a_plan_lines_up(axes: int, operator: str) -> None:
    """Each of its three columns begins at one place, and so does each number of a product."""
    shape = ConvShape.of((1, *(120, 13, 9)[-axes:], 1), (1, *[3] * axes, 1), stride=2, padding=1)
    planned = plan(operator, shape)
    head, *rows = str(planned).splitlines()[2:]
    columns = [0, head.index("sum over"), head.index("first (")]
    ends = {tuple(each.end() for each in re.finditer(r"\d+(?= |$)", row[: columns[2]])) for row in rows}
    assert len(rows) == len(planned.groups) > 1 and len(ends) == 1
    for row, group in zip(rows, planned.groups, strict=True):
        cells = [row[begin:end] for begin, end in zip(columns, [*columns[1:], None], strict=True)]
        for cell, part in zip(cells, ("positions", "terms"), strict=False):
            assert cell.replace(" ", "") == "x".join(str(getattr(run, part)) for run in group)
        assert cells[2].startswith("(") or not group.terms


def test_a_3x3_filter_with_padding_1_has_nine_groups() -> None:
    shape = ConvShape(n=1, ih=6, iw=6, ic=1, oc=1, fh=3, fw=3, padding=1)
    sizes = Counter((group.positions, group.terms) for group in plan("conv2d", shape).groups)
    assert sizes == {(16, 9): 1, (4, 6): 4, (1, 4): 4}


def test_a_plan_is_made_once_and_its_operator_is_checked() -> None:
    sizes = dict(n=1, ih=6, iw=6, ic=1, oc=1, fh=3, fw=3)
    assert plan("conv2d", ConvShape(**sizes)) is plan("conv2d", ConvShape(**sizes))
    with pytest.raises(ValueError, match="operator must be one of .* got 'conv3d'"):
        plan("conv3d", ConvShape(**sizes))


BASE = dict(n=2, ih=8, iw=6, ic=4, oc=6, fh=3, fw=5)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (2, ((2, 2), (2, 2))),
        (0, ((0, 0), (0, 0))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ((0, 1, 2, 3), ((0, 1), (2, 3))),
        (np.int64(1), ((1, 1), (1, 1))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (2, 2))),
    ],
)
def test_forms_of_padding(padding, expected) -> None:
    assert ConvShape(**BASE, padding=padding).padding == expected


@pytest.mark.parametrize("taps", range(1, 8))
@pytest.mark.parametrize("dilation", range(1, 4))
def test_same_keeps_the_size_and_puts_the_odd_zero_at_the_end(taps: int, dilation: int) -> None:
    shape = ConvShape(n=1, ih=9, iw=4, ic=1, oc=1, fh=taps, fw=1, padding="same", dilation=dilation)
    assert (shape.oh, shape.ow) == (9, 4)
    (top, bottom), sides = shape.padding
    assert top + bottom == dilation * (taps - 1)
    assert bottom - top == dilation * (taps - 1) % 2
    assert sides == (0, 0)


def test_sizes_of_a_shape() -> None:
    shape = ConvShape(**BASE, stride=(2, 1), padding=(1, 2), groups=2)
    assert shape.x_shape == (2, 8, 6, 4)
    assert shape.w_shape == (6, 3, 5, 2)
    assert shape.y_shape == (2, 4, 6, 6)
    assert (shape.stride, shape.dilation) == ((2, 1), (1, 1))
    assert str(shape) == "x (2, 8, 6, 4) w (6, 3, 5, 2) y (2, 4, 6, 6) stride (2, 1) padding (1, 1, 2, 2) groups 2"
    assert hash(shape) == hash(ConvShape(**BASE, stride=[2, 1], padding=(1, 1, 2, 2), groups=2))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"stride": (1, -2)}, ValueError, "stride must be at least 1, got -2"),
        ({"stride": (1, 2, 3)}, ValueError, r"stride must be an int or a pair, got \(1, 2, 3\)"),
        ({"stride": 1.5}, TypeError, "stride must be an int, got 1.5"),
        ({"stride": True}, TypeError, "stride must be an int, got True"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"padding": (0, 0, 0, -3)}, ValueError, "padding must be at least 0, got -3"),
        ({"padding": (1, 2, 3)}, ValueError, r"padding must be an int, .* got \(1, 2, 3\)"),
        ({"padding": "full"}, ValueError, 'padding must be ints, "same" or "valid", got \'full\''),
        ({"padding": "same", "stride": 2}, ValueError, r'padding="same" needs stride 1, got stride \(2, 2\)'),
        ({"groups": 3}, ValueError, "groups must divide ic, got groups=3 and ic=4"),
        ({"groups": 4}, ValueError, "groups must divide oc, got groups=4 and oc=6"),
        ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ({"n": -1}, ValueError, "n must be at least 0, got -1"),
        ({"ic": 0}, ValueError, "ic must be at least 1, got 0"),
        ({"ih": "8"}, TypeError, "ih must be an int, got '8'"),
        ({"fh": 9}, ValueError, "filter is larger than the padded input: fh=9 .* spans 9, ih=8 padded is 8"),
        (
            {"fw": 4, "dilation": (1, 3), "padding": (0, 0, 1, 1)},
            ValueError,
            "filter is larger than the padded input: fw=4 with dilation 3 spans 10, iw=6 padded is 8",
        ),
    ],
)
def test_impossible_shapes_say_what_was_wrong(change, kind, message) -> None:
    with pytest.raises(kind, match=message):
        ConvShape(**{**BASE, **change})


def test_a_stride_far_beyond_the_input_is_planned_at_once() -> None:
    """Phases that no input has are not listed: there would be 10**12 of them."""
    for padding in (0, 2):
        axis = Axis(size=7, taps=3, stride=10**12, before=padding, after=padding, dilation=2)
        assert axis.outputs == 1
        reached = [run for run in axis.runs("conv2d_input") if run.terms]
        found = sorted(triple for run in reached for triple in run.triples())
        assert found == [(f * 2 - padding, f, 0) for f in range(3) if 0 <= f * 2 - padding < 7]
        assert sum(run.positions for run in axis.runs("conv2d_input")) == 7


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 512), (3, 6)])
def test_a_plan_costs_what_its_taps_cost_and_not_what_its_map_has(operator: str, stride: int, dilation: int) -> None:
    """With 10**12 positions nothing may walk over them; the ends must be those of a short axis, moved."""
    taps, padding, step = 5, 2 * dilation, stride * dilation
    sizes = (
        10 * taps * step,
        10 * taps * step + 10**12 // step * step,
    )  # the same ends: the difference is of whole steps
    short, long = (Axis(size, taps, stride, padding, padding, dilation) for size in sizes)
    runs = long.runs(operator)
    assert sum(run.positions for run in runs) == (long.size, taps, long.outputs)[FIXED[operator]]
    assert len(runs) == len(short.runs(operator))
    if operator != "conv2d_weight":  # its sums are as long as the map is wide
        assert [run.terms for run in runs] == [run.terms for run in short.runs(operator)]
