"""Kernels as machine code of this computer, and launches of them: memory, workers, and what a checked run has found."""

from __future__ import annotations

import ctypes
import re
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from . import ptx, runtime
from .faults import ArrayInfo, Finding, Site
from .ptx import Kernel, PTXError, parse
from .report import Result
from .translate import Translator

Triple = tuple[int, int, int]
Array = np.ndarray[Any, Any]
MOST_SHARED = 49152  # bytes of a block, of any GPU whose limit nobody has raised
GUARD = 4096  # bytes between arrays in memory, so that an access that just misses one does not land in the next
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


# --- machine code ----------------------------------------------------------------------------------
class Program:
    """The kernel of a PTX text as machine code, with or without checks."""

    text: str
    checked: bool
    kernel: Kernel
    sites: list[Site]
    frame_bytes: int
    waits: Array  # what is waited for at each point
    places: Array
    numbered: list[Site | None]
    granule: dict[str, int]
    rows: Array
    perform: int
    address: int

    def __init__(self, text: str, checked: bool) -> None:
        self.text, self.checked = text, checked
        self.kernel = parse(text)
        translator = Translator(self.kernel, checked)
        code = translator.translate()
        self.sites, self.frame_bytes = translator.sites, translator.frame_bytes
        if len(self.sites) > runtime.SITE_BITS:
            raise PTXError(f"the kernel touches memory in more than {runtime.SITE_BITS} places")
        kinds = [0, *translator.kinds]
        self.waits = np.array(kinds, np.int64)
        # Compilers may make several instructions of one barrier: they are all that of their line.
        instructions = [p.instruction for p in translator.points]
        lines = [(i.source, i.op) if i.source else j for j, i in enumerate(instructions)]
        self.places = np.array([0, *(1 + lines.index(line) for line in lines)], np.int64)
        # A finding names a site by its number, and a point where threads wait by a number from -2 down.
        self.numbered = [*self.sites, *translator.points[::-1], None]
        self.granule = {space: self._granule(space) for space in ("global", "shared")}
        if any(i.op[0] == "ldmatrix" for i in instructions):
            self.granule["shared"] = min(self.granule["shared"], 2)
        self.rows = self._rows()
        self.perform = runtime.address("perform") if max(kinds) > runtime.YIELD else 0
        self._engine = _compiled(code, checked)
        self.address = self._engine.get_function_address("kernel")

    def _granule(self, space: str) -> int:
        """Log2 of the bytes that are watched together: of the smallest access to a memory space."""
        sizes = [s.bytes for s in self.sites if s.bytes and s.space in (space, "generic")]
        return min([*sizes, 16]).bit_length() - 1

    def _rows(self) -> Array:
        """The table of sites."""
        rows, first = np.zeros((len(self.sites) + 1, runtime.SITE), np.int64), dict[Any, int]()
        for k, s in enumerate(self.sites):
            volatile = "volatile" in s.instruction.op[1:] and s.action == "read"
            action = runtime.VOLATILE if volatile else ("read", "write", "atomic").index(s.action)
            like = first.setdefault((s.instruction.source or k, s.action), k)
            rows[k] = s.bytes, action, s.space == "shared", like
        return rows


def _compiled(code: str, checked: bool) -> Any:
    """Compile LLVM IR in this process."""
    for name in re.findall(r"^declare .*@(\w+)\(", code, re.M):
        if name in runtime.FUNCTIONS:
            llvm.add_symbol(name, runtime.address(name))
    llvm.add_symbol("print_text", ctypes.cast(_print_text, ctypes.c_void_p).value)
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    machine = target.create_target_machine(opt=1, cpu=llvm.get_host_cpu_name(), features=features, jit=True)
    head = f'target triple = "{llvm.get_process_triple()}"\ntarget datalayout = "{machine.target_data}"\n'
    module = llvm.parse_assembly(head + code)
    _optimise(module, machine, vectors=not checked)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _optimise(module: Any, machine: Any, vectors: bool) -> None:
    if hasattr(llvm, "create_pass_builder"):
        options = llvm.create_pipeline_tuning_options(speed_level=1)
        options.loop_vectorization = options.slp_vectorization = vectors
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
    else:  # llvmlite before 0.44
        manager, builder = llvm.create_module_pass_manager(), llvm.create_pass_manager_builder()
        builder.opt_level, builder.loop_vectorize, builder.slp_vectorize = 1, vectors, vectors
        builder.populate(manager)
        manager.run(module)


