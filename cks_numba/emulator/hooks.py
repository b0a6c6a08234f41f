"""All that is private to Numba and numba-cuda: PTX of a kernel, its parameters, and launches without a driver."""

from __future__ import annotations

import enum
import inspect
import math
import operator
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from hashlib import sha256
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba.core.typing import signature as signature_of
from numba.np.numpy_support import as_dtype

from . import llvm
from .cache import fingerprint, load, save
from .device import CAPABILITY, CONTEXT, DEVICE, FUNCTIONS, DeviceArray

_lock = threading.RLock()


def _numba_cuda() -> Any:
    """The module `numba.cuda`, of numba-cuda or of Numba itself."""
    if getattr(numba.config, "ENABLE_CUDASIM", False):
        raise RuntimeError(
            "the emulator needs compiled kernels: unset NUMBA_ENABLE_CUDASIM, which asks for a simulator"
        )
    try:
        from numba import cuda
    except ImportError as error:
        raise RuntimeError(f"the emulator needs numba.cuda ({error}): pip install numba-cuda") from error
    return cuda


Change = tuple[Any, str, Any]


def _around(owner: Any, name: str, function: Callable[..., Any]) -> Change:
    """A change by which calls go to a function that takes what stood there before as its first argument."""
    plain = getattr(owner, name)
    return owner, name, lambda *args, **options: function(plain, *args, **options)


@contextmanager
def _replaced(*changes: Change) -> Iterator[None]:
    """Give attributes of modules and classes other values for a while."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            if name in vars(owner):
                stack.callback(setattr, owner, name, vars(owner)[name])
            else:
                stack.callback(delattr, owner, name)
            setattr(owner, name, value)
        yield


# ---- from a kernel to LLVM IR: Numba's front end, without a driver ----

_device_functions: tuple[WeakKeyDictionary[Any, Any], ...] = WeakKeyDictionary(), WeakKeyDictionary()
"""Device functions compiled for the emulator, by dispatcher: their code says where it raises, a GPU's does not."""


def _fold_arguments(plain: Any, self: Any, args: Any, kws: Any) -> Any:
    """Numba's own numba.cuda takes no `*args`, as `min` and `max` have."""
    names = inspect.signature(self.py_func).parameters.values()
    if any(name.kind is name.VAR_POSITIONAL for name in names):
        first = len(names) - 1
        args = *args[:first], numba.types.StarArgTuple.from_types(args[first:])
    return plain(self, args, kws)


def _mark_exception(
    plain: Any, self: Any, builder: Any, exc: Any, exc_args: Any = None, *args: Any, **options: Any
) -> None:
    """Write `.pragma "raise ..."` into the PTX before it returns."""
    words = ", ".join(map(str, exc_args or ()))
    text = quote(f"{exc.__name__ if exc else 'exception'}{': ' if words else ''}{words}", safe=" :,.()[]<>=+-*/!?'")
    builder.asm(ir.FunctionType(ir.VoidType(), []), f".pragma \\22raise {text}\\22;", "", [], True)
    plain(self, builder, exc, exc_args, *args, **options)


def _mark_index(plain: Any, context: Any, builder: Any, kind: Any, index: Any, size: Any) -> Any:
    """Write `.pragma "index ..."` where an index is below zero; compilers remove it where none can be."""
    if kind.signed and not isinstance(index, ir.Constant):
        wide = context.cast(builder, index, kind, numba.types.intp)
        with builder.if_then(builder.icmp_signed("<", wide, wide.type(0)), likely=False):
            asm = ir.FunctionType(ir.VoidType(), [wide.type])
            builder.asm(asm, ".pragma \\22index $0\\22;", "l", [wide], True)
    return plain(context, builder, kind, index, size)


def _tell_file(plain: Any, self: Any, inst: Any) -> Any:
    """Tell the debug information the file of each instruction."""
    self.debuginfo.file = inst.loc.filename
    return plain(self, inst)


def _keep_file(plain: Any, self: Any, line: int) -> Any:
    """Keep the file of functions which Numba itself has inlined."""
    file = os.path.abspath(getattr(self, "file", self.filepath))
    if file == self.filepath:
        return plain(self, line)
    add = self.module.add_debug_info
    place = add("DIFile", {"directory": os.path.dirname(file), "filename": os.path.basename(file)})
    scope = add("DILexicalBlockFile", {"scope": self.subprograms[-1], "file": place, "discriminator": 0})
    return add("DILocation", {"line": line, "column": 1, "scope": scope})


