"""The operators with threads and processes, after Ctrl-C, and over thousands of calls: the numbers stay right.

The layer is small, but has enough work for several threads. A function that runs in a process of its own raises if
something is wrong; none may wait forever.
"""

from __future__ import annotations

import compileall
import errno
import gc
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile
from numba.np.ufunc import parallel
from reference import WARNINGS_ARE_ERRORS, brute_force, give_up_roots_rights, in_a_process, integers, python_path

import cks_numba as cks
from cks_numba.backends.cpu import compiled, gather, unpacked
from cks_numba.backends.interrupts import uncollected
from cks_numba.geometry import OPERATORS, ConvShape

SHAPE = ConvShape(n=4, ih=9, iw=8, ic=32, oc=30, fh=3, fw=3, stride=2, padding=1)
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
NO_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")


def arrays(seed=0):
    """Return x, w and dy of small integers, so that every sum is exact."""
    rng = np.random.default_rng(seed)
    sizes = SHAPE.x_shape, SHAPE.w_shape, SHAPE.y_shape
    return [rng.integers(-4, 5, size).astype(np.float32) for size in sizes]


def calls(x, w, dy, shape=SHAPE):
    """Call all three operators, and the transposed convolution with dy as its input."""
    keys = dict(stride=shape.stride, padding=shape.padding, backend="cpu")
    spare = [(size + 2 - 3) % 2 for size in (shape.ih, shape.iw)]
    return (
        cks.conv2d(x, w, **keys),
        cks.conv2d_input(x.shape, w, dy, **keys),
        cks.conv2d_weight(x, w.shape, dy, **keys),
        cks.conv_transpose2d(dy, w, output_padding=spare, **keys),
    )


def truth(x, w, dy):
    pairs = dict(zip(OPERATORS, ((x, w), (w, dy), (x, dy)), strict=True))
    y, dx, dw = (brute_force(operator, SHAPE, *pair) for operator, pair in pairs.items())
    return y, dx, dw, dx


def check(given, wanted):
    for got, want in zip(calls(*given), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def seed_is_right(seed):
    """Check all operators for one seed, in a worker; the pool passes an exception on."""
    given = arrays(seed)
    check(given, truth(*given))
    return os.getpid()


# --- threads -------------------------------------------------------------------------------------
def threads_share_arrays():
    given = arrays()
    wanted = truth(*given)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(check, given, wanted) for _ in range(60)]:
            done.result()
    assert compiled._workers.pool.workers == 2  # None if the calls were too small for threads


def test_threads_share_one_set_of_arrays():
    in_a_process("test_processes", "threads_share_arrays()", NUMBA_NUM_THREADS="3")


def without_numbas_threads():
    seed_is_right(0)
    assert compiled._workers.pool.workers == 2 and not parallel._is_initialized


def test_numbas_own_threads_are_not_needed():
    """numba/numba#6108: a threading layer that cannot be loaded; nobody calls Numba's threads here."""
    in_a_process("test_processes", "without_numbas_threads()", NUMBA_NUM_THREADS="3", NUMBA_THREADING_LAYER="absent")


def after_pauses(pause):
    """Check calls whose workers have fallen asleep before."""
    given = arrays()
    wanted = truth(*given)
    for _ in range(20):
        time.sleep(pause)
        check(given, wanted)


def test_sleeping_workers():
    in_a_process("test_processes", "after_pauses(0.02)", NUMBA_NUM_THREADS="3")


def on_one_core(count):
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    given = arrays()
    wanted = truth(*given)
    for _ in range(count):
        check(given, wanted)
    assert compiled._workers.pool.workers == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to a core")
def test_four_threads_on_one_core():
    in_a_process("test_processes", "on_one_core(50)", NUMBA_NUM_THREADS="4")


def stopped_half_of_the_time(seconds):
    """Check calls while all threads of the process are stopped at once, as under a quota of CPU time."""
    child = os.fork()
    if child == 0:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for number in (signal.SIGSTOP, signal.SIGCONT):
                time.sleep(0.005)
                os.kill(os.getppid(), number)
        os._exit(0)
    threads_share_arrays()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    seed_is_right(1)


@NO_FORK
def test_half_a_core():
    in_a_process("test_processes", "stopped_half_of_the_time(3)", NUMBA_NUM_THREADS="3")


