"""Kernels in many styles: no report on a right one, and the fault, at its Python line, on each wrong one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from foreign.cases import BLANK, CHANGE, KINDS, QUOTE, examples, wrong_versions

from cks_numba.emulator import check_kernel

FILES = sorted(path for path in (Path(__file__).parent / "foreign").glob("*.py") if path.stem != "cases")
RIGHT = [pytest.param(path, name, id=name) for path in FILES for name in examples(path)]
WRONG = [
    pytest.param(path, wrong, id=f"{wrong.kernel}-{wrong.version}") for path in FILES for wrong in wrong_versions(path)
]
ORDERS = ("forward", "reverse", 1)  # in which the threads take turns


def example(path, name):
    """Import a file anew and give one of its cases."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def run(case, order):
    """Launch a case on arrays of its own; give the report and the arguments."""
    arguments = case.arguments()
    first = arguments[0].flat[0]
    poison = first if first == BLANK or np.isnan(first) else None
    result = check_kernel(
        case.kernel, case.grid, case.block, *arguments, shared=case.shared, seed=order, poison=poison
    )  # fmt: skip
    return result, arguments


@pytest.mark.parametrize(("path", "name"), RIGHT)
def test_right_kernels(path, name):
    case = example(path, name)
    expected = case.expected(*case.arguments())
    for order in ORDERS:
        result, arguments = run(case, order)
        assert not result.faults, f"{order}: {result}"
        for array, values in zip(arguments, expected if isinstance(expected, tuple) else (expected,), strict=False):
            array = np.sort(array) if case.any_order else array
            tolerance = 1e-3 if array.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(array, values, rtol=tolerance, atol=tolerance / 10, err_msg=str(order))
        assert sorted("".join(result.printed).splitlines()) == list(case.printed)


@pytest.mark.parametrize(("path", "wrong"), WRONG)
def test_wrong_kernels(path, wrong, tmp_path):
    copy = tmp_path / path.name
    copy.write_text(wrong.text)
    case, lines = example(copy, wrong.kernel), wrong.text.splitlines()
    for order in ORDERS:
        result, _ = run(case, order)
        for kind, quotes in wrong.quotes.items():
            faults = [fault for fault in result.faults if fault.kind == kind]
            assert faults, f"{order}: no {kind} in {result}"
            for fault in faults if kind != "never written" else ():  # that one has no line
                told = {(int(line), text) for line, text in re.findall(rf"{copy.name}:(\d+):  (.*)", str(fault))}
                assert all(lines[line - 1].strip() == text for line, text in told)
                assert quotes & {line for line, _ in told}, f"{order}: {told} and not {quotes}\n{result}"


def test_comments_of_the_examples():
    """Every wrong version names the kinds of its faults, and every kind is planted several times."""
    planted = [kind for parameter in WRONG for kind in parameter.values[1].quotes]
    assert len(RIGHT) >= 44 and all(parameter.values[1].quotes for parameter in WRONG)
    assert all(planted.count(kind) >= 2 for kind in KINDS), {kind: planted.count(kind) for kind in KINDS}
    for path in FILES:
        text = path.read_text()
        own = [text.splitlines()[first - 1 : last] for first, last in examples(path).values()]
        for lines in own:
            changes, quotes = ({name for line in lines for name, _ in form.findall(line)} for form in (CHANGE, QUOTE))
            assert changes == quotes, lines
