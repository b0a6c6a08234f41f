"""Kernels of a learner: compile them for CUDA, run them in the emulator, and tell mistakes apart.

Nearly all exercises ask for sums of products, ``out[n] = sum of a[k] * b[j]``. So what a wrong kernel does need not be
guessed: with a 1 in one element of `a` and in one of `b`, and zeros elsewhere, a launch says where that product goes.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numba.core.errors import NumbaWarning

from ..emulator import PTXError, Result, check_kernel
from ..geometry import Axis
from ..trace.elements import REAL, Element, Log, Number, Watched, blank
from ..trace.machine import Machine
from .answers import Open, Wrong, line_of, unwritten

UNTOUCHED = -777.0
"""Value of all results before the kernel runs."""
THREADS = 4
"""Threads of a block: most launches have several blocks, and all of them spare threads: a kernel needs its guard."""
LIMIT = 20_000
"""Jumps back in loops after which a thread counts as running without end; no exercise needs a hundred."""
FEW = 6
"""Products that a message writes out."""
MEANT = "is this the index that you mean?"
"""The question that stands before the advice to test an index."""
DIGITS = 8
"""Digits in base 8 of a whole number that float32 holds exactly."""

Index = tuple[int, ...]
Triple = tuple[int, int, int]
Terms = dict[Index, frozenset[tuple[Index, Index]]]
"""By element of the result, the elements of `a` and `b` whose products it is the sum of."""


# --- one launch -----------------------------------------------------------------------------------
def run_kernel(kernel: Any, grid: Any, block: Any, args: tuple[Any, ...], out: Any, where: str = "") -> Result:
    """Run a kernel and check everything that it does.

    Parameters
    ----------
    kernel : function with ``@cuda.jit`` above it
    grid, block : int or tuple of int
    args : tuple
    out : ndarray or None
        The one of `args` that it should fill; None if it changes arrays in place.
    where : str
        The case, in words.

    Returns
    -------
    Result
        What the emulator has found; without a fault.

    Raises
    ------
    Open
        If it changed nothing, and the `...` still stands.
    Wrong
        If it is no kernel, does not compile, does something that no kernel may do, leaves results untouched, or changes
        an array that it should only read.
    """
    if not hasattr(kernel, "py_func"):
        raise Wrong("This should be a kernel: keep the line @cuda.jit above it.")
    if out is not None:
        out[...] = UNTOUCHED
    arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
    before = [arg.copy() for arg in arrays]
    poison = None if out is None else UNTOUCHED
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaWarning)  # about what is slow, before anything is right
            result = check_kernel(kernel, grid, block, *args, poison=poison, limit=LIMIT)
    except PTXError as error:
        raise Wrong(
            "Your kernel compiles for CUDA. But the emulator, which checks it, does not know all that it does there: "
            f"write it in another way.{_line(str(error), kernel, None)}"
        ) from error
    except Exception as error:  # the compiler raises many kinds
        raise Wrong(f"Your kernel does not compile for CUDA. {explained(error, kernel)}") from error
    if unwritten(kernel) and all(map(partial(np.array_equal, equal_nan=True), arrays, before)):
        raise Open
    if result.faults:
        filled = args[0] if out is None else out
        names = [
            name for name, arg in zip(inspect.signature(kernel.py_func).parameters, args, strict=False) if arg is filled
        ]
        raise Wrong(_in(where) + _fault(result, filled, kernel, *names[:1]))
    if out is not None:
        names = [
            name
            for name, arg in zip(inspect.signature(kernel.py_func).parameters, args, strict=False)
            if isinstance(arg, np.ndarray)
        ]
        for name, arg, kept in zip(names, arrays, before, strict=False):
            if arg is not out and not np.array_equal(arg, kept, equal_nan=True):
                raise Wrong(f"{_in(where)}Your kernel changes {name}, which it should only read.")
    return result


def _in(where: str) -> str:
    return f"Launched with {where}:\n" if where else ""


def _fault(result: Result, out: Any, kernel: Any, name: str = "") -> str:
    """The fault that explains the others, in the emulator's words, and what it means here."""
    order = ("endless loop", "out of bounds", "negative index", "divergent barrier", "missing threads", "race")
    first = min(result.faults, key=lambda fault: [*order, fault.kind].index(fault.kind))
    if first.kind == "never written":
        untouched = [tuple(map(int, index)) for index in np.argwhere(out == UNTOUCHED)]
        were = "was" if len(untouched) == 1 else "were"
        which = f"{len(untouched)} of {out.size} results {were} never written, such as {_name(name, untouched[0])}."
        return f"{which} Is there a thread that ends without writing, or one that writes to the places of others?"
    number = sum(at * step for at, step in zip(first.block, _steps(result), strict=True)) + first.thread[0]
    if first.kind == "race" and _barriers(kernel, r"\b(?!\()"):
        return f"{first.text}\n  a function without ( ) is only named, and not called: cuda.syncthreads()"
    if first.kind == "race" and "shared array" not in first.text:
        # A result needs neither a barrier nor an atomic addition in any exercise.
        way = "let each thread make results of its own, which no other thread writes"
        text = re.sub(r": (?:a case for )?cuda\.atomic\b(?!\.add)[^\n]*\?", "", first.text)
        kept = [line for line in text.splitlines() if not line.startswith("  cuda.sync")]
        return "\n".join([*kept, f"  {way}"])
    if first.kind == "missing lanes":  # the course says nothing of masks
        return re.sub(r"(?:one|\d+) lanes? .* not there\b", "some threads of the warp are missing", first.text).replace(
            "the mask must name just the threads that come here", "all 32 threads of a warp must come to this line"
        )
    if first.kind == "negative index":
        return first.text.replace("is a test for", f"{MEANT} If so, is a test for")
    if first.kind == "uninitialised":
        return first.text.replace("is a part of it", f"{MEANT} If so, is a part of the array")
    if first.kind != "out of bounds":
        return first.text.replace("cuda.syncwarp()", "cuda.syncthreads()")  # the only barrier that the course teaches
    least = result.grid[1:] == result.block[1:] == (1, 1) and (result.grid[0] - 1) * result.block[0] <= out.size
    if least and number >= out.size > 1:  # a thread for each result, and some to spare
        must = "needs an if around this line" if _barriers(kernel, r"\(") else "must stop"
        return f"{first.text}\n  there are {out.size} results: this thread, number {number}, has none and {must}"
    way = "If so, test it against both ends of the array before you use it; a GPU would not say a word"
    return f"{first.text}{_same_place(first.text)}\n  {MEANT} {way}"


