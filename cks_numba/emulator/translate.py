"""A kernel in PTX as a function in LLVM IR, ``kernel(context, frame)``, that runs one thread until it has to wait.

A thread waits at barriers and at warp operations. There the function saves the registers that live on in the frame of
the thread and returns the number of the point; called again, it goes on from there. The scheduler (runtime.py) calls
it for one thread after another. All addresses are 64-bit integers, and become pointers where memory is touched.

Checked code asks a function of runtime.py about every access first, and goes on with the address that it returns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from . import instructions, runtime
from .faults import Site
from .instructions import FLOATS, LLVM, Operand, Value, literal, pack, reread, sign_of
from .ptx import BITS, REGISTER, Instruction, Kernel, PTXError, called, immediate, loops, split

SPACES = {
    "global": runtime.GLOBAL_SPACE, "const": runtime.GLOBAL_SPACE, "shared": runtime.SHARED_SPACE,
    "local": runtime.LOCAL_SPACE, "generic": runtime.GENERIC, "param": -1,
}  # fmt: skip
WAITS = {
    "bar": runtime.BARRIER, "barrier": runtime.BARRIER, "shfl": runtime.SHUFFLE, "vote": runtime.VOTE,
    "match": runtime.MATCH, "activemask": runtime.ACTIVE, "redux": runtime.REDUCE, "ldmatrix": runtime.LDMATRIX,
    "mma": runtime.MMA,
}  # fmt: skip
LANES = {  # warp operations with a mask: modes by a part of the mnemonic, type of the result and of the operand
    runtime.SHUFFLE: (("idx", "up", "down", "bfly"), "", ""),
    runtime.VOTE: (("all", "any", "uni", "ballot"), "", "pred"),
    runtime.MATCH: (("any", "all"), "b32", ""),
    runtime.REDUCE: (("add", "min", "max", "and", "or", "xor"), "", ""),
}
MATRICES = (("m16n8k8", "tf32"), ("m16n8k16", "f16"), ("m16n8k16", "bf16"))
CARRY, ROW = "%carry", "%row"  # registers of our own
CLOCKS = ("%clock", "%clock64", "%clock_hi", "%globaltimer", "%globaltimer_lo")
Operands = list[tuple[str, str]]
"""Registers or other operands, each with its type."""


class Translator:
    """The translation of one kernel."""

    kernel: Kernel
    checked: bool
    registers: dict[str, str]
    others: dict[str, Callable[[Instruction], None]]
    count: int
    places: dict[str, int]
    loops: set[int]
    saved: dict[int, list[str]]
    slots: dict[str, int]
    framed: bool
    buffers_at: int
    frame_bytes: int

    def __init__(self, kernel: Kernel, checked: bool) -> None:
        self.kernel, self.checked = kernel, checked
        self.registers = {**kernel.registers, CARRY: "pred", ROW: "b64"}
        self.others = {
            "ld": self._move, "ldu": self._move, "st": self._move, "atom": self._atomic, "red": self._atomic,
            "cp": self._copy_async, "call": self._call, "cvta": self._change_space,
        }  # fmt: skip
        self.lines: list[str] = []
        self.declared: dict[str, str] = {}
        self.sites: list[Site] = []  # instructions that touch memory, in checked code, by their numbers
        self.points: list[Site] = []  # points where threads wait; the first has number 1
        self.kinds: list[int] = []  # what is waited for at each point
        self.count = 0
        self.places = {i.label: j for j, i in enumerate(kernel.body) if i.label}
        self.loops = loops(kernel.body)
        waits = [j for j, i in enumerate(kernel.body) if i.op and (i.op[0] in WAITS or self._yields(j, i))]
        self.saved = _live_after(kernel, waits)
        self.slots = {r: runtime.FRAME + k for k, r in enumerate(sorted(set().union(*self.saved.values())))}
        # With many points it is cheaper to keep registers in the frame all the time than to save them at each point.
        self.framed = sum(map(len, self.saved.values())) > 3 * len(kernel.body)
        self.buffers_at = -(-(runtime.FRAME + len(self.slots)) // 8) * 64
        self.frame_bytes = self.buffers_at + -(-kernel.buffers.bytes // 64) * 64

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

    def call(self, name: str, result: str, *args: str) -> str:
        if name not in self.declared:
            self.declared[name] = f"declare {result} @{name}({', '.join(a.rsplit(' ', 1)[0] for a in args)})"
        call = f"call {result} @{name}({', '.join(args)})"
        if result != "void":
            return self.let(call)
        self.emit(call)
        return ""

    def ask(self, name: str, *numbers: Operand, result: str = "void") -> Value:
        """Call a function of runtime.py."""
        words = (f"i64 {literal(n)}" for n in numbers)
        return Value(self, "i64", self.call(name, result, "i64* %context", "i64* %frame", *words))

    def label(self, hint: str) -> str:
        self.count += 1
        return f"{hint}.{self.count}"

    def begin(self, name: str, falls: bool = True) -> None:
        """Begin a block; `falls` if the one before goes on into it."""
        if falls:
            self.emit(f"br label %{name}")
        self.lines.append(f"{name}:")

    def when(self, condition: Value) -> str:
        """Begin a block for when a condition holds; return the name of the block that must come after it."""
        then, after = self.label("then"), self.label("after")
        self.emit(f"br i1 {condition}, label %{then}, label %{after}")
        self.begin(then, False)
        return after

    def word(self, index: int, base: str = "%frame") -> str:
        """The address of a 64-bit number of the frame or the context."""
        return self.let(f"getelementptr i64, i64* {base}, i64 {index}")

    def load_word(self, index: int, base: str = "%frame", how: str = "load") -> Value:
        return Value(self, "i64", self.let(f"{how} i64, i64* {self.word(index, base)}"))

    def store_word(self, index: int, value: Operand) -> None:
        self.emit(f"store i64 {literal(value)}, i64* {self.word(index)}")

    # --- registers and operands
    def value(self, operand: str, kind: str) -> Value:
        """The value of an operand, read as a PTX type."""
        want = LLVM[kind]
        if operand.startswith("!"):
            return ~self.value(operand[1:], kind)
        if operand in self.registers:
            have = LLVM[self.registers[operand]]
            return reread(Value(self, have, self.let(f'load {have}, {have}* %"{operand}"')), kind)
        if (number := immediate(operand)) is not None:
            return Value(self, want, _constant(number, kind))
        found = self._special(operand) if operand[0] == "%" or operand == "WARP_SZ" else self._symbol(operand)
        return reread(found, kind)

    def set(self, register: str, kind: str, value: Value) -> None:
        """Write a register."""
        if register == "_":
            return
        if register not in self.registers:
            raise PTXError(f"unknown register {register}")
        value = reread(value, self.registers[register], sign_of(kind))
        self.emit(f'store {value.type} {value}, {value.type}* %"{register}"')

    def _symbol(self, name: str) -> Value:
        """The address of a variable; in shared memory, how far it is from the first byte."""
        kernel = self.kernel
        name, _, more = name.partition("+")
        name = kernel.dynamic[0] if name in kernel.dynamic else name
        memories = {"%local": kernel.local, "%constants": kernel.constants, "%parameters": kernel.parameters}
        for base, memory in {"0": kernel.shared, **memories, "%buffers": kernel.buffers}.items():
            if name in memory.offsets:
                return Value(self, "i64", base).at(memory.offsets[name] + int(more or 0))
        raise PTXError(f"unknown operand {name}")

    def _special(self, name: str) -> Value:
        """The value of a special register."""
        if found := re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.([xyz])", name):
            of = {"tid": "tid", "ntid": "block", "ctaid": "block_id", "nctaid": "grid"}[found[1]]
            return Value(self, "i64", f"%{of}_{found[2]}")
        thread = Value(self, "i64", "%thread")
        bit = thread.constant(1) << (thread & 31)
        known: dict[str, Callable[[], Value]] = {
            "%laneid": lambda: thread & 31, "%warpid": lambda: thread >> 5, "WARP_SZ": lambda: thread.constant(32),
            "%smid": lambda: thread.constant(0), "%nsmid": lambda: thread.constant(1),
            "%gridid": lambda: thread.constant(0), "%lanemask_eq": lambda: bit, "%lanemask_lt": lambda: bit - 1,
            "%lanemask_le": lambda: bit | bit - 1, "%lanemask_gt": lambda: ~(bit | bit - 1),
            "%lanemask_ge": lambda: ~(bit - 1),
            "%total_smem_size": lambda: self.load_word(runtime.SHARED_BYTES, "%context"),
            "%dynamic_smem_size": lambda: known["%total_smem_size"]() - self.kernel.shared.bytes,
            **dict.fromkeys(CLOCKS, lambda: Value(self, "i64", self.call("llvm.readcyclecounter", "i64"))),
        }  # fmt: skip
        if name not in known:
            raise PTXError(f"unknown special register {name}")
        return known[name]()

    # --- the whole function
    def translate(self) -> str:
        """The LLVM IR of the function and of what it declares."""
        self._enter()
        falls = True
        for j, i in enumerate(self.kernel.body):
            if i.label:
                self.begin(f"L.{i.label}", falls)
                falls = True
                continue
            if not falls:
                self.begin(self.label("dead"), False)
            try:
                falls = self._guarded(j, i)
            except (PTXError, LookupError, StopIteration, ValueError) as error:
                where = f" (line {i.source[0][1]} of {i.source[0][0]})" if i.source else ""
                reason = f": {error}" if isinstance(error, PTXError) else ""
                raise PTXError(f"the emulator does not know the PTX instruction {i.text!r}{where}{reason}") from None
        if falls:
            self.emit("ret i64 -1")
        body = ["define i64 @kernel(i64* noalias %context, i64* noalias %frame) {", "entry:", *self.lines, "}"]
        return "\n".join([*self.declared.values(), *body])

    def _enter(self) -> None:
        """Load what stays the same, make room for registers, and go to where the thread waits."""
        axes = [f"{name}_{axis}" for name in ("grid", "block", "block_id") for axis in "xyz"]
        context = dict.fromkeys(["parameters", "constants", "shared", *axes], "%context")
        frame = dict.fromkeys(["tid_x", "tid_y", "tid_z", "thread", "state"], "%frame")
        for name, base in {**context, **frame}.items():
            self.emit(f"%{name} = load i64, i64* {self.word(getattr(runtime, name.upper()), base)}")
        self.emit("%frame_number = ptrtoint i64* %frame to i64")
        self.emit(f"%local = add i64 %frame_number, {self.frame_bytes}")
        self.emit(f"%buffers = add i64 %frame_number, {self.buffers_at}")
        for register, kind in self.registers.items():
            slot = f'"{register}"' if self.framed else f'"slot {register}"'
            if register in self.slots:
                self.emit(f"%{slot} = bitcast i64* {self.word(self.slots[register])} to {LLVM[kind]}*")
            if register not in self.slots or not self.framed:
                self.emit(f'%"{register}" = alloca {LLVM[kind]}')
        resume = " ".join(f"i64 {k}, label %resume.{k}" for k in range(1, 1 + len(self.saved)))
        self.emit(f"switch i64 %state, label %start [{resume}]")
        self.begin("start", False)

    def _guarded(self, j: int, i: Instruction) -> bool:
        """Translate an instruction; return whether what follows it may be reached from it."""
        if not i.guard:
            return self._instruction(j, i)
        predicate = self.value(i.guard[1], "pred")
        after = self.when(~predicate if i.guard[0] else predicate)
        self.begin(after, self._instruction(j, i))
        return True

    def _instruction(self, j: int, i: Instruction) -> bool:
        op = i.op[0]
        if op in ("ret", "exit", "trap"):
            if op == "trap" and self.checked:
                self._report(runtime.ASSERTION, i)
            self.emit("ret i64 -1")
        elif op == "bra":
            self._jump(j, i)
        elif op == "brx":
            labels = [f"label %L.{label}" for label in self.kernel.targets[i.args[1]]]
            cases = " ".join(f"i32 {k}, {label}" for k, label in enumerate(labels))
            self.emit(f"switch i32 {self.value(i.args[0], 'u32')}, {labels[-1]} [{cases}]")
        if op in ("ret", "exit", "trap", "bra", "brx"):
            return False
        if op in WAITS:
            self._wait(j, i)
        elif op in ("raise", "index"):
            if self.checked:
                self._check(i)
        elif op in self.others:
            self.others[op](i)
        else:
            instructions.compute(self, i)
        if self._yields(j, i):
            self._suspend(j, i, runtime.YIELD)
        return True

    def _jump(self, j: int, i: Instruction) -> None:
        if self.checked and self.places[i.args[0]] < j:
            steps = self.load_word(runtime.STEPS) + 1
            self.store_word(runtime.STEPS, steps)
            # Volatile, because Ctrl-C sets the limit to 0 while the loop runs.
            go = self.when(steps.test("ugt", self.load_word(runtime.LIMIT, "%context", "load volatile")))
            self._report(runtime.ENDLESS, i)
            self.emit("ret i64 -1")
            self.begin(go, False)
        self.emit(f"br label %L.{i.args[0]}")

    # --- waiting
    def _suspend(self, j: int, i: Instruction, kind: int) -> None:
        """Save the registers that are needed later, return to the scheduler, and go on here when called again."""
        self.points.append(Site(i, "", "barrier" if kind == runtime.BARRIER else "warp", 0))
        self.kinds.append(kind)
        saved = [(LLVM[self.registers[r]], r) for r in self.saved[j] if not self.framed]
        for t, r in saved:
            value = self.let(f'load {t}, {t}* %"{r}"')
            self.emit(f'store {t} {value}, {t}* %"slot {r}"')
        self.emit(f"ret i64 {len(self.points)}")
        self.begin(f"resume.{len(self.points)}", False)
        for t, r in saved:
            value = self.let(f'load {t}, {t}* %"slot {r}"')
            self.emit(f'store {t} {value}, {t}* %"{r}"')

    def _wait(self, j: int, i: Instruction) -> None:
        """Hand the operands of a barrier or warp operation over, wait, and take the results."""
        kind, args, mask = WAITS[i.op[0]], list(i.args), "-1"
        results: Operands = []
        operands: Operands = []
        detail = 0
        if kind == runtime.BARRIER and "warp" in i.op:
            kind, mask = runtime.SYNC, args[0]
        elif kind == runtime.BARRIER:
            detail = next((k for k, m in enumerate(("popc", "and", "or"), 1) if m in i.op), 0)
            if detail:
                results, operands = [(args.pop(0), "pred" if detail > 1 else "u32")], [(args.pop(), "pred")]
            if "arrive" in i.op or len(args) > 1:
                raise PTXError("barriers for some of the threads of a block are not known")
            detail += 8 * (immediate(args[0]) or 0)
        elif kind == runtime.ACTIVE:
            results = [(args[0], "b32")]
        elif kind == runtime.LDMATRIX:
            results, operands = self._rows(i)
            detail = len(results) + 8 * ("trans" in i.op)
        elif kind == runtime.MMA:
            results, operands, detail = _matrices(i)
        else:
            if "sync" not in i.op:
                raise PTXError("only warp operations with a mask are known")
            modes, to, of = LANES[kind]
            detail = [k for k, m in enumerate(modes) if m in i.op][0] + 8 * (i.op[-1] == "s32")
            result, *predicate = args[0].split("|")
            results = [(result, to or i.op[-1]), *((p, "pred") for p in predicate)]
            operands = [(args[1], of or i.op[-1]), *((a, "b32") for a in args[2:-1])]
            mask = args[-1]
        for k, (operand, t) in enumerate(operands, runtime.EXCHANGE):
            self.store_word(k, self.value(operand, t).raw().resize(64))
        self.store_word(runtime.MASK, -1 if mask == "-1" else self.value(mask, "b32").resize(64))
        self.store_word(runtime.DETAIL, detail)
        self._suspend(j, i, kind)
        for k, (register, t) in enumerate(results, runtime.EXCHANGE):
            self.set(register, t, reread(self.load_word(k), t))

    def _rows(self, i: Instruction) -> tuple[Operands, Operands]:
        """The operands of ldmatrix: the real address of a row of 16 bytes, which only the first lanes name."""
        if i.op[-1] != "b16" or "m8n8" not in i.op:
            raise PTXError("only ldmatrix of 8x8 elements of 16 bits is known")
        results = [(r, "b32") for r in split(i.args[0][1:-1])]
        after = self.when((Value(self, "i64", "%thread") & 31).test("ult", 8 * len(results)))
        self.set(ROW, "b64", self._place(i, "shared", i.args[1], 16, "read"))
        self.begin(after)
        return results, [(ROW, "b64")]

    # --- memory
    def _address(self, text: str) -> Value:
        """The value of [base+offset]."""
        found = re.fullmatch(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if not found:
            raise PTXError(f"unknown address {text}")
        return self.value(found[1], "u64").at(int(found[2] or 0))

    def _site(self, i: Instruction, space: str, action: str, size: int) -> int:
        self.sites.append(Site(i, space, action, size))
        return len(self.sites) - 1

    def _place(
        self, i: Instruction, space: str, text: str, size: int, action: str, low: Operand = 0, high: Operand = 0
    ) -> Value:
        """The address in this process that an access may go to."""
        at = self._address(text)
        if self.checked and space != "param":
            site = self._site(i, space, action, size)
            return self.ask("access", SPACES[space], at, site, low, high, result="i64")
        return Value(self, "i64", "%shared") + at if space == "shared" else at

    def _move(self, i: Instruction) -> None:
        """Loads and stores."""
        kind, space, loads = i.op[-1], next((m for m in i.op if m in SPACES), "generic"), i.op[0] != "st"
        data, where = i.args if loads else i.args[::-1]
        names, each = split(data.strip("{}")), BITS[kind] // 8
        size = each * len(names)
        if loads:
            at = self._place(i, space, where, size, "read")
            for k, name in enumerate(names):
                self.set(name, kind, at.at(k * each).load(kind))
            return
        values, words, half = [self.value(name, kind) for name in names], [], max(1, 8 // each)
        if self.checked and space != "param" and size <= 16:
            words = [pack([v.raw() for v in part]).resize(64) for part in (values[:half], values[half:]) if part]
        at = self._place(i, space, where, size, "write", *words)
        for k, value in enumerate(values):
            value.store(at.at(k * each))

    def _atomic(self, i: Instruction) -> None:
        kind, t = i.op[-1], LLVM[i.op[-1]]
        space = next((m for m in i.op if m in SPACES), "generic")
        what = next(m for m in i.op if m in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"))
        if "f16" in kind or any(m in i.op for m in ("v2", "v4", "v8")):
            raise PTXError("atomics of this type are not known")
        result, where, *operands = i.args if i.op[0] == "atom" else ("_", *i.args)
        p = self._place(i, space, where, BITS[kind] // 8, "atomic").pointer(t)
        values = [self.value(o, kind) for o in operands]
        if what in ("inc", "dec"):
            old = self._cycle(p, what, values[0])
        elif what == "cas":
            found = self.let(f"cmpxchg {p}, {t} {values[0]}, {t} {values[1]} seq_cst seq_cst")
            old = self.let(f"extractvalue {{ {t}, i1 }} {found}, 0")
        else:
            sign = "" if kind[0] == "s" else "u"
            name = {"exch": "xchg", "min": sign + "min", "max": sign + "max"}.get(what, what)
            name = "f" + name if kind in FLOATS and name != "xchg" else name
            old = self.let(f"atomicrmw {name} {p}, {t} {values[0]} seq_cst")
        self.set(result, kind, Value(self, t, old))

    def _cycle(self, p: str, what: str, most: Value) -> str:
        """Count up to `most` and begin again at 0, or down from there."""
        t, again, done = most.type, self.label("again"), self.label("done")
        self.begin(again)
        old = Value(self, t, self.let(f"load atomic {t}, {p} seq_cst, align {most.bits // 8}"))
        if what == "inc":
            new = old.test("uge", most).pick(0, old + 1)
        else:
            new = (old.test("ugt", most) | old.test("eq", 0)).pick(most, old - 1)
        found = self.let(f"cmpxchg {p}, {t} {old}, {t} {new} seq_cst seq_cst")
        self.emit(f"br i1 {self.let(f'extractvalue {{ {t}, i1 }} {found}, 1')}, label %{done}, label %{again}")
        self.begin(done, False)
        return str(old)

    def _copy_async(self, i: Instruction) -> None:
        """cp.async: the copy is made here at once; checked code knows until when it may not be relied on."""
        if i.op[1] != "async" or "mbarrier" in i.op or "bulk" in i.op:
            raise PTXError("of cp, only cp.async is known")
        if "wait_all" in i.op or "wait_group" in i.op or "commit_group" in i.op:
            calls = [-1] if "commit_group" in i.op else [-1, 0] if "wait_all" in i.op else [int(i.args[0])]
            for pending in calls if self.checked else ():
                self.ask("copies_done", pending)
            return
        size = immediate(i.args[2]) or 0
        filled = self.value((*i.args, i.args[2])[3], "u32").resize(64)
        to, source = self._address(i.args[0]), self._address(i.args[1])
        if self.checked:
            site = self._site(i, "shared", "write", size)
            self._site(i, "global", "read", size)
            self.ask("copy_checked", to, source, site, filled)
        else:
            self.ask("copy_bytes", Value(self, "i64", "%shared") + to, source, size, filled)

    def _change_space(self, i: Instruction) -> None:
        """cvta: only shared memory has addresses of its own."""
        value = self.value(i.args[1], i.op[-1])
        if "shared" in i.op:
            value = value.do("sub" if "to" in i.op else "add", Value(self, "i64", "%shared").resize(value.bits))
        self.set(i.args[0], i.op[-1], value)

    # --- calls and reports
    def _call(self, i: Instruction) -> None:
        """Calls of functions that are not in the PTX: of libdevice, and vprintf."""
        results, name, arguments = called(i)
        kinds = {a: f"b{8 * self.kernel.buffers.sizes[a]}" for a in (*results, *arguments)}
        values = [self._symbol(a).load(kinds[a]) for a in arguments]
        if name == "vprintf":
            self.ask("print_text", *values)
            return
        result = instructions.call_function(name, values)
        for r in results:
            reread(result, kinds[r]).store(self._symbol(r))

    def _report(self, kind: int, i: Instruction, value: Operand = -1) -> None:
        self.ask("report_event", kind, self._site(i, "", "read", 0), value)

    def _check(self, i: Instruction) -> None:
        """Report an exception, or an index below zero, which counts from the end of an axis."""
        if i.op[0] == "raise":
            self._report(runtime.ASSERTION, i)
            return
        index = self.value(i.args[0], "s64")
        fine = self.when(index.test("slt", 0))
        self._report(runtime.NEGATIVE, i, index)
        self.begin(fine)


def _matrices(i: Instruction) -> tuple[Operands, Operands, int]:
    """Operands of m16n8k8 with tf32 and of m16n8k16 with 16 bits; sums in float32."""
    shape, kinds = next((m for m in i.op if re.fullmatch(r"m\d+n\d+k\d+", m)), ""), i.op[-4:]
    if kinds[::3] != ("f32", "f32") or kinds[1] != kinds[2] or (shape, kinds[1]) not in MATRICES:
        raise PTXError("of mma, m16n8k8 of tf32 and m16n8k16 of f16 and bf16 are known, with sums in f32")
    sums, *factors = (split(a[1:-1]) for a in i.args)
    operands = [(r, "b32") for group in factors for r in group]
    return [(r, "f32") for r in sums], operands, MATRICES.index((shape, kinds[1]))


def _constant(number: int, kind: str) -> str:
    """A number as LLVM writes it."""
    if kind == "pred":
        return "true" if number else "false"
    if kind not in FLOATS:
        return str(number & ((1 << BITS[kind]) - 1))
    if kind == "f32":  # LLVM writes a float as the double of the same value
        number = struct.unpack("<Q", struct.pack("<d", struct.unpack("<f", struct.pack("<I", number))[0]))[0]
    return f"0x{number & (1 << 64) - 1:016X}"


# --- registers that live on
def _live_after(kernel: Kernel, points: list[int]) -> dict[int, list[str]]:
    """The registers whose values are needed after each point."""
    bit = {r: 1 << k for k, r in enumerate(kernel.registers)}  # bits of an integer stand for registers
    effects, follow = [_uses_and_writes(i, bit) for i in kernel.body], kernel.followers()
    before, after = [0] * (len(kernel.body) + 1), [0] * len(kernel.body)
    changed = bool(points)
    while changed:
        changed = False
        for j in range(len(kernel.body) - 1, -1, -1):
            live = 0
            for k in follow[j]:
                live |= before[k]
            uses, writes = effects[j]
            after[j], live = live, uses | live & ~writes
            changed |= live != before[j]
            before[j] = live
    return {j: [r for r, b in bit.items() if after[j] & b] for j in points}


def _uses_and_writes(i: Instruction, bit: dict[str, int]) -> tuple[int, int]:
    op = i.op[0] if i.op else "ret"
    writes_none = op in ("st", "bra", "brx", "bar", "barrier", "red", "cp", "call", "ret", "index")
    uses = writes = 0
    for k, text in enumerate(i.args):
        registers = bit.get(text) or sum(bit[r] for r in {*REGISTER.findall(text)} if r in bit)
        if k == 0 and text[:1] != "[" and (not writes_none or op[:3] == "bar" and "red" in i.op):
            writes = registers
        else:
            uses |= registers
    return (uses | writes | bit.get(i.guard[1], 0), 0) if i.guard else (uses, writes)
