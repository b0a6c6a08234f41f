"""Kernels as machine code of this computer, and launches of them: memory, workers, and what a checked run has found."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Iterator
from math import prod
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from . import layout, runtime
from .faults import ArrayInfo, Finding, Site
from .ptx import Instruction, Kernel, PTXError, parse
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
    """A kernel as machine code, with or without checks.

    Parameters
    ----------
    text : str
        PTX with one kernel.
    checked : bool
    """

    text: str
    checked: bool
    kernel: Kernel
    sites: list[Site]
    points: list[Instruction]
    frame_bytes: int
    points_table: Array
    places: Array
    granule: dict[str, int]
    atomics: bool
    copies: bool
    syncs: bool
    perform: int
    address: int

    def __init__(self, text: str, checked: bool) -> None:
        self.text, self.checked = text, checked
        self.kernel = parse(text)
        translator = Translator(self.kernel, checked)
        code = translator.translate()
        self.sites, self.points = translator.sites, translator.points
        self.frame_bytes, kinds = translator.frame_bytes, translator.kinds
        self.points_table = np.array([0, *kinds], np.int64)
        # Compilers may make several instructions of one barrier: they are all that of their line.
        lines = [(p.source, p.op) if p.source else j for j, p in enumerate(self.points)]
        self.places = np.array([0, *(1 + lines.index(line) for line in lines)], np.int64)
        self.granule = {space: self._granule(space) for space in ("global", "shared")}
        self.atomics = any(i.op and i.op[0] in ("atom", "red") for i in self.kernel.body)
        self.copies = any(i.op[:2] == ("cp", "async") for i in self.kernel.body)
        self.syncs = layout.SYNC in kinds
        self.perform = runtime.FUNCTIONS["perform"].address if max(kinds, default=0) > layout.YIELD else 0
        if len(self.sites) > layout.SITE_BITS:
            raise PTXError(f"the kernel touches memory in more than {layout.SITE_BITS} places")
        self._engine = _compiled(code, checked)
        self.address = self._engine.get_function_address("kernel")

    def _granule(self, space: str) -> int:
        """Log2 of the bytes that are watched together: of the smallest access to a memory space."""
        sizes = [s.bytes for s in self.sites if s.bytes and s.space in (space, "generic")]
        if space == "shared":
            sizes += [4 for p in self.points if p.op[0] == "ldmatrix"]
        return min([*sizes, 16]).bit_length() - 1

    def site(self, number: int) -> Site | None:
        """The site of a number, or the point where a thread waits: those are negative, from -2 on."""
        if number >= 0:
            return self.sites[number]
        if number == -1:
            return None
        point: Instruction = self.points[-number - 2]
        return Site(point, "", "barrier" if point.op[0] in ("bar", "barrier") and "warp" not in point.op else "warp", 0)


def _compiled(code: str, checked: bool) -> Any:
    """Compile LLVM IR in this process."""
    for name in re.findall(r"^declare .*@(\w+)\(", code, re.M):
        if name in runtime.FUNCTIONS:
            llvm.add_symbol(name, runtime.FUNCTIONS[name].address)
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
        at = -(-at // size) * size
        raw = ctypes.string_at(at, size)
        at += size
        spec = found[0].replace(long or "", "", 1) if long else found[0]
        if kind in "fFeEgG":
            return str(spec % np.frombuffer(raw, np.float64)[0])
        value = int.from_bytes(raw, "little", signed=kind in "di")
        if kind == "s":
            return str(spec % ctypes.string_at(value).decode(errors="replace"))
        return chr(value) if kind == "c" else hex(value) if kind == "p" else spec.replace("u", "d") % value

    return _FORMAT.sub(one, text)


_printed: dict[int, list[str]] = {}  # by the address of a worker's context


def _print(context: int, text: int, values: int | None) -> None:
    _printed[context].append(_formatted(ctypes.string_at(text).decode(errors="replace"), values or 0))


_print_text = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(_print)


# --- memory ----------------------------------------------------------------------------------------
class Region:
    """Memory that holds the arguments which overlap on the host, at the same distances."""

    low: int
    high: int
    start: int
    shadow: Array

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high  # addresses on the host
        self.start = 0
        self.shadow = np.zeros(0, np.int64)

    @property
    def bytes(self) -> int:
        return self.high - self.low


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

    arrays: list[Array]
    empty: dict[int, Region]
    memory: Array

    def __init__(self, arrays: list[Array]) -> None:
        self.arrays = arrays
        self.regions: list[Region] = []
        for low, high in sorted(_bounds(array) for array in arrays if array.size):
            if self.regions and low < self.regions[-1].high:
                self.regions[-1].high = max(high, self.regions[-1].high)
            else:
                self.regions.append(Region(low, high))
        self.empty = {id(array): Region(*_bounds(array)) for array in arrays if not array.size}
        self.regions += self.empty.values()
        total = sum(r.bytes + GUARD + 256 for r in self.regions) + GUARD
        self.memory = np.zeros(total + 256, np.uint8)
        at = self.memory.ctypes.data + GUARD
        odd = {_bounds(array)[0] for array in arrays if not array.flags.aligned}  # only a copy of these can be used
        for region in self.regions:
            region.start = -(-at // 256) * 256 + (0 if region.low in odd else region.low % 16)
            ctypes.memmove(region.start, region.low, region.bytes)
            at = region.start + region.bytes + GUARD

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
                array[...] = self.view(array)

    def view(self, array: Array) -> Any:
        """The array, in this memory."""
        low, high = _bounds(array)
        before = array.ctypes.data - low
        buffer: Any = (ctypes.c_char * (high - low)).from_address(self.place(array) - before)
        return np.ndarray(array.shape, array.dtype, buffer, before, array.strides)


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


_abandoned: list[Any] = []


# --- launches --------------------------------------------------------------------------------------
class Launch:
    """One launch: the tables that the kernel, the scheduler and the checks share.

    Parameters
    ----------
    program : Program
    grid, block : tuple of 3 int
    dynamic : int
        Bytes of dynamic shared memory.
    arguments : tuple
        Arrays, scalars and tuples of them.
    names : list of str
        Of the parameters.
    flatten : function
        Gives the bytes of the parameters, see `hooks.flatten`.
    """

    program: Program
    grid: Triple
    block: Triple
    dynamic: int
    threads: int
    named: list[tuple[str, Array]]
    memory: Memory
    parameters: Array
    constants: Array
    printed: list[str]
    sites: Array
    ranges: Array
    findings: Array
    counts: Array

    def __init__(
        self,
        program: Program,
        grid: Triple,
        block: Triple,
        dynamic: int,
        arguments: Any,
        names: list[str],
        flatten: Any,
    ) -> None:
        self.program, self.grid, self.block, self.dynamic = program, grid, block, dynamic
        self.threads = prod(block)
        shared = program.kernel.shared_bytes + dynamic
        if shared > MOST_SHARED:
            raise ValueError(f"a block has at most {MOST_SHARED} bytes of shared memory, and this one needs {shared}")
        self.named = list(_arrays_in(arguments, names))
        arrays = [array for _, array in self.named]
        checked = program.checked
        self.memory = Memory(arrays if checked else [a for a in arrays if not a.flags.writeable])
        self.kept: list[Array] = []
        self.contexts: list[Array] = []
        values = list(flatten(arguments, self.memory.place if checked else self._place))
        offsets = program.kernel.parameters.offsets
        if len(values) != len(offsets):
            raise PTXError(f"the kernel takes {len(offsets)} values, and its arguments are {len(values)}")
        self.parameters = self._keep(_aligned(program.kernel.parameters.bytes + 16, np.uint8))
        for at, value in zip(offsets.values(), values, strict=True):
            self.parameters[at : at + len(value)] = np.frombuffer(value, np.uint8)
        self.constants = self._keep(_aligned(program.kernel.constants.bytes + 16, np.uint8))
        for name, data in program.kernel.values.items():
            at = program.kernel.constants.offsets[name]
            self.constants[at : at + len(data)] = np.frombuffer(data, np.uint8)

    def _keep(self, array: Array) -> Array:
        self.kept.append(array)
        return array

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
            if any(context[layout.TIME] >= layout.END_OF_TIME for context in self.contexts):
                raise RuntimeError(f"a checked run ends after {layout.END_OF_TIME} barriers and atomics")
        return seconds

    def _run_all(self) -> None:
        """Run every worker in a thread of its own, so that Ctrl-C can end them."""
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(runtime.FUNCTIONS["run"].address)
        threads = [threading.Thread(target=function, args=(c.ctypes.data,), daemon=True) for c in self.contexts]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
        except BaseException:
            for context in self.contexts:
                context[layout.STOP], context[layout.LIMIT] = 1, 0
            for thread in threads:
                thread.join(1)
            if any(thread.is_alive() for thread in threads):
                _abandoned.append(self)  # An endless loop of a fast run cannot be stopped: what it uses must stay.
            raise

    def _context(self, worker: int, workers: int, order: int, seed: int, limit: int) -> Array:
        program, kernel = self.program, self.program.kernel
        shared = kernel.shared.bytes + self.dynamic
        local = -(-kernel.local.bytes // 64) * 64
        frame = program.frame_bytes + 2 * local
        context = _aligned(layout.CONTEXT)

        def table(count: int, kind: Any = np.int64) -> int:
            return int(self._keep(_aligned(count, kind)).ctypes.data)

        numbers = {
            "PARAMETERS": self.parameters.ctypes.data, "CONSTANTS": self.constants.ctypes.data,
            "SHARED": table(shared + 16, np.uint8), "SHARED_BYTES": shared, "LANDING": table(64, np.uint8),
            "GRID_X": self.grid[0], "GRID_Y": self.grid[1], "GRID_Z": self.grid[2],
            "BLOCK_X": self.block[0], "BLOCK_Y": self.block[1], "BLOCK_Z": self.block[2], "LIMIT": limit,
            "KERNEL": program.address, "PERFORM": program.perform, "POINTS": program.points_table.ctypes.data,
            "PLACES": program.places.ctypes.data,
            "FRAMES": table(frame * self.threads, np.uint8), "FRAME_BYTES": frame, "LOCAL_AT": program.frame_bytes,
            "LOCAL_BYTES": kernel.local.bytes, "BLOCKS": prod(self.grid), "FIRST_BLOCK": worker, "BLOCK_STEP": workers,
            "ORDER": order, "RANDOM": seed * 2654435761 % 2**62 + 1, "CHECKED": program.checked,
            "BANKS": table(33 * 33),
        }  # fmt: skip
        if order:
            blocks = np.arange(prod(self.grid), dtype=np.int64)
            blocks = blocks[::-1].copy() if order == 1 else np.random.default_rng(seed).permutation(blocks)
            numbers["BLOCK_ORDER"] = self._keep(blocks).ctypes.data
        if program.checked:
            numbers |= self._checks(shared, table)
        for name, number in numbers.items():
            context[getattr(layout, name)] = number
        return context

    def _checks(self, shared: int, table: Any) -> dict[str, int]:
        """Numbers and tables for the checks."""
        program, rows = self.program, []
        actions = {"read": layout.READ, "write": layout.WRITE, "atomic": layout.ATOMIC}
        first: dict[Any, int] = {}
        sites = [
            (
                s.bytes,
                layout.VOLATILE if "volatile" in s.instruction.op[1:] and s.action == "read" else actions[s.action],
                s.space == "shared",
                first.setdefault((s.instruction.source or k, s.action), k),
            )
            for k, s in enumerate(program.sites)
        ]
        self.sites = self._keep(np.array([*sites, (0, 0, 0, 0)], np.int64))
        for region in self.memory.regions:
            region.shadow = _aligned(layout.SHADOW_ROW * ((region.bytes >> program.granule["global"]) + 2))
            rows.append((region.start, region.start + region.bytes, region.shadow.ctypes.data))
        constants = self.constants.ctypes.data
        if program.kernel.values:
            rows.append((constants, constants + program.kernel.constants.bytes, 0))
        self.ranges = self._keep(np.array([*rows, (0, 0, 0)], np.int64))
        self.findings = self._keep(np.zeros((layout.MOST_FINDINGS, layout.FINDING), np.int64))
        count = len(program.sites) + 1
        self.counts = self._keep(np.zeros((count, layout.COUNTED), np.int64))
        log = self._keep(np.full(count * layout.CAP * 32, -1, np.int64))
        numbers = {
            "SITES": self.sites.ctypes.data, "RANGES": self.ranges.ctypes.data, "RANGE_COUNT": len(rows),
            "GRANULE": program.granule["global"], "SHARED_GRANULE": program.granule["shared"],
            "SHADOW": table(layout.SHADOW_ROW * ((shared >> program.granule["shared"]) + 2)),
            "BLOCK_TIMES": table(2 * prod(self.grid) + 2), "FINDINGS": self.findings.ctypes.data,
            "COUNTS": self.counts.ctypes.data, "LOG": log.ctypes.data, "SEEN": table(2 * count), "MOST": table(count),
            "TOUCHED": table(count), "RELEASED": table(1 << 11), "ACQUIRED": table(1 << 11),
            "BLOCK_RELEASED": table(prod(self.grid)),
        }  # fmt: skip
        warps = -(-self.threads // 32)
        if program.syncs:
            numbers |= {"CLOCKS": table(warps * 32 * 33), "CLOCKS_SINCE": table(warps)}
        if program.copies:
            numbers["COPIES"] = table(self.threads * layout.COPIES_OF_THREAD)
        return numbers

    # --- what was found
    def result(self, name: str, seconds: float, poisoned: list[bool]) -> Result:
        """What a checked run has found."""
        arrays = [ArrayInfo(n, "global", a.nbytes, a.itemsize, a.shape, a.strides) for n, a in self.named]
        shared = self.program.kernel.shared
        item = max(1, min(8, 1 << self.program.granule["shared"]))
        sizes = [(o, shared.sizes[n] or self.dynamic) for n, o in shared.offsets.items()]
        for k, (_, size) in enumerate(sizes, 1):
            label = f"shared array {k}" if len(sizes) > 1 else "the shared array"
            arrays.append(ArrayInfo(label, "shared", size, item, (size // item,), (item,)))
        local = self.program.kernel.local.bytes
        arrays.append(ArrayInfo("local memory", "local", local, 1, (local,), (1,)))
        count = int(self.contexts[0][layout.FINDING_COUNT])
        findings = [self._finding([int(v) for v in row], sizes, len(arrays) - 1) for row in self.findings[:count]]
        findings += self._never_written(poisoned)
        return Result(
            name, self.grid, self.block, findings, self.program.sites, arrays, self.counts[:-1], self.printed, seconds,
            self.program.text, self.program.kernel, self.dynamic, int(self.contexts[0][layout.ACCESSES]),
        )  # fmt: skip

    def _finding(self, row: list[int], shared: list[tuple[int, int]], local: int) -> Finding:
        kind, site, other, block, thread, other_block, other_thread, address, size, array, count = row
        if array == layout.IN_SHARED:
            k = max((k for k, (offset, _) in enumerate(shared) if offset <= address), default=0)
            array, address = (len(self.named) + k, address - shared[k][0]) if shared else (-1, address)
        elif array == layout.IN_LOCAL:
            array = local
        elif array >= 0:
            array, address = self._argument(array, address)
        sites = self.program.site(site), self.program.site(other)
        return Finding(
            layout.KINDS[kind], *sites, block, thread, other_block, other_thread, address, size, array, count
        )

    def _argument(self, region: int, offset: int) -> tuple[int, int]:
        """The array of a region that an offset is in or next to, and the offset in it."""
        if region >= len(self.memory.regions):
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
            wrote = region.shadow.reshape(-1, layout.SHADOW_ROW)[:, layout.WROTE] != 0
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