@contextmanager
def _without_driver(watched: bool) -> Iterator[None]:
    """Let this thread compile kernels as if there were a GPU, apart from all that is compiled for a real one."""
    from numba.cuda import dispatcher, target
    from numba.cuda.cudadrv import nvvm

    kind, me = dispatcher.CUDADispatcher, threading.get_ident()
    changes: list[Change] = []
    try:
        from numba.cuda import debuginfo, lowering
        from numba.cuda.core.callconv import MinimalCallConv
        from numba.cuda.core.compiler_lock import global_compiler_lock
        from numba.cuda.np import arrayobj
    except ImportError:  # Numba's own numba.cuda
        from numba.core import debuginfo, lowering
        from numba.core.compiler_lock import global_compiler_lock
        from numba.np import arrayobj

        MinimalCallConv = target.CUDACallConv
        changes.append(_around(kind, "get_call_template", _fold_arguments))

    others: dict[Any, Any] = {}

    def compile_device(plain: Any, self: Any, *args: Any, **options: Any) -> Any:
        """Add lines, and keep the code apart from that for GPUs."""
        if self not in others:
            others[self] = self.overloads, self.targetoptions
            self.overloads = _device_functions[watched].setdefault(self, type(self.overloads)())
            self.targetoptions = {**self.targetoptions, "lineinfo": True}
        if known := others[self][0].get(args[0]):
            options.setdefault("return_type", known.signature.return_type)
        return plain(self, *args, **options)

    def current_device(plain: Any) -> Any:
        return DEVICE if threading.get_ident() == me else plain()

    changes += [
        _around(dispatcher, "get_current_device", current_device),
        _around(kind, "compile_device", compile_device),
        _around(MinimalCallConv, "return_user_exc", _mark_exception),
        _around(lowering.Lower, "lower_inst", _tell_file),
        _around(debuginfo.DIBuilder, "_di_location", _keep_file),
        # Lines are asked for here, not by the user: no warning if a function has no source.
        (lowering, "warnings", SimpleNamespace(warn=lambda *args, **options: None)),
    ]
    if hasattr(lowering.Lower, "_adjust_line_if_prologue"):  # it takes inlined lines for those of the arguments
        changes.append((lowering.Lower, "_adjust_line_if_prologue", lambda self, line: line))
    if watched:
        changes.append(_around(arrayobj, "fix_integer_index", _mark_index))
    if nvvm_version() is None:
        missing = SimpleNamespace(data_layout=llvm.LAYOUT, get_ir_version=lambda: (2, 0, 3, 1))
        changes.append((nvvm, "NVVM", lambda: missing))
    with global_compiler_lock, _replaced(*changes):
        try:
            yield
        finally:
            for function, (overloads, options) in others.items():
                function.overloads, function.targetoptions = overloads, options


def _front_end(kernel: Any, signature: tuple[Any, ...], watched: bool) -> tuple[list[str], str]:
    """LLVM IR of a kernel and of the device functions that it calls, and the name of its entry."""
    from numba.cuda import compiler

    options = kernel.targetoptions
    if options.get("link") or options.get("extensions"):
        raise RuntimeError(f"{kernel.__name__} links other code or has extensions, which the emulator cannot run")
    debug, fast, opt = (options.get(name) for name in ("debug", "fastmath", "opt"))
    shared = {"debug": debug, "lineinfo": True, "fastmath": fast, "cc": CAPABILITY}
    with _without_driver(watched):
        if hasattr(compiler, "_compile_pyfunc_with_fixup"):
            shared |= {"device": False, "abi": "numba", "opt": opt, "launch_bounds": options.get("launch_bounds")}
            library, _ = compiler._compile_pyfunc_with_fixup(kernel.py_func, signature, **shared)
            return library.llvm_strs, library._entry_name
        # Numba's own numba.cuda
        code, flags = kernel.py_func.__code__, {"fastmath": fast, "opt": 3 if opt else 0}
        result = compiler.compile_cuda(kernel.py_func, numba.types.void, signature, nvvm_options=flags, **shared)
        library, function = result.target_context.prepare_cuda_kernel(
            result.library, result.fndesc, debug, True, flags, code.co_filename, 0
        )
        return library.llvm_strs, function.name


# ---- float16: functions that numba-cuda writes in CUDA C++, for which it would need one more compiler ----

