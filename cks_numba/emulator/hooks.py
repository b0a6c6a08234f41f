"""All that is private to Numba and numba-cuda: PTX of a kernel, its parameters, and launches without a driver."""

from __future__ import annotations

import enum
import hashlib
import inspect
import operator
import os
import platform
import re
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.np.numpy_support import as_dtype

from .ptx import files

CAPABILITY = (8, 0)
"""Compute capability that the kernels are compiled for."""

_lock = threading.RLock()


def _numba_cuda() -> Any:
    """The module `numba.cuda`, of numba-cuda or of Numba itself."""
    if getattr(numba.config, "ENABLE_CUDASIM", False):
        raise RuntimeError(
            "the emulator needs compiled kernels: unset NUMBA_ENABLE_CUDASIM, which asks for a simulator"
        )
    try:
        from numba import cuda
        from numba.cuda import dispatcher
    except ImportError as error:
        raise RuntimeError(f"the emulator needs numba.cuda ({error}): pip install numba-cuda") from error
    return cuda if dispatcher else None


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


_device_functions: tuple[WeakKeyDictionary[Any, Any], ...] = WeakKeyDictionary(), WeakKeyDictionary()
"""Device functions compiled for the emulator, by dispatcher: their code says where it raises, a GPU's does not."""


def _compile_device(plain: Any, others: dict[Any, Any], watched: bool) -> Any:
    """A stand-in for `CUDADispatcher.compile_device` that adds lines and keeps its code apart from that for GPUs."""

    def compile_device(self: Any, *args: Any, **options: Any) -> Any:
        if self not in others:
            others[self] = self.overloads, self.targetoptions
            self.overloads = _device_functions[watched].setdefault(self, type(self.overloads)())
            self.targetoptions = {**self.targetoptions, "lineinfo": True}
        known = others[self][0].get(args[0])
        if known is not None:
            options.setdefault("return_type", known.signature.return_type)
        return plain(self, *args, **options)

    return compile_device


def _fold_arguments(plain: Any) -> Any:
    """A stand-in for `get_call_template` of Numba's own numba.cuda, which takes no `*args`, as `min` and `max` have."""

    def get_call_template(self: Any, args: Any, kws: Any) -> Any:
        names = inspect.signature(self.py_func).parameters.values()
        if all(name.kind is not name.VAR_POSITIONAL for name in names):
            return plain(self, args, kws)
        first = len(names) - 1
        return plain(self, (*args[:first], numba.types.StarArgTuple.from_types(args[first:])), kws)

    return get_call_template


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


def _fix_index(plain: Any) -> Any:
    """A stand-in for `fix_integer_index` that writes `.pragma "index ..."` beside an index that may be below zero."""

    def fix_integer_index(context: Any, builder: Any, kind: Any, index: Any, size: Any) -> Any:
        if kind.signed and not isinstance(index, ir.Constant):
            wide = context.cast(builder, index, kind, numba.types.intp)
            asm = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
            with builder.if_then(builder.icmp_signed("<", wide, wide.type(0)), likely=False):
                builder.asm(asm, ".pragma \\22index $0\\22;", "l", [wide], True)
        return plain(context, builder, kind, index, size)

    return fix_integer_index


def _lower_inst(plain: Any) -> Any:
    """A stand-in for `Lower.lower_inst` that tells the debug information the file of each instruction."""

    def lower_inst(self: Any, inst: Any) -> Any:
        self.debuginfo.file = inst.loc.filename
        return plain(self, inst)

    return lower_inst


def _di_location(plain: Any) -> Any:
    """A stand-in for `DIBuilder._di_location` that keeps the file of functions which Numba itself has inlined."""

    def _di_location(self: Any, line: int) -> Any:
        file = os.path.abspath(getattr(self, "file", self.filepath))
        if file == self.filepath:
            return plain(self, line)
        add = self.module.add_debug_info
        place = add("DIFile", {"directory": os.path.dirname(file), "filename": os.path.basename(file)})
        scope = add("DILexicalBlockFile", {"scope": self.subprograms[-1], "file": place, "discriminator": 0})
        return add("DILocation", {"line": line, "column": 1, "scope": scope})

    return _di_location


