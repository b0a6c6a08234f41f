"""The instructions of a GPU that Numba has no name for, each as one line of PTX with its types.

In a line, $0, $1, ... are first the results and then the arguments. This is the only file of the kernels with PTX, and
neither Numba's simulator nor `trace` can run what calls it.

``to_shared``, ``wait_for_older``  copy from global to shared memory while the threads go on
``load_matrices...``               read fragments of A and B from shared memory
``multiply_...``                   tensor cores: D = A x B + C, 16x8 results of a warp; sums in float32
``round_...``, ``widen_...``       between float32 and the other formats
``store...``                       words of 32 bits, or one element of 16 bits, in global memory
"""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any

from llvmlite import ir
from numba import float32, types, uint16, uint32, uint64

from ..jit import intrinsic

LETTERS = {uint16: "h", uint32: "r", uint64: "l", float32: "f"}  # how PTX names a register of each type
H, W, L, F = uint16, uint32, uint64, float32  # an element of 16 bits, a word, an address in global memory, a sum


def _llvm(kind: Any) -> Any:
    return ir.FloatType() if kind == float32 else ir.IntType(kind.bitwidth)


def _needs_ptx(*_: Any) -> Any:
    raise RuntimeError("the tensor rung is written in PTX, which Numba's simulator does not run")


def instruction(text: str, results: tuple[Any, ...], arguments: tuple[Any, ...], pure: bool = False) -> Any:
    """Make a function of one line of PTX.

    Parameters
    ----------
    text : str
    results, arguments : tuple of Numba types
    pure : bool
        Whether it does nothing but arithmetic. The compiler leaves all others in their order, and between barriers.
    """
    registers = [f"={LETTERS[kind]}" for kind in results] + [LETTERS[kind] for kind in arguments]
    constraints = ",".join(registers if pure else [*registers, "~{memory}"])
    returned = types.void if not results else results[0] if len(results) == 1 else types.Tuple(results)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        inner = [_llvm(kind) for kind in results]
        whole = ir.VoidType() if not inner else inner[0] if len(inner) == 1 else ir.LiteralStructType(inner)
        line = ir.InlineAsm(ir.FunctionType(whole, list(map(_llvm, arguments))), text, constraints, not pure)
        values = [context.cast(builder, *both) for both in zip(values, signature.args, arguments, strict=True)]
        done = builder.call(line, values, attrs=("convergent", "nounwind", *(["readnone"] if pure else [])))
        if len(results) > 1:
            return context.make_tuple(builder, returned, [builder.extract_value(done, k) for k in range(len(results))])
        return done if results else context.get_dummy_value()

    def typed(typing_context, *given):  # type: ignore[no-untyped-def]
        return returned(*given), code

    names = ["typing_context", *(f"a{k}" for k in range(len(arguments)))]  # Numba asks how many there are
    typed.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_ONLY) for name in names])  # type: ignore[attr-defined]
    return intrinsic(_needs_ptx, typed)


# --- copies to shared memory: 16 bytes, or zeros where the size is 0 --------------------------------
to_shared = instruction("cp.async.cg.shared.global [$0], [$1], 16, $2;", (), (W, L, W))
end_of_chunk = instruction("cp.async.commit_group;", (), ())
wait_for_older = instruction("cp.async.wait_group 1;", (), ())  # for all chunks but the newest

# --- shared memory to registers ---------------------------------------------------------------------
load_matrices = instruction("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];", (W,) * 4, (W,))
load_transposed = instruction("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];", (W,) * 4, (W,))
load_pair = instruction("ld.shared.v2.b32 {$0,$1}, [$2];", (W, W), (W,))
load_word = instruction("ld.shared.b32 $0, [$1];", (W,), (W,))

# --- tensor cores -----------------------------------------------------------------------------------
REGISTERS = "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"  # D, A, B and C, as a thread holds them
FRAGMENTS = (F,) * 4, (W,) * 6 + (F,) * 4
multiply_tf32 = instruction(f"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {REGISTERS}", *FRAGMENTS, pure=True)
multiply_float16 = instruction(f"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {REGISTERS}", *FRAGMENTS, pure=True)
multiply_bfloat16 = instruction(
    f"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {REGISTERS}", *FRAGMENTS, pure=True
)

# --- formats ----------------------------------------------------------------------------------------
round_tf32 = instruction("cvt.rna.tf32.f32 $0, $1;", (W,), (W,), pure=True)
round_float16 = instruction("cvt.rn.f16.f32 $0, $1;", (H,), (F,), pure=True)
round_bfloat16 = instruction("cvt.rn.bf16.f32 $0, $1;", (H,), (F,), pure=True)
widen_float16 = instruction("cvt.f32.f16 $0, $1;", (F,), (H,), pure=True)
bits = instruction("mov.b32 $0, $1;", (W,), (F,), pure=True)
from_bits = instruction("mov.b32 $0, $1;", (F,), (W,), pure=True)

# --- registers to global memory ---------------------------------------------------------------------
store_four = instruction("st.global.v4.b32 [$0], {$1,$2,$3,$4};", (), (L, W, W, W, W))
store_two = instruction("st.global.v2.b32 [$0], {$1,$2};", (), (L, W, W))
store_word = instruction("st.global.b32 [$0], $1;", (), (L, W))
store_short = instruction("st.global.b16 [$0], $1;", (), (L, H))


# --- addresses, which take no instruction of their own ------------------------------------------------
def _address(typing_context, array, index, size):  # type: ignore[no-untyped-def]
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = builder.ptrtoint(context.make_array(array)(context, builder, values[0]).data, ir.IntType(64))
        index, size = (context.cast(builder, values[k], signature.args[k], types.int64) for k in (1, 2))
        return builder.add(start, builder.mul(index, size))

    return uint64(array, index, size), code


def _shared_address(typing_context, array):  # type: ignore[no-untyped-def]
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = context.make_array(array)(context, builder, values[0]).data
        shared = builder.addrspacecast(start, ir.PointerType(start.type.pointee, addrspace=3))
        return builder.ptrtoint(shared, ir.IntType(32))

    return uint32(array), code


address = intrinsic(_needs_ptx, _address)  # address(array, index, size): of the element at an index, of so many bytes
shared_address = intrinsic(_needs_ptx, _shared_address)  # a number of 32 bits, as the loads from shared memory take it