_HALF = re.compile(r'^declare i32 @"(_Z(?:L(\d+)(\w+)|(pl|mi|ml|dv|ng|ps|eq|ne|lt|le|gt|ge)RK\w+)_nbst)"\((.*)\)', re.M)
_HALF_OPERATORS = {"pl": "add", "mi": "sub", "ml": "mul", "dv": "div", "ng": "neg", "ps": "pos", "ne": "neu"}
_HALF_CODE = {
    "neg": "fsub float -0.0, %a",
    "pos": "fadd float -0.0, %a",
    "rcp": "fdiv float 1.0, %a",
    "fma": "fpext half %f to float",
    "isnan": "fcmp uno float %a, %a",
    **{name: f"f{name} float %a, %b" for name in ("add", "sub", "mul", "div")},
    **{f"{name}{u}": f"fcmp {u or 'o'}{name} float %a, %b" for name in "eq ne lt le gt ge".split() for u in ("", "u")},
    **{name: f"call float @__nv_f{name}f(float %a, float %b)" for name in ("max", "min")},
    **{name: f"call float @__nv_{name}f(float %a)" for name in "ceil floor rint sqrt rsqrt tanh trunc".split()},
    **{name: f"call float @__nv_{name}f(float %a)" for name in "cos exp exp2 log log2 log10 sin".split()},
    "abs": "call float @__nv_fabsf(float %a)",
    "exp10": "call float @__nv_powf(float 10.0, float %a)",
}
"""What gives %r of %a, %b and %c, which are float32: wide enough to round as float16 would, save for `fma`."""


def _half_function(declared: re.Match[str]) -> str:
    """LLVM IR of a function of float16 that a module declares."""
    name, size, rest, short, parameters = declared.groups()
    operation = _HALF_OPERATORS.get(short, short) or re.sub("^_*h|_rn$", "", rest[: int(size)])
    if operation not in _HALF_CODE:
        raise RuntimeError(f"the emulator does not know the float16 function {operation!r}")
    result, *kinds = re.findall(r"(\w+)\*", parameters)
    operands = [*zip("abc", kinds, strict=False)]
    lines = [f'define linkonce_odr i32 @"{name}"({result}* %out{"".join(f", {k}* %{x}0" for x, k in operands)}) {{']
    for x, kind in operands:
        lines.append(f"%{x}1 = bitcast {kind}* %{x}0 to half*")
        lines += [f"%{x}2 = load half, half* %{x}1", f"%{x} = fpext half %{x}2 to float"]
    if operation == "fma":
        lines.append("%f = call half @llvm.fma.f16(half %a2, half %b2, half %c2)")
    lines.append(f"%r = {_HALF_CODE[operation]}")
    stored, change = ("i8", "zext i1 %r to i8") if "fcmp" in lines[-1] else ("half", "fptrunc float %r to half")
    lines += [f"%s = {change}", f"%p = bitcast {result}* %out to {stored}*", f"store {stored} %s, {stored}* %p"]
    return "\n  ".join([*lines, "ret i32 0"]) + "\n}"


def _with_halves(text: str) -> str:
    """LLVM IR with the functions of float16 that it declares."""
    text = _HALF.sub(_half_function, text)
    for kind, name, values in sorted(set(re.findall(r"call (\w+) @(__nv_\w+|llvm\.fma\.f16)\((.*)\)", text))):
        if not re.search(rf'^declare .*@"?{re.escape(name)}"?\(', text, re.M):
            text += f"\ndeclare {kind} @{name}({', '.join(re.findall(r'(half|float) ', values))})\n"
    return text


# ---- from LLVM IR to PTX ----

_TINY = f"""target triple = "nvptx64-nvidia-cuda"
target datalayout = "{llvm.LAYOUT}"
define void @f() {{
  ret void
}}
!nvvm.annotations = !{{!0}}
!0 = !{{void ()* @f, !"kernel", i32 1}}
!nvvmir.version = !{{!1}}
"""


@cache
def nvvm_version() -> str | None:
    """What NVVM says of itself in the PTX that it makes, or None where it or its library of functions is missing."""
    from numba.cuda.cudadrv import nvvm

    try:
        version = ", i32 ".join(map(str, nvvm.NVVM().get_ir_version()))
        ptx = _nvvm_ptx([f"{_TINY}!1 = !{{i32 {version}}}\n"], {})
        library = sha256(nvvm.LibDevice().get()).hexdigest()
        return "".join(line for line in ptx.splitlines() if line.startswith("//")) + library
    except Exception:  # every way in which a library can be missing or broken
        return None


