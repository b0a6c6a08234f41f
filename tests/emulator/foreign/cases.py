"""How the example kernels of this folder are launched, what they must give, and what their wrong versions are.

An example is a kernel under a `@case`. Its results are its first arguments. Comments make wrong versions of it:
`# wrong a: TEXT` stands on a line that has TEXT in its place in version a, and `# a: race` on a line that the report of
version a must quote, with the kind of the fault. A kind may stand on several lines: each is a right answer, since the
order of the threads decides which of two accesses is the later one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

KINDS = (
    "out of bounds", "negative index", "uninitialised", "race", "divergent barrier", "missing threads", "missing lanes",
    "endless loop", "never written", "assertion",
)  # fmt: skip
CHANGE = re.compile(r"# wrong (\w): (.*?)(?=  # |$)")
QUOTE = re.compile(rf"# (\w): ({'|'.join(KINDS)})(?=  # |$)")
BLANK = -9999  # what `blank` puts into whole numbers


class Case(NamedTuple):
    """A kernel with its launch; `expected` computes its result by NumPy from arguments, or a tuple of results."""

    kernel: Any
    grid: int | tuple[int, ...]
    block: int | tuple[int, ...]
    arguments: Callable[[], tuple[Any, ...]]
    expected: Callable[..., Any]
    shared: int
    printed: tuple[str, ...]
    any_order: bool


class Wrong(NamedTuple):
    """A wrong version of an example: the text of its file, and the lines that the report must quote for each kind."""

    kernel: str
    version: str
    text: str
    quotes: dict[str, set[int]]


def case(grid, block, arguments, expected, shared=0, printed=(), any_order=False):
    """Make a case of the kernel that follows.

    `shared` counts the bytes of dynamic shared memory; `printed` lists the lines that the kernel prints, sorted;
    `any_order` says that the order of the results depends on that of the threads.
    """
    return lambda kernel: Case(kernel, grid, block, arguments, expected, shared, printed, any_order)


def numbers(*shape, dtype=np.float32, seed=0):
    """Draw whole numbers, whose sums are exact: from -9 to 9, or from 0 to 18 if the type has no sign."""
    least = 0 if np.dtype(dtype).kind in "ub" else -9
    return np.random.default_rng(seed).integers(least, least + 19, shape).astype(dtype)


def blank(*shape, dtype=np.float32):
    """Make an array for results: all NaN, or BLANK in whole numbers, so that a place never written shows."""
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else BLANK, dtype)


def zeros(*shape, dtype=np.float32):
    """Make an array for results that the kernel adds to."""
    return np.zeros(shape, dtype)


def examples(path: Path) -> dict[str, tuple[int, int]]:
    """List the kernels of a file with their first and last lines, which take in the device functions before them."""
    lines, found, last = path.read_text().splitlines(), {}, 0
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and "case" in {
            decorator.func.id
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name)
        }:
            first, last = last + 1, node.end_lineno
            while last < len(lines) and lines[last].lstrip().startswith("#"):
                last += 1
            found[node.name] = (first, last)
    return found


def wrong_versions(path: Path) -> list[Wrong]:
    """Make the wrong versions that the comments of a file describe; a comment on its own quotes the line above it."""
    lines, found = path.read_text().splitlines(), []
    for kernel, (first, last) in examples(path).items():
        own = range(first - 1, last)
        for version in sorted({name for i in own for name, _ in CHANGE.findall(lines[i])}):
            text, quotes = list(lines), {}
            for i in own:
                changes, line = dict(CHANGE.findall(lines[i])), i + 1
                if lines[i].lstrip().startswith("#") and not changes:
                    line = i
                if version in changes:
                    text[i] = re.match(" *", lines[i])[0] + changes[version]
                for name, kind in QUOTE.findall(lines[i]):
                    if name == version:
                        quotes.setdefault(kind, set()).add(line)
            found.append(Wrong(kernel, version, "\n".join(text) + "\n", quotes))
    return found
