"""Threads that help with a kernel. A caller waits for what others have begun, never for a thread that has not come.

The tasks of a kernel are numbered, and whoever calls it does one after the other until none is left; every second
thread begins at the end (`next_task` in compiled.py). So a caller
offers its job to some workers, does tasks like them, and then takes back every offer that nobody has accepted: a
worker that wakes up too late, as its core is busy with something else, finds nothing to do. What is left to wait for
are the tasks that others have begun, which are about as long as the caller's own last one.

Each worker has one place for an offer. It changes hands by compare-and-swap, which only one can win:

    FREE      to the address of a job   by a caller, which offers the job
    SLEEPING  to the address of a job   by a caller, which then wakes the worker
    a job     to BUSY                   by the worker, which begins
    a job     to FREE                   by the caller, which withdraws the offer
    FREE      to SLEEPING               by the worker, after a while without an offer

A worker that is done writes FREE, and last of all counts itself in the job. Workers are Python threads that never come
back from compiled code, so they neither need the GIL nor can hold up the end of the process. All of a call is compiled
code too: Ctrl-C cannot come between an offer and its end.

A worker on its caller's core is of no use, and some systems wake it just there. So a caller that wakes a worker on
Linux first lets it run on all its own cores but the one that it is on itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec, module_from_spec
from math import ceil, inf
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from .registers import I32, I64, call_kernel, helper, integers_at

Array = np.ndarray[Any, Any]
# A worker's place holds one of these, or the address of a job.
FREE, SLEEPING, BUSY = range(3)
# Places of the numbers of a worker, which fill two cache lines of their own. The last five are functions of C:
# PyThread_acquire_lock_timed, PyThread_release_lock, sched_getcpu, sched_getaffinity and sched_setaffinity.
STATE, LOCK, SPINS, THREAD, NUMBER, NOT_ON, WAIT, WAKE, CORE, GET_CORES, SET_CORES = range(11)
WORKER = 16
# Places of the numbers of a job. Linux has a bit for each core; they are at the end.
OWN_ADDRESS, KERNEL, ARGUMENTS, ENDED, WANTED, WORKERS, FIRST, CORES = range(8)
CORES_BYTES = 128
JOB = CORES + CORES_BYTES // 8
_write = Struct(f"={CORES}q").pack_into
SPIN = 4000  # times that a worker looks for an offer before it falls asleep, some 0.1 ms
NAP = 50  # microseconds that a caller sleeps when it has looked as often for the end of a task
FOREVER = -1


# --- for compiled code ---------------------------------------------------------------------------
@intrinsic
def look(typing, array, index):
    """array[index], which other threads write; what they wrote before is seen too."""

    def codegen(context, b, signature, args):
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        return b.load_atomic(b.gep(data, [args[1]]), "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def swap(typing, array, index, old, new):
    """Write `new` to array[index] if `old` is there, at once; whether it was."""

    def codegen(context, b, signature, args):
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        found = b.cmpxchg(b.gep(data, [args[1]]), args[2], args[3], "acq_rel", "acquire")
        return b.extract_value(found, 1)

    return types.boolean(array, types.int64, types.int64, types.int64), codegen


@intrinsic
def count(typing, array, index):
    """Add one to array[index] for other threads, after all that was written before."""

    def codegen(context, b, signature, args):
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        b.atomic_rmw("add", b.gep(data, [args[1]]), I64(1), "acq_rel")
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def relax(typing):
    """Let the CPU know that this loop waits for another thread."""
    machine = platform.machine().lower()

    def codegen(context, b, signature, args):
        nothing = ir.VoidType()
        if machine in ("x86_64", "amd64"):
            b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(nothing, []), "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            barrier = ir.FunctionType(nothing, [I32])
            b.call(cgutils.get_or_insert_function(b.module, barrier, "llvm.aarch64.isb"), [I32(15)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_c(typing, function, x, y, z):
    """Call the C function at an address, which needs no GIL and takes at most three integers; returns its int.

    Arguments are in registers: a narrow one finds its part there, and what is one too many is not looked at.
    """

    def codegen(context, b, signature, args):
        kind = ir.FunctionType(I32, [I64] * 3)
        return b.sext(b.call(b.inttoptr(args[0], kind.as_pointer()), args[1:]), I64)

    return types.int64(*[types.int64] * 4), codegen


@helper
def move_away(worker, job):
    """Let a worker that sleeps run on the cores of this thread, but for the one that this thread is on."""
    core = call_c(worker[CORE], 0, 0, 0)
    cores = job[OWN_ADDRESS] + 8 * CORES
    if core < 0 or core == worker[NOT_ON] or call_c(worker[GET_CORES], 0, CORES_BYTES, cores) != 0:
        return
    job[CORES + core // 64] &= ~(1 << core % 64)
    if call_c(worker[SET_CORES], worker[THREAD], CORES_BYTES, cores) == 0:  # It fails if no core is left.
        worker[NOT_ON] = core


def work(address):
    """What a worker does all its life; the numbers at the address are its own."""
    worker = carray(integers_at(address), WORKER)
    looks = 0
    while True:
        offer = look(worker, STATE)
        if offer > BUSY:
            if swap(worker, STATE, offer, BUSY):
                job = carray(integers_at(offer), JOB)
                call_kernel(job[KERNEL], job[ARGUMENTS], worker[NUMBER])
                swap(worker, STATE, BUSY, FREE)
                count(job, ENDED)  # The job may be gone after this.
                looks = 0
        elif looks < worker[SPINS]:
            looks += 1
            relax()
        elif swap(worker, STATE, FREE, SLEEPING):
            call_c(worker[WAIT], worker[LOCK], FOREVER, 0)
            looks = 0


def share(address):
    """Do the job at the address, with the workers that come."""
    job = carray(integers_at(address), JOB)
    offer = job[OWN_ADDRESS]
    head = carray(integers_at(job[FIRST]), WORKER)
    workers = carray(integers_at(job[FIRST]), (1 + job[WORKERS], WORKER))
    offers = 0
    for k in range(1, 1 + job[WORKERS]):
        worker = workers[k]
        if offers < job[WANTED]:
            if swap(worker, STATE, FREE, offer):
                offers += 1
            elif swap(worker, STATE, SLEEPING, offer):
                if worker[CORE]:
                    move_away(worker, job)
                call_c(worker[WAKE], worker[LOCK], 0, 0)
                offers += 1
    call_kernel(job[KERNEL], job[ARGUMENTS], 0)
    for k in range(1, 1 + job[WORKERS]):
        if swap(workers[k], STATE, offer, FREE):
            offers -= 1
    looks = 0
    while look(job, ENDED) < offers:
        looks += 1
        if looks < head[SPINS]:
            relax()
        else:
            call_c(head[WAIT], head[LOCK], NAP, 0)


# --- for Python ----------------------------------------------------------------------------------
class Pool:
    """Workers, started at once, that all callers of a process share.

    `compiled` makes functions for Python of `work` and `share`.
    """

    def __init__(self, workers: int, compiled: Callable[[Any], Callable[[int], None]]) -> None:
        self._share, working = compiled(share), compiled(work)
        self.rows, self.workers = _rows(1 + workers), 0  # the first is for callers
        self._first: int = self.rows.ctypes.data
        self.rows[:, SPINS] = SPIN if workers < cores() else 0
        threads = _threads_of_the_system()

        def begin(row: Array) -> None:
            row[THREAD] = threads.get_native_id()
            working(row.ctypes.data)

        for row in self.rows[1:]:
            try:
                threads.start_new_thread(begin, (row,))
            except RuntimeError:  # the system has no more threads, or the interpreter is about to end
                break
            self.workers += 1

    def share(self, job: Any, address: int, kernel: int, arguments: int, threads: int) -> None:
        """Call a kernel on this thread and on others, on no more threads than that in all.

        `job` is memory for JOB numbers at an address, for this call alone.
        """
        _write(job, 0, address, kernel, arguments, 0, threads - 1, self.workers, self._first)
        self._share(address)


def _threads_of_the_system() -> Any:
    """Return Python's module `_thread` as it is made, before gevent or eventlet put green threads in its place.

    A green thread that never comes back from compiled code stops all others.
    """
    spec: Any = find_spec("_thread")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(count: int) -> Array:
    """Numbers for as many workers, on cache lines of their own, with the addresses of the functions that they call."""
    api = ctypes.pythonapi
    new_lock = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", api))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", api))
    memory = np.zeros((1 + count) * WORKER, np.int64)
    api.Py_IncRef(ctypes.py_object(memory))  # the workers use it as long as the process lives
    first = -memory.ctypes.data % (8 * WORKER) // 8
    rows = memory[first : first + count * WORKER].reshape(count, WORKER)
    functions = [api.PyThread_acquire_lock_timed, api.PyThread_release_lock]
    if sys.platform == "linux":
        system = ctypes.CDLL(None)
        functions += [system.sched_getcpu, system.sched_getaffinity, system.sched_setaffinity]
    for number, row in enumerate(rows):
        row[NUMBER] = number
        row[WAIT : WAIT + len(functions)] = [
            ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions
        ]
        row[NOT_ON] = -1
        row[LOCK] = lock = new_lock()
        acquire(lock, 1)
    return rows


def cores() -> int:
    """Return how many cores this process may keep busy: those that it is bound to, and what its quota allows."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, ceil(min(quota(), bound))))


@cache
def quota(root: Path = Path("/")) -> float:
    """Return the CPU time that the cgroups of this process give it, as a number of cores; infinity without a quota.

    The limit of a container (``docker run --cpus``, Kubernetes, systemd's CPUQuota) is such a quota, of which neither
    os.cpu_count nor sched_getaffinity knows. It is asked for once.
    """
    return min(_quotas(root), default=inf)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of each cgroup that has one, from that of this process upwards, of version 1 and 2 of cgroups."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            folder = top / path.lstrip("/")
            # A container may be told the path on its host, and see its own folder alone, as the topmost one.
            for each in (folder, *folder.parents[: len(folder.parts) - len(top.parts)]):
                with suppress(OSError, ValueError):  # Where there is no limit, the time is "max" or -1.
                    texts = [(each / name).read_text(encoding="utf-8") for name in _QUOTA_FILES[bool(controllers)]]
                    time, period = map(int, " ".join(texts).split())
                    if time > 0:
                        yield time / period


_QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
