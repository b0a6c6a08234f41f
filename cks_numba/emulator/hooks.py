"""All that is private to Numba and numba-cuda: PTX of a kernel, its parameters, and launches without a driver."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import cuda

CAPABILITY = (8, 0)
"""Compute capability that the kernels are compiled for."""

INSTALL = "it needs numba-cuda, or a Numba that still has numba.cuda: pip install numba-cuda"

Place = Callable[[np.ndarray[Any, Any]], int]
Modules = list[str]


def _simulated() -> bool:
    return bool(getattr(numba.config, "ENABLE_CUDASIM", False))


@contextmanager
def _replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
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

class _Nvvm:
    """What the front end asks of NVVM where it is not installed."""

    data_layout = (
        "e-p:64:64:64-i1:8:8-i8:8:8-i16:16:16-i32:32:32-i64:64:64-i128:128:128-f32:32:32-f64:64:64-"
        "v16:16:16-v32:32:32-v64:64:64-v128:128:128-n16:32:64"
    )

    def get_ir_version(self) -> tuple[int, int, int, int]:
        return 2, 0, 3, 1


_device_functions: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Device functions compiled for the emulator, by dispatcher: their code says where it raises, a GPU's does not."""


def _compile_device(plain: Any, others: dict[Any, Any]) -> Any:
    """A stand-in for `CUDADispatcher.compile_device` that adds lines and keeps its code apart from that for GPUs."""

    def compile_device(self: Any, *args: Any, **options: Any) -> Any:
        if self not in others:
            others[self] = self.overloads, self.targetoptions
            self.overloads = _device_functions.setdefault(self, type(self.overloads)())
            self.targetoptions = {**self.targetoptions, "lineinfo": True}
        return plain(self, *args, **options)

    return compile_device


def _raise_with_marker(plain: Any) -> Any:
    """A stand-in for `return_user_exc`, which writes `.pragma "raise ..."` into the PTX before it returns."""

    def return_user_exc(self: Any, builder: Any, exc: Any, exc_args: Any = None, *args: Any, **options: Any) -> None:
        words = ", ".join(map(str, exc_args or ()))
        text = quote(f"{exc.__name__ if exc else 'exception'}{': ' if words else ''}{words}", safe=" :,.()[]<>=+-*/!?'")
        builder.asm(ir.FunctionType(ir.VoidType(), []), f".pragma \\22raise {text}\\22;", "", [], True)
        plain(self, builder, exc, exc_args, *args, **options)

    return return_user_exc


def raised(statement: str) -> str | None:
    """The exception that a statement of the PTX stands for, in words, or None if it is another statement."""
    match = re.fullmatch(r'\s*\.pragma\s+"raise (.*)";?\s*', statement)
    return match and unquote(match[1])


def _lower_inst(plain: Any) -> Any:
    """A stand-in for `Lower.lower_inst` that tells the debug information the file of each instruction."""

    def lower_inst(self: Any, inst: Any) -> Any:
        self.debuginfo.file = inst.loc.filename
        return plain(self, inst)

    return lower_inst


def _di_location(plain: Any) -> Any:
    """A stand-in for `DIBuilder._di_location` that keeps the file of functions which Numba itself has inlined."""

    def _di_location(self: Any, line: int) -> Any:
        from os.path import abspath, basename, dirname

        file = abspath(getattr(self, "file", self.filepath))
        if file == self.filepath:
            return plain(self, line)
        add = self.module.add_debug_info
        place = add("DIFile", {"directory": dirname(file), "filename": basename(file)})
        scope = add("DILexicalBlockFile", {"scope": self.subprograms[-1], "file": place, "discriminator": 0})
        return add("DILocation", {"line": line, "column": 1, "scope": scope})

    return _di_location