# --- what a kernel prints --------------------------------------------------------------------------
_FORMAT = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?(hh|h|ll|l)?([diouxXfFeEgGcsp%])")


def _formatted(text: str, at: int) -> str:
    """Fill a format of C with the values that lie at an address, each at a multiple of its size."""

    def one(found: re.Match[str]) -> str:
        nonlocal at
        long, kind = found.groups()
        if kind == "%":
            return "%"
        size = 8 if kind in "fFeEgGsp" or long in ("l", "ll") else 4
        at = -(-at // size) * size + size
        raw = ctypes.string_at(at - size, size)
        value: Any = int.from_bytes(raw, "little", signed=kind in "di")
        if kind in "fFeEgG":
            (value,) = struct.unpack("<d", raw)
        elif kind == "s":
            value = ctypes.string_at(value).decode(errors="replace")
        return str(found[0].replace(long or "%%", "").replace("u", "d").replace("p", "#x") % value)

    return _FORMAT.sub(one, text)


_printed: dict[int, list[str]] = {}  # by the address of a worker's context


def _print(context: int, frame: int, text: int, values: int | None) -> None:
    _printed[context].append(_formatted(ctypes.string_at(text).decode(errors="replace"), values or 0))


_print_text = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(_print)


# --- memory ----------------------------------------------------------------------------------------
@dataclass
class Region:
    """Memory that holds the arguments which overlap on the host, at the same distances."""

    low: int  # addresses on the host
    high: int
    start: int = 0
    shadow: Any = None


def _bounds(array: Array) -> tuple[int, int]:
    """The first address of an array's elements and the one behind the last."""
    first = last = array.ctypes.data
    if not array.size:
        return first, first
    for size, step in zip(array.shape, array.strides, strict=True):
        first, last = first + min(0, (size - 1) * step), last + max(0, (size - 1) * step)
    return first, last + array.itemsize


class Memory:
    """Copies of the arguments of a launch, with gaps between; the sanitised twin of a GPU's memory."""

    def __init__(self, arrays: list[Array]) -> None:
        self.arrays: list[Array] = arrays
        self.regions: list[Region] = []
        for low, high in sorted(_bounds(array) for array in arrays if array.size):
            if self.regions and low < self.regions[-1].high:
                self.regions[-1].high = max(high, self.regions[-1].high)
            else:
                self.regions.append(Region(low, high))
        self.empty: dict[int, Region] = {id(array): Region(*_bounds(array)) for array in arrays if not array.size}
        self.regions += self.empty.values()
        self.memory: Array = _aligned(sum(r.high - r.low + GUARD + 256 for r in self.regions) + GUARD, np.uint8)
        at = self.memory.ctypes.data + GUARD
        odd = {_bounds(array)[0] for array in arrays if not array.flags.aligned}  # only a copy of these can be used
        for region in self.regions:
            region.start = -(-at // 256) * 256 + (0 if region.low in odd else region.low % 16)
            ctypes.memmove(region.start, region.low, region.high - region.low)
            at = region.start + region.high - region.low + GUARD

    def region(self, array: Array) -> Region | None:
        if not array.size:
            return self.empty.get(id(array))
        low, high = _bounds(array)
        return next((r for r in self.regions if r.low <= low and high <= r.high), None)

    def place(self, array: Array) -> int:
        """The address of an array's first element in this memory."""
        region = self.region(array)
        return array.ctypes.data - region.low + region.start if region else self.memory.ctypes.data

    def take_back(self) -> None:
        """Copy what the kernel has written to the arrays of the host."""
        for array in self.arrays:
            if array.size and array.flags.writeable:
                low, high = _bounds(array)
                before = array.ctypes.data - low
                buffer: Any = (ctypes.c_char * (high - low)).from_address(self.place(array) - before)
                array[...] = np.ndarray(array.shape, array.dtype, buffer, before, array.strides)


def _arrays_in(arguments: Any, names: list[str]) -> Iterator[tuple[str, Array]]:
    """All arrays among the arguments, those in tuples and records included, with their names."""
    for name, value in zip(names, arguments, strict=True):
        if isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, np.void):
            yield name, np.asarray(value)
        elif isinstance(value, tuple):
            yield from _arrays_in(value, [f"{name}[{k}]" for k in range(len(value))])


def _aligned(count: int, kind: Any = np.int64) -> Array:
    """Zeros whose address is a multiple of 256."""
    size = np.dtype(kind).itemsize
    memory = np.zeros(count * size + 256, np.uint8)
    first = -memory.ctypes.data % 256
    return memory[first : first + count * size].view(kind)


def _filled(memory: ptx.Memory, values: dict[str, bytes]) -> Array:
    """Memory whose variables have these values."""
    data = _aligned(memory.bytes + 16, np.uint8)
    for name, value in values.items():
        data[memory.offsets[name] : memory.offsets[name] + len(value)] = np.frombuffer(value, np.uint8)
    return data


_abandoned: list[Any] = []


# --- launches --------------------------------------------------------------------------------------
class Launch:
    """One launch: the tables that the kernel, the scheduler and the checks share.

    `dynamic` bytes of shared memory are added to those of the kernel; `names` are those of its parameters, and
    `flatten` gives their bytes, see `hooks.flatten`.
    """

    program: Program
    grid: Triple
    block: Triple
    dynamic: int
    named: list[tuple[str, Array]]
    memory: Memory
    parameters: Array
    constants: Array
    findings: Array
    counts: Array
    printed: list[str]

    def __init__(
        self, program: Program, grid: Triple, block: Triple, dynamic: int, arguments: Any, names: Any, flatten: Any
    ) -> None:
        self.program, self.grid, self.block, self.dynamic = program, grid, block, dynamic
        kernel = program.kernel
        shared = kernel.shared_bytes + dynamic
        if shared > MOST_SHARED:
            raise ValueError(f"a block has at most {MOST_SHARED} bytes of shared memory, and this one needs {shared}")
        self.named = list(_arrays_in(arguments, names))
        arrays = [array for _, array in self.named]
        self.memory = Memory(arrays if program.checked else [a for a in arrays if not a.flags.writeable])
        values = list(flatten(arguments, self.memory.place if program.checked else self._place))
        if len(values) != len(kernel.parameters.offsets):
            raise PTXError(f"the kernel takes {len(kernel.parameters.offsets)} values, and has got {len(values)}")
        self.parameters = _filled(kernel.parameters, dict(zip(kernel.parameters.offsets, values, strict=True)))
        self.constants = _filled(kernel.constants, kernel.values)
        self.kept: list[Array] = []
        self.contexts: list[Array] = []

    def _table(self, of: int | Array, kind: Any = np.int64) -> int:
        """The address of a table, or of one of zeros, that lives as long as this launch."""
        self.kept.append(_aligned(of, kind) if isinstance(of, int) else of)
        return int(self.kept[-1].ctypes.data)

    def _place(self, array: Array) -> int:
        return int(array.ctypes.data) if array.flags.writeable else self.memory.place(array)

    def run(self, workers: int, order: int, seed: int, limit: int) -> float:
        """Run all blocks; return the seconds."""
        workers = max(1, min(workers, prod(self.grid)))
        for k in range(workers):
            context = self._context(k, workers, order, seed, limit)
            self.contexts.append(context)
            _printed[context.ctypes.data] = []
        start = time.perf_counter()
        try:
            self._run_all()
        finally:
            seconds = time.perf_counter() - start
            self.printed = [text for c in self.contexts for text in _printed.pop(c.ctypes.data)]
        if self.program.checked:
            self.memory.take_back()
            if any(context[runtime.TIME] >= runtime.END_OF_TIME for context in self.contexts):
                raise RuntimeError(f"a checked run ends after {runtime.END_OF_TIME} barriers and atomics")
        return seconds

    def _run_all(self) -> None:
        """Run every worker in a thread of its own, so that Ctrl-C can end them."""
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(runtime.address("run"))
        # Thread.join of Python 3.10 to 3.12 takes a thread for dead when a signal interrupts it, so each says itself.
        ended = [threading.Event() for _ in self.contexts]

        def work(context: Array, event: threading.Event) -> None:
            function(context.ctypes.data)
            event.set()

        try:
            for pair in zip(self.contexts, ended, strict=True):
                threading.Thread(target=work, args=pair, daemon=True).start()
            for event in ended:
                while not event.wait(0.1):
                    pass
        except BaseException:
            for context in self.contexts:
                context[runtime.STOP], context[runtime.LIMIT] = 1, 0
            if not all([event.wait(0.3 / len(ended)) for event in ended]):
                _abandoned.append(self)  # An endless loop of a fast run cannot be stopped: what it uses must stay.
            raise

    def _context(self, worker: int, workers: int, order: int, seed: int, limit: int) -> Array:
        program, kernel, table = self.program, self.program.kernel, self._table
        shared, blocks, threads = kernel.shared.bytes + self.dynamic, prod(self.grid), prod(self.block)
        frame = program.frame_bytes + 2 * -(-kernel.local.bytes // 64) * 64
        numbers = {
            "PARAMETERS": table(self.parameters), "CONSTANTS": table(self.constants),
            "SHARED": table(shared + 16, np.uint8), "SHARED_BYTES": shared, "LIMIT": limit, "KERNEL": program.address,
            "PERFORM": program.perform, "POINTS": table(program.waits), "PLACES": table(program.places),
            "FRAMES": table(frame * threads, np.uint8), "FRAME_BYTES": frame, "LOCAL_AT": program.frame_bytes,
            "LOCAL_BYTES": kernel.local.bytes, "BLOCKS": blocks, "FIRST_BLOCK": worker, "BLOCK_STEP": workers,
            "ORDER": order, "RANDOM": seed * 2654435761 % 2**62 + 1, "CHECKED": program.checked,
            "SCRATCH": table(33 * 33),
        }  # fmt: skip
        if order:
            row = np.arange(blocks, dtype=np.int64)
            row = row[::-1].copy() if order == 1 else np.random.default_rng(seed).permutation(row)
            numbers["BLOCK_ORDER"] = table(row)
        if program.checked:
            numbers |= self._checks(numbers["SHARED"], shared)
        context = _aligned(runtime.CONTEXT_WORDS)
        context[runtime.GRID_X : runtime.GRID_X + 3] = self.grid
        context[runtime.BLOCK_X : runtime.BLOCK_X + 3] = self.block
        for name, number in numbers.items():
            context[getattr(runtime, name)] = number
        return context

    def _checks(self, shared: int, shared_bytes: int) -> dict[str, int]:
        """Numbers and tables for the checks."""
        program, kernel, table = self.program, self.program.kernel, self._table
        granule = program.granule["shared"]
        shadow = table(runtime.SHADOW_ROW * ((shared_bytes >> granule) + 2))
        rows = [(shared, shared + shared_bytes, shadow, granule), (0,) * 4, (0,) * 4]
        granule = program.granule["global"]
        for r in self.memory.regions:
            r.shadow = _aligned(runtime.SHADOW_ROW * ((r.high - r.low >> granule) + 2))
            rows.append((r.start, r.start + r.high - r.low, r.shadow.ctypes.data, granule))
        if kernel.values:
            constants = self.constants.ctypes.data
            rows.append((constants, constants + kernel.constants.bytes, 0, 0))
        self.findings = np.zeros((runtime.MOST_FINDINGS, runtime.FINDING), np.int64)
        count, blocks, threads = len(program.sites) + 1, prod(self.grid), prod(self.block)
        self.counts = np.zeros((count, runtime.COUNTED), np.int64)
        numbers = {
            "SITES": table(program.rows.copy()), "RANGES": table(np.array(rows, np.int64)), "RANGE_COUNT": len(rows),
            "LANDING": table(64, np.uint8), "BLOCK_TIMES": table(2 * blocks + 2), "FINDINGS": table(self.findings),
            "COUNTS": table(self.counts), "LOG": table(np.full(count * runtime.CAP * 32, -1, np.int64)),
            "SEEN": table(2 * count), "MOST": table(count), "SITE_COUNT": count, "BLOCK_RELEASED": table(blocks),
            "RELEASED": table(runtime.THREAD_BITS + 1), "ACQUIRED": table(runtime.THREAD_BITS + 1),
        }  # fmt: skip
        if runtime.SYNC in program.waits:
            warps = -(-threads // 32)
            numbers |= {"CLOCKS": table(warps * 32 * 32), "CLOCKS_SINCE": table(warps)}
        if any(i.op[:2] == ("cp", "async") for i in kernel.body):
            numbers["COPIES"] = table(threads * runtime.COPIES_OF_THREAD)
        return numbers

    # --- what was found
    def result(self, name: str, seconds: float, poisoned: list[bool]) -> Result:
        """What a checked run has found."""
        kernel = self.program.kernel
        arrays = [ArrayInfo(n, "global", a.nbytes, a.itemsize, a.shape, a.strides) for n, a in self.named]
        item = min(8, 1 << self.program.granule["shared"])
        for k, size in enumerate(kernel.shared.sizes.values(), 1):
            label = f"shared array {k}" if len(kernel.shared.sizes) > 1 else "the shared array"
            size = size or self.dynamic
            arrays.append(ArrayInfo(label, "shared", size, item, (size // item,), (item,)))
        arrays.append(ArrayInfo("local memory", "local", kernel.local.bytes, 1, (kernel.local.bytes,), (1,)))
        (context,) = self.contexts
        found = self.findings[self.findings[:, runtime.COUNT] > 0].tolist()
        findings = [*map(self._finding, found), *self._never_written(poisoned)]
        return Result(
            name, self.grid, self.block, findings, self.program.sites, arrays, self.counts[:-1], self.printed, seconds,
            self.program.text, kernel, self.dynamic, int(context[runtime.ACCESSES]), int(context[runtime.BARRIERS]),
        )  # fmt: skip

    def _finding(self, row: list[int]) -> Finding:
        kind, site, other, array, block, thread, other_block, other_thread, address, size, _, count = row
        array, address = self._array(array, address)
        sites, who = self.program.numbered, (block, thread, other_block, other_thread)
        return Finding(runtime.KINDS[kind], sites[site], sites[other], *who, address, size, array, count)

    def _array(self, number: int, offset: int) -> tuple[int, int]:
        """The array of a range that an offset is in or next to, -1 if there is none, and the offset in it."""
        shared, region = [*self.program.kernel.shared.offsets.values()], number - runtime.FIRST_ARRAY
        if number == runtime.SHARED_SPACE and shared:
            k = max((k for k, start in enumerate(shared) if start <= offset), default=0)
            return len(self.named) + k, offset - shared[k]
        if number == runtime.LOCAL_SPACE:
            return len(self.named) + len(shared), offset
        if not 0 <= region < len(self.memory.regions):
            return -1, offset
        at = self.memory.regions[region].low + offset
        distances = []
        for k, (_, array) in enumerate(self.named):
            low, high = _bounds(array)
            if self.memory.region(array) is self.memory.regions[region]:
                distances.append((max(low - at, at - high + 1, 0), k))
        k = min(distances)[1]
        return k, at - self.named[k][1].ctypes.data

    def poisoned(self, poison: Any) -> list[bool]:
        """Which arrays hold nothing but a value."""
        return [poison is not None and bool(_full_of(array, poison)) for _, array in self.named]

    def _never_written(self, poisoned: list[bool]) -> Iterator[Finding]:
        """Elements of poisoned arrays that no thread has written."""
        for k, ((_, array), was) in enumerate(zip(self.named, poisoned, strict=True)):
            region = self.memory.region(array)
            if not was or region is None:
                continue
            wrote = region.shadow.reshape(-1, runtime.SHADOW_ROW)[:, runtime.WROTE] != 0
            octets = np.repeat(wrote, 1 << self.program.granule["global"])
            flags = np.ndarray(array.shape, bool, octets, array.ctypes.data - region.low, array.strides)
            missing = np.argwhere(~flags)
            if len(missing):
                address = int(np.dot(missing[0], array.strides))
                yield Finding("never written", None, None, 0, 0, 0, 0, address, array.itemsize, k, len(missing))


def _full_of(array: Array, value: Any) -> Any:
    if not array.size or array.dtype.kind not in "biufc":
        return False
    return np.all(np.isnan(array) if value != value and array.dtype.kind in "fc" else array == value)