def ends_within_calls():
    """End the process while its workers spin and daemon threads are in the middle of calls."""
    given = arrays()
    for _ in range(3):
        threading.Thread(target=lambda: [calls(*given) for _ in range(10**6)], daemon=True).start()
    check(given, truth(*given))


@pytest.mark.parametrize("call", ["ends_within_calls()", "seed_is_right(0)"])
def test_the_end_of_a_process(call):
    in_a_process("test_processes", call, NUMBA_NUM_THREADS="3")


# --- processes -----------------------------------------------------------------------------------
def workers(method):
    """Check the numbers in workers of a process that has used its threads, and then in that process again."""
    seed_is_right(0)
    assert compiled._workers.pool.workers == 1
    with warnings.catch_warnings():  # newer versions of Python warn about a fork while threads run
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            used = set(pool.map(seed_is_right, range(6), timeout=120))
    assert os.getpid() not in used
    seed_is_right(1)


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("fork", marks=NO_FORK), "spawn"])
def test_workers(method):
    """pytorch/pytorch#49555, dmlc/xgboost#8040: workers of a server hang that have been forked after the first use."""
    in_a_process("test_processes", f"workers({method!r})", NUMBA_NUM_THREADS="2")


def fork_within_calls():
    """Fork children while other threads of the process are in the middle of calls."""
    given, end = arrays(), threading.Event()
    wanted = truth(*given)
    check(given, wanted)  # A child that is forked in the middle of an import waits for it forever.

    def call_on():
        while not end.is_set():
            check(given, wanted)

    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        callers = [pool.submit(call_on) for _ in range(2)]
        try:
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    signal.alarm(60)
                    check(given, wanted)
                    os._exit(compiled._workers.pool.workers - 2)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            end.set()
        for caller in callers:
            caller.result()


@NO_FORK
def test_fork_while_others_call():
    in_a_process("test_processes", "fork_within_calls()", NUMBA_NUM_THREADS="3")


def fork_while_another_compiles():
    """Fork a child in the middle of a compilation, which takes seconds, and let it compile the same code."""
    begun, compile_it = threading.Event(), compiled.CFunc._compile_uncached

    def compiling(*arguments):
        begun.set()
        return compile_it(*arguments)

    def call():
        return cks.conv2d(x, w, stride=SHAPE.stride, padding=SHAPE.padding, backend="cpu")

    compiled.CFunc._compile_uncached = compiling
    x, w, dy = arrays()
    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        caller = pool.submit(call)
        assert begun.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            call()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(caller.result(), truth(x, w, dy)[0])


@pytest.mark.slow
@NO_FORK
def test_fork_while_another_thread_compiles(tmp_path):
    in_a_process("test_processes", "fork_while_another_compiles()", NUMBA_CACHE_DIR=str(tmp_path))


IMPORTED_AFTER_THE_FORK = """
import os, signal, sys, warnings
import numba, numpy

@numba.njit(parallel=True)
def on_threads(numbers):
    for i in numba.prange(len(numbers)):
        numbers[i] = i

on_threads(numpy.zeros(9))
assert "cks_numba" not in sys.modules
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
child = os.fork()
if child == 0:
    signal.alarm(100)
    import test_processes
    test_processes.seed_is_right(0)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@NO_FORK
@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_a_child_that_imports_the_package_itself(layer):
    """GNU's OpenMP ends a child that uses the threads that Numba started in its parent."""
    in_a_process(None, IMPORTED_AFTER_THE_FORK, NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER=layer)


GREEN_THREADS = """
import _thread, signal, threading
signal.alarm(100)

def start(function, arguments=(), *more, **options):
    function(*arguments)  # a green thread has the thread of the system to itself until it waits for something

for module in (_thread, threading):
    for name in ("start_new_thread", "_start_new_thread", "start_joinable_thread", "_start_joinable_thread"):
        if hasattr(module, name):
            setattr(module, name, start)
import test_processes
test_processes.seed_is_right(0)
assert test_processes.compiled._workers.pool.workers == 2
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="alarms are of Unix")
def test_green_threads():
    """benoitc/gunicorn#2525, numba/numba#1556: gevent and eventlet replace the functions that start threads."""
    in_a_process(None, GREEN_THREADS, NUMBA_NUM_THREADS="3")


# --- Ctrl-C --------------------------------------------------------------------------------------
@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_before_a_compilation(enabled):
    """It waits during the block, and an error in there changes nothing of what it does afterwards."""
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError), uncollected():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()


