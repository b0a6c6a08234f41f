"""PTX by LLVM's own back end for GPUs, which is part of llvmlite: what NVVM does, where that is not installed."""

from __future__ import annotations

import re
import threading
from typing import Any

import llvmlite.binding as llvm

LAYOUT = (
    "e-p:64:64:64-i1:8:8-i8:8:8-i16:16:16-i32:32:32-i64:64:64-i128:128:128-f32:32:32-f64:64:64-"
    "v16:16:16-v32:32:32-v64:64:64-v128:128:128-n16:32:64"
)
"""What NVVM says of the sizes of types."""

_lock = threading.Lock()  # a target machine serves one thread at a time
_machines: dict[tuple[str, int], Any] = {}


def compile_ptx(modules: list[str], entry: str, arch: str, level: int, flush: bool) -> str:
    """Compile LLVM IR that Numba wrote for NVVM.

    Parameters
    ----------
    modules : LLVM IR, with the kernel
    entry : the kernel's name
    arch : the GPU, such as "sm_80"
    level : of optimisation, 0 to 3
    flush : whether float32 numbers too small for full precision become 0
    """
    with _lock:
        machine = _machine(arch, level)
        module, *others = (llvm.parse_assembly(_for_llvm(text, flush)) for text in [*modules, _WARP_OPERATIONS])
        for other in others:
            module.link_in(other)
        module.data_layout = str(machine.target_data)
        for function in module.functions:
            if not function.is_declaration and function.name != entry:
                function.linkage = "internal"
        module.verify()
        _optimise(module, machine, level)
        for function in module.functions:
            if _NO_CODE.match(function.name):  # LLVM would end the process
                raise RuntimeError(
                    f"LLVM has no code for {function.name}: with NVVM there is: pip install numba-cuda[cu13]"
                )
        text, calls = _with_numbers(_in_shared_memory(str(module)))
        return _with_callers(machine.emit_assembly(llvm.parse_assembly(text)), calls)


def _machine(arch: str, level: int) -> Any:
    if not _machines:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    if (arch, level) not in _machines:
        target = llvm.Target.from_triple("nvptx64-nvidia-cuda")
        _machines[arch, level] = target.create_target_machine(cpu=arch, opt=level, features="+ptx72")
    return _machines[arch, level]


def _optimise(module: Any, machine: Any, level: int) -> None:
    if hasattr(llvm, "create_pass_builder"):
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=level))
        builder.getModulePassManager().run(module, builder)
    else:  # llvmlite 0.43
        builder, passes = llvm.create_pass_manager_builder(), llvm.create_module_pass_manager()
        builder.opt_level, builder.inlining_threshold = level, 225
        machine.add_analysis_passes(passes)
        builder.populate(passes)
        passes.run(module)


# ---- from LLVM IR for NVVM to what LLVM reads ----

_MATH = re.compile(r'@"?llvm\.(sin|cos|tan|exp|exp10|log|log2|log10|pow|exp2)\.f(32|64)"?')
_NO_CODE = re.compile(
    r"llvm\.(a?(sin|cos|tan)h?|atan2|sincos|exp|exp2|exp10|log|log2|log10|pow|powi|ldexp|frexp|modf)\."
)
_WARP = {  # the operations of NVVM: type, parameters after the mask, PTX for each mode; p is a predicate
    "shfl.sync.i32": (
        "{i32, i1}",
        "i32 %mode, i32 %a, i32 %b, i32 %c",
        [f"shfl.sync.{mode}.b32 $0|p, $4, $5, $6, $2;" for mode in ("idx", "up", "down", "bfly")],
    ),
    "vote.sync": (
        "{i32, i1}",
        "i32 %mode, i1 %a",
        [f"setp.ne.b32 p, $4, 0; vote.sync.{mode}.pred p, p, $2; mov.b32 $0, 0;" for mode in ("all", "any", "uni")]
        + ["setp.ne.b32 p, $4, 0; vote.sync.ballot.b32 $0, p, $2;"],
    ),
    "match.any.sync.i32": ("i32", "i32 %a", ["setp.eq.b32 p, $2, 0; match.any.sync.b32 $0, $3, $2;"]),
    "match.any.sync.i64": ("i32", "i64 %a", ["setp.eq.b32 p, $2, 0; match.any.sync.b64 $0, $3, $2;"]),
    "match.all.sync.i32": ("{i32, i1}", "i32 %a", ["match.all.sync.b32 $0|p, $3, $2;"]),
    "match.all.sync.i64": ("{i32, i1}", "i64 %a", ["match.all.sync.b64 $0|p, $3, $2;"]),
}