@contextmanager
def no_index_needs_a_test(why: str) -> Iterator[None]:
    """Say `why` of an index outside of an array, in place of the advice to test it, which would hide the mistake."""
    try:
        yield
    except Wrong as wrong:
        advice = re.escape(MEANT) + r" If so, (?:is a )?test .*"
        raise Wrong(re.sub(advice, lambda _: why, str(wrong), flags=re.S)) from wrong.__cause__


def _same_place(text: str) -> str:
    """The other index of an element past the end: the emulator sees a column too many as the row behind the last."""
    found = re.search(r"(\w+)\[(\d+), (\d+)\], but \1 has shape \((\2), (\d+)\)", text)
    if not found:
        return ""
    other = f"{found[1]}[{int(found[2]) - 1}, {int(found[3]) + int(found[5])}]"
    return f"\n  {other} is the same place in memory: which of the two indices is too large?"


def _barriers(kernel: Any, after: str) -> bool:
    """Whether `cuda.syncthreads` stands in the source of a kernel with something behind it, a regular expression."""
    try:
        return bool(re.search(r"^[^#]*\bsyncthreads" + after, inspect.getsource(kernel.py_func), re.M))
    except OSError:
        return False


def _steps(result: Result) -> tuple[int, int, int]:
    x, y, _ = result.grid
    return tuple(size * result.block[0] for size in (1, x, x * y))  # type: ignore[return-value]


def explained(error: Exception, kernel: Any) -> str:
    """Say in a sentence or two why a kernel does not compile, and on which line."""
    text = str(error)
    for pattern, meaning in REASONS.items():
        if found := re.search(pattern, text):
            return meaning.format(*found.groups()) + _line(text, kernel, found)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Failed in cuda mode")]
    return f"{type(error).__name__}: {lines[0] if lines else text}{_line(text, kernel, None)}"


