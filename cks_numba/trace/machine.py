"""Plain Python in place of `numba.cuda`: one thread after the other, without a GPU or a simulator.

A kernel's own source is compiled once more as plain Python, with three things replaced: `cuda` by a
`Machine`, device functions by copies made the same way, and Numba's number types by Python's. A
`cuda.syncthreads()` becomes a `yield`, so that a thread of a block is a generator: all of them run
to the barrier in turn, then all run on. That is always the same order. A number that is converted to
a float type stays the number that it is.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numba import types as numba_types

from ..kernels.jit import cuda
from .elements import Log, Number, blank


class Dim3(NamedTuple):
    x: int = 1
    y: int = 1
    z: int = 1


class Whole(NamedTuple):
    """One of Numba's integer types; calling it makes a Python integer of that many bits."""

    bits: int
    signed: bool

    def __call__(self, value: Any) -> int:
        wrapped = int(value) & ((1 << self.bits) - 1)
        return wrapped - (1 << self.bits) if self.signed and wrapped >> (self.bits - 1) else wrapped


class Machine:
    """A stand-in for the module `numba.cuda` inside the copied kernels.

    Parameters
    ----------
    log : Log
        Learns which thread is at work.
    """

    log: Log
    shared: SimpleNamespace
    local: SimpleNamespace
    gridDim: Dim3
    blockDim: Dim3
    blockIdx: Dim3
    threadIdx: Dim3

    def __init__(self, log: Log) -> None:
        self.log = log
        self.shared, self.local = SimpleNamespace(array=self._shared), SimpleNamespace(array=self._local)
        self.gridDim = self.blockDim = Dim3()
        self.blockIdx = self.threadIdx = Dim3(0, 0, 0)
        self._copies: dict[Any, Any] = {}
        self._block_arrays: list[Any] = []
        self._asked: dict[Dim3, int] = {}  # how many shared arrays each thread has asked for

    def launch(self, kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Run a kernel, block by block."""
        body = self.plain(kernel)
        self.gridDim, self.blockDim = Dim3(*grid), Dim3(*block)
        places = list(_places(self.blockDim))
        for place_of_block in _places(self.gridDim):
            self.blockIdx = self.log.block = place_of_block
            self._block_arrays, self._asked = [], {}
            started = [(place, self._start(place, body, args)) for place in places]
            threads = [(place, thread) for place, thread in started if thread is not None]
            while threads:  # every thread that is left waits at a barrier
                threads = [(place, thread) for place, thread in threads if self._resume(place, thread)]

    def plain(self, value: Any) -> Any:
        """Return what a copied kernel sees in place of `value`; any new replacement belongs here."""
        if value is cuda:
            return self
        if isinstance(value, numba_types.Integer):
            known: Any = value
            return Whole(known.bitwidth, known.signed)
        if isinstance(value, numba_types.Float):
            return float
        if isinstance(value, ModuleType):
            return _Module(value, self)
        if hasattr(value, "twin"):  # an intrinsic names the plain Python function that does the same
            return value.twin
        if hasattr(value, "py_func"):  # a kernel or a device function
            if value not in self._copies:
                self._copies[value] = self._copy(value.py_func)
            return self._copies[value]
        return value

    # --- the interface of numba.cuda ---
    def grid(self, ndim: int) -> Any:
        """Index of the thread in the whole grid, or a tuple of indices."""
        sizes = zip(self.blockIdx, self.blockDim, self.threadIdx, strict=True)
        indices = tuple(block * size + thread for block, size, thread in sizes)
        return indices[0] if ndim == 1 else indices[:ndim]

    def gridsize(self, ndim: int) -> Any:
        """Number of threads of the whole grid, or a tuple of them."""
        sizes = tuple(blocks * threads for blocks, threads in zip(self.gridDim, self.blockDim, strict=True))
        return sizes[0] if ndim == 1 else sizes[:ndim]

    @property
    def laneid(self) -> int:
        """Number of the thread in its warp."""
        x, y, z = self.threadIdx
        return (x + self.blockDim.x * (y + self.blockDim.y * z)) % 32

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """The product of a and b, and c added to it."""
        return a * b + c

    def syncthreads(self) -> None:
        raise NotImplementedError("cuda.syncthreads() must be a statement of its own to be traced")

    def _local(self, shape: Any, dtype: Any, *_: Any, **__: Any) -> Any:
        return np.zeros(shape, object) if isinstance(dtype, Whole) else blank(shape, dtype, self.log)

    def _shared(self, shape: Any, dtype: Any, *_: Any, **__: Any) -> Any:
        """Return an array of the block: its first thread makes it, the others get the same one."""
        number = self._asked.get(self.threadIdx, 0)
        self._asked[self.threadIdx] = number + 1
        if number == len(self._block_arrays):
            self._block_arrays.append(self._local(shape, dtype))
        return self._block_arrays[number]

    # --- threads ---
    def _start(self, place: Dim3, body: Any, args: tuple[Any, ...]) -> Any:
        """Run a thread to its end; if it has barriers, only make its generator."""
        self.threadIdx = self.log.thread = place
        return body(*args)

    def _resume(self, place: Dim3, thread: Any) -> bool:
        """Run a thread to its next barrier; False if it has ended."""
        self.threadIdx = self.log.thread = place
        return next(thread, thread) is not thread

    # --- copies of kernels ---
    def _copy(self, function: FunctionType) -> Any:
        """Compile the source of a function again, with the names that it uses replaced."""
        known = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        names = {name: self.plain(known[name]) for name in _used(function) if name in known}
        waiting = frozenset(name for name in _called(function) if inspect.isgeneratorfunction(_found(names, name)))
        names[_CONVERTED] = _converted
        exec(_compiled(function, waiting), names)
        return names[function.__code__.co_name]


class _Module:
    """What a copied kernel sees in place of a module."""

    def __init__(self, module: ModuleType, machine: Machine) -> None:
        self._module, self._machine = module, machine

    def __getattr__(self, name: str) -> Any:
        return self._machine.plain(getattr(self._module, name))


def _parsed(function: FunctionType) -> ast.Module:
    """The source of a function, without what decorates it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    return tree


@lru_cache(256)
def _used(function: FunctionType) -> tuple[str, ...]:
    """The names in a function that are not its own."""
    found = {node.id for node in ast.walk(_parsed(function)) if isinstance(node, ast.Name)}
    return tuple(sorted(found - {*function.__code__.co_varnames}))


@lru_cache(256)
def _called(function: FunctionType) -> tuple[str, ...]:
    """The names that a function calls: ``name`` or ``module.name``."""
    called = {ast.unparse(node.func) for node in ast.walk(_parsed(function)) if isinstance(node, ast.Call)}
    return tuple(sorted(name for name in called if name.replace(".", "").isidentifier()))


def _found(names: dict[str, Any], name: str) -> Any:
    """Return what ``name`` or ``module.name`` stands for in a copied kernel; None for anything else."""
    module, dot, last = name.partition(".")
    if not dot:
        return names.get(name)
    return getattr(names.get(module), last, None) if isinstance(names.get(module), _Module) else None


@lru_cache(256)
def _compiled(function: FunctionType, waiting: frozenset[str]) -> CodeType:
    """The rewritten source of a function; `waiting` are the names of functions with barriers that it calls."""
    tree = _Rewriting(waiting).visit(_parsed(function))
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)  # makes tracebacks name the right lines
    return compile(ast.fix_missing_locations(tree), inspect.getsourcefile(function) or "<kernel>", "exec")


