"""Kernels written in PTX by hand, launched in the emulator."""

from __future__ import annotations

import re

from cks_numba.emulator import hooks, machine

ORDER = {"forward": (0, 0), "reverse": (1, 0)}


def ptx(body, arrays=1, shared=0, functions=""):
    """A kernel whose arguments are 1-D arrays: their addresses are in %a0, %a1 and so on.

    There are registers %r0 to %r63 of 32 bits, %h of 16, %d of 64, %f and %g of float32 and float64, %p predicates;
    %r0 is the thread's number in its block, %r1 that of its block, and `tile` a shared array of so many bytes.
    """
    names = [f"p{k}_{part}" for k in range(arrays) for part in range(7)]
    loads = "\n".join(f"ld.param.u64 %a{k}, [p{k}_4];" for k in range(arrays))
    room = f".shared .align 16 .b8 tile[{shared}];" if shared else ""
    parameters = ", ".join(f".param .u64 {name}" for name in names)
    return f""".version 7.1\n.target sm_80\n.address_size 64\n{functions}
.visible .entry by_hand({parameters})
{{
.reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<64>; .reg .b64 %d<32>; .reg .f32 %f<32>; .reg .f64 %g<16>;
.reg .b64 %a<{arrays}>;
{room}
{loads}
mov.u32 %r0, %tid.x;
mov.u32 %r1, %ctaid.x;
{body}
ret;
}}
"""


def run(body, *arrays, grid=1, block=32, shared=0, order="forward", checked=True, functions=""):
    """Run a kernel of that body on 1-D arrays, and give the report of a checked run."""
    text = body if body.startswith(".version") else ptx(body, len(arrays), shared, functions)
    program = machine.Program(text, checked)
    names = [f"a{k}" for k in range(len(arrays))]
    launch = machine.Launch(program, *hooks.dimensions(grid, block), 0, arrays, names, hooks.flatten)
    way, seed = ORDER.get(order) or (2, order)
    seconds = launch.run(1, way, seed, 100_000)
    return launch.result("by_hand", seconds, [False] * len(arrays)) if checked else None


def each(text, count):
    """Repeat a text with its `#` replaced by 0, 1, and so on."""
    return "\n".join(re.sub("#", str(k), text) for k in range(count))