@contextmanager
def _without_driver(watched: bool) -> Iterator[None]:
    """Let this thread compile kernels as if there were a GPU, apart from all that is compiled for a real one."""
    from numba.cuda import dispatcher, target
    from numba.cuda.cudadrv import nvvm

    more: list[tuple[Any, str, Any]] = []
    try:
        from numba.cuda import debuginfo, lowering
        from numba.cuda.core.callconv import MinimalCallConv
        from numba.cuda.core.compiler_lock import global_compiler_lock
        from numba.cuda.np import arrayobj

        more = []
    except ImportError:  # Numba's own numba.cuda
        from numba.core import debuginfo, lowering
        from numba.core.compiler_lock import global_compiler_lock
        from numba.np import arrayobj

        MinimalCallConv = target.CUDACallConv
        kind = dispatcher.CUDADispatcher
        more = [(kind, "get_call_template", _fold_arguments(kind.get_call_template))]

    others: dict[Any, Any] = {}
    me, device, kind = threading.get_ident(), dispatcher.get_current_device, dispatcher.CUDADispatcher
    changes = [
        *more,
        (dispatcher, "get_current_device", lambda: DEVICE if threading.get_ident() == me else device()),
        (kind, "compile_device", _compile_device(kind.compile_device, others, watched)),
        (MinimalCallConv, "return_user_exc", _raise_with_marker(MinimalCallConv.return_user_exc)),
        (lowering.Lower, "lower_inst", _lower_inst(lowering.Lower.lower_inst)),
        (debuginfo.DIBuilder, "_di_location", _di_location(debuginfo.DIBuilder._di_location)),
    ]
    # Lines are asked for here, not by the user: no warning if a function has no source.
    changes.append((lowering, "warnings", SimpleNamespace(warn=lambda *args, **options: None)))
    if hasattr(lowering.Lower, "_adjust_line_if_prologue"):  # it takes inlined lines for those of the arguments
        changes.append((lowering.Lower, "_adjust_line_if_prologue", lambda self, line: line))
    if watched:
        changes.append((arrayobj, "fix_integer_index", _fix_index(arrayobj.fix_integer_index)))
    if nvvm_version() is None:
        changes.append((nvvm, "NVVM", _Nvvm))
    with global_compiler_lock, _replaced(*changes):
        try:
            yield
        finally:
            for function, (overloads, options) in others.items():
                function.overloads, function.targetoptions = overloads, options


def _front_end(
    kernel: Any, signature: tuple[Any, ...], options: dict[str, Any], watched: bool
) -> tuple[list[str], str]:
    """LLVM IR of a kernel and of the device functions that it calls, and the name of its entry."""
    from numba.cuda import compiler

    if options.get("link") or options.get("extensions"):
        raise RuntimeError(f"{kernel.__name__} links other code or has extensions, which the emulator cannot run")
    debug, fast, opt = (options.get(name) for name in ("debug", "fastmath", "opt"))
    shared = {"debug": debug, "lineinfo": True, "fastmath": fast, "cc": CAPABILITY}
    with _without_driver(watched):
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
                result.library, result.fndesc, debug, True, flags, code.co_filename, 0
            )
            entry = function.name
        return library.llvm_strs, entry


# ---- from LLVM IR to PTX: NVVM, or LLVM's own back end for GPUs ----

_HEAD = f"""target triple = "nvptx64-nvidia-cuda"
target datalayout = "{_Nvvm.data_layout}"
!nvvmir.version = !{{!1}}
!1 = !{{i32 VERSION}}
"""
_TINY = """define void @f() {
  ret void
}
!nvvm.annotations = !{!0}
!0 = !{void ()* @f, !"kernel", i32 1}
"""


def _module(text: str, version: tuple[int, ...]) -> str:
    """LLVM IR of a module of our own, as NVVM of this version wants it."""
    return _HEAD.replace("VERSION", ", i32 ".join(map(str, version))) + text


_HALF = re.compile(r'^declare i32 @"(_Z(?:L(\d+)(\w+)|(pl|mi|ml|dv|ng|ps|eq|ne|lt|le|gt|ge)RK\w+)_nbst)"\((.*)\)', re.M)
_OPERATORS = {"pl": "add", "mi": "sub", "ml": "mul", "dv": "div", "ng": "neg", "ps": "pos", "ne": "neu"}
_BY_FLOAT = "sin cos exp exp2 exp10 log log2 log10 sqrt rsqrt tanh floor ceil trunc rint fmax fmin".split()


def _ir_version() -> tuple[int, ...]:
    from numba.cuda.cudadrv import nvvm

    return tuple((nvvm.NVVM() if nvvm_version() else _Nvvm()).get_ir_version())


def _half_value(operation: str) -> tuple[str, str]:
    """LLVM IR of a function of halves %a, %b and %c that gives %r, and the type of %r."""
    simple = {
        "neg": "%r = fsub half -0.0, %a",
        "pos": "%r = fsub half %a, 0.0",
        "rcp": "%r = fdiv half 1.0, %a",
        "fma": "%r = call half @llvm.fma.f16(half %a, half %b, half %c)",
        "abs": "%i = bitcast half %a to i16\n  %j = and i16 %i, 32767\n  %r = bitcast i16 %j to half",
    }
    simple |= {name: f"%r = f{name} half %a, %b" for name in ("add", "sub", "mul", "div")}
    if operation in simple:
        return simple[operation], "half"
    if operation == "isnan" or re.fullmatch("(eq|ne|lt|le|gt|ge)u?", operation):
        how = {"isnan": "uno", operation[:2]: "o" + operation, operation[:2] + "u": operation[-1] + operation[:2]}
        other = "%a" if operation == "isnan" else "%b"
        return f"%t = fcmp {how[operation]} half %a, {other}\n  %r = zext i1 %t to i8", "i8"
    name = {"max": "fmax", "min": "fmin"}.get(operation, operation)
    if name not in _BY_FLOAT:
        raise RuntimeError(f"the emulator does not know the float16 function {operation!r}")
    names = "ab" if name[:2] == "fm" else "a"
    wide = "".join(f"%w{one} = fpext half %{one} to float\n  " for one in names)
    values = ", ".join(f"float %w{one}" for one in names)
    return f"{wide}%t = call float @__nv_{name}f({values})\n  %r = fptrunc float %t to half", "half"