REASONS = {
    r"void return type|to none for '\$\w*return_value": (
        "A kernel returns nothing: a plain `return` ends a thread, and the result goes into an array."
    ),
    r"Untyped global name '(\w+)': Cannot determine Numba type of <class 'function'>": (
        "{0} is a plain Python function, which a GPU cannot call: put @cuda.jit(device=True) above it."
    ),
    r"\blist\(|empty list|reflected list": "A GPU has no Python lists: use variables, or a tuple of a few numbers.",
    r"exception_match": "A kernel catches no errors: test the index with an if, before it is used.",
    r"NRT required|_ol_array_allocate|function (?:zeros|ones|empty|full)\b": (
        "A kernel can make no new arrays: compute with single elements, such as x[i]."
    ),
    r"Invalid use of (?:int64|UniTuple)": "x.size and x.shape[0] are numbers: no ( ) belong behind them.",
    r"failed to unpack int64|grid\(\) missing": "cuda.grid(1) gives one number, and cuda.grid(2) gives two.",
    r">>> \w+\(.*\bDim3": "threadIdx, blockIdx and blockDim have three numbers each: take one, cuda.threadIdx.x.",
    r"cannot index array\(\w+, (\d)d, \w\) with (\d) indices": (
        "An array takes one index for each axis: this one has {0}, and you give {1}."
    ),
    r">>> [gs]etitem\(array\([^)]*\), float": "An index must be a whole number: divide with //, not with /.",
    r">>> setitem\(array\([^)]*\), .*array\(": "One element cannot hold an array: take a number of it, such as x[i].",
    r">>> (?!getitem|setitem)\w+\(.*UniTuple\(": (
        "You compute with a tuple: cuda.grid(2) gives two numbers, row, column = cuda.grid(2), and x.shape one an axis."
    ),
    r">>> (?:i?xor|i?and_|i?or_)\(.*float": "^, & and | are for whole numbers. A square is x * x, or x ** 2.",
    r">>> (\w+item|add|sub|mul|truediv|floordiv|mod|pow|[lg][te]|eq|ne|neg|i\w+)(\(.*\))": (
        "These types do not go together: {0}{1}."
    ),
    r"Function\(<(?:built-in )?function (\w+)": "A kernel cannot call {0} here: write a loop.",
    r"NumPy function '(?:numpy|np)\.(\w+)'": "A kernel cannot call np.{0}: it would need memory for a new array.",
    r"<ufunc '(\w+)'>": "A kernel cannot call np.{0} here: write the formula out, such as x[i] * x[i].",
    r"addrspace\(4\)": "A kernel cannot call this function of NumPy: write a loop.",
    r"name '(\w+)' is not defined": "The name {0} is not defined.",
    r"a function with @cuda.jit above it, is needed": (
        "It is a device function, which no launch can run: leave out device=True."
    ),
    r"takes (\d+) arguments?, not (\d+)": "It takes {0} arguments, and is launched with {1}: keep its first line.",
    r"missing a required argument: '(\w+)'": "A function that you call needs one more argument, {0}.",
}
"""What the compiler says, and what it means."""


def _line(text: str, kernel: Any, found: Any) -> str:
    """The source line that an error is about, below it; nothing if it cannot be found."""
    try:
        lines, start = inspect.getsourcelines(kernel.py_func)
    except OSError:
        return ""
    file = re.escape(kernel.py_func.__code__.co_filename)
    # The compiler names a line in the first form, and the emulator in the second.
    found_in = rf'File "[^"]*", line (\d+)|\(line (\d+) of {file}\)'
    numbers = [int(compiler or emulator) for compiler, emulator in re.findall(found_in, text)]
    inside = [number - start for number in numbers if start < number < start + len(lines)]
    if found and found.groups() and not inside:
        inside = [k for k, line in enumerate(lines) if re.search(rf"\b{found[1]}\b", line)]
    if found and "return" in found[0]:
        inside = [k for k, line in enumerate(lines) if re.search(r"\breturn\s+\S", line)]
    if found and "addrspace" in found[0]:
        inside = [k for k, line in enumerate(lines) if re.search(r"\bnp\.\w+\(", line)]
    return f"\n    {lines[inside[-1]].strip()}" if inside else ""


# --- values ---------------------------------------------------------------------------------------
def compare(got: Any, expected: Any, hints: dict[str, Any], where: str, name: str) -> None:
    """Raise `Wrong` if results differ, with the hint whose array they equal instead.

    Parameters
    ----------
    got, expected : ndarray
    hints : dict
        From a helpful message to the array that this kind of mistake gives.
    where : str
        The case, in words.
    name : str
        What the results are called.
    """
    if np.allclose(got, expected, rtol=1e-4, atol=1e-5):
        return
    cause = next((message for message, array in hints.items() if _same(got, array)), "")
    raise Wrong(f"{_in(where)}{difference(got, expected, name)}\n{cause}".rstrip())


def _same(got: Any, array: Any) -> bool:
    return np.shape(array) == got.shape and np.allclose(got, array, rtol=1e-4, atol=1e-5)


def difference(got: Any, expected: Any, name: str = "") -> str:
    """Say in one line how many results are wrong, and what the first of them is."""
    wrong = ~np.isclose(got, expected, rtol=1e-4, atol=1e-5)
    at = first(wrong)
    are = "is" if wrong.sum() == 1 else "are"
    return (
        f"{int(wrong.sum())} of {got.size} results {are} wrong. The first one is {_name(name, at)}: you have "
        f"{got[at]:.4g}, "
        f"and it should be {expected[at]:.4g}."
    )


def first(mask: Any) -> Index:
    """Index of the first True."""
    return tuple(int(index) for index in np.argwhere(mask)[0])


def _name(array: str, index: Index) -> str:
    return f"{array}[{', '.join(map(str, index))}]"