@contextmanager
def _without_driver() -> Iterator[None]:
    """Let this thread compile kernels as if there were a GPU, apart from all that is compiled for a real one."""
    from numba.cuda import dispatcher, target
    from numba.cuda.cudadrv import nvvm

    try:
        from numba.cuda import debuginfo, lowering
        from numba.cuda.core.callconv import MinimalCallConv
        from numba.cuda.core.compiler_lock import global_compiler_lock
    except ImportError:  # Numba's own numba.cuda
        from numba.core import debuginfo, lowering
        from numba.core.compiler_lock import global_compiler_lock

        MinimalCallConv = target.CUDACallConv

    others: dict[Any, Any] = {}
    me, device, kind = threading.get_ident(), dispatcher.get_current_device, dispatcher.CUDADispatcher
    changes = [
        (dispatcher, "get_current_device", lambda: DEVICE if threading.get_ident() == me else device()),
        (kind, "compile_device", _compile_device(kind.compile_device, others)),
        (MinimalCallConv, "return_user_exc", _raise_with_marker(MinimalCallConv.return_user_exc)),
        (lowering.Lower, "lower_inst", _lower_inst(lowering.Lower.lower_inst)),
        (debuginfo.DIBuilder, "_di_location", _di_location(debuginfo.DIBuilder._di_location)),
    ]
    if nvvm_version() is None:
        changes.append((nvvm, "NVVM", _Nvvm))
    with global_compiler_lock, _replaced(*changes):
        try:
            yield
        finally:
            for function, (overloads, options) in others.items():
                function.overloads, function.targetoptions = overloads, options


def _front_end(kernel: Any, signature: tuple[Any, ...], options: dict[str, Any]) -> tuple[Modules, str]:
    """LLVM IR of a kernel and of the device functions that it calls, and the name of its entry."""
    from numba.cuda import compiler

    debug, fast, opt = (options.get(name) for name in ("debug", "fastmath", "opt"))
    shared = {"debug": debug, "lineinfo": True, "fastmath": fast, "cc": CAPABILITY}
    with _without_driver():
        if hasattr(compiler, "_compile_pyfunc_with_fixup"):
            bounds = options.get("launch_bounds")
            library, _ = compiler._compile_pyfunc_with_fixup(
                kernel.py_func, signature, device=False, abi="numba", opt=opt, launch_bounds=bounds, **shared
            )
            entry = library._entry_name
        else:  # Numba's own numba.cuda
            code, flags = kernel.py_func.__code__, {"fastmath": fast, "opt": 3 if opt else 0}
            result = compiler.compile_cuda(kernel.py_func, numba.types.void, signature, nvvm_options=flags, **shared)
            library, function = result.target_context.prepare_cuda_kernel(
                result.library, result.fndesc, debug, True, flags, code.co_filename, code.co_firstlineno
            )
            entry = function.name
        if options.get("link") or library._linking_files:
            raise RuntimeError(f"{kernel.__name__} links other code, which the emulator cannot run")
        return library.llvm_strs, entry


# ---- from LLVM IR to PTX: NVVM, or LLVM's own back end for GPUs ----


def nvvm_version() -> str | None:
    """The version of NVVM with its library of functions, or None where it cannot be loaded."""
    from numba.cuda.cudadrv import nvvm

    if "version" not in _nvvm:
        try:
            nvvm.LibDevice()
            _nvvm["version"] = ".".join(map(str, nvvm.NVVM().get_version()))
        except Exception:  # every way in which a library can be missing or broken
            _nvvm["version"] = None
    return _nvvm["version"]


_nvvm: dict[str, str | None] = {}


def _nvvm_ptx(modules: Modules, options: dict[str, Any]) -> str:
    from numba.cuda.cudadrv import nvvm

    flags = {"opt": 3 if options.get("opt") else 0, "arch": "compute_{}{}".format(*CAPABILITY)}
    text = nvvm.compile_ir(modules, fastmath=bool(options.get("fastmath")), **flags)
    return str(text.decode().strip("\0").strip())


# NVVM's warp operations that LLVM has split by their mode, which is a constant, and what LLVM has named otherwise.
_SHUFFLE, _VOTE = ("idx", "up", "down", "bfly"), ("all", "any", "uni", "ballot")
_WARP = "".join(
    f"declare {{i32, i1}} @llvm.nvvm.shfl.sync.{mode}.i32p(i32, i32, i32, i32)\n" for mode in _SHUFFLE
) + "".join(
    f"declare {kind} @llvm.nvvm.vote.{mode}.sync(i32, i1)\n"
    f"define internal {{i32, i1}} @emulator.vote.{mode}(i32 %mask, i1 %p) alwaysinline {{\n"
    f"  %r = call {kind} @llvm.nvvm.vote.{mode}.sync(i32 %mask, i1 %p)\n"
    f"  %s = insertvalue {{i32, i1}} undef, {kind} %r, {slot}\n  ret {{i32, i1}} %s\n}}\n"
    for mode, kind, slot in [*((mode, "i1", 1) for mode in _VOTE[:3]), ("ballot", "i32", 0)]
)
_NVVM_CALL = re.compile(r'@"?llvm\.nvvm\.(shfl|vote)\.sync(?:\.i32)?"?\((i32 [^,]+), i32 (\d), ')
_MATH = re.compile(r'@"?llvm\.(sin|cos|tan|exp|exp10|log|log2|log10|pow|exp2)\.f(32|64)"?')