def _halves(modules: list[str]) -> list[str]:
    """The modules, and one with the functions of float16 that numba-cuda writes in CUDA C++ and NVRTC would compile."""
    found = {match[1]: match.groups() for text in modules for match in _HALF.finditer(text)}
    body = [f"declare float @__nv_{name}f(float{', float' if name[:2] == 'fm' else ''})\n" for name in _BY_FLOAT]
    body += ["declare half @llvm.fma.f16(half, half, half)\n"]
    for name, (_, size, rest, short, parameters) in found.items():
        operation = _OPERATORS.get(short, short) or re.sub("^_*h|_rn$", "", rest[: int(size)])
        result, *kinds = re.findall(r"(\w+)\*", parameters)
        code, kind = _half_value(operation)
        loads = "".join(
            f"  %p{one} = bitcast {pointed}* %{one}0 to half*\n  %{one} = load half, half* %p{one}\n"
            for one, pointed in zip("abc", kinds, strict=False)
        )
        values = "".join(f", {pointed}* %{one}0" for one, pointed in zip("abc", kinds, strict=False))
        body.append(
            f'define linkonce_odr i32 @"{name}"({result}* %r0{values}) alwaysinline {{\n{loads}  {code}\n'
            f"  %p = bitcast {result}* %r0 to {kind}*\n  store {kind} %r, {kind}* %p\n  ret i32 0\n}}\n"
        )
    return [*modules, _module("".join(body), _ir_version())] if found else modules


_nvvm_versions: list[str | None] = []


def nvvm_version() -> str | None:
    """What NVVM says of itself in the PTX that it makes, or None where it or its library of functions is missing."""
    from numba.cuda.cudadrv import nvvm

    with _lock:
        if not _nvvm_versions:
            try:
                library = hashlib.sha256(nvvm.LibDevice().get()).hexdigest()
                ptx = _nvvm_ptx([_module(_TINY, nvvm.NVVM().get_ir_version())], {})
                _nvvm_versions.append("".join(line for line in ptx.splitlines() if line.startswith("//")) + library)
            except Exception:  # every way in which a library can be missing or broken
                _nvvm_versions.append(None)
        return _nvvm_versions[0]


def _nvvm_ptx(modules: list[str], options: dict[str, Any]) -> str:
    from numba.cuda.cudadrv import nvvm

    flags = {"opt": 3 if options.get("opt") else 0, "arch": "compute_{}{}".format(*CAPABILITY)}
    text = nvvm.compile_ir(_halves(modules), fastmath=bool(options.get("fastmath")), **flags)
    return str(text.decode().strip("\0").strip())


def _by_mode(name: str, parameters: str, calls: list[str]) -> str:
    """LLVM IR of a warp operation of NVVM, whose mode is a parameter, by those of LLVM, one for each mode."""
    cases = " ".join(f"i32 {mode}, label %m{mode}" for mode in range(len(calls)))
    blocks = "".join(f"m{mode}:\n  {call}\n" for mode, call in enumerate(calls))
    head = f"define internal {{i32, i1}} @{name}({parameters}) convergent alwaysinline"
    return f"{head} {{\n  switch i32 %mode, label %none [{cases}]\n{blocks}none:\n  unreachable\n}}\n"