def _warp_operation(name: str, kind: str, parameters: str, modes: list[str]) -> str:
    """LLVM IR of an operation of NVVM by assembly; LLVM has other names for these, or none."""
    values = f"i32 %mask, {parameters}".replace("i1 %a", "i32 %w")
    registers = ",".join("l" if value.startswith("i64") else "r" for value in values.split(", "))
    cases = " ".join(f"i32 {mode}, label %m{mode}" for mode in range(len(modes)))
    text = f"define {kind} @warp.{name}(i32 %mask, {parameters}) convergent alwaysinline {{\n"
    text += "  %w = zext i1 %a to i32\n" if "%w" in values else ""
    text += f"  switch i32 {'%mode' if '%mode' in values else 0}, label %none [{cases}]\nnone:\n  unreachable\n"
    for mode, ptx in enumerate(modes):
        asm = f'asm sideeffect "{{ .reg .pred p; {ptx} selp.b32 $1, 1, 0, p; }}", "=r,=r,{registers}"'
        text += f"m{mode}:\n  %v{mode} = call {{i32, i32}} {asm}({values}) convergent\n"
        text += f"  %i{mode} = extractvalue {{i32, i32}} %v{mode}, 0\n"
        if kind == "i32":
            text += f"  ret i32 %i{mode}\n"
        else:
            text += (
                f"  %j{mode} = extractvalue {{i32, i32}} %v{mode}, 1\n  %p{mode} = trunc i32 %j{mode} to i1\n"
                f"  %s{mode} = insertvalue {{i32, i1}} undef, i32 %i{mode}, 0\n"
                f"  %r{mode} = insertvalue {{i32, i1}} %s{mode}, i1 %p{mode}, 1\n  ret {{i32, i1}} %r{mode}\n"
            )
    return text + "}\n"


_WARP_OPERATIONS = "".join(_warp_operation(name, *operation) for name, operation in _WARP.items())
_SHARED = re.compile(r'addrspacecast (\[.*\]) addrspace\(3\)\* (@"_cudapy_smem\S*") to i8\*')