def _for_llvm(text: str, options: dict[str, Any]) -> str:
    """LLVM IR that Numba wrote for NVVM, as LLVM itself reads it."""
    from numba.cuda.cudadrv import nvvm

    def split(call: re.Match[str]) -> str:
        kind, mask, mode = call.groups()
        name = f"llvm.nvvm.shfl.sync.{_SHUFFLE[int(mode)]}.i32p" if kind == "shfl" else f"emulator.vote.{_VOTE[int(mode)]}"
        return f"@{name}({mask}, "

    lines = nvvm.llvm_replace(text).splitlines()
    lines = [line for line in lines if not line.startswith("target datalayout")]
    split_by_mode = 'declare {i32, i1} @"llvm.nvvm.shfl.sync.i32"', 'declare {i32, i1} @"llvm.nvvm.vote.sync"'
    text = "\n".join(line for line in lines if not line.startswith(split_by_mode))
    text = _NVVM_CALL.sub(split, text) + "\n" + _WARP
    text = re.sub(r'(llvm\.nvvm\.match\.all\.sync\.i(?:32|64))\b', r"\1p", text)
    text = _MATH.sub(lambda name: f"@__nv_{name[1]}{'f' if name[2] == '32' else ''}", text)  # LLVM has no code for these
    text = re.sub(r'^(declare [^*\n]*@"?__nv_\w+"?\([^*\n]*\))', r"\1 readnone nounwind", text, flags=re.M)
    # NVVM multiplies and adds at once where it can.
    return re.sub(r"= (f(?:mul|add|sub)) (?!fast|contract)", r"= \1 contract ", text)


_machines: dict[bool, Any] = {}


def _machine(opt: bool) -> Any:
    if not _machines:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        target = llvm.Target.from_triple("nvptx64-nvidia-cuda")
        for level in (False, True):
            cpu = "sm_{}{}".format(*CAPABILITY)
            _machines[level] = target.create_target_machine(cpu=cpu, opt=3 if level else 0, features="+ptx72")
    return _machines[opt]


def _optimise(module: Any, machine: Any, level: int) -> None:
    if hasattr(llvm, "create_pass_builder"):
        tuning = llvm.create_pipeline_tuning_options(speed_level=level)
        builder = llvm.create_pass_builder(machine, tuning)
        builder.getModulePassManager().run(module, builder)
    else:  # llvmlite 0.43
        builder, passes = llvm.create_pass_manager_builder(), llvm.create_module_pass_manager()
        builder.opt_level, builder.inlining_threshold = level, 225
        machine.add_analysis_passes(passes)
        builder.populate(passes)
        passes.run(module)


def _llvm_ptx(modules: Modules, entry: str, options: dict[str, Any]) -> str:
    opt = bool(options.get("opt"))
    with _lock:  # a target machine serves one thread at a time
        machine = _machine(opt)
        module, *others = [llvm.parse_assembly(_for_llvm(text, options)) for text in modules]
        for other in others:
            module.link_in(other)
        module.data_layout = str(machine.target_data)
        for function in module.functions:
            if not function.is_declaration and function.name != entry:
                function.linkage = "internal"
            if options.get("fastmath") and not function.is_declaration:
                function.add_function_attribute
        module.verify()
        _optimise(module, machine, 3 if opt else 0)
        return str(machine.emit_assembly(module))


_lock = threading.RLock()
_ptx: WeakKeyDictionary[Any, dict[Any, str]] = WeakKeyDictionary()

DEVICE = SimpleNamespace(name="cks-numba emulator", compute_capability=CAPABILITY)


def ptx_of(kernel: Any, arguments: tuple[Any, ...], compiler: str | None = None) -> str:
    """PTX of a kernel for arguments of these types."""
    signature = tuple(kernel.typeof_pyval(argument) for argument in arguments)
    options = kernel.targetoptions
    compiler = compiler or ("nvvm" if nvvm_version() else "llvm")
    modules, entry = _front_end(kernel, signature, options)
    return _nvvm_ptx(modules, options) if compiler == "nvvm" else _llvm_ptx(modules, entry, options)