def calls_until_interrupted(times):
    """Print "running" and call the operators until interrupted, `times` times; then check the numbers."""
    signal.alarm(200)  # ends the process if an interrupt is lost, and with it the test
    for _ in range(times):
        try:
            print("running", flush=True)
            while True:
                calls(*arrays())
        except KeyboardInterrupt:
            continue
    seed_is_right(0)


def interrupt(process, wait):
    """Send SIGINT some time after the process has printed "running"."""
    assert process.stdout.readline() == "running\n"
    time.sleep(wait)
    process.send_signal(signal.SIGINT)


COMPILES = pytest.param(3, 3.0, id="while it compiles", marks=pytest.mark.slow)


@pytest.mark.parametrize(("times", "longest"), [pytest.param(30, 0.05, id="in calls"), COMPILES])
@pytest.mark.parametrize("seed", range(2))
def test_interrupted(times, longest, seed, tmp_path):
    rng = random.Random(seed)
    environment = {**os.environ, "PYTHONPATH": python_path(), "NUMBA_NUM_THREADS": "2"}
    if longest > 1:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path)  # nothing has been compiled yet
    # A shell may have started this with SIGINT ignored, which a child would inherit.
    call = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    call += f"import test_processes; test_processes.calls_until_interrupted({times})"
    files_of_imports = ("-W", "ignore::ResourceWarning")  # an interrupted import leaves a file open
    command = [sys.executable, *WARNINGS_ARE_ERRORS, *files_of_imports, "-c", call]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            for _ in range(times):
                interrupt(process, rng.uniform(0, longest))
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Exception ignored" not in errors


# --- memory --------------------------------------------------------------------------------------
def resident():
    """Return how many bytes of this process are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def random_layer(rng):
    sizes = dict(n=rng.randint(1, 4), ih=rng.randint(3, 24), iw=rng.randint(3, 24))
    channels = dict(ic=rng.randint(1, 20), oc=rng.randint(1, 20))
    return ConvShape(**sizes, **channels, fh=3, fw=3, stride=rng.randint(1, 2), padding=1)


def memory_over_calls(first, more):
    """Check that memory grows by less than 4 MiB after the tables of sizes are full."""
    rng = random.Random(0)
    for call in range(first + more):
        if call == first:
            before = resident()
        shape = random_layer(rng)
        x, w, dy = (np.ones(size, np.float32) for size in (shape.x_shape, shape.w_shape, shape.y_shape))
        keys = dict(stride=shape.stride, padding=shape.padding, backend="cpu")
        cks.conv2d(x, w, **keys)
        cks.conv2d_input(x.shape, w, dy, **keys)
        cks.conv2d_weight(x, w.shape, dy, **keys)
    assert resident() - before < 4 * 2**20, f"{(resident() - before) / 2**20:.1f} MiB more"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc on this system")
def test_memory_over_layers_of_many_sizes():
    in_a_process("test_processes", "memory_over_calls(1500, 2000)", NUMBA_NUM_THREADS="2")


# --- Numba's cache on disk -----------------------------------------------------------------------
def one_call_is_right(dtype="float32", warning=""):
    """Check one call; with `warning`, one warning with this text must come, and no other."""
    operands = integers("conv2d", SHAPE, dtype)[:2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = cks.conv2d(*operands, stride=SHAPE.stride, padding=SHAPE.padding, backend="cpu")
    np.testing.assert_array_equal(got, brute_force("conv2d", SHAPE, *operands))
    texts = [str(one.message) for one in caught]
    assert len(texts) == bool(warning) and all(warning in text for text in texts), texts


def kept_code(folder, ending):
    return sorted(folder.glob(f"*/gather.gather-*{ending}"))


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache with the code of one kernel in both dtypes, each made by a process of its own."""
    folder = tmp_path_factory.mktemp("cache")
    for dtype in ("float32", "float64"):
        in_a_process("test_processes", f"one_call_is_right({dtype!r})", NUMBA_CACHE_DIR=str(folder))
    assert len(kept_code(folder, ".nbc")) == 2
    return folder


def exchange(folder):
    """Two processes that save at once may leave the code of one under the name that the index gives the other's."""
    first, second = kept_code(folder, ".nbc")
    first.write_bytes(second.read_bytes())


def cut(ending, size):
    def change(folder):
        for path in kept_code(folder, ending):
            path.write_bytes(path.read_bytes()[:size])

    return change


