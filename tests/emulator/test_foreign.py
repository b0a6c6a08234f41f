"""Kernels in many styles: no report on a right one, and the fault, at its Python line, on each wrong one."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import sys
import unittest
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from foreign.cases import BLANK, CHANGE, KINDS, QUOTE, examples, wrong_versions

from cks_numba.emulator import check_kernel, emulate

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


# --- the tests of numba-cuda -----------------------------------------------------------------------
PRINTED = "reads what Numba's own compiler prints or keeps of a launch"
DECLARED = "expects an error of the compiler where a kernel is declared; the emulator compiles when it is launched"
FAULTY = "its kernel reads what nobody wrote, writes past the end of an array or races, and the emulator says so"
LEFT_OUT = {  # modules of numba-cuda's tests; in each the tests that need more than launches and arrays, and why
    "cudapy.test_array_args": {"test_tuple_of_empty_tuples": "Numba fails at it with the lines of the source"},
    "cudapy.test_atomics": {"test_atomic_add_double*": PRINTED},
    "cudapy.test_blackscholes": {},
    "cudapy.test_boolean": {},
    "cudapy.test_complex_kernel": {},
    "cudapy.test_constmem": {"test_const_array*": PRINTED},
    "cudapy.test_enums": {},
    "cudapy.test_frexp_ldexp": {},
    "cudapy.test_globals": {},
    "cudapy.test_idiv": {},
    "cudapy.test_iterators": {},
    "cudapy.test_lang": {},
    "cudapy.test_localmem": {
        "test_local_array": PRINTED,
        "test_*dtype": PRINTED,
        "test_type_with_struct_data_model": PRINTED,
        "test_struct_model_type_arr": FAULTY,
    },
    "cudapy.test_montecarlo": {},
    "cudapy.test_nondet": {},
    "cudapy.test_operator": {
        "test_*_ptx": "looks for instructions in the code for one GPU, which is not compiled here"
    },
    "cudapy.test_random": {},
    "cudapy.test_record_dtype": {},
    "cudapy.test_reduction": {},
    "cudapy.test_retrieve_autoconverted_arrays": {"test_*_from_config": "has extensions, which change the arguments"},
    "cudapy.test_slicing": {},
    "cudapy.test_sm": {"test_invalid_array_type": DECLARED, "test_issue_2393": FAULTY},
    "cudapy.test_ssa": {
        "test_issue3931": "calls a function that numba-cuda links from elsewhere",
        "test_undefined_var": "expects a warning of the compiler, which a kernel from the cache does not give",
    },
    "cudapy.test_sync": {"test_threadfence*": PRINTED},
    "cudapy.test_vectorize_complex": {},
    "cudapy.test_vectorize_device": {},
    "cudapy.test_vectorize_scalar_arg": {},
    "cudapy.test_warp_ops": {
        "test_*_const_mode_val*": PRINTED,
        "test_useful_syncwarp": FAULTY,
        "test_vote_sync_type_validation": DECLARED,
    },
    "doc_examples.test_cpu_gpu_compat": {},
    "doc_examples.test_reduction": {},
    "doc_examples.test_ufunc": {},
    "doc_examples.test_vecadd": {},
}


@pytest.fixture
def filecheck(monkeypatch):
    """Stands in for a package that the tests import, and use where they read what a compiler printed."""
    nothing = SimpleNamespace(Matcher=None, Options=None, Parser=None, pattern_for_opts=None, FInput=None)
    if importlib.util.find_spec("filecheck") is None:
        for name in ("filecheck", *(f"filecheck.{part}" for part in ("matcher", "options", "parser", "finput"))):
            monkeypatch.setitem(sys.modules, name, nothing)


def cases_of(suite):
    """The tests of a suite and of those within it."""
    return [case for test in suite for case in (cases_of(test) if isinstance(test, unittest.TestSuite) else [test])]


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_tests_of_numba_cuda(name, filecheck):
    """They run as they are, and every launch is checked."""
    with emulate(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(f"numba.cuda.tests.{name}")
        cases = {case.id(): case for case in cases_of(unittest.defaultTestLoader.loadTestsFromModule(module))}
        left_out = {pattern: fnmatch.filter(cases, f"*.{pattern}") for pattern in LEFT_OUT[name]}
        assert all(left_out.values()), left_out
        chosen = [case for key, case in cases.items() if key not in {key for keys in left_out.values() for key in keys}]
        result = unittest.TestResult()
        unittest.TestSuite(chosen).run(result)
    wrong = result.failures + result.errors
    assert not wrong, "\n\n".join(f"{case.id()}\n{text}" for case, text in wrong)
    assert len(result.skipped) < result.testsRun