def _refusals() -> list[type[Exception]]:
    """What is raised where NVVM does not compile a kernel: an error of Numba, or of NVIDIA's own package."""
    from numba.cuda.cudadrv import error, nvvm

    newer = getattr(nvvm, "nvvmError", None)
    return [error.NvvmError, *([newer] if newer else [])]


def _nvvm_ptx(modules: list[str], options: dict[str, Any]) -> str:
    from numba.cuda.cudadrv import nvvm

    level, arch = 3 if options.get("opt") else 0, "compute_{}{}".format(*CAPABILITY)
    text = nvvm.compile_ir(modules, fastmath=bool(options.get("fastmath")), opt=level, arch=arch)
    return str(text.decode().strip("\0").strip())


def _llvm_ptx(modules: list[str], entry: str, options: dict[str, Any]) -> str:
    from numba.cuda.cudadrv import nvvm

    level, arch = 3 if options.get("opt") else 0, "sm_{}{}".format(*CAPABILITY)
    modules = [nvvm.llvm_replace(text) for text in modules]
    return llvm.compile_ptx(modules, entry, arch, level, flush=bool(options.get("fastmath")))


_ptx: WeakKeyDictionary[Any, dict[Any, str]] = WeakKeyDictionary()


def ptx_of(
    kernel: Any, arguments: tuple[Any, ...], compiler: str | None = None, cached: bool = True, watched: bool = False
) -> str:
    """Compile a kernel for arguments of these types, as for a GPU of compute capability 8.0.

    Parameters
    ----------
    kernel : a function decorated with `@cuda.jit`
    arguments : what it would be launched with: NumPy arrays, scalars, tuples of them
    compiler : "nvvm" (what a GPU gets, if installed), "llvm" (in Numba itself), or None for the first that works
    cached : keep the PTX on disk, in `cache_folder()`, and use what is there
    watched : write `.pragma "index ..."` wherever an index may be below zero and then counts from the end of an axis

    Returns
    -------
    str : PTX with source lines; a statement `.pragma "raise ..."` stands where the kernel raises an exception
    """
    cuda = _numba_cuda()
    if not isinstance(kernel, cuda.dispatcher.CUDADispatcher) or kernel.targetoptions.get("device"):
        raise TypeError(f"a kernel, a function with @cuda.jit above it, is needed, not {kernel!r}")
    wanted = kernel.py_func.__code__.co_argcount
    if len(arguments) != wanted:
        raise TypeError(f"{kernel.__name__} takes {wanted} arguments, not {len(arguments)}")
    signature = tuple(_type(kernel, number, value) for number, value in enumerate(arguments, 1))
    if compiler not in ("nvvm", "llvm", None):
        raise ValueError(f'compiler must be "nvvm", "llvm" or None, not {compiler!r}')
    if compiler == "nvvm" and not nvvm_version():
        raise RuntimeError("NVVM is not installed: pip install numba-cuda[cu13]")
    known, what = _ptx.setdefault(kernel, {}), (signature, compiler, watched)
    if what not in known:
        known[what] = _saved_or_new(kernel, *what, cached)
    return known[what]


def _saved_or_new(kernel: Any, signature: tuple[Any, ...], compiler: str | None, watched: bool, cached: bool) -> str:
    if compiler is None and nvvm_version():
        # NVVM refuses some lines, of this package too: "Symbol name with unsupported characters".
        with suppress(*_refusals()):
            return _saved_or_new(kernel, signature, "nvvm", watched, cached)
    compiler = compiler or "llvm"
    key = _key(kernel, signature, compiler, watched) if cached else None
    text = load(key) if key else None
    if text is None:
        text = _compile(kernel, signature, compiler, watched)
        if key:
            save(key, text)
    return text