# --- arrays by a formula --------------------------------------------------------------------------
class Filling(NamedTuple):
    """A launch of a kernel ``(*args, out)`` that fills an array.

    Attributes
    ----------
    where : str
        The case, in words.
    grid, block : int or tuple of int
    args : tuple of ndarray
    right : ndarray
        What the kernel should make.
    mistakes : dict
        From what can be wrong with a kernel to the array that it then makes; the same mistakes in all launches.
    """

    where: str
    grid: Any
    block: Any
    args: tuple[Any, ...]
    right: Any
    mistakes: dict[str, Any]

    def launch(self, kernel: Any) -> tuple[Any, Result]:
        """The array that a kernel makes, and the report."""
        out = np.empty(self.right.shape, np.float32)
        return out, run_kernel(kernel, self.grid, self.block, (*self.args, out), out, self.where)

    def made_by(self, mistake: str, kernel: Any) -> bool:
        """Whether a kernel makes what this mistake would; True if it cannot run here."""
        try:
            return _same(self.launch(kernel)[0], self.mistakes[mistake])
        except Wrong:
            return True


def fills(kernel: Any, fillings: list[Filling], name: str) -> list[Result]:
    """Try a kernel that fills an array by a formula.

    Parameters
    ----------
    kernel : function with ``@cuda.jit`` above it
    fillings : list of Filling
    name : str
        What the array is called in the exercise.

    Returns
    -------
    list of Result
        The reports of all launches.

    Raises
    ------
    Open, Wrong
    """
    results = []
    for one in fillings:
        out, result = one.launch(kernel)
        if not _same(out, one.right):
            causes = {text: array for text, array in one.mistakes.items() if _same(out, array)}
            causes = {text: causes[text] for text in causes if all(at.made_by(text, kernel) for at in fillings)}
            compare(out, one.right, {**causes, _held(name, result): one.right + UNTOUCHED}, one.where, name)
        results.append(result)
    no_float64(results[-1])
    return results


def _held(name: str, result: Result) -> str:
    """What to say of a kernel whose results begin with what the array held before."""
    if any((cost.site.space, cost.site.action) == ("global", "atomic") for cost in result.costs):
        return (
            f"An atomic addition adds to what {name} held before. Let one thread add up each result in a variable, and "
            "write it with =."
        )
    return f"Your kernel adds to what {name} held before. Begin with 0, or use a variable."


# --- sums of products -----------------------------------------------------------------------------
class Case(NamedTuple):
    """A launch of a kernel ``(a, b, out, *scalars)`` whose results are sums of products.

    Attributes
    ----------
    where : str
        The case, in words.
    sizes : three tuples of int
        Shapes of a, b and out.
    scalars : tuple of int and ndarray
        What follows the three arrays.
    grid, block : int or tuple of int
    terms : dict
        The products of each result.
    mistakes : list of (str, dict)
        What can be wrong with a kernel, and the products that it then adds up; the same ones in all cases.
    """

    where: str
    sizes: tuple[Index, Index, Index]
    scalars: tuple[Any, ...]
    grid: Any
    block: Any
    terms: Terms
    mistakes: list[tuple[str, Terms]]

    def launch(self, kernel: Any, a: Any, b: Any) -> tuple[Any, Result]:
        """The results and the report of a launch with these operands."""
        out = np.empty(self.sizes[2], np.float32)
        return out, run_kernel(kernel, self.grid, self.block, (a, b, out, *self.scalars), out, self.where)

    def expected(self, a: Any, b: Any, terms: Terms) -> Any:
        """The sums of the given products."""
        sums = np.zeros(self.sizes[2])
        for index, pairs in terms.items():
            sums[index] = sum(float(a[k]) * float(b[j]) for k, j in pairs)
        return sums


def sums_of_products(kernel: Any, cases: list[Case], names: tuple[str, str, str], zeros: str = "") -> Result:
    """Try a kernel on all cases.

    Parameters
    ----------
    kernel : function with ``@cuda.jit`` above it
    cases : list of Case
    names : three str
        What a, b and out are called in the exercise.
    zeros : str
        If given, no zero may be multiplied; says who would add such zeros: "padding would add".

    Returns
    -------
    Result
        The report of the last launch.

    Raises
    ------
    Open, Wrong
    """
    rng = np.random.default_rng(0)
    for case in cases:
        a, b = (rng.integers(2, 99, size).astype(np.float32) for size in case.sizes[:2])
        out, result = case.launch(kernel, a, b)
        if not np.allclose(out, case.expected(a, b, case.terms), rtol=1e-4):
            raise Wrong(_in(case.where) + _what_is_wrong(kernel, case, cases, names, a, b, out, result))
        negative = -case.expected(a, b, case.terms)
        out, _ = case.launch(kernel, -a, b)
        if not np.allclose(out, negative, rtol=1e-4):
            said = f"With negative numbers in {names[0]}, {difference(out, negative, names[2])}"
            raise Wrong(f"{_in(case.where)}{said}\nA sum takes every product as it is, whatever its sign.")
    if zeros:
        for case in cases:
            _multiplies_no_zero(kernel, case, names, zeros)
    no_float64(result)
    return result