_CONVERTED = "__converted"
_FLOATS = ("float", "float16", "float32", "float64", "type")  # Last words of float types, as in y.dtype.type.


def _converted(kind: Any, value: Any) -> Any:
    """Convert a value to a float type; a Number stays as it is, for a float would not know where it comes from."""
    return value if isinstance(value, Number) else kind(value)


class _Rewriting(ast.NodeTransformer):
    """A change of source: barriers become yields, calls of functions with barriers `yield from`.

    Conversions to a float type become calls of `_converted`.
    """

    def __init__(self, waiting: frozenset[str]) -> None:
        self.waiting = waiting

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "cuda.syncthreads":
            return ast.copy_location(ast.Expr(ast.Yield()), node)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if ast.unparse(node.func) in self.waiting:
            return ast.copy_location(ast.YieldFrom(node), node)
        if len(node.args) == 1 and ast.unparse(node.func).rpartition(".")[2] in _FLOATS:
            return ast.copy_location(ast.Call(ast.Name(_CONVERTED, ast.Load()), [node.func, *node.args], []), node)
        return node


def _places(sizes: Dim3) -> Iterator[Dim3]:
    """All indices, x fastest."""
    for z, y, x in product(range(sizes.z), range(sizes.y), range(sizes.x)):
        yield Dim3(x, y, z)