def _type(kernel: Any, number: int, value: Any) -> Any:
    try:
        return kernel.typeof_pyval(plain(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"argument {number} of {kernel.__name__}, {type(value).__name__}: {error}") from error


def _compile(kernel: Any, signature: tuple[Any, ...], compiler: str, watched: bool) -> str:
    modules, entry = _front_end(kernel, signature, watched)
    modules = [*map(_with_halves, modules)]
    options = kernel.targetoptions
    return _nvvm_ptx(modules, options) if compiler == "nvvm" else _llvm_ptx(modules, entry, options)


def _key(kernel: Any, signature: tuple[Any, ...], compiler: str, watched: bool) -> str | None:
    """The name of a kernel's PTX in the cache, or None if it depends on what has no sound fingerprint."""
    versions = [getattr(sys.modules.get(name), "__version__", None) for name in ("numba", "numba_cuda", "numpy")]
    made_by = compiler, nvvm_version() if compiler == "nvvm" else None, llvmlite.__version__
    return fingerprint(versions, made_by, CAPABILITY, watched, signature, kernel)


# ---- arguments ----


def plain(value: Any) -> Any:
    """A device array of the emulator as the NumPy array that it is."""
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if type(value).__module__ == "numba.cuda.args":  # cuda.In, cuda.Out or cuda.InOut
        copied = type(value).__name__ == "In" and not isinstance(value.value, DeviceArray)
        return plain(value.value).copy() if copied else plain(value.value)
    return type(value)(map(plain, value)) if type(value) in (tuple, list) else value


def flatten(arguments: Any, place: Callable[[Any], int]) -> Iterator[bytes]:
    """Give the kernel's parameters one by one, in the order of the PTX, as the bytes that numba-cuda passes.

    Parameters
    ----------
    arguments : NumPy arrays, scalars, records, enumerations, tuples of them
    place : gives the address of an array's first element; a record is passed as an array of no dimensions
    """
    for value in arguments:
        if isinstance(value, tuple):
            yield from flatten(value, place)
        elif isinstance(value, enum.Enum):
            yield from flatten((value.value,), place)
        elif isinstance(value, np.void):
            yield place(np.asarray(value)).to_bytes(8, "little")
        elif isinstance(value, np.ndarray):
            if value.dtype.hasobject or not value.dtype.isnative:
                raise TypeError(f"a kernel takes no arrays of {value.dtype}")
            numbers = 0, 0, value.size, value.itemsize, place(value), *value.shape, *value.strides
            yield from (number.to_bytes(8, "little", signed=number < 0) for number in numbers)
        elif isinstance(value, (complex, np.complexfloating)):
            yield from (part.tobytes() for part in (np.asarray(value).real, np.asarray(value).imag))
        elif type(value) is int:  # NumPy's own integer may be narrower
            yield value.to_bytes(8, "little", signed=value < 0)
        elif isinstance(value, (bool, float, np.number, np.bool_, np.datetime64, np.timedelta64)):
            yield np.asarray(value).tobytes()
        else:
            raise TypeError(f"a kernel takes NumPy arrays, scalars and tuples of them, not {type(value).__name__}")


# ---- launches and arrays without a driver ----

Run = Callable[[Any, tuple[int, int, int], tuple[int, int, int], int, tuple[Any, ...]], Any]
_run: ContextVar[Run | None] = ContextVar("run", default=None)


def dimensions(grid: Any, block: Any) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Three sizes each of a grid and of a block; what no GPU can launch is a ValueError or a TypeError."""
    three = []
    for name, value, limits in (("grid", grid, (2**31 - 1, 65535, 65535)), ("block", block, (1024, 1024, 64))):
        try:
            sizes = [operator.index(size) for size in (value if isinstance(value, (tuple, list)) else [value])]
        except TypeError:
            raise TypeError(f"the {name} must be an integer or 1 to 3 of them, not {value!r}") from None
        if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
            raise ValueError(f"the {name} must have 1 to 3 sizes of at least 1, not {value!r}")
        x, y, z = (*sizes, 1, 1)[:3]
        if x > limits[0] or y > limits[1] or z > limits[2]:
            raise ValueError(f"the {name} {value!r} is over the limits {limits}")
        three.append((x, y, z))
    if math.prod(three[1]) > 1024:
        raise ValueError(f"the block {block!r} has more than 1024 threads")
    return three[0], three[1]


_declared: WeakKeyDictionary[Any, list[tuple[Any, ...]]] = WeakKeyDictionary()
"""The signatures of kernels that were declared with some, such as ``@cuda.jit("void(float32[:], int32)")``."""


def _declare(self: Any, signature: Any) -> None:
    """Remember a signature, where Numba would compile it."""
    _declared.setdefault(self, []).append(_numba_cuda().dispatcher.sigutils.normalize_signature(signature)[0])


def _as_declared(kernel: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the declared signature that comes nearest takes them."""
    declared = _declared.get(kernel)
    if not declared:
        return arguments
    cases = [signature_of(numba.types.void, *kinds) for kinds in declared if len(kinds) == len(arguments)]
    given = tuple(kernel.typeof_pyval(plain(value)) for value in arguments)
    found = kernel.typingctx.resolve_overload(kernel.__name__, cases, given, {})
    if found is None and len(declared) == 1 and len(cases) == 1 and all(map(_same_memory, given, declared[0])):
        (found,) = cases  # Numba does not look at types if there is one signature
    if found is None:
        raise TypeError(f"{kernel.__name__} takes {' or '.join(map(str, declared))}, not {given}")
    return tuple(map(_cast, arguments, found.args))


def _same_memory(given: Any, kind: Any) -> bool:
    """Whether an array of one type is one of another type in the same bytes; other types need not be arrays."""
    arrays = isinstance(given, numba.types.Array), isinstance(kind, numba.types.Array)
    if not any(arrays):
        return True
    return all(arrays) and given.ndim == kind.ndim and as_dtype(given.dtype).itemsize == as_dtype(kind.dtype).itemsize


def _cast(value: Any, kind: Any) -> Any:
    """An argument as a kernel with a declared signature reads it."""
    if isinstance(kind, (numba.types.Number, numba.types.Boolean)):
        return np.asarray(value).astype(as_dtype(kind))[()]
    other = isinstance(kind, numba.types.Array) and as_dtype(kind.dtype) != plain(value).dtype
    return plain(value).view(as_dtype(kind.dtype)) if other else value


def _configured(self: Any, griddim: Any, blockdim: Any, stream: Any = 0, sharedmem: int = 0) -> Any:
    grid, block = dimensions(griddim, blockdim)
    if operator.index(sharedmem) < 0:
        raise ValueError(f"the bytes of shared memory must be at least 0, not {sharedmem}")
    run: Any = _run.get()
    return lambda *args: run(self, grid, block, operator.index(sharedmem), _as_declared(self, args))


def _getitem(self: Any, launch: Any) -> Any:
    if not isinstance(launch, tuple) or not 2 <= len(launch) <= 4:
        raise ValueError("kernel[grid, block, stream, shared memory] needs at least the grid and the block")
    return _configured(self, *launch)


def _forall(self: Any, ntasks: int, tpb: int = 0, stream: Any = 0, sharedmem: int = 0) -> Any:
    if ntasks < 0:
        raise ValueError(f"the number of tasks must be at least 0, not {ntasks}")
    block = tpb or 128
    return _configured(self, -(-ntasks // block), block, stream, sharedmem) if ntasks else lambda *args: None


def _launched(self: Any, *args: Any) -> Any:
    return _configured(self.dispatcher, self.griddim, self.blockdim, self.stream, self.sharedmem)(*args)


def _either(ours: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is ours inside `redirected` and the plain one for everybody else."""
    return lambda plain, *args, **options: (plain if _run.get() is None else ours)(*args, **options)


_inside, _changes = [0], ExitStack()


@contextmanager
def redirected(run: Run) -> Iterator[None]:
    """Let `kernel[grid, block, stream, shared](*args)` call `run(kernel, grid, block, shared bytes, args)` here.

    Device arrays, streams and events of `numba.cuda` work without a driver. Other threads see nothing of all this.
    """
    cuda = _numba_cuda()
    kind, launch = cuda.dispatcher.CUDADispatcher, cuda.dispatcher._LaunchConfiguration
    ours = [(cuda, name, function) for name, function in FUNCTIONS.items() if hasattr(cuda, name)]
    ours += [(kind, "__getitem__", _getitem), (kind, "configure", _configured), (kind, "forall", _forall)]
    ours += [(kind, "specialize", lambda self, *args: self), (kind, "compile", _declare)]
    ours += [(kind, "disable_compile", lambda self, *args: None), (launch, "__call__", _launched)]
    ours += [(cuda.cudadrv.devices._Runtime, "get_or_create_context", lambda self, devnum: CONTEXT)]
    with _lock:
        if not _inside[0]:
            _changes.enter_context(_replaced(*(_around(owner, name, _either(new)) for owner, name, new in ours)))
        _inside[0] += 1
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)
        with _lock:
            _inside[0] -= 1
            if not _inside[0]:
                _changes.close()
