"""A kernel in PTX as a function in LLVM IR, ``kernel(context, frame)``, that runs one thread until it has to wait.

A thread waits at barriers and at warp operations. There the function saves the registers that live on in the frame of
the thread and returns the number of the point; called again, it goes on from there. The scheduler (runtime.py) calls
it for one thread after another. All addresses are 64-bit integers, and become pointers where memory is touched.

Checked code asks a function of runtime.py about every access first, and goes on with the address that it returns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from . import instructions, layout
from .faults import Site
from .instructions import FLOATS, llvm_type
from .ptx import BITS, REGISTER, Instruction, Kernel, PTXError, called, immediate, split

SPACES = ("global", "shared", "local", "param", "const")
WAITS = {
    "bar": layout.BARRIER, "barrier": layout.BARRIER, "shfl": layout.SHUFFLE, "vote": layout.VOTE,
    "match": layout.MATCH, "activemask": layout.ACTIVE, "redux": layout.REDUCE, "ldmatrix": layout.LDMATRIX,
    "mma": layout.MMA,
}  # fmt: skip
MODES = {  # of warp operations, by a part of their mnemonic
    layout.SHUFFLE: ("idx", "up", "down", "bfly"),
    layout.VOTE: ("all", "any", "uni", "ballot"),
    layout.MATCH: ("any", "all"),
    layout.REDUCE: ("add", "min", "max", "and", "or", "xor"),
    layout.MMA: ("tf32", "f16", "bf16"),
    layout.BARRIER: ("sync", "popc", "and", "or"),
}


class Translator:
    """The translation of one kernel.

    Attributes
    ----------
    sites : list of Site
        Instructions that touch memory, in checked code; the number of a site is its index.
    points : list of Instruction
        Where threads wait; the number of a point is its index, from 1.
    kinds : list of int
        What is waited for at each point.
    """

    kernel: Kernel
    checked: bool
    count: int
    places: dict[str, int]
    loops: set[int]
    saved: dict[int, list[str]]
    buffers_at: int
    frame_bytes: int
    framed: bool

    def __init__(self, kernel: Kernel, checked: bool) -> None:
        self.kernel, self.checked = kernel, checked
        self.lines: list[str] = []
        self.declared: set[str] = set()
        self.sites: list[Site] = []
        self.points: list[Instruction] = []
        self.kinds: list[int] = []
        self.count = 0
        self.places = {i.label: j for j, i in enumerate(kernel.body) if i.label}
        self.loops = self._loops()
        self.saved = _live_at(kernel, [j for j, i in enumerate(kernel.body) if self._waits(j, i)])
        self.slots: dict[str, int] = {}
        for register in sorted({r for registers in self.saved.values() for r in registers}):
            self.slots[register] = layout.FRAME + len(self.slots)
        self.buffers_at = -(-(layout.FRAME + len(self.slots)) // 8) * 64
        # What a called function gets must outlast its barriers.
        self.frame_bytes = self.buffers_at + (-(-kernel.buffers.bytes // 64) * 64 if self.saved else 0)
        # With many points it is cheaper to keep registers in the frame all the time than to save them at each point.
        self.framed = sum(map(len, self.saved.values())) > 3 * len(kernel.body)

    def _loops(self) -> set[int]:
        """Numbers of the instructions that lie between a label and a later jump back to it."""
        inside: set[int] = set()
        for j, i in enumerate(self.kernel.body):
            if i.op[:1] == ("bra",) and self.places[i.args[0]] < j:
                inside.update(range(self.places[i.args[0]], j))
        return inside

    def _waits(self, j: int, i: Instruction) -> bool:
        return bool(i.op) and (i.op[0] in WAITS or self._yields(j, i))

    def _yields(self, j: int, i: Instruction) -> bool:
        """Whether a thread lets others run after this instruction: in a loop that may wait for them."""
        return j in self.loops and (i.op[0] == "atom" or i.op[0] == "ld" and bool({"volatile", "acquire"} & set(i.op)))

    # --- LLVM IR
    def emit(self, text: str) -> None:
        self.lines.append("  " + text)

    def let(self, text: str) -> str:
        """Emit an instruction with a result; return the name of the result."""
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def label(self, hint: str = "b") -> str:
        self.count += 1
        return f"{hint}.{self.count}"

    def begin(self, name: str, falls: bool = True) -> None:
        """Begin a block; `falls` if the one before goes on into it."""
        if falls:
            self.emit(f"br label %{name}")
        self.lines.append(f"{name}:")

    def call(self, name: str, result: str, *args: str) -> str:
        self.declared.add(f"declare {result} @{name}({', '.join(a.rsplit(' ', 1)[0] for a in args)})")
        text = f"call {result} @{name}({', '.join(args)})"
        if result == "void":
            self.emit(text)
            return ""
        return self.let(text)

    def word(self, index: int, base: str = "%frame") -> str:
        """The address of a 64-bit number of the frame or the context."""
        return self.let(f"getelementptr i64, i64* {base}, i64 {index}")

    def load_word(self, index: int, base: str = "%frame") -> str:
        return self.let(f"load i64, i64* {self.word(index, base)}")

    def store_word(self, index: int, value: str) -> None:
        self.emit(f"store i64 {value}, i64* {self.word(index)}")

    def widened(self, value: str, kind: str) -> str:
        """The bits of a value as a 64-bit integer."""
        bits = BITS[kind]
        if kind in FLOATS:
            value = self.let(f"bitcast {llvm_type(kind)} {value} to i{bits}")
        return value if bits == 64 else self.let(f"zext i{bits} {value} to i64")

    # --- registers and operands
    def home(self, register: str) -> str:
        return f"%R.{register[1:]}" if register[0] == "%" else f"%S.{register}"

    def value(self, operand: str, kind: str) -> str:
        """The value of an operand, read as a PTX type."""
        want = llvm_type(kind)
        if operand.startswith("!"):
            return self.let(f"xor i1 {self.value(operand[1:], 'pred')}, true")
        if operand in self.kernel.registers or operand == "%carry":
            have = self._type(operand)
            return self._as(self.let(f"load {have}, {have}* {self.home(operand)}"), have, want, kind)
        if (number := immediate(operand)) is not None:
            return _constant(operand, number, kind)
        if operand.startswith("%") or operand == "WARP_SZ":
            value, have = self._special(operand)
            return self._as(value, have, want, kind)
        return self._as(self._symbol(operand), "i64", want, kind)

    def _symbol(self, name: str) -> str:
        """The address of a variable; in shared memory, how far it is from the first byte."""
        kernel = self.kernel
        name, _, offset = name.partition("+")
        more = int(offset or 0)
        name = kernel.dynamic[0] if name in kernel.dynamic else name
        if name in kernel.shared.offsets:
            return str(kernel.shared.offsets[name] + more)
        for memory, base in (
            (kernel.local, "%local"),
            (kernel.constants, "%constants"),
            (kernel.parameters, "%parameters"),
        ):
            if name in memory.offsets:
                return self.let(f"add i64 {base}, {memory.offsets[name] + more}")
        if name in kernel.buffers.offsets:
            return self.let(f"add i64 %buffers, {kernel.buffers.offsets[name] + more}")
        raise PTXError(f"unknown operand {name}")

    def set(self, register: str, kind: str, value: str) -> None:
        """Write a register."""
        if register != "_":
            have = self._type(register)
            value = self._as(value, llvm_type(kind), have, kind)
            self.emit(f"store {have} {value}, {have}* {self.home(register)}")

    def _type(self, register: str) -> str:
        if register == "%carry":
            return "i1"
        if register not in self.kernel.registers:
            raise PTXError(f"unknown register {register}")
        return llvm_type(self.kernel.registers[register])

    def _as(self, value: str, have: str, want: str, kind: str) -> str:
        """A value as another type: the same bits, cut or extended to the new width."""
        if have == want:
            return value
        floats = {"float": 32, "double": 64}
        have_bits, want_bits = (floats.get(t) or int(t[1:]) for t in (have, want))
        if have in floats:
            value = self.let(f"bitcast {have} {value} to i{have_bits}")
        if have_bits > want_bits:
            value = self.let(f"trunc i{have_bits} {value} to i{want_bits}")
        elif have_bits < want_bits:
            value = self.let(f"{'sext' if kind[0] == 's' else 'zext'} i{have_bits} {value} to i{want_bits}")
        return self.let(f"bitcast i{want_bits} {value} to {want}") if want in floats else value

    def _special(self, name: str) -> tuple[str, str]:
        """The value and type of a special register."""
        if found := re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.([xyz])", name):
            return "%" + {"tid": "tid_", "ntid": "block_", "ctaid": "block_id_", "nctaid": "grid_"}[found[1]] + found[
                2
            ], "i64"
        lane = self.let("and i64 %thread, 31")
        if name == "%laneid":
            return lane, "i64"
        if name == "%warpid":
            return self.let("lshr i64 %thread, 5"), "i64"
        if found := re.fullmatch(r"%lanemask_(eq|lt|le|gt|ge)", name):
            one = self.let(f"shl i64 1, {lane}")
            below = self.let(f"sub i64 {one}, 1")
            through = self.let(f"or i64 {below}, {one}")
            masks = {"eq": one, "lt": below, "le": through}
            masks |= {"gt": f"xor i64 {through}, -1", "ge": f"xor i64 {below}, -1"}
            mask = masks[found[1]]
            return mask if mask.startswith("%") else self.let(mask), "i64"
        if name in ("%clock", "%clock64", "%clock_hi", "%globaltimer", "%globaltimer_lo"):
            return self.call("llvm.readcyclecounter", "i64"), "i64"
        if name in ("%dynamic_smem_size", "%total_smem_size"):
            size = self.load_word(layout.SHARED_BYTES, "%context")
            static = self.kernel.shared.bytes if "dynamic" in name else 0
            return self.let(f"sub i64 {size}, {static}"), "i64"
        constants = {"%smid": 0, "%nsmid": 1, "%gridid": 0, "WARP_SZ": 32}
        if name in constants:
            return str(constants[name]), "i64"
        raise PTXError(f"unknown special register {name}")

    # --- the whole function
    def translate(self) -> str:
        """The LLVM IR of the function and of what it declares."""
        self._enter()
        falls = True
        for j, i in enumerate(self.kernel.body):
            if i.label:
                self.begin(_block(i.label), falls)
                falls = True
                continue
            if not falls:
                self.begin(self.label("dead"), False)
            try:
                falls = self._guarded(j, i)
            except (PTXError, KeyError, IndexError, ValueError) as error:
                where = f" (line {i.source[0][1]} of {i.source[0][0]})" if i.source else ""
                reason = f": {error}" if isinstance(error, PTXError) else ""
                raise PTXError(f"the emulator does not know the PTX instruction {i.text!r}{where}{reason}") from None
        if falls:
            self.emit("ret i64 -1")
        body = ["define i64 @kernel(i64* noalias %context, i64* noalias %frame) {", "entry:", *self.lines, "}"]
        return "\n".join([*sorted(self.declared), *body, "!0 = !{}"])

    def _enter(self) -> None:
        """Load what stays the same, make room for registers, and go to where the thread waits."""
        named = [f"{name}_{axis}" for name in ("grid", "block", "block_id") for axis in "xyz"]
        for name in (*named, "parameters", "constants", "shared"):
            self.emit(f"%at_{name} = getelementptr i64, i64* %context, i64 {getattr(layout, name.upper())}")
            self.emit(f"%{name} = load i64, i64* %at_{name}")
        for name, k in (("tid_x", 0), ("tid_y", 1), ("tid_z", 2), ("thread", 3), ("state", 4)):
            self.emit(f"%at_{name} = getelementptr i64, i64* %frame, i64 {k}")
            self.emit(f"%{name} = load i64, i64* %at_{name}")
        self.emit("%frame_number = ptrtoint i64* %frame to i64")
        self.emit(f"%local = add i64 %frame_number, {self.frame_bytes}")
        if self.kernel.buffers.bytes and self.saved:
            self.emit(f"%buffers = add i64 %frame_number, {self.buffers_at}")
        elif self.kernel.buffers.bytes:
            self.emit(f"%buffer = alloca [{self.kernel.buffers.bytes} x i8], align 16")
            self.emit(f"%buffers = ptrtoint [{self.kernel.buffers.bytes} x i8]* %buffer to i64")
        self.emit("%R.carry = alloca i1")
        self.emit("%row = alloca i64")
        for register, kind in self.kernel.registers.items():
            t = llvm_type(kind)
            if self.framed and register in self.slots:
                at = self.word(self.slots[register])
                self.emit(f"{self.home(register)} = bitcast i64* {at} to {t}*")
            else:
                self.emit(f"{self.home(register)} = alloca {t}")
        resume = " ".join(f"i64 {k}, label %resume.{k}" for k in range(1, 1 + len(self.saved)))
        self.emit(f"switch i64 %state, label %start [{resume}]")
        self.begin("start", False)

    def _guarded(self, j: int, i: Instruction) -> bool:
        """Translate an instruction; return whether what follows it may be reached from it."""
        if i.op[0] == "bra":
            return self._jump(j, i)
        after = None
        if i.guard:
            negated, predicate = i.guard
            condition, then, after = self.value(predicate, "pred"), self.label("if"), self.label("fi")
            yes, no = (after, then) if negated else (then, after)
            self.emit(f"br i1 {condition}, label %{yes}, label %{no}")
            self.begin(then, False)
        falls = self._instruction(j, i)
        if after:
            self.begin(after, falls)
        return falls or after is not None

    def _instruction(self, j: int, i: Instruction) -> bool:
        op = i.op[0]
        if op in ("ret", "exit", "trap"):
            if op == "trap" and self.checked:
                self._report(layout.ASSERTION, i)
            self.emit("ret i64 -1")
            return False
        if op == "brx":
            self._jump_by_number(i)
            return False
        if op in WAITS:
            self._wait(j, i)
        elif op in ("ld", "ldu", "st"):
            self._move(i)
        elif op in ("atom", "red"):
            self._atomic(i)
        elif op == "cp":
            self._copy_async(i)
        elif op == "call":
            self._call(i)
        elif op == "cvta":
            self._change_space(i)
        elif op in ("raise", "index"):
            if self.checked and op == "raise":
                self._report(layout.ASSERTION, i)
            elif self.checked:
                self._check_index(i)
        else:
            instructions.compute(self, i)
        if self._yields(j, i):
            self._suspend(j, i, layout.YIELD)
        return True

    # --- jumps
    def _jump(self, j: int, i: Instruction) -> bool:
        to = _block(i.args[0])
        if self.checked and self.places[i.args[0]] < j:
            steps = self.let(f"add i64 {self.load_word(layout.STEPS)}, 1")
            self.store_word(layout.STEPS, steps)
            stop, go = self.label("stop"), self.label("go")
            # Volatile, because Ctrl-C sets the limit to 0 while the loop runs.
            limit = self.let(f"load volatile i64, i64* {self.word(layout.LIMIT, '%context')}")
            self.emit(f"br i1 {self.let(f'icmp ugt i64 {steps}, {limit}')}, label %{stop}, label %{go}")
            self.begin(stop, False)
            self._report(layout.ENDLESS, i)
            self.emit("ret i64 -1")
            self.begin(go, False)
        if not i.guard:
            self.emit(f"br label %{to}")
            return False
        after, condition = self.label("n"), self.value(i.guard[1], "pred")
        yes, no = (after, to) if i.guard[0] else (to, after)
        self.emit(f"br i1 {condition}, label %{yes}, label %{no}")
        self.begin(after, False)
        return True

    def _jump_by_number(self, i: Instruction) -> None:
        number = self.value(i.args[0], "u32")
        labels = [_block(label) for label in self.kernel.targets[i.args[1]]]
        cases = " ".join(f"i32 {k}, label %{label}" for k, label in enumerate(labels))
        self.emit(f"switch i32 {number}, label %{labels[-1]} [{cases}]")

    # --- waiting
    def _suspend(self, j: int, i: Instruction, kind: int) -> None:
        """Save the registers that are needed later, return to the scheduler, and go on here when called again."""
        self.points.append(i)
        self.kinds.append(kind)
        point = len(self.points)
        registers = [] if self.framed else self.saved[j]
        places = []
        for r in registers:
            t = self._type(r)
            value = self.let(f"load {t}, {t}* {self.home(r)}")
            places.append((r, t, self.let(f"bitcast i64* {self.word(self.slots[r])} to {t}*")))
            self.emit(f"store {t} {value}, {t}* {places[-1][2]}")
        self.emit(f"ret i64 {point}")
        self.begin(f"resume.{point}", False)
        for r in registers:
            t = self._type(r)
            place = self.let(f"bitcast i64* {self.word(self.slots[r])} to {t}*")
            self.emit(f"store {t} {self.let(f'load {t}, {t}* {place}')}, {t}* {self.home(r)}")

    def _wait(self, j: int, i: Instruction) -> None:
        """Hand the operands of a barrier or warp operation over, wait, and take the results."""
        kind, args = WAITS[i.op[0]], list(i.args)
        if kind == layout.BARRIER and "warp" in i.op:
            kind = layout.SYNC
        mode = next((k for k, m in enumerate(MODES.get(kind, ())) if m in i.op), 0)
        results: list[tuple[str, str]] = []
        operands: list[tuple[str, str]] = []
        mask = "-1"
        if kind == layout.BARRIER:
            if "arrive" in i.op or mode == 0 and len(args) > 1 or mode and len(args) > 3:
                raise PTXError("barriers for some of the threads of a block are not known")
            if mode:
                results, operands = [(args[0], "pred" if mode > 1 else "u32")], [(args[2], "pred")]
            mode += 8 * (immediate(args[1 if mode else 0]) or 0)
        elif kind == layout.SYNC:
            mask = args[0]
        elif kind == layout.ACTIVE:
            results = [(args[0], "b32")]
        elif kind in (layout.SHUFFLE, layout.MATCH):
            width = i.op[-1]
            value, *predicate = args[0].split("|")
            results = [(value, width if kind == layout.SHUFFLE else "b32")] + [(p, "pred") for p in predicate]
            operands = [(args[1], width)] + [(a, "b32") for a in args[2:-1]]
            mask = args[-1]
        elif kind in (layout.VOTE, layout.REDUCE):
            if i.op[1] != "sync":
                raise PTXError("only warp operations with a mask are known")
            results, operands, mask = (
                [(args[0], i.op[-1])],
                [(args[1], i.op[-1] if kind == layout.REDUCE else "pred")],
                args[2],
            )
            mode += 8 * (i.op[-1] == "s32")
        elif kind == layout.LDMATRIX:
            if i.op[-1] != "b16" or "m8n8" not in i.op:
                raise PTXError("only ldmatrix of 8x8 elements of 16 bits is known")
            results = [(r, "b32") for r in split(args[0][1:-1])]
            operands = [(self._row(i, args[1], 8 * len(results)), "word")]
            mode = len(results) + 8 * ("trans" in i.op)
        elif kind == layout.MMA:
            results, operands, mode = self._mma(i)
        self._store_operands(operands)
        self.store_word(
            layout.MASK,
            self.value(mask, "u64") if mask == "-1" else self.let(f"zext i32 {self.value(mask, 'b32')} to i64"),
        )
        self.store_word(layout.DETAIL, str(mode))
        self._suspend(j, i, kind)
        for k, (register, t) in enumerate(results):
            word = self.load_word(layout.EXCHANGE + k)
            value = word if BITS[t] == 64 else self.let(f"trunc i64 {word} to i{BITS[t]}")
            self.set(register, {64: "b64", 32: "b32", 16: "b16", 1: "pred"}[BITS[t]], value)

    def _store_operands(self, operands: list[tuple[str, str]]) -> None:
        for k, (operand, t) in enumerate(operands):
            value = operand if t == "word" else self.widened(self.value(operand, t), t)
            self.store_word(layout.EXCHANGE + k, value)

    def _row(self, i: Instruction, text: str, lanes: int) -> str:
        """The real address of a row of 16 bytes, which only the first lanes name."""
        at, named, after = self._address(text), self.label("named"), self.label("rows")
        inside = self.let(f"icmp ult i64 {self.let('and i64 %thread, 31')}, {lanes}")
        self.emit(f"br i1 {inside}, label %{named}, label %{after}")
        self.begin(named, False)
        if self.checked:
            real = self._access("shared", at, self._site(i, "shared", "read", 16))
        else:
            real = self.let(f"add i64 %shared, {at}")
        self.emit(f"store i64 {real}, i64* %row")
        self.begin(after)
        return self.let("load i64, i64* %row")

    def _mma(self, i: Instruction) -> tuple[list[tuple[str, str]], list[tuple[str, str]], int]:
        """Operands of m16n8k8 with tf32 and of m16n8k16 with 16 bits; sums in float32."""
        shape = next((m for m in i.op if re.fullmatch(r"m\d+n\d+k\d+", m)), "")
        kinds = i.op[-4:]
        known = {("m16n8k8", "tf32"): 0, ("m16n8k16", "f16"): 1, ("m16n8k16", "bf16"): 2}
        if kinds[0] != "f32" or kinds[3] != "f32" or kinds[1] != kinds[2] or (shape, kinds[1]) not in known:
            raise PTXError("of mma, m16n8k8 of tf32 and m16n8k16 of f16 and bf16 are known, with sums in f32")
        groups = [split(a[1:-1]) for a in i.args]
        return (
            [(r, "f32") for r in groups[0]], [(r, "b32") for g in groups[1:] for r in g], known[shape, kinds[1]],
        )  # fmt: skip

    # --- memory
    def _address(self, text: str) -> str:
        """The value of [base+offset]."""
        base, offset = _parts(text)
        value = self.value(base, "u64")
        if not offset:
            return value
        return self.let(f"add i64 {value}, {offset}")

    def _site(self, i: Instruction, space: str, action: str, size: int) -> int:
        self.sites.append(Site(i, space, action, size))
        return len(self.sites) - 1

    def _checked_address(self, i: Instruction, space: str, text: str, size: int, action: str, bits: list[str]) -> str:
        """The address in this process that an access may go to."""
        at = self._address(text)
        if not self.checked:
            return self.let(f"add i64 %shared, {at}") if space == "shared" else at
        site = self._site(i, space, action, size)
        low, high = (*bits, "0", "0")[:2]
        return self._access(space, at, site, low, high)

    def _access(self, space: str, at: str, site: int, low: str = "0", high: str = "0") -> str:
        number = {"shared": layout.SHARED_SPACE, "local": layout.LOCAL_SPACE, "generic": layout.GENERIC}.get(space, 1)
        numbers = [f"i64 {n}" for n in (number, at, site, low, high)]
        return self.call("access", "i64", "i64* %context", "i64* %frame", *numbers)

    def _move(self, i: Instruction) -> None:
        """Loads and stores."""
        kind = i.op[-1]
        kind = {"b128": "b128"}.get(kind, kind)
        lanes = next((int(m[1:]) for m in i.op if m in ("v2", "v4", "v8")), 1)
        space = next((m for m in i.op if m in SPACES), "generic")
        loads = i.op[0] != "st"
        data, where = i.args if loads else i.args[::-1]
        names = split(data.strip("{}"))
        size = BITS[kind] // 8 * lanes
        if space == "param":
            self._parameter(loads, kind, names, where)
            return
        values = [] if loads else [self.value(name, kind) for name in names]
        bits = self._packed(values, kind) if self.checked and not loads and size <= 16 else []
        at = self._checked_address(i, space, where, size, "read" if loads else "write", bits)
        for k, name in enumerate(names):
            p = self._pointer(at, k * BITS[kind] // 8, llvm_type(kind))
            if loads:
                self.set(name, kind, self.let(f"load {llvm_type(kind)}, {p}, align 1"))
            else:
                self.emit(f"store {llvm_type(kind)} {values[k]}, {p}, align 1")

    def _pointer(self, at: str, offset: int, t: str) -> str:
        """A pointer with its type."""
        if offset:
            at = self.let(f"add i64 {at}, {offset}")
        return f"{t}* {self.let(f'inttoptr i64 {at} to {t}*')}"

    def _packed(self, values: list[str], kind: str) -> list[str]:
        """The bits of what is stored, as one or two 64-bit integers."""
        words: list[str] = []
        per_word = max(1, 64 // BITS[kind])
        for k, value in enumerate(values):
            wide = self.widened(value, kind) if BITS[kind] < 128 else "0"
            if k % per_word == 0:
                words.append(wide)
            else:
                words[-1] = self.let(f"or i64 {words[-1]}, {self.let(f'shl i64 {wide}, {k % per_word * BITS[kind]}')}")
        return words

    def _parameter(self, loads: bool, kind: str, names: list[str], where: str) -> None:
        """Parameters of the kernel, and arguments and results of functions."""
        at, t = self._address(where), llvm_type(kind)
        for k, name in enumerate(names):
            p = self._pointer(at, k * BITS[kind] // 8, t)
            if loads:
                self.set(name, kind, self.let(f"load {t}, {p}, align 1"))
            else:
                self.emit(f"store {t} {self.value(name, kind)}, {p}, align 1")

    def _atomic(self, i: Instruction) -> None:
        kind, t = i.op[-1], llvm_type(i.op[-1])
        space = next((m for m in i.op if m in SPACES), "generic")
        what = next(m for m in i.op if m in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"))
        result, where, *operands = i.args if i.op[0] == "atom" else ("_", *i.args)
        at = self._checked_address(i, space, where, BITS[kind] // 8, "atomic", [])
        values = [self.value(o, kind) for o in operands]
        if kind in ("f16", "f16x2", "bf16x2", "bf16") or any(m in i.op for m in ("v2", "v4", "v8")):
            raise PTXError("atomics of this type are not known")
        p = self._pointer(at, 0, t)
        if what == "cas":
            found = self.let(f"cmpxchg {p}, {t} {values[0]}, {t} {values[1]} seq_cst seq_cst")
            old = self.let(f"extractvalue {{ {t}, i1 }} {found}, 0")
        elif what in ("inc", "dec"):
            old = self._cycle(p, t, what, values[0])
        else:
            sign = "" if kind[0] == "s" else "u"
            name = {"exch": "xchg", "min": sign + "min", "max": sign + "max"}.get(what, what)
            old = self.let(
                f"atomicrmw {'f' + name if kind in FLOATS and name != 'xchg' else name} {p}, {t} {values[0]} seq_cst"
            )
        self.set(result, kind, old)

    def _cycle(self, p: str, t: str, what: str, most: str) -> str:
        """Count up to `most` and begin again at 0, or down from there."""
        again, done = self.label("again"), self.label("done")
        self.begin(again)
        old = self.let(f"load atomic {t}, {p} seq_cst, align {BITS['b' + t[1:]] // 8}")
        above = self.let(f"icmp {'uge' if what == 'inc' else 'ugt'} {t} {old}, {most}")
        if what == "dec":
            above = self.let(f"or i1 {above}, {self.let(f'icmp eq {t} {old}, 0')}")
        next_one = self.let(f"{'add' if what == 'inc' else 'sub'} {t} {old}, 1")
        new = self.let(f"select i1 {above}, {t} {'0' if what == 'inc' else most}, {t} {next_one}")
        found = self.let(f"cmpxchg {p}, {t} {old}, {t} {new} seq_cst seq_cst")
        self.emit(f"br i1 {self.let(f'extractvalue {{ {t}, i1 }} {found}, 1')}, label %{done}, label %{again}")
        self.begin(done, False)
        return old

    def _copy_async(self, i: Instruction) -> None:
        """cp.async: the copy is made here at once; checked code knows until when it may not be relied on."""
        if i.op[1] != "async" or "mbarrier" in i.op or "bulk" in i.op:
            raise PTXError("of cp, only cp.async is known")
        if "wait_all" in i.op or "wait_group" in i.op or "commit_group" in i.op:
            calls = ["-1"] if "commit_group" in i.op else ["-1", "0"] if "wait_all" in i.op else [i.args[0]]
            for pending in calls if self.checked else ():
                self.call("copies_done", "void", "i64* %context", "i64* %frame", f"i64 {pending}")
            return
        size = immediate(i.args[2]) or 0
        filled = self.value(i.args[3], "u32") if len(i.args) > 3 else str(size)
        filled = self.let(f"zext i32 {filled} to i64")
        to, source = self._address(i.args[0]), self._address(i.args[1])
        real = self.let(f"add i64 %shared, {to}")
        if self.checked:
            site = self._site(i, "shared", "write", size)
            real = self._access("shared", to, site, "0", "-1")
            numbers = (f"i64 {n}" for n in (source, self._site(i, "global", "read", size), filled))
            source = self.call("copy_source", "i64", "i64* %context", "i64* %frame", *numbers)
        self.call("copy_bytes", "void", f"i64 {real}", f"i64 {source}", f"i64 {size}", f"i64 {filled}")
        if self.checked:
            self.call("copy_begun", "void", "i64* %context", "i64* %frame", f"i64 {to}", f"i64 {site}")

    def _change_space(self, i: Instruction) -> None:
        """cvta: only shared memory has addresses of its own."""
        value = self.value(i.args[1], i.op[-1])
        if "shared" in i.op:
            value = self.let(f"{'sub' if 'to' in i.op else 'add'} {llvm_type(i.op[-1])} {value}, %shared")
        self.set(i.args[0], i.op[-1], value)

    # --- calls and reports
    def _call(self, i: Instruction) -> None:
        """Calls of functions that are not in the PTX: of libdevice, and vprintf."""
        results, name, arguments = called(i)
        kinds = [f"b{8 * self.kernel.buffers.sizes[a]}" for a in arguments]
        values = [self._load(self._symbol(a), kind) for a, kind in zip(arguments, kinds, strict=True)]
        if name == "vprintf":
            self.call("print_text", "void", "i64* %context", *(f"i64 {v}" for v in values))
            return
        kind = f"b{8 * self.kernel.buffers.sizes[results[0]]}" if results else ""
        result = instructions.call_function(self, name, list(zip(kinds, values, strict=True)), kind)
        if results:
            self._store(self._symbol(results[0]), kind, result)

    def _load(self, at: str, kind: str) -> str:
        return self.let(f"load {llvm_type(kind)}, {self._pointer(at, 0, llvm_type(kind))}, align 1")

    def _store(self, at: str, kind: str, value: str) -> None:
        self.emit(f"store {llvm_type(kind)} {value}, {self._pointer(at, 0, llvm_type(kind))}, align 1")

    def _report(self, kind: int, i: Instruction, value: str = "-1") -> None:
        site = self._site(i, "", "read", 0)
        self.call("report_event", "void", "i64* %context", "i64* %frame", f"i64 {kind}", f"i64 {site}", f"i64 {value}")

    def _check_index(self, i: Instruction) -> None:
        """Report an index below zero, which counts from the end of an axis."""
        index = self.value(i.args[0], "s64")
        negative, fine = self.label("negative"), self.label("fine")
        self.emit(f"br i1 {self.let(f'icmp slt i64 {index}, 0')}, label %{negative}, label %{fine}")
        self.begin(negative, False)
        self._report(layout.NEGATIVE, i, index)
        self.begin(fine)


def _block(label: str) -> str:
    return "L." + label.replace("$", ".")


def _parts(text: str) -> tuple[str, int]:
    """Base and offset of [base+offset]."""
    found = re.fullmatch(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
    if not found:
        raise PTXError(f"unknown address {text}")
    return found[1], int(found[2] or 0)


def _constant(operand: str, number: int, kind: str) -> str:
    """A number as LLVM writes it."""
    want = llvm_type(kind)
    if want == "i1":
        return "true" if number else "false"
    if want not in FLOATS.values():
        return str(number & ((1 << BITS[kind]) - 1))
    if want == "float":  # LLVM writes a float as the double of the same value
        number = struct.unpack("<Q", struct.pack("<d", struct.unpack("<f", struct.pack("<I", number))[0]))[0]
    return f"0x{number & (1 << 64) - 1:016X}"


def _names(text: str, kernel: Kernel) -> Iterator[str]:
    return (r for r in REGISTER.findall(text) if r in kernel.registers)


def _live_at(kernel: Kernel, points: list[int]) -> dict[int, list[str]]:
    """The registers whose values are needed after each point. Bits of an integer stand for registers."""
    body = kernel.body
    if not points:
        return {}
    bit = {r: 1 << k for k, r in enumerate(kernel.registers)}
    places = {i.label: j for j, i in enumerate(body) if i.label}
    # Basic blocks: what each uses before it writes it, what it writes, and which blocks may follow.
    starts = sorted(
        {0, *places.values(), *(j + 1 for j, i in enumerate(body) if i.op[:1] in (("bra",), ("ret",), ("brx",)))}
    )
    starts = [s for s in starts if s < len(body)]
    number = {s: k for k, s in enumerate(starts)}
    ends = [*starts[1:], len(body)]
    effects = [_uses_and_writes(i, kernel, bit) for i in body]
    live_in = [0] * len(starts)
    follow = [_followers(kernel, body[e - 1], e, places, number) for e in ends]

    def before(live: int, first: int, last: int) -> int:
        for j in range(last - 1, first - 1, -1):
            uses, writes = effects[j]
            live = uses | live & ~writes
        return live

    changed = True
    while changed:
        changed = False
        for k in range(len(starts) - 1, -1, -1):
            out = 0
            for f in follow[k]:
                out |= live_in[f]
            new = before(out, starts[k], ends[k])
            if new != live_in[k]:
                live_in[k], changed = new, True
    result = {}
    for j in points:
        k = max(n for s, n in number.items() if s <= j)
        out = 0
        for f in follow[k]:
            out |= live_in[f]
        live = before(out, j + 1, ends[k])
        # A yield comes after its instruction, whose results are saved; another point takes its results when it is over.
        result[j] = [r for r, b in bit.items() if live & b]
    return result


def _uses_and_writes(i: Instruction, kernel: Kernel, bit: dict[str, int]) -> tuple[int, int]:
    if not i.op:
        return 0, 0
    first = 0 if i.op[0] in ("st", "bra", "brx", "bar", "barrier", "red", "cp", "call", "ret", "index") else 1
    if i.op[0] in ("bar", "barrier") and "red" in i.op:
        first = 1
    uses = writes = 0
    for k, text in enumerate(i.args):
        for r in _names(text, kernel):
            if k < first and not text.startswith("["):
                writes |= bit[r]
            else:
                uses |= bit[r]
    if i.guard:
        return uses | writes | bit.get(i.guard[1], 0), 0
    return uses, writes


def _followers(
    kernel: Kernel, last: Instruction, end: int, places: dict[str, int], number: dict[int, int]
) -> list[int]:
    op = last.op[:1]
    targets = [last.args[0]] if op == ("bra",) else kernel.targets[last.args[1]] if op == ("brx",) else []
    falls = op not in (("bra",), ("brx",), ("ret",)) or last.guard is not None
    return [number[places[t]] for t in targets] + ([number[end]] if falls and end in number else [])