def _what_is_wrong(
    kernel: Any, case: Case, cases: list[Case], names: tuple[str, str, str], a: Any, b: Any, out: Any, result: Result
) -> str:
    expected = case.expected(a, b, case.terms)
    said = difference(out, expected, names[2])
    if np.allclose(out, expected + UNTOUCHED):
        return f"{said}\n{_held(names[2], result)}"
    counts = _counts(kernel, case)
    found = _once(counts)
    if not np.allclose(out, case.expected(a, b, found), rtol=1e-4):
        return f"{said}\n{_repeated(counts, case, names, a, b, out)}"
    at = first(~np.isclose(out, expected, rtol=1e-4))
    sums = [_sum(terms.get(at, frozenset()), names) for terms in (found, case.terms)]
    lines = [said, f"  yours:  {_name(names[2], at)} = {sums[0]}", f"  right:  {_name(names[2], at)} = {sums[1]}"]
    return "\n".join([*lines, *_cause(kernel, case, cases, found)])


def _sum(pairs: Iterable[tuple[Index, Index]], names: tuple[str, str, str]) -> str:
    terms = [f"{_name(names[0], k)}*{_name(names[1], j)}" for k, j in sorted(pairs, key=lambda pair: pair[::-1])]
    more = f" + {len(terms) - FEW} more" if len(terms) > FEW else ""
    return (" + ".join(terms[:FEW]) or "0") + more


def _repeated(
    counts: dict[Index, Counter[tuple[Index, Index]]], case: Case, names: tuple[str, str, str], a: Any, b: Any, out: Any
) -> str:
    """What to say of a kernel that adds up some products several times, or something else than products."""
    sums = np.zeros(case.sizes[2])
    for index, found in counts.items():
        sums[index] = sum(often * float(a[k]) * float(b[j]) for (k, j), often in found.items())
    if not np.allclose(out, sums, rtol=1e-4):
        return f"Yours is no plain sum of products {names[0]}[...] * {names[1]}[...], each of them once."
    index, found = next((index, found) for index, found in counts.items() if max(found.values()) > 1)
    (k, j), often = max(found.items(), key=lambda item: item[1])
    times = f"{often} times, and it belongs there once" if (k, j) in case.terms.get(index, ()) else f"{often} times"
    return f"Your {_name(names[2], index)} has the product {_name(names[0], k)}*{_name(names[1], j)} {times}."


def _products(kernel: Any, case: Case) -> Terms:
    """The products that a kernel adds up once."""
    return _once(_counts(kernel, case))


def _once(counts: dict[Index, Counter[tuple[Index, Index]]]) -> Terms:
    return _clean({index: frozenset(p for p, often in found.items() if often == 1) for index, found in counts.items()})


def _counts(kernel: Any, case: Case) -> dict[Index, Counter[tuple[Index, Index]]]:
    """How often a kernel adds up each product, by experiment.

    With a 1 in one element of a, and 1, 8, 64... in some of b, a digit of a result in base 8 says how often it has the
    product with one of these. float32 holds DIGITS of them exactly.
    """
    found: dict[Index, Counter[tuple[Index, Index]]] = {}
    places = list(np.ndindex(*case.sizes[1]))
    for k, first in product(np.ndindex(*case.sizes[0]), range(0, len(places), DIGITS)):
        a, b = (np.zeros(size, np.float32) for size in case.sizes[:2])
        a[k] = 1
        for digit, j in enumerate(places[first : first + DIGITS]):
            b[j] = 8**digit
        out, _ = case.launch(kernel, a, b)
        for index in np.argwhere((out > 0) & (out < 8**DIGITS) & (out == np.floor(out))):
            digits = f"{int(out[tuple(index)]):o}"[::-1]
            here = found.setdefault(tuple(map(int, index)), Counter())
            here.update({(k, places[first + digit]): int(often) for digit, often in enumerate(digits) if often != "0"})
    return found


def _cause(kernel: Any, failed: Case, cases: list[Case], found: Terms) -> Iterator[str]:
    """The first mistake that gives just what this kernel gives in the case that failed, and in all others."""
    known = {failed.where: found}
    for number, (mistake, terms) in enumerate(failed.mistakes):
        if _clean(terms) == found and all(_agrees(kernel, case, number, known) for case in cases):
            yield mistake
            return