DAMAGES = {
    "code cut short": (cut(".nbc", 1000), "could not be read in "),
    "code empty": (cut(".nbc", 0), "could not be read in "),
    "index cut short": (cut(".nbi", 100), "could not be read in "),
    "index empty": (cut(".nbi", 0), "could not be read in "),
    "code deleted": (lambda folder: [path.unlink() for path in kept_code(folder, ".nbc")], ""),
    "code of another dtype": (exchange, ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_in_the_cache_is_compiled_again(damage, filled_cache, tmp_path):
    """numba/numba#10434: a file that is cut short is an error in every later process."""
    folder = shutil.copytree(filled_cache, tmp_path / "cache")
    change, warning = DAMAGES[damage]
    change(folder)
    call = f"one_call_is_right(warning={warning and warning + str(folder)!r})"
    in_a_process("test_processes", call, NUMBA_CACHE_DIR=str(folder))
    before = [path.read_bytes() for path in kept_code(folder, ".nb?")]
    in_a_process("test_processes", "one_call_is_right()", NUMBA_CACHE_DIR=str(folder))  # the damage is repaired
    assert [path.read_bytes() for path in kept_code(folder, ".nb?")] == before


WAY = ConvShape(n=1, ih=3, iw=3, ic=64, oc=64, fh=3, fw=3, padding=1)


def ways_are_right(*ways):
    """Compute with each of two kernels whose loops are made by one function."""
    operands = integers("conv2d", WAY, "float32")[:2]
    want = brute_force("conv2d", WAY, *operands)
    for way in ways:
        got = np.full(WAY.y_shape, -1, np.float32)
        unpacked.run(way, "conv2d", WAY, *operands, got)
        np.testing.assert_array_equal(got, want, err_msg=way)


def test_kernels_that_two_processes_have_compiled(tmp_path):
    """Each process has named the loops of its kernel; a third one has both, and must not take one for the other."""
    for ways in ("'along'", "'across'", "'along', 'across'"):
        in_a_process("test_processes", f"ways_are_right({ways})", NUMBA_CACHE_DIR=str(tmp_path))


def on_a_full_disk(folder):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))  # bytes; no code is as small
    one_call_is_right(warning=f"could not be kept in {folder}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits on files are of Unix")
def test_a_full_disk_costs_the_cache_alone(tmp_path):
    in_a_process("test_processes", f"on_a_full_disk({str(tmp_path)!r})", NUMBA_CACHE_DIR=str(tmp_path))
    assert not kept_code(tmp_path, ".nb?")


def saves_with(folder, others, dtype):
    """Check a call whose code is kept when so many other processes are about to keep theirs."""
    plain = IndexDataCacheFile.save

    def together(self, key, data):
        Path(folder, f"{self._index_name} {os.getpid()}").touch()
        end = time.monotonic() + 100
        while len([*Path(folder).glob(f"{self._index_name} *")]) <= others and time.monotonic() < end:
            time.sleep(0.001)
        plain(self, key, data)

    IndexDataCacheFile.save = together
    one_call_is_right(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "float64")], ids=["same code", "other code"])
def test_processes_that_fill_the_cache_at_once(dtypes, tmp_path):
    """numba/numba#10128, #4807: none waits for another or fails; whatever stays in the cache gives right results."""
    folder = tmp_path / "cache"
    with ThreadPoolExecutor(2) as pool:
        calls = [f"saves_with({str(tmp_path)!r}, 1, {dtype!r})" for dtype in dtypes]
        for done in [pool.submit(in_a_process, "test_processes", call, NUMBA_CACHE_DIR=str(folder)) for call in calls]:
            done.result()
    assert kept_code(folder, ".nbi")
    for dtype in set(dtypes):
        in_a_process("test_processes", f"one_call_is_right({dtype!r})", NUMBA_CACHE_DIR=str(folder))


def without_locks(dtype):
    """Check a call on a file system that refuses every lock and every way to write a file to the disk at once."""
    import fcntl

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl.flock = fcntl.lockf = fcntl.fcntl = os.fsync = os.link = refuse
    one_call_is_right(dtype)


@NO_FORK
def test_a_file_system_without_locks(filled_cache, tmp_path):
    """The cache is read and filled there too."""
    folder = shutil.copytree(filled_cache, tmp_path / "cache")
    in_a_process("test_processes", "without_locks('float32')", NUMBA_CACHE_DIR=str(folder))
    for path in kept_code(folder, ".nb?"):
        path.unlink()
    in_a_process("test_processes", "without_locks('float32')", NUMBA_CACHE_DIR=str(folder))
    assert len(kept_code(folder, ".nbc")) == 1