def _warp_operations() -> str:
    shuffles, votes, text = [], [], ""
    for mode in ("idx", "up", "down", "bfly"):
        name = f"{{i32, i1}} @llvm.nvvm.shfl.sync.{mode}.i32p"
        text += f"declare {name}(i32, i32, i32, i32)\n"
        shuffles.append(f"%{mode} = call {name}(i32 %mask, i32 %a, i32 %b, i32 %c)\n  ret {{i32, i1}} %{mode}")
    for mode in ("all", "any", "uni", "ballot"):
        kind, slot = ("i32", 0) if mode == "ballot" else ("i1", 1)
        text += f"declare {kind} @llvm.nvvm.vote.{mode}.sync(i32, i1)\n"
        votes.append(
            f"%{mode} = call {kind} @llvm.nvvm.vote.{mode}.sync(i32 %mask, i1 %p)\n"
            f"  %s{mode} = insertvalue {{i32, i1}} undef, {kind} %{mode}, {slot}\n  ret {{i32, i1}} %s{mode}"
        )
    text += _by_mode("emulator.shfl.sync.i32", "i32 %mask, i32 %mode, i32 %a, i32 %b, i32 %c", shuffles)
    text += _by_mode("emulator.vote.sync", "i32 %mask, i32 %mode, i1 %p", votes)
    for width, letter in (32, "r"), (64, "l"):  # versions of LLVM disagree on the types of these
        head = f"(i32 %mask, i{width} %a) convergent alwaysinline {{\n  %r = call"
        values = f"(i{width} %a, i32 %mask) convergent\n"
        text += (
            f"define internal i32 @emulator.match.any.sync.i{width}{head} i32 "
            f'asm sideeffect "match.any.sync.b{width} $0, $1, $2;", "=r,{letter},r"{values}'
            "  ret i32 %r\n}\n"
            f"define internal {{i32, i1}} @emulator.match.all.sync.i{width}{head} {{i32, i32}} asm sideeffect "
            f'"{{ .reg .pred same; match.all.sync.b{width} $0|same, $2, $3; selp.b32 $1, 1, 0, same; }}", '
            f'"=r,=r,{letter},r"{values}'
            "  %m = extractvalue {i32, i32} %r, 0\n  %i = extractvalue {i32, i32} %r, 1\n  %p = trunc i32 %i to i1\n"
            "  %s = insertvalue {i32, i1} undef, i32 %m, 0\n  %t = insertvalue {i32, i1} %s, i1 %p, 1\n"
            "  ret {i32, i1} %t\n}\n"
        )
    return text


_WARP = _warp_operations()
_RENAMED = re.compile(r'@"llvm\.nvvm\.(shfl\.sync\.i32|vote\.sync|match\.a(?:ny|ll)\.sync\.i(?:32|64))"')
_MATH = re.compile(r'@"?llvm\.(sin|cos|tan|exp|exp10|log|log2|log10|pow|exp2)\.f(32|64)"?')


def _for_llvm(text: str, options: dict[str, Any]) -> str:
    """LLVM IR that Numba wrote for NVVM, as LLVM itself reads it."""
    from numba.cuda.cudadrv import nvvm

    lines = _RENAMED.sub(r"@emulator.\1", nvvm.llvm_replace(text)).splitlines()
    other = "target datalayout", "declare i32 @emulator", "declare {i32, i1} @emulator"
    text = "\n".join(line for line in lines if not line.startswith(other)) + "\n" + _WARP
    text = _MATH.sub(
        lambda name: f"@__nv_{name[1]}{'f' if name[2] == '32' else ''}", text
    )  # LLVM has no code for these
    text = re.sub(r'^(declare [^*\n]*@"?__nv_\w+"?\([^*\n]*\))', r"\1 readnone nounwind", text, flags=re.M)
    # What a warp does in one branch is no part of the other, even if it looks the same: LLVM would merge the two.
    asm = r'(\basm sideeffect "(?!\.pragma)[^"]*", "[^"]*"\([^()\n]*\))(?! convergent)'
    text = re.sub(asm, r"\1 convergent", text)
    if options.get("fastmath"):
        flush = '"denormal-fp-math-f32"="preserve-sign,preserve-sign"'
        text = re.sub(r"^(define .*\))", rf"\1 {flush}", text, flags=re.M)
    # NVVM multiplies and adds at once where it can.
    return re.sub(r"= (f(?:mul|add|sub)) (?!fast|contract)", r"= \1 contract ", text)


_NO_CODE = re.compile(
    r"llvm\.(a?(sin|cos|tan)h?|atan2|sincos|exp|exp2|exp10|log|log2|log10|pow|powi|ldexp|frexp|modf)\."
)
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


def _llvm_ptx(modules: list[str], entry: str, options: dict[str, Any]) -> str:
    opt = bool(options.get("opt"))
    with _lock:  # a target machine serves one thread at a time
        machine = _machine(opt)
        module, *others = [llvm.parse_assembly(_for_llvm(text, options)) for text in _halves(modules)]
        module.verify()
        for other in others:
            other.verify()
            module.link_in(other)
        module.data_layout = str(machine.target_data)
        for function in module.functions:
            if not function.is_declaration and function.name != entry:
                function.linkage = "internal"
        _optimise(module, machine, 3 if opt else 0)
        for function in module.functions:
            if _NO_CODE.match(function.name):  # LLVM would end the process
                raise RuntimeError(
                    f"LLVM has no code for {function.name}: with NVVM there is: pip install numba-cuda[cu13]"
                )
        text, callers = _numbered_callers(str(module))
        return _with_callers(machine.emit_assembly(llvm.parse_assembly(text)), callers)


_Call = tuple[str, str, int]  # file, line, and the number of the call in whose function this one stands


