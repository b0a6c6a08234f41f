"""Read PTX, the assembly language of NVIDIA GPUs, as compilers write it: one kernel, as a list of instructions.

Functions that the kernel calls are put in place of their calls, so that a barrier may stand in them too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

BITS = {
    "pred": 1, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16, "b32": 32, "u32": 32,
    "s32": 32, "f32": 32, "f16x2": 32, "bf16x2": 32, "tf32": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64,
    "b128": 128,
}  # fmt: skip
REGISTER = re.compile(r"%[\w.$]+")
Source = tuple[tuple[str, int], ...]


class PTXError(Exception):
    """PTX that the emulator does not know."""


class Instruction(NamedTuple):
    """One instruction, or a label."""

    op: tuple[str, ...]  # the mnemonic, split at its dots: ("ld", "global", "f32"); empty for a label
    args: tuple[str, ...]  # the operands
    line: int  # line number in the PTX text, from 1
    text: str = ""
    guard: tuple[bool, str] | None = None  # the predicate that must be true, or false if the first is True
    label: str | None = None
    source: Source = ()  # file and line of the Python code, the innermost function first; empty if not known


@dataclass
class Memory:
    """Variables of one memory space, one after the other."""

    gap: int = 0
    offsets: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    bytes: int = 0

    def add(self, name: str, size: int, align: int) -> None:
        """Place a variable after the others, with a gap between, so that no index past its end lands in the next."""
        start = self.bytes + (self.gap if self.offsets else 0)
        self.offsets[name] = -(-start // align) * align
        self.sizes[name] = size
        self.bytes = self.offsets[name] + size


@dataclass
class Kernel:
    """A kernel, or a function that one calls."""

    name: str
    parameters: Memory = field(default_factory=Memory)
    results: Memory = field(default_factory=Memory)
    registers: dict[str, str] = field(default_factory=dict)
    body: list[Instruction] = field(default_factory=list)
    local: Memory = field(default_factory=Memory)
    buffers: Memory = field(default_factory=Memory)  # arguments and results of the functions that are called
    shared: Memory = field(default_factory=lambda: Memory(gap=256))
    dynamic: list[str] = field(default_factory=list)  # shared variables whose size the launch gives, all at one place
    constants: Memory = field(default_factory=lambda: Memory(gap=64))
    values: dict[str, bytes] = field(default_factory=dict)  # of constants
    targets: dict[str, list[str]] = field(default_factory=dict)  # of jumps by number

    @property
    def shared_bytes(self) -> int:
        """Bytes of static shared memory that a GPU would reserve."""
        return sum(self.shared.sizes.values())

    @property
    def local_bytes(self) -> int:
        return self.local.bytes

    def followers(self) -> list[list[int]]:
        """The numbers of the instructions that may come after each one."""
        places, found = {i.label: j for j, i in enumerate(self.body)}, []
        for j, i in enumerate(self.body):
            op = i.op[0] if i.op else ""
            jumps = [i.args[0]] if op == "bra" else self.targets[i.args[1]] if op == "brx" else []
            falls = [j + 1] if i.guard or op not in ("bra", "brx", "ret", "exit") else []
            found.append([*falls, *(places[label] for label in jumps)])
        return found


def parse(text: str) -> Kernel:
    """Read the one kernel of a PTX text.

    Raises
    ------
    PTXError
        For anything that is not known.

    Examples
    --------
    >>> kernel = parse(".visible .entry nothing(.param .u64 p) { .reg .b32 %r<2>; mov.u32 %r1, %tid.x; ret; }")
    >>> kernel.name, kernel.parameters.offsets, [i.op[0] for i in kernel.body]
    ('nothing', {'p': 0}, ['mov', 'ret'])
    """
    return _Parser(text).kernel()


_TOKEN = re.compile(
    r"""\s*(?: (?P<brace>[{}]) | (?P<label>[$\w]+):(?!:) | \.loc\s+(?P<loc>[^\n]*)\n |
    \.pragma\s+"(?P<pragma>[^"]*)"\s*; | (?P<section>\.section\s+\S+\s*\{[^}]*\}) |
    (?P<statement>[.@%\w](?:[^;{}]|\{[^{};]*\})*);)""",
    re.X,
)
_OP = re.compile(r"(?:@(!?)\s*(%[\w.$]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.S)
_DECLARATION = re.compile(
    r"(?:\.(?:visible|extern|weak|common)\s+)*\.(shared|global|const|local|param)\s+(?:\.attribute\S*\s+)?"
    r"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?([\w$%.]+)((?:\[\d*\])*)\s*(?:=\s*(.*))?$",
    re.S,
)
_VARIABLE = re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.(?:shared|global|const)\s.*$", re.S)
_LOC = re.compile(r"(\d+) (\d+) (\d+)(?:.*inlined_at (\d+) (\d+) (\d+))?")
_FUNCTION = re.compile(
    r"(?P<kind>\.entry|\.func)\s+(?:\((?P<results>[^)]*)\)\s*)?(?P<name>[\w$]+)\s*(?:\((?P<parameters>[^)]*)\))?[^;{]*(?P<end>[;{])"
)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = re.sub(r"//[^\n]*", "", text)
        self.files = files(text)
        self.functions: dict[str, Kernel] = {}
        self.chains: dict[tuple[str, ...], Source] = {}
        self.inlined = 0

    def kernel(self) -> Kernel:
        entry = None
        between, at = "", 0  # the text outside functions, which declares variables
        for found in _FUNCTION.finditer(self.text):
            if found.start() < at:
                continue
            between, at = between + self.text[at : found.start()] + ";", found.end()
            if found["end"] == "{":
                function = self.functions[found["name"]] = Kernel(found["name"])
                for memory, text in ((function.parameters, "parameters"), (function.results, "results")):
                    for one in filter(str.strip, (found[text] or "").split(",")):
                        self._place(memory, one.strip())
                at = self._body(function, found.end())
                entry = function if found["kind"] == ".entry" else entry
        if entry is None:
            raise PTXError("there is no kernel in the PTX")
        for one in (between + self.text[at:]).split(";"):
            if variable := _VARIABLE.search(one):
                self._declare(entry, variable[0].rstrip())
        entry.body = list(self._with_calls(entry, entry, ()))
        for name in entry.dynamic[:1]:  # the last one: its end is not known
            entry.shared.add(name, 0, 128)
        return entry

    def _place(self, memory: Memory, text: str) -> None:
        """Add a declared variable to a memory space."""
        found = _DECLARATION.match(text)
        if not found:
            raise PTXError(f"PTX declares something unknown: {text[:100]}")
        _, align, kind, name, dimensions, _ = found.groups()
        size = BITS[kind] // 8
        lengths = [int(d or 0) for d in re.findall(r"\[(\d*)\]", dimensions)]
        memory.add(name, size * math.prod(lengths), int(align or size))

    def _declare(self, kernel: Kernel, text: str) -> None:
        """Declare a shared, constant or global variable of a module."""
        space, _, kind, name, dimensions, value = _DECLARATION.match(text).groups()  # type: ignore[union-attr]
        if space == "shared" and dimensions.endswith("[]"):
            kernel.dynamic.append(name)
            return
        self._place(kernel.shared if space == "shared" else kernel.constants, text)
        if space == "shared":
            return
        numbers = [immediate(v) or 0 for v in re.split(r"[\s,{}]+", value or "") if v]
        try:
            data = b"".join(number.to_bytes(BITS[kind] // 8, "little") for number in numbers)
        except OverflowError:
            raise PTXError(f"PTX has an initial value that is not known: {text[:100]}") from None
        kernel.values[name] = data.ljust(kernel.constants.sizes[name], b"\0")

    # --- the body of a function
    def _body(self, function: Kernel, start: int) -> int:
        """Read the instructions up to the brace that ends the function; return where it is."""
        scopes: list[dict[str, str]] = [{}]
        source: Source = ()
        at, line, counted = start, 1 + self.text.count("\n", 0, start), start
        while True:
            found = _TOKEN.match(self.text, at)
            if not found or found.lastgroup is None and at == found.end():
                raise PTXError(f"line {line} of the PTX: {self.text[at : at + 80].strip()!r}")
            at = found.end()
            if found.lastgroup is None or found["section"]:
                continue
            begin = found.start(found.lastgroup)
            line += self.text.count("\n", counted, begin)
            counted = begin
            if found["brace"] == "{":
                scopes.append({})
            elif found["brace"]:
                scopes.pop()
                if not scopes:
                    return at
            elif found["label"]:
                function.body.append(Instruction((), (), line, label=found["label"]))
            elif found["pragma"] is not None:
                word, _, rest = found["pragma"].partition(" ")  # notes that hooks.py has put there
                if word in ("raise", "index"):
                    args = (rest,) if word == "index" else ()
                    function.body.append(Instruction((word,), args, line, found["pragma"], None, None, source))
            elif found["loc"]:
                source = self._source(found["loc"], source)
            else:
                self._statement(function, scopes, " ".join(found["statement"].split()), line, source)

    def _source(self, loc: str, before: Source) -> Source:
        found = _LOC.match(loc)
        if not found or found[2] == "0":
            return before
        here, inlined_at = found.groups()[:3], found.groups()[3:]
        chain: Source = ((self.files.get(int(here[0]), "?"), int(here[1])),)
        if inlined_at[0] and inlined_at[1] != "0":
            caller = ((self.files.get(int(inlined_at[0]), "?"), int(inlined_at[1])),)
            chain += self.chains.get(inlined_at, caller)
            self.chains[here] = chain
        return chain

    def _statement(self, function: Kernel, scopes: list[dict[str, str]], text: str, line: int, source: Source) -> None:
        if text.startswith(".reg"):
            _, kind, names = text.split(" ", 2)
            for name in names.split(","):
                for one in _numbered(name.strip()):
                    function.registers[self._scoped(scopes, one, one in function.registers)] = kind[1:]
        elif text.startswith(".branchtargets"):
            function.targets[function.body.pop().label or ""] = split(text.split(" ", 1)[1])
        elif text.startswith((".local", ".shared")):
            self._place(function.local if text.startswith(".local") else function.shared, text)
        elif text.startswith(".param"):
            name = _DECLARATION.match(text)[4]  # type: ignore[index]
            scoped = self._scoped(scopes, name, name in function.buffers.offsets)
            self._place(function.buffers, text.replace(name, scoped))
        elif found := _OP.match(text):
            negated, predicate, op, operands = found.groups()
            known = {old: new for scope in scopes for old, new in scope.items()}
            predicate, args = known.get(predicate, predicate), split(_renamed(operands, known))
            guard = (bool(negated), predicate) if predicate else None
            mnemonic = tuple(op.replace("::", ".").split("."))
            function.body.append(Instruction(mnemonic, tuple(args), line, text, guard, None, source))
        else:
            raise PTXError(f"line {line} of the PTX: {text}")

    def _scoped(self, scopes: list[dict[str, str]], name: str, taken: bool) -> str:
        """The name under which a variable of the innermost scope goes, which is new if another scope has it."""
        if taken:
            self.inlined += 1
            scopes[-1][name] = f"{name}.{self.inlined}"
        return scopes[-1].get(name, name)

    # --- calls
    def _with_calls(self, entry: Kernel, function: Kernel, callers: tuple[str, ...]) -> Iterator[Instruction]:
        """The instructions of a function, with the bodies of those that it calls."""
        callers = (*callers, function.name)
        for instruction in function.body:
            results, name, arguments = called(instruction) if instruction.op[:1] == ("call",) else ([], "", [])
            if name in callers:
                raise PTXError(f"{name} calls itself: the emulator knows no recursion")
            if name in self.functions:
                yield from self._inlined(entry, self.functions[name], results, arguments, instruction, callers)
            else:
                yield instruction

    def _inlined(
        self, entry: Kernel, callee: Kernel, results: list[str], arguments: list[str], call: Instruction, callers: Any
    ) -> Iterator[Instruction]:
        self.inlined += 1
        labels = [i.label for i in callee.body if i.label]
        own = (*callee.registers, *callee.buffers.sizes, *callee.local.sizes, *callee.targets, *labels)
        names = {name: f"{name}.{self.inlined}" for name in own}
        entry.registers |= {names[r]: kind for r, kind in callee.registers.items()}
        entry.targets |= {names[table]: [names[t] for t in targets] for table, targets in callee.targets.items()}
        for ours, theirs in ((entry.buffers, callee.buffers), (entry.local, callee.local)):
            for name, size in theirs.sizes.items():
                ours.add(names[name], size, 16)
        names |= zip(callee.parameters.offsets, arguments, strict=True)
        names |= zip(callee.results.offsets, results, strict=True)
        end = f"$end.{self.inlined}"
        for i in self._with_calls(entry, callee, callers):
            guard = (i.guard[0], names.get(i.guard[1], i.guard[1])) if i.guard else None
            source = i.source + call.source
            if i.op[:1] == ("ret",):
                yield Instruction(("bra",), (end,), i.line, i.text, guard, None, source)
            else:
                args, label = tuple(_renamed(arg, names) for arg in i.args), i.label and names.get(i.label, i.label)
                yield i._replace(args=args, guard=guard, label=label, source=source)
        yield Instruction((), (), call.line, label=end, source=call.source)


def files(text: str) -> dict[int, str]:
    r"""The names of source files by their numbers; PTX writes bytes that are not ASCII as octal numbers.

    >>> files(r'.file 1 "/home/j\303\266rg/a.py"')
    {1: '/home/jörg/a.py'}
    """
    quoted = re.findall(r'\.file\s+(\d+)\s+"((?:[^"\\]|\\.)*)"', text)
    return {int(n): name.encode().decode("unicode_escape").encode("latin1").decode() for n, name in quoted}


def watches(text: str) -> bool:
    """Whether any index that hooks.py has marked in PTX may be below zero: one that is not a constant.

    >>> watches('mov.u64 %rd1, 7; .pragma "index %rd1";'), watches('.pragma "index %rd2";')
    (False, True)
    """
    constants = {register for register in re.findall(r"mov\.[usb]64\s+(%\w+), \d+;", text)}
    return any(not mark.isdigit() and mark not in constants for mark in re.findall(r'\.pragma\s+"index ([^"]*)"', text))


def loops(body: list[Instruction]) -> set[int]:
    """The numbers of the instructions between a label and a later jump back to it."""
    places = {i.label: j for j, i in enumerate(body) if i.label}
    jumps = ((places[i.args[0]], j) for j, i in enumerate(body) if i.op[:1] == ("bra",))
    return {k for first, last in jumps for k in range(first, last)}


def called(call: Instruction) -> tuple[list[str], str, list[str]]:
    """The results, name and arguments of a call."""
    args = [a.strip() for a in call.args]
    results = split(args.pop(0)[1:-1]) if args[0].startswith("(") else []
    return results, args[0], split(args[1][1:-1]) if len(args) > 1 and args[1].startswith("(") else []


def split(text: str) -> list[str]:
    """The operands, between commas that stand outside brackets."""
    if "{" not in text and "(" not in text:
        return [part.strip() for part in text.split(",")] if text else []
    return [part.strip() for part in re.split(r",(?![^{(\[]*[})\]])", text)]


def immediate(text: str) -> int | None:
    """The bits of a number in PTX, or None if the text is no number."""
    if re.fullmatch(r"0[fFdD][0-9a-fA-F]+", text):
        return int(text[2:], 16)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return int(text.rstrip("U"), 0)
    return None


def _numbered(name: str) -> list[str]:
    """%r<3> declares %r0, %r1 and %r2."""
    found = re.fullmatch(r"(%?[\w.$]+)<(\d+)>", name)
    return [f"{found[1]}{k}" for k in range(int(found[2]))] if found else [name]


def _renamed(text: str, names: dict[str, str]) -> str:
    return re.sub(r"[%$\w][\w.$]*", lambda m: names.get(m[0], m[0]), text) if names else text