def _agrees(kernel: Any, case: Case, mistake: int, known: dict[str, Terms]) -> bool:
    """Whether a kernel adds up what this mistake would; True for a case that it cannot run."""
    if case.where not in known:
        try:
            known[case.where] = _products(kernel, case)
        except Wrong:
            return True
    return known[case.where] == _clean(case.mistakes[mistake][1])


def _clean(terms: Terms) -> Terms:
    return {index: pairs for index, pairs in terms.items() if pairs}


def _multiplies_no_zero(kernel: Any, case: Case, names: tuple[str, str, str], zeros: str) -> None:
    """Fill one element of b with NaN at a time: a result that has no product with it must not notice, but 0 * NaN does.

    Then count the products in the kernel's source, for zeros that are multiplied and thrown away.
    """
    ones = np.ones(case.sizes[0], np.float32)
    for j in np.ndindex(*case.sizes[1]):
        b = np.ones(case.sizes[1], np.float32)
        b[j] = np.nan
        out, _ = case.launch(kernel, ones, b)
        for index in np.ndindex(*case.sizes[2]):
            if np.isnan(out[index]) and all(pair[1] != j for pair in case.terms.get(index, ())):
                raise Wrong(
                    f"{_in(case.where)}The results are right. But for {_name(names[2], index)} you multiply "
                    f"{_name(names[1], j)} by a zero that {zeros}: leave that product out."
                )
    useful = sum(map(len, case.terms.values()))
    work = work_of(kernel, case, useful)
    if twice := _done_twice(work, case, names):
        raise Wrong(f"{_in(case.where)}The results are right. But {twice}")
    done = sum(work.products.values())
    if done > useful:
        raise Wrong(
            f"{_in(case.where)}The results are right. But your kernel does {done} products where {useful} are useful: "
            "which of the others are by a zero, or thrown away?"
        )
    busiest, most = max(work.products.values()), max(map(len, case.terms.values()))
    if busiest > most:
        raise Wrong(
            f"{_in(case.where)}The results are right. But one thread does {busiest} products, and no result has "
            f"more than {most}: every thread should make one result."
        )


def _done_twice(log: Log, case: Case, names: tuple[str, str, str]) -> str:
    """Say how many threads compute each product, if it is the same number for all of them, and more than are needed."""
    needed = Counter(pair for pairs in case.terms.values() for pair in pairs)
    threads: dict[tuple[Index, Index], set[Any]] = {}
    for event in log.events:
        place = {element.array: element.place for element in (event.first, event.second)}
        if place.keys() == {"a", "b"}:
            threads.setdefault((place["a"], place["b"]), set()).add((event.block, event.thread))
    if threads.keys() != needed.keys() or len({len(found) / needed[pair] for pair, found in threads.items()}) > 1:
        return ""
    (k, j), found = next(iter(threads.items()))
    if len(found) <= needed[k, j]:
        return ""
    return (
        f"{len(found)} threads compute {_name(names[0], k)}*{_name(names[1], j)}, and {needed[k, j]} would do: let "
        "each thread make one result, the one with its number in the whole launch, cuda.grid(1)."
    )


def no_float64(result: Result) -> None:
    """Raise `Wrong` if a kernel whose arrays are float32 computes in float64, with the first line that does."""
    texts = [text for text in result.lint().split("\n\n") if " x float64, though " in text]
    said = [_own_line(text) for text in texts]
    if said:
        line = min(said, key=_number)
        cause = (
            "0, 0.0 and 0.9 are no float32: begin a sum with y.dtype.type(0), if y is the result; write float32(0.9)."
        )
        if any("a shared array of float64" in text for text in texts):
            cause = "A shared array of float64 makes every product with it a float64: give it np.float32."
        elif re.search(r"[^/]/[^/]", line.split(":", 2)[-1]):
            cause = "The quotient a / b of whole numbers is a float64: divide with //."
        elif any("a whole number that meets a float" in text for text in texts):
            cause = "A whole number that meets a float32 makes a float64: turn it into one with float32( )."
        raise Wrong(
            "The results are right. But all arrays are float32, and your kernel computes in float64, which is many "
            f"times slower. It begins in\n  {line}\n{cause}"
        )


def _own_line(text: str) -> str:
    """The quoted line of the kernel itself: the last of those that called each other."""
    found: list[str] = re.findall(r"^  (?:called from )?(\S.*?:\d+:.*)", text, re.M)
    return found[-1]


def _number(line: str) -> tuple[bool, int]:
    """The number of a quoted source line, that of a loop's head after all others."""
    found = re.search(r":(\d+):\s+(for|while)?", line)
    return (bool(found[2]), int(found[1])) if found else (True, 0)