def _numbered_callers(text: str) -> tuple[str, list[_Call]]:
    """LLVM IR with the number of its call as the column of each inlined line, and the calls; 0 stands for none.

    LLVM writes columns into PTX, but not where a function was inlined.
    """
    nodes = {
        number: dict(re.findall(r'(\w+): (!\d+|\d+|"[^"]*")', fields))
        for number, fields in re.findall(r"^(!\d+) = (?:distinct )?!DI(?:\w+)\((.*)\)$", text, re.M)
    }
    numbers: dict[str | None, int] = {None: 0}
    for node in nodes.values():
        if "inlinedAt" in node and len(numbers) < 2**16:  # columns have 16 bits
            numbers.setdefault(node["inlinedAt"], len(numbers))

    def call(number: str) -> _Call:
        node = scope = nodes[number]
        while "file" not in scope:
            scope = nodes[scope["scope"]]
        place = nodes[scope["file"]]
        path = os.path.join(*(_unquoted(place[part]) for part in ("directory", "filename")))
        return path, node["line"], numbers.get(node.get("inlinedAt"), 0)

    def numbered(location: re.Match[str]) -> str:
        at = re.search(r"inlinedAt: (!\d+)", location[0])
        fields = re.sub(r"column: \d+, ", "", location[2])
        return f"{location[1]}column: {numbers.get(at and at[1], 0)}, {fields}"

    text = re.sub(r"(!DILocation\(line: \d+, )(.*)", numbered, text)
    return text, [call(number) for number in numbers if number]


def _unquoted(text: str) -> str:
    r"""A string of LLVM IR, where a byte may be a backslash and two hexadecimal digits."""
    return re.sub(rb"\\(..)", lambda byte: bytes.fromhex(byte[1].decode()), text.strip('"').encode()).decode()


def _with_callers(ptx: str, calls: list[_Call]) -> str:
    """PTX with the lines of the callers where the columns are numbers of calls, in the form that NVVM writes."""
    numbers = {name: number for number, name in files(ptx).items()}
    known, new = set[_Call](), list[str]()

    def number_of(path: str) -> int:
        if path not in numbers:
            numbers[path] = len(numbers) + 1
            quoted = path.replace("\\", "\\\\").replace('"', '\\"')
            new.append(f'\t.file\t{numbers[path]} "{quoted}"\n')
        return numbers[path]

    def location(file: Any, line: str, number: int) -> str:
        if not number:
            return f".loc\t{file} {line} 0"
        call = path, at, outer = calls[number - 1]
        caller = number_of(path)
        before = "" if call in known or not outer else location(caller, at, outer) + "\n\t"
        known.add(call)
        return f"{before}.loc\t{file} {line} {number}, function_name $L__inlined, inlined_at {caller} {at} {outer}"

    ptx = re.sub(r"\.loc\s+(\d+) (\d+) (\d+)", lambda found: location(found[1], found[2], int(found[3])), ptx)
    return f"{ptx.strip()}\n{''.join(new)}\t.section\t.debug_str {{\n$L__inlined:\n\t.b8 0\n\t}}\n"


# ---- what the code of a kernel depends on, and the cache on disk ----

_LIBRARIES = {"numba", "numba_cuda", "numpy", "llvmlite", "cuda"} | sys.stdlib_module_names


class _Unknown(Exception):
    """Something that the compiled code may depend on and that has no sound fingerprint."""


_PLACES = tuple(str(Path(package.__file__).parents[depth]) for package, depth in ((os, 0), (numba, 1), (np, 1)))


def _of_library(module: Any) -> bool:
    """Whether a module is Python's, Numba's or NumPy's own. A user's file may have the name of one of theirs."""
    root = module.partition(".")[0] if isinstance(module, str) else ""
    found = sys.modules.get(root)
    paths = getattr(found, "__path__", None) or [getattr(found, "__file__", None) or _PLACES[0]]
    return root in _LIBRARIES and found is not None and all(str(path).startswith(_PLACES) for path in paths)