def without_moves(folder):
    """Check a call on a file system where no file takes the place of another."""

    def refuse(*arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    os.replace = refuse
    one_call_is_right(warning=f"could not be kept in {folder}")


def test_a_file_system_without_moves(tmp_path):
    call = f"without_moves({str(tmp_path)!r})"
    in_a_process("test_processes", call, NUMBA_CACHE_DIR=str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def make_read_only(folder):
    for path in [*Path(folder).rglob("*"), Path(folder)]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def own_cache(filled_cache, tmp_path):
    """A copy of the filled cache without the code of one kernel, which may be made read-only."""
    folder = shutil.copytree(filled_cache, tmp_path / "cache")
    for path in kept_code(folder, ".nb?"):
        path.unlink()
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)


def read_only_in_between(folder):
    """Check calls whose cache can be written to when the code is looked up, and no more when it is to be kept."""
    look_up = compiled._CarefulCache.load_overload

    def then_read_only(*arguments):
        found = look_up(*arguments)
        if found is None:
            give_up_roots_rights()
            make_read_only(folder)
        return found

    compiled._CarefulCache.load_overload = then_read_only
    one_call_is_right("float32", warning=f"could not be kept in {folder}")
    one_call_is_right("float64")


@NO_FORK
def test_a_folder_that_turns_read_only(own_cache):
    """numba/numba#1771: no permission to write."""
    in_a_process("test_processes", f"read_only_in_between({str(own_cache)!r})", NUMBA_CACHE_DIR=str(own_cache))
    assert not kept_code(own_cache, ".nb?")


def nothing_is_compiled(package):
    """Check a call of this copy of the package, which can be read alone."""
    give_up_roots_rights()
    make_read_only(package)
    one_call_is_right()
    assert compiled.compiled(gather.gather, "f").owner.cache_hits == 1


def copy_of_the_package(folder):
    return shutil.copytree(Path(cks.__file__).parent, folder / "cks_numba", ignore=lambda *_: {"__pycache__"})


def with_another_package(folder, call, **environment):
    """Make a call with the package in this folder or zip file, in a process of its own."""
    path = os.pathsep.join([str(folder), python_path()])
    code = f"import sys; sys.path = [*filter(None, sys.path)]; import test_processes; test_processes.{call}"
    code += f"; assert test_processes.cks.__file__.startswith({str(folder)!r})"
    in_a_process(None, code, PYTHONPATH=path, **environment)


@NO_FORK
def test_code_is_read_where_nothing_can_be_written(tmp_path):
    """LMCache/LMCache#4597: an image of a container, with a first call when it was built, where nobody has a home."""
    package = copy_of_the_package(tmp_path)
    nobody = {"NUMBA_CACHE_DIR": "", "HOME": "/dev/null/nobody", "XDG_CACHE_HOME": "/dev/null/nobody"}
    for call in ("one_call_is_right()", f"nothing_is_compiled({str(package)!r})"):
        with_another_package(tmp_path, call, **nobody)


def without_a_home(folder):
    """Check a call of a user without a home, where Numba finds no other folder for its cache."""
    places = compiled._Places._locator_classes
    compiled._Places._locator_classes = [place for place in places if "UserWide" in place.__mro__[1].__name__]
    assert len(compiled._Places._locator_classes) == 2
    os.chdir(folder)
    one_call_is_right()
    assert not [*Path(folder).iterdir()]


@NO_FORK
def test_a_user_without_a_home_keeps_nothing(tmp_path):
    in_a_process("test_processes", f"without_a_home({str(tmp_path)!r})", NUMBA_CACHE_DIR="", XDG_CACHE_HOME="~")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "without sources"])
def test_a_package_that_is_no_folder_of_sources(form, tmp_path):
    """fivetran/great_expectations#3772, piskvorky/smart_open#347: in a zip file; SanPen/VeraGrid#9: an executable."""
    package = copy_of_the_package(tmp_path / "folder")
    if form == "zip":
        place = shutil.make_archive(str(tmp_path / "package"), "zip", package.parent, package.name)
    else:
        place = package.parent
        assert compileall.compile_dir(package, quiet=2, legacy=True)
        for path in package.rglob("*.py"):
            path.unlink()
    with_another_package(place, "one_call_is_right()", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