# --- what the source multiplies -------------------------------------------------------------------
@dataclass
class Work(Log):
    """A log that also counts the products of each block and thread, those of sums among them."""

    products: Counter[tuple[Index, Index]] = field(default_factory=Counter)

    def product(self, a: Number, b: Number) -> Number:
        self.products[self.block, self.thread] += 1
        return super().product(a, b)


def work_of(kernel: Any, case: Case, least: int) -> Work:
    """The multiplications that a right kernel does, from its source.

    Parameters
    ----------
    kernel : function with ``@cuda.jit`` above it
    case : Case
    least : int
        Products without which the results cannot be right.

    Raises
    ------
    Wrong
        If the source cannot be followed: a kernel must not be praised for what nobody has seen.
    """
    work = Work()
    named = zip(("a", "b", ""), case.sizes, strict=True)
    arrays = [_watched(name, np.ones(size, np.float32), work) for name, size in named]
    follow(Machine(work), kernel, case, (*arrays, *case.scalars))
    if (seen := sum(work.products.values())) < least:
        raise Wrong(
            f"{_in(case.where)}The results are right. But this exercise counts the products in your source, and finds "
            f"{seen} of {least}: write each of them as a * b, with elements of the arrays or variables."
        )
    return work


def follow(machine: Machine, kernel: Any, launch: Any, args: tuple[Any, ...]) -> None:
    """Run the source of a right kernel as plain Python; raise `Wrong`, and say what to write instead, if it cannot run.

    Parameters
    ----------
    machine : Machine
    kernel : function with ``@cuda.jit`` above it
    launch : Case or Filling
    args : tuple
    """
    grid, block = (size if isinstance(size, tuple) else (size,) for size in (launch.grid, launch.block))
    try:
        machine.launch(kernel, grid, block, args)
    except Exception as error:  # a learner may write anything
        raise Wrong(f"{_in(launch.where)}{_not_followed(error, kernel)}") from error


def _not_followed(error: Exception, kernel: Any) -> str:
    """Say which line of a source is more than plain Python can do, and what to write instead."""
    said = "The results are right. But this exercise looks at what your source does, and cannot"
    if isinstance(error, (OSError, AssertionError)):
        return f"{said} read it: write the kernel with def, in a cell of its own."
    line = line_of(error, kernel.py_func)
    if "syncthreads" in line:
        return f"{said} follow this barrier:{line}\nWrite cuda.syncthreads(), on a line of its own."
    way = "Write it in another way"
    if isinstance(error, AttributeError) and error.name:
        way = f"Write it without {error.name}"
    elif "not supported between" in str(error):
        way = "Compare indices, and not elements"
    elif isinstance(error, NotImplementedError):
        way = "Numba's functions are called by way of cuda, such as cuda.grid"
    return (
        f"{said} follow this line:{line}\n{way}: elements such as x[i], with + and *, if and for, cuda.grid, "
        "cuda.shared.array and cuda.syncthreads are enough."
    )


def _watched(name: str, array: Any, log: Log) -> Watched:
    made = blank(array.shape, array.dtype, log)
    for index, value in np.ndenumerate(array):
        made.cells[index] = Number(float(value), log, Element(name, index, REAL))
    return made


# --- kernels of one axis --------------------------------------------------------------------------
NAMES = {"conv2d": ("x", "w", "y"), "conv2d_input": ("dy", "w", "dx"), "conv2d_weight": ("x", "dy", "dw")}


def one_axis(kernel: Any, operator: str, axes: list[Axis], zeros: str) -> None:
    """Try a kernel of one axis that takes the operands, the result, stride and padding.

    Raises
    ------
    Open, Wrong
        As in `sums_of_products`.
    """
    names = *NAMES[operator], "stride", "padding"
    given = tuple(inspect.signature(getattr(kernel, "py_func", kernel)).parameters) if callable(kernel) else ()
    if given != names and sorted(given) == sorted(names):
        raise Wrong(f"The kernel gets {', '.join(names)}, in this order: keep its first line.")
    sums_of_products(kernel, [axis_case(operator, axis) for axis in axes], NAMES[operator], zeros)


def axis_case(operator: str, axis: Axis) -> Case:
    """A launch of a kernel of one axis, with more threads than results."""
    length = {"x": axis.size, "dx": axis.size, "w": axis.taps, "dw": axis.taps, "y": axis.outputs, "dy": axis.outputs}
    first, second, made = ((length[name],) for name in NAMES[operator])
    where = f"stride={axis.stride}, padding={axis.before}, {axis.taps} taps, {axis.size} inputs, {axis.outputs} outputs"
    terms = _by_result(operator, axis, triples(axis))
    mistakes = [(text, _by_result(operator, axis, found)) for text, found in mistaken(axis)]
    if operator == "conv2d_input":
        mistakes += [(text, _by_result(operator, axis, found)) for text, found in _mistaken_phases(axis)]
    mistakes += one_of_each(terms)
    grid = made[0] // THREADS + 1
    return Case(where, (first, second, made), (axis.stride, axis.before), grid, THREADS, terms, mistakes)