class _Fingerprint:
    """SHA-256 of everything that a kernel's code depends on: bytecode, constants, and what it names, recursively."""

    def __init__(self) -> None:
        self.hash, self.seen = hashlib.sha256(), dict[int, int]()
        self.kept: list[Any] = []  # so that no id is used twice

    def put(self, *words: Any) -> None:
        self.hash.update(repr(words).encode())

    def add(self, value: Any, names: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Take in a value; names are the attributes that the code may ask of it if it is a module."""
        if value is None or value is Ellipsis or type(value) in (bool, int, float, complex, str, bytes):
            return self.put(type(value).__name__, value)
        key = id(value) if not isinstance(value, types.ModuleType) else hash((id(value), *sorted(names)))
        self.put(type(value).__qualname__, self.seen.get(key, -1))
        if key not in self.seen:
            self.seen[key] = len(self.seen)
            self.kept.append(value)
            self.look_into(value, names)
        return None

    def look_into(self, value: Any, names: set[str]) -> None:
        if isinstance(value, (tuple, list)):
            self.put(type(value).__module__, len(value))
            for item in value:
                self.add(item, names)
        elif isinstance(value, dict):
            self.add([*value.items()])
        elif isinstance(value, frozenset):
            self.put(*sorted(map(repr, value)))
        elif isinstance(value, types.CodeType):
            self.code(value)
        elif isinstance(value, types.ModuleType):
            self.module(value, names)
        elif isinstance(value, (np.ndarray, np.generic)):
            if isinstance(value, DeviceArray):
                raise TypeError("a kernel uses a device array that is a global variable: make it an argument")
            if value.dtype.hasobject:
                raise _Unknown(value)
            self.put(value.dtype.descr, value.shape, value.strides)
            self.put(value.tobytes())
        elif isinstance(value, enum.Enum):
            self.put(type(value).__qualname__, value.name)
            self.add(value.value)
        elif _of_library(getattr(value, "__module__", None)) and "<" not in getattr(value, "__qualname__", "<locals>"):
            self.put(value.__module__, value.__qualname__)  # a class or a function of a library
        else:
            self.user_object(value, names)

    def user_object(self, value: Any, names: set[str]) -> None:
        if isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, type) and issubclass(value, enum.Enum):
            self.put(value.__qualname__, [(member.name, member.value) for member in value])
        elif isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
            self.put(value.__qualname__, value._fields)
        elif hasattr(value, "py_func") and hasattr(value, "targetoptions"):  # a kernel or a device function
            self.add(value.py_func)
            self.add(value.targetoptions)
        elif hasattr(value, "_defn") and _of_library(type(value).__module__):  # an intrinsic
            self.add(value._defn)
        elif isinstance(value, (np.dtype, numba.types.Type)) or type(value).__module__.startswith("numba.cuda.types"):
            self.put(type(value).__module__, repr(value))
        elif isinstance(value, types.BuiltinFunctionType) or _of_library(type(value).__module__):
            self.put(type(value).__module__, getattr(value, "__name__", None) or repr(value))
            if " at 0x" in repr(value) or isinstance(value, types.MethodType):
                raise _Unknown(value)
        else:
            raise _Unknown(value)

    def code(self, code: types.CodeType) -> None:
        self.put(code.co_filename, code.co_firstlineno, code.co_name, code.co_flags, code.co_argcount)
        self.put(code.co_code, code.co_linetable, getattr(code, "co_exceptiontable", b""))
        self.put(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.add(code.co_consts)

    def function(self, function: types.FunctionType) -> None:
        names = {name for code in _codes(function.__code__) for name in code.co_names}
        self.add(function.__code__)
        self.add((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents, names)
            except ValueError:
                self.put("empty cell")
        for name in sorted(names & function.__globals__.keys()):
            self.put(name)
            self.add(function.__globals__[name], names)

    def module(self, module: types.ModuleType, names: set[str]) -> None:
        self.put(module.__name__)
        if not _of_library(module.__name__):
            for name in sorted(names & vars(module).keys()):
                self.put(name)
                self.add(vars(module)[name], names)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _key(kernel: Any, signature: tuple[Any, ...], compiler: str, watched: bool = False) -> str | None:
    """The name of a kernel's PTX in the cache, or None if it depends on what has no sound fingerprint."""
    fingerprint = _Fingerprint()
    versions = [getattr(sys.modules.get(name), "__version__", None) for name in ("numba", "numba_cuda", "numpy")]
    fingerprint.put(sys.version, *versions, llvmlite.__version__, llvm.llvm_version_info, CAPABILITY)
    fingerprint.put(watched, compiler, nvvm_version() if compiler == "nvvm" else None, list(map(repr, signature)))
    try:
        fingerprint.put(Path(__file__).read_bytes())
        fingerprint.function(kernel.py_func)
        fingerprint.add(kernel.targetoptions)
    except (_Unknown, OSError, RecursionError):
        return None
    return fingerprint.hash.hexdigest()


def cache_folder() -> Path:
    """The folder of the PTX that is kept: below NUMBA_CACHE_DIR, or where the system keeps a user's caches."""
    home = Path(os.path.expanduser("~"))
    places = {
        "Windows": os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local",
        "Darwin": home / "Library" / "Caches",
    }
    usual = places.get(platform.system(), os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return Path(os.environ.get("NUMBA_CACHE_DIR") or usual) / "cks_numba_emulator"


def _load(key: str) -> str | None:
    try:
        checksum, _, text = (cache_folder() / f"{key}.ptx").read_bytes().partition(b"\n")
    except OSError:
        return None
    return text.decode() if hashlib.sha256(text).hexdigest().encode() == checksum else None


_warned: set[Path] = set()


def _save(key: str, text: str) -> None:
    folder, data = cache_folder(), text.encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with open(handle, "wb") as file:
                file.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
            os.replace(name, folder / f"{key}.ptx")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        if folder not in _warned and _load(key) is None:
            _warned.add(folder)
            warnings.warn(f"compiled kernels cannot be kept in {folder}: {error}", RuntimeWarning, stacklevel=2)


_ptx: WeakKeyDictionary[Any, dict[Any, str]] = WeakKeyDictionary()


def ptx_of(
    kernel: Any,
    arguments: tuple[Any, ...],
    compiler: str | None = None,
    cached: bool = True,
    watched: bool = False,
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
    compiler = compiler or ("nvvm" if nvvm_version() else "llvm")
    if compiler == "nvvm" and not nvvm_version():
        raise RuntimeError("NVVM is not installed: pip install numba-cuda[cu13]")
    known = _ptx.setdefault(kernel, {})
    if (signature, compiler, watched) not in known:
        known[signature, compiler, watched] = _compile(kernel, signature, compiler, cached, watched)
    return known[signature, compiler, watched]


def _type(kernel: Any, number: int, value: Any) -> Any:
    try:
        return kernel.typeof_pyval(plain(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"argument {number} of {kernel.__name__}, {type(value).__name__}: {error}") from error


def _compile(kernel: Any, signature: tuple[Any, ...], compiler: str, cached: bool, watched: bool) -> str:
    key = _key(kernel, signature, compiler, watched) if cached else None
    text = _load(key) if key else None
    if text is None:
        modules, entry = _front_end(kernel, signature, kernel.targetoptions, watched)
        options = kernel.targetoptions
        text = _nvvm_ptx(modules, options) if compiler == "nvvm" else _llvm_ptx(modules, entry, options)
        if key:
            _save(key, text)
    return text


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

DEVICE = SimpleNamespace(
    name="emulated GPU",
    id=0,
    compute_capability=CAPABILITY,
    supports_float16=True,
    supports_bfloat16=True,
    MULTIPROCESSOR_COUNT=108,
    WARP_SIZE=32,
    MAX_THREADS_PER_BLOCK=1024,
    MAX_BLOCK_DIM_X=1024,
    MAX_BLOCK_DIM_Y=1024,
    MAX_BLOCK_DIM_Z=64,
    MAX_GRID_DIM_X=2**31 - 1,
    MAX_GRID_DIM_Y=65535,
    MAX_GRID_DIM_Z=65535,
    MAX_SHARED_MEMORY_PER_BLOCK=49152,
    MAX_THREADS_PER_MULTI_PROCESSOR=2048,
)
"""The device that programs see: the limits of compute capability 8.0 and the multiprocessors of an A100."""


def _three(value: Any, what: str, limits: tuple[int, int, int]) -> tuple[int, int, int]:
    try:
        sizes = [operator.index(size) for size in (value if isinstance(value, (tuple, list)) else [value])]
    except TypeError:
        raise TypeError(f"the {what} must be an integer or 1 to 3 of them, not {value!r}") from None
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"the {what} must have 1 to 3 sizes of at least 1, not {value!r}")
    x, y, z = (*sizes, 1, 1)[:3]
    if any(size > limit for size, limit in zip((x, y, z), limits, strict=True)):
        raise ValueError(f"the {what} {value!r} is over the limits {limits}")
    return x, y, z


def dimensions(grid: Any, block: Any) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Three sizes each of a grid and of a block; what no GPU can launch is a ValueError or a TypeError."""
    grid = _three(grid, "grid", (2**31 - 1, 65535, 65535))
    block = _three(block, "block", (1024, 1024, 64))
    if block[0] * block[1] * block[2] > 1024:
        raise ValueError(f"the block {block!r} has more than 1024 threads")
    return grid, block


class DeviceArray(np.ndarray[Any, Any]):
    """A NumPy array with the methods of Numba's device arrays."""

    __cuda_ndarray__ = True

    def copy_to_host(self, ary: Any = None, stream: Any = 0) -> Any:
        """Copy to the given array or to a new one."""
        if ary is None:
            return np.array(self, order="K", subok=False)
        _copy(ary, self)
        return ary

    def copy_to_device(self, ary: Any, stream: Any = 0) -> None:
        """Copy from an array of the same shape and type."""
        _copy(self, ary)

    def is_c_contiguous(self) -> bool:
        return bool(self.flags.c_contiguous)

    def is_f_contiguous(self) -> bool:
        return bool(self.flags.f_contiguous)


def _copy(target: Any, source: Any) -> None:
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(f"{source.dtype} {source.shape} cannot be copied to {target.dtype} {target.shape}")
    target[...] = source


class _Stream:
    """A stream or an event: all work is done before the next line of the program runs."""

    handle = SimpleNamespace(value=0)

    def __init__(self, *args: Any, **options: Any) -> None:
        self.time = time.perf_counter()

    def record(self, stream: Any = 0) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    wait = record

    def query(self) -> bool:
        return True

    def elapsed_time(self, later: _Stream) -> float:
        return (later.time - self.time) * 1e3

    def auto_synchronize(self) -> Any:
        return nullcontext(self)


def _array(
    shape: Any, dtype: Any = np.float64, strides: Any = None, order: str = "C", *args: Any, **options: Any
) -> Any:
    if strides is not None:
        raise ValueError("the emulator makes no arrays with strides")
    return np.empty(shape, dtype, order).view(DeviceArray)  # type: ignore[call-overload]


def _to_device(obj: Any, stream: Any = 0, copy: bool = True, to: Any = None) -> Any:
    if to is None:
        return np.array(obj, order="K").view(DeviceArray) if copy else _array_like(np.asarray(obj))
    _copy(to, np.asarray(obj))
    return to


def _array_like(ary: Any, stream: Any = 0) -> Any:
    return np.empty_like(ary, subok=False).view(DeviceArray)


def _nothing(*args: Any, **options: Any) -> Any:
    return nullcontext()


_CONTEXT = SimpleNamespace(
    device=DEVICE,
    get_memory_info=lambda: (2**34, 2**34),
    synchronize=_nothing,
    push=_nothing,
    pop=_nothing,
    reset=_nothing,
)

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "to_device": _to_device,
    "device_array": _array,
    "pinned_array": _array,
    "mapped_array": _array,
    "managed_array": _array,
    "device_array_like": _array_like,
    "pinned_array_like": _array_like,
    "mapped_array_like": _array_like,
    "as_cuda_array": lambda obj, sync=True: np.asarray(obj).view(DeviceArray),
    "is_cuda_array": lambda obj: isinstance(obj, DeviceArray),
    "pinned": _nothing,
    "mapped": _nothing,
    "defer_cleanup": _nothing,
    "synchronize": lambda: None,
    "close": lambda: None,
    "stream": _Stream,
    "default_stream": _Stream,
    "legacy_default_stream": _Stream,
    "per_thread_default_stream": _Stream,
    "external_stream": _Stream,
    "event": _Stream,
    "event_elapsed_time": lambda start, end: start.elapsed_time(end),
    "is_available": lambda: True,
    "detect": lambda: True,
    "get_current_device": lambda: DEVICE,
    "select_device": lambda device_id: DEVICE,
    "list_devices": lambda: [DEVICE],
    "current_context": lambda devnum=None: _CONTEXT,
}


_declared: WeakKeyDictionary[Any, list[tuple[Any, ...]]] = WeakKeyDictionary()
"""The signatures of kernels that were declared with some, such as ``@cuda.jit("void(float32[:], int32)")``."""


def _declare(self: Any, signature: Any) -> None:
    """Remember a signature, where Numba would compile it."""
    _declared.setdefault(self, []).append(_numba_cuda().dispatcher.sigutils.normalize_signature(signature)[0])


def _as_declared(kernel: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the signature that comes nearest reads them."""
    given = [numba.typeof(plain(value)) for value in arguments]

    def fits(have: Any, kind: Any) -> bool:
        if not isinstance(kind, numba.types.Array):
            return kernel.typingctx.can_convert(have, kind) is not None
        if not isinstance(have, numba.types.Array) or have.ndim != kind.ndim:
            return False
        return bool(as_dtype(have.dtype).itemsize == as_dtype(kind.dtype).itemsize)

    def strange(kinds: Any) -> int:
        return sum(getattr(a, "dtype", a) != getattr(b, "dtype", b) for a, b in zip(given, kinds, strict=True))

    def cast(value: Any, kind: Any) -> Any:
        if isinstance(kind, numba.types.Array):
            return plain(value).view(as_dtype(kind.dtype))
        number = isinstance(kind, (numba.types.Number, numba.types.Boolean))
        return np.asarray(value).astype(as_dtype(kind))[()] if number else value

    signatures = _declared.get(kernel, [])
    fitting = [kinds for kinds in signatures if len(kinds) == len(given) and all(map(fits, given, kinds))]
    if fitting:
        return tuple(map(cast, arguments, min(fitting, key=strange)))
    if signatures:
        raise TypeError(f"{kernel.__name__} takes {' or '.join(map(str, signatures))}")
    return arguments


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


def _either(ours: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is ours inside `redirected` and the plain one for everybody else."""
    return lambda *args, **options: (plain if _run.get() is None else ours)(*args, **options)


_inside, _changes = [0], ExitStack()


@contextmanager
def redirected(run: Run) -> Iterator[None]:
    """Let `kernel[grid, block, stream, shared](*args)` call `run(kernel, grid, block, shared bytes, args)` here.

    Device arrays, streams and events of `numba.cuda` work without a driver. Other threads see nothing of all this.
    """
    cuda = _numba_cuda()
    kind, launch = cuda.dispatcher.CUDADispatcher, cuda.dispatcher._LaunchConfiguration
    ours = [(cuda, name, function) for name, function in _FUNCTIONS.items() if hasattr(cuda, name)]
    ours += [(kind, "__getitem__", _getitem), (kind, "configure", _configured), (kind, "forall", _forall)]
    ours += [(kind, "specialize", lambda self, *args: self), (kind, "compile", _declare)]
    ours += [(kind, "disable_compile", lambda self, *args: None), (launch, "__call__", _launched)]
    ours += [(cuda.cudadrv.devices._Runtime, "get_or_create_context", lambda self, devnum: _CONTEXT)]
    with _lock:
        if not _inside[0]:
            changes = [(owner, name, _either(function, getattr(owner, name))) for owner, name, function in ours]
            _changes.enter_context(_replaced(*changes))
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