def _for_llvm(text: str, flush: bool) -> str:
    """LLVM IR that was written for NVVM, as LLVM itself reads it."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("target datalayout"))
    text = re.sub(rf'@"llvm\.nvvm\.({"|".join(map(re.escape, _WARP))})"', r"@warp.\1", text)
    text = _MATH.sub(lambda name: f"@__nv_{name[1]}{'f' if name[2] == '32' else ''}", text)
    text = re.sub(r'^(declare [^*\n]*@"?__nv_\w+"?\([^*\n]*\))', r"\1 readnone nounwind", text, flags=re.M)
    # What a warp does in one branch is no part of the other, even if it looks the same: LLVM would merge the two.
    asm = r'(\basm sideeffect "(?!\.pragma)[^"]*", "[^"]*"\s*\([^()]*\))(?! convergent)'
    text = re.sub(asm, r"\1 nomerge convergent", text)
    if flush:
        attribute = '"denormal-fp-math-f32"="preserve-sign,preserve-sign"'
        text = re.sub(r"^(define .*\))", rf"\1 {attribute}", text, flags=re.M)
    for kind, name in set(_SHARED.findall(text)):  # LLVM finds out what an address is divisible by if it is not cast
        text = text.replace(f"addrspacecast {kind} addrspace(3)* {name} to", f"bitcast {kind}* {name} to")
        text = re.sub(rf"^({re.escape(name)} = .*)addrspace\(3\)", r"\1", text, flags=re.M)
    # NVVM multiplies and adds at once where it can.
    return re.sub(r"= (f(?:mul|add|sub)) (?!fast|contract)", r"= \1 contract ", text)


def _in_shared_memory(text: str) -> str:
    """Optimised LLVM IR, with the shared arrays where they belong."""
    for name, kind in re.findall(r"^(@_cudapy_smem\S+) = .*?global (\[[^]]*\])", text, re.M):
        place = rf"{re.escape(name)}(?![\w.])"
        text = re.sub(rf"^({place} = .*?)global", r"\1addrspace(3) global", text, flags=re.M)
        for pointer, shared in (("ptr", "ptr addrspace(3)"), (f"{kind}*", f"{kind} addrspace(3)*")):
            cast = f"{pointer} addrspacecast ({shared} {name} to {pointer})"
            text = re.sub(rf"(?<!\w){re.escape(pointer)} {place}", cast, text)
    return text


# ---- lines of inlined functions: LLVM writes the column of a line into PTX, but not where the line was inlined ----

_Call = tuple[str, str, int]  # file, line, and the number of the call in whose function this one stands; 0 for none


def _with_numbers(text: str) -> tuple[str, list[_Call]]:
    """LLVM IR with the number of its call, from 1, as the column of each inlined line; and the calls."""
    nodes = {
        number: dict(re.findall(r'(\w+): (!\d+|\d+|"[^"]*")', fields))
        for number, fields in re.findall(r"^(!\d+) = (?:distinct )?!DI\w+\((.*)\)$", text, re.M)
    }
    at = dict.fromkeys(node["inlinedAt"] for node in nodes.values() if "inlinedAt" in node)
    numbers = {call: number for number, call in enumerate(at, 1) if number < 2**16}  # columns have 16 bits

    def call(node: dict[str, str]) -> _Call:
        scope = node
        while "file" not in scope:
            scope = nodes[scope["scope"]]
        path = "/".join(nodes[scope["file"]][part].strip('"') for part in ("directory", "filename"))
        # LLVM IR writes some characters as hexadecimal numbers, PTX as octal ones.
        quoted = re.sub(r"\\(..)", lambda code: f"\\{int(code[1], 16):03o}", path)
        return quoted, node["line"], numbers.get(node.get("inlinedAt", ""), 0)

    def numbered(location: re.Match[str]) -> str:
        call = re.search(r"inlinedAt: (!\d+)", location[0])
        return f"{location[1]}column: {numbers.get(call[1], 0) if call else 0}, {location[2]}"

    text = re.sub(r"(!DILocation\(line: \d+, )(?:column: \d+, )?(.*)", numbered, text)
    return text, [call(nodes[number]) for number in numbers]


def _with_callers(ptx: str, calls: list[_Call]) -> str:
    """PTX with the lines of the callers where the columns are numbers of calls, in the form that NVVM writes."""
    files = {path: number for number, path in enumerate(dict.fromkeys(path for path, _, _ in calls), 1000)}

    def location(file: Any, line: str, number: int) -> str:
        here = f".loc\t{file} {line} {number}"
        if not number:
            return here
        path, at, outer = calls[number - 1]
        caller = location(files[path], at, outer)
        return f"{caller}\n\t{here}, function_name $L__inlined, inlined_at {files[path]} {at} {outer}"

    ptx = re.sub(r"\.loc\s+(\d+) (\d+) (\d+)", lambda found: location(found[1], found[2], int(found[3])), ptx)
    names = "".join(f'\t.file\t{number} "{path}"\n' for path, number in files.items())
    return f"{ptx.strip()}\n{names}\t.section\t.debug_str {{\n$L__inlined:\n\t.b8 0\n\t}}\n"