def _by_result(operator: str, axis: Axis, found: Iterable[Triple]) -> Terms:
    terms: dict[Index, set[tuple[Index, Index]]] = {}
    for i, f, o in found:
        number = {"x": (i,), "dx": (i,), "w": (f,), "dw": (f,), "y": (o,), "dy": (o,)}
        first, second, made = (number[name] for name in NAMES[operator])
        terms.setdefault(made, set()).add((first, second))
    return {index: frozenset(pairs) for index, pairs in terms.items()}


def one_of_each(terms: Terms) -> list[tuple[str, Terms]]:
    """The mistakes that leave one product of every sum, or leave one out."""
    text = "Only one product of each sum is left. Is there a = where += belongs, or a return inside the loop?"
    short = "Each sum lacks the product at one of its ends: a range() begins too late, or ends too early."
    ends = [
        {index: frozenset({choose(pairs, key=lambda pair: pair[::-1])}) for index, pairs in terms.items() if pairs}
        for choose in (max, min)
    ]
    rest = [{index: pairs - end.get(index, frozenset()) for index, pairs in terms.items()} for end in ends]
    return [*((text, end) for end in ends), *((short, left) for left in rest)]


def triples(axis: Axis, index: Callable[[int, int], int] | None = None) -> list[Triple]:
    """All real triples (i, f, o) of an axis, or those of another equation for i."""
    index = index or (lambda o, f: o * axis.stride - axis.before + f * axis.dilation)
    every = ((index(o, f), f, o) for o in range(axis.outputs) for f in range(axis.taps))
    return [triple for triple in every if 0 <= triple[0] < axis.size]


def mistaken(axis: Axis) -> list[tuple[str, list[Triple]]]:
    """The products of kernels with one mistake, by what is wrong with them."""
    stride, before, taps = axis.stride, axis.before, axis.taps
    right = triples(axis)
    return [
        ("The stride is missing: i = o*stride - padding + f.", triples(axis, lambda o, f: o - before + f)),
        ("The padding is missing: i = o*stride - padding + f.", triples(axis, lambda o, f: o * stride + f)),
        ("The padding is subtracted: i = o*stride - padding + f.", triples(axis, lambda o, f: o * stride + before + f)),
        (
            "The filter is turned around: tap f belongs to input o*stride - padding + f.",
            triples(axis, lambda o, f: o * stride - before + taps - 1 - f),
        ),
        (
            "o and f have changed places: i = o*stride - padding + f.",
            triples(axis, lambda o, f: o - before + f * stride),
        ),
        ("The last tap is missing: the end of a range() is not in it.", [t for t in right if t[1] < taps - 1]),
        ("The first tap is missing.", [t for t in right if t[1] > 0]),
        (
            "The last output is missing: the end of a range() is not in it.",
            [t for t in right if t[2] < axis.outputs - 1],
        ),
        ("The first output is missing.", [t for t in right if t[2] > 0]),
        ("The last input is never used: a bound is one too small.", [t for t in right if t[0] < axis.size - 1]),
        ("The first input is never used: is there a > where >= belongs?", [t for t in right if t[0] > 0]),
    ]


def _mistaken_phases(axis: Axis) -> list[tuple[str, list[Triple]]]:
    """The products of kernels of the input gradient that start at a wrong tap, by what is wrong with them."""
    stride, taps, before = axis.stride, axis.taps, axis.before

    def walk(first: Callable[[int], int], step: int, shift: int) -> list[Triple]:
        every = ((i, f, (i + shift - f) // stride) for i in range(axis.size) for f in range(first(i), taps, step))
        return [triple for triple in every if 0 <= triple[2] < axis.outputs]

    phase = "The phase of an input is (i + padding) % stride: its first tap."
    return [
        (f"{phase} You left out the padding.", walk(lambda i: i % stride, stride, before)),
        ("The padding is missing: o*stride = i + padding - f.", walk(lambda i: i % stride, stride, 0)),
        (f"{phase} Yours begins at tap 0 for every input.", walk(lambda i: 0, stride, before)),
        (
            "An input meets only the taps of its phase, `stride` apart: where (i + padding - f) is no multiple of the "
            "stride, there is no such output.",
            walk(lambda i: 0, 1, before),
        ),
        (
            "Each input takes one tap only: the taps of its phase are `stride` apart, and there may be more of them.",
            walk(lambda i: (i + before) % stride, taps + stride, before),
        ),
        ("The padding is added: o*stride = i + padding - f.", walk(lambda i: (i - before) % stride, stride, -before)),
    ]
