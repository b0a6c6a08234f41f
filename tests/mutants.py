"""Check that the tests notice a wrong line: change one at a time, in a copy, and run the tests that should fail.

Geometry: every comparison, sum, product, quotient, minimum and small number in `geometry.py` is changed in turn.
Kernels: a list of mistakes that people make. The emulator runs their compiled code.

Usage: ``python tests/mutants.py [geometry|kernels] [--only TEXT] [--sample N] [--seed K]``; prints the mutants that
survived.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GEOMETRY_TESTS = ("tests/geometry", "tests/flops/test_flops.py", "tests/steps/test_steps.py")
# File or folder in cks_numba/kernels, and its tests: only tests that run its code, because compiling takes long.
KERNEL_TESTS = {
    "conv_v2.py": "(hard_shapes or whole_tiles) and conv2d- and not tiled",
    "ks_deconv.py": "(hard_shapes or whole_tiles) and conv2d_input and not tiled",
    "sk_dilated.py": "(hard_shapes or whole_tiles) and conv2d_weight and not tiled",
    "grouped.py": "(hard_shapes or whole_tiles) and grouped",
    "gather.py": "(hard_volumes or volumes_after or no_bank) and not conv2d_weight and not images",
    "weight.py": "(hard_volumes or volumes_after or no_bank) and conv2d_weight and not images",
    "equation.py": "hard_volumes and (skip_zeros or shared)",
    "elementwise.py": "(hard and with_zeros) or (small_shapes and odd) or no_image or takes_a_bias",
    "register_tile.py": "(hard_shapes or whole_tiles or no_bank) and register_tile",
    "tensor": "volumes or small_shapes or every_tile or depthwise or no_image or not_begin or error_of_random or bias",
    "": "((hard_shapes or hard_volumes) and tiled) or tails or every_tile or no_image or no_vector",
}
LEAST = 0.9  # share of the mutants of geometry that the tests must notice
SECONDS = 1200  # longest time for a mutant; one that takes longer counts as noticed


class Mutant(NamedTuple):
    """A file with one change."""

    path: str
    what: str
    text: str


# --- geometry: every place where a small mistake is possible ---------------------------------------
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"min": "max", "max": "min"}


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the mistakes that could be made in a node, as text and as a changed node."""
    changed = copy.deepcopy(node)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        changed.op = SWAPS[type(node.op)]()
        yield ast.unparse(changed), changed
    elif isinstance(node, ast.BoolOp):
        changed.op = SWAPS[type(node.op)]()
        yield ast.unparse(changed), changed
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        changed.ops = [SWAPS[type(node.ops[0])]()]
        yield ast.unparse(changed), changed
    elif isinstance(node, ast.Name) and node.id in NAMES:
        changed.id = NAMES[node.id]
        yield changed.id, changed
    elif isinstance(node, ast.Constant) and type(node.value) is int and node.value in (0, 1, 2):
        changed.value = node.value + 1
        yield str(changed.value), changed


def geometry_mutants() -> Iterator[Mutant]:
    """Yield mutants of the functions of geometry.py; printed texts and messages are not changed."""
    path = "cks_numba/geometry.py"
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        if function.name == "__str__":
            continue
        for parent in ast.walk(function):
            if isinstance(parent, (ast.JoinedStr, ast.Raise, ast.arguments, ast.AnnAssign)):
                continue
            for field, value in ast.iter_fields(parent):
                for index, node in enumerate(value if isinstance(value, list) else [value]):
                    yield from _of_node(path, tree, function.name, parent, field, index, node)


def _of_node(
    path: str, tree: ast.AST, where: str, parent: ast.AST, field: str, index: int, node: object
) -> Iterator[Mutant]:
    if not isinstance(node, ast.AST):
        return
    holder = getattr(parent, field)
    for what, changed in changes(node):
        _put(parent, field, holder, index, changed)
        text = ast.unparse(tree)
        _put(parent, field, holder, index, node)
        yield Mutant(path, f"{where}, line {getattr(node, 'lineno', 0)}: {ast.unparse(node)} -> {what}", text)


def _put(parent: ast.AST, field: str, holder: object, index: int, node: ast.AST) -> None:
    if isinstance(holder, list):
        holder[index] = node
    else:
        setattr(parent, field, node)


# --- kernels: mistakes that people make -----------------------------------------------------------
GROUPED, REGISTERS = "grouped.py", "register_tile.py"
GEMM, FUNCTIONS, LAUNCHES = "tiled/gemm.py", "tiled/device_functions.py", "tiled/__init__.py"
GATHER_3, WEIGHT_3 = "three_axes/gather.py", "three_axes/weight.py"
TENSOR, OPERANDS, DEPTHWISE, AXES = "tensor/gemm.py", "tensor/operands.py", "tensor/depthwise.py", "axes.py"
EDITS = (  # file in cks_numba/kernels, code in it, the replacement, and which of several equal places to change
    ("conv_v2.py", "                cuda.syncthreads()\n", "", 0),
    ("conv_v2.py", "                cuda.syncthreads()\n", "", 1),
    ("ks_deconv.py", "                cuda.syncthreads()\n", "", 0),
    ("ks_deconv.py", "                cuda.syncthreads()\n", "", 1),
    ("sk_dilated.py", "        cuda.syncthreads()\n", "", 0),
    ("sk_dilated.py", "        cuda.syncthreads()\n", "", 1),
    (GEMM, "            cuda.syncthreads()\n", "", 0),
    ("conv_v2.py", "                cuda.syncthreads()\n", "", 3),
    ("sk_dilated.py", "        cuda.syncthreads()\n", "", 2),
    ("conv_v2.py", "    if index >= y.size:", "    if index > y.size:", 1),
    ("ks_deconv.py", "    if index >= dx.size:", "    if index > dx.size:", 1),
    ("sk_dilated.py", "    if index >= dw.size:", "    if index > dw.size:", 1),
    ("conv_v2.py", "    for fh in range(fh_lo, fh_hi):", "    for fh in range(fh_lo, fh_hi - 1):", 0),
    ("conv_v2.py", "oh * sh - ph + fh * dh, ow * sw", "oh * sw - ph + fh * dh, ow * sh", 0),
    ("ks_deconv.py", "oh - th * oh_step", "oh + th * oh_step", 0),
    ("sk_dilated.py", "oh * sh - ph + fh * dil_h", "oh * sh - ph + fh * dil_w", 0),
    ("conv_v2.py", "if n < x.shape[0] and tx < depth:", "if n <= x.shape[0] and tx < depth:", 0),
    ("ks_deconv.py", "if ty < depth and tx < ic_left:", "if ty < depth and tx <= ic_left:", 0),
    ("conv_v2.py", "if n < x.shape[0] and tx < depth:", "if n <= x.shape[0] and tx < depth:", 1),
    ("ks_deconv.py", "third(table, g, ROWS, kh, th), third(", "summed(table, g, ROWS, th), third(", 0),
    ("sk_dilated.py", "            if kh < taps_h:", "            if kh <= taps_h:", 0),
    ("sk_dilated.py", "digits(first + ty, rows, columns)", "digits(first + ty, columns, rows)", 0),
    ("conv_v2.py", "                cuda.syncthreads()\n", "", 4),
    ("ks_deconv.py", "                cuda.syncthreads()\n", "", 5),
    ("conv_v2.py", "min(ty + j * TILE, oc_left - 1)", "min(ty + j * TILE, oc_left)", 0),
    ("ks_deconv.py", "min(n[i], dy.shape[0] - 1)", "n[i]", 0),
    ("sk_dilated.py", "and kh[j] < taps_h:", "and kh[0] < taps_h:", 0),
    ("sk_dilated.py", "                ys[ty, tx + i * TILE] =", "                ys[ty, tx * TM + i] =", 0),
    (REGISTERS, "cuda.threadIdx.y + i * TILE", "cuda.threadIdx.y + i", 0),
    (REGISTERS, "cuda.threadIdx.x + j * TILE", "cuda.threadIdx.x * TN + j", 0),
    (REGISTERS, "ACROSS, ALONG = BM + 4, BM + 8", "ACROSS, ALONG = BM, BM", 0),
    (GROUPED, "+ k * table[g, axis + FIXED_STEP]", "+ k", 0),
    (GROUPED, "tuple(ceil_div(rows, bm) for", "tuple(rows // bm for", 0),
    (GEMM, "m0 + row // high * high < rows", "m0 + row // high * high < rows - 1", 0),
    (GEMM, "n0 + column // wide * wide < columns", "n0 + column // wide * wide < columns - 1", 0),
    (GEMM, "m0 + row // high * high < rows", "m0 + row // high * high < rows - 1", 1),
    (GEMM, "int32(a_term) < left", "int32(a_term) <= left", 0),
    (GEMM, "int32(b_term) < left", "int32(b_term) <= left", 0),
    (GEMM, "b0, b1, b2, b3 = a0, a1, a2, a3", "pass", 0),
    (GEMM, "if m < out.shape[0] * lengths[0]", "if m <= out.shape[0] * lengths[0]", 0),
    (GEMM, "                    if c < columns:", "                    if c <= columns:", 0),
    (GEMM, "                if m < rows and exists:", "                if m <= rows and exists:", 0),
    (GEMM, "else kh < taps[1]", "else kh <= taps[1]", 0),
    (GEMM, "places(m if m < rows else uint32(0)", "places(m if m <= rows else uint32(0)", 0),
    (GEMM, "while left > -BK:", "while left > 0:", 0),
    (GEMM, "uint32(buffer ^ uint32(1))", "uint32(buffer ^ uint32(0))", 0),
    (GEMM, "left = min(int32(terms - first), most)", "left = most", 0),
    (GROUPED, "if table[middle, FIRST_BLOCK] <= block:", "if table[middle, FIRST_BLOCK] < block:", 0),
    (FUNCTIONS, "            last = uint32(last - over * last_size)\n", "", 0),
    (FUNCTIONS, "            while last >= last_size:", "            while last > last_size:", 0),
    (GEMM, "        for part in range(1, partial", "        for part in range(2, partial", 0),
    (GEMM, "c = c if c < columns else uint32(0)", "c = c if c <= columns else uint32(0)", 0),
    (GEMM, "(m if m < rows else uint32(0))", "(m if m <= rows else uint32(0))", 0),
    (GEMM, "digits(c if c < columns else uint32(0)", "digits(c if c <= columns else uint32(0)", 0),
    (GEMM, "    if index < out.size:", "    if index <= out.size:", 0),
    (FUNCTIONS, "around = uint32(middle >= middle_size)", "around = uint32(middle > middle_size)", 0),
    (FUNCTIONS, "around = uint32(middle >= middle_size)", "around = uint32(middle > middle_size)", 1),
    (FUNCTIONS, "over = uint32(last >= last_size)", "over = uint32(last > last_size)", 0),
    ("conv_v2.py", "PITCH = TILE + 4", "PITCH = TILE - 1", 0),
    ("conv_v2.py", "if ty < oc_left and tx < depth:", "if ty <= oc_left and tx < depth:", 0),
    ("conv_v2.py", "oh * sh + fh * dh, ow * sw + fw * dw", "oh * sh + fh * dh, ow * sw + fw * dh", 0),
    ("conv_v2.py", "depth = min(TILE, w.shape[3] - first_ic)", "depth = TILE", 0),
    ("ks_deconv.py", "ih + (w.shape[1] - 1 - fh) * dh", "ih + (w.shape[1] - fh) * dh", 0),
    ("sk_dilated.py", "fh * dil_h + zh, fw * dil_w + zw", "fh * dil_w + zh, fw * dil_h + zw", 0),
    ("sk_dilated.py", "depth = min(TILE, positions - first)", "depth = TILE", 0),
    ("sk_dilated.py", "            if tx < ic_left:", "            if tx <= ic_left:", 0),
    ("elementwise.py", "    if index >= out.size:", "    if index > out.size:", 0),
    ("elementwise.py", "real and 0 <= sh", "real and -1 <= sh", 0),
    ("elementwise.py", "sw < src.shape[2]", "sw <= src.shape[2]", 0),
    ("elementwise.py", "real = h - before_h == sh * step_h and w", "real = w", 0),
    ("elementwise.py", "    if index >= out.size:", "    if index > out.size:", 4),
    ("elementwise.py", "and 0 <= sh and sh < src.shape[2]", "and sh < src.shape[2]", 0),
    ("elementwise.py", "real = d - before_d == sd * step_d and h", "real = h", 0),
    (GATHER_3, "                        cuda.syncthreads()\n", "", 0),
    (GATHER_3, "                        cuda.syncthreads()\n", "", 3),
    (GATHER_3, "        if index >= out.size:", "        if index > out.size:", 1),
    (GATHER_3, "k + (taps - 1 - f) * axes", "k + (taps - f) * axes", 0),
    (GATHER_3, "c // columns, c % columns", "c % columns, c // columns", 1),
    (GATHER_3, "after(axes, 1, fh0, h0, th)", "after(axes, 0, fh0, h0, th)", 0),
    (GATHER_3, "if down < chunk and along < left:", "if down < chunk and along <= left:", 0),
    (GATHER_3, "d, h = third(table, g, DEPTH, kd, td)", "d, h = third(table, g, ROWS, kd, td)", 0),
    (GATHER_3, "return TILE + 4 if forward else TILE", "return TILE + 4", 0),
    (GATHER_3, "min(along + j * TILE, left - 1)", "min(along + j * TILE, left)", 0),
    (WEIGHT_3, "        cuda.syncthreads()\n", "", 0),
    (WEIGHT_3, "        cuda.syncthreads()\n", "", 3),
    (WEIGHT_3, "after(axes, 0, od0, d0, td)", "after(axes, 1, od0, d0, td)", 0),
    (WEIGHT_3, "unravel(first + ty, depths, rows, columns)", "unravel(first + ty, rows, depths, columns)", 0),
    (WEIGHT_3, "            if kd < taps_d:", "            if kd <= taps_d:", 0),
    (WEIGHT_3, "and kd[j] < taps_d:", "and kd[0] < taps_d:", 0),
    ("three_axes/equation.py", "-axes[axis, THIRD_STEP]", "axes[axis, THIRD_STEP]", 0),
    ("three_axes/equation.py", "axis.phase_step, -axis.output_step", "axis.phase_step, -1", 0),
    ("three_axes/equation.py", "max(0, hi - lo)", "hi - lo", 0),
    (LAUNCHES, "address(array) % 16 == 0", "True", 0),
    (LAUNCHES, "shape.h.dilation * x_h, shape.w.dilation", "shape.w.dilation * x_h, shape.h.dilation", 0),
    (LAUNCHES, "shape.h.stride * x_h, shape.w.stride", "shape.w.stride * x_h, shape.h.stride", 0),
    (TENSOR, "            ptx.wait_for_older()\n", "", 0),
    (TENSOR, "            cuda.syncthreads()\n", "", 0),
    (TENSOR, "            ptx.end_of_chunk()\n", "", 0),
    (TENSOR, "            ptx.end_of_chunk()\n", "", 1),
    ("tensor/sizes.py", "STAGES = 3", "STAGES = 2", 0),
    (TENSOR, "int32(a_term) < left", "int32(a_term) <= left", 0),
    (TENSOR, "int32(a_term) < left", "int32(a_term) <= left", 1),
    (TENSOR, "b_digits = a_digits", "pass", 1),
    (TENSOR, "while left > -bk * ahead:", "while left > 0:", 0),
    (TENSOR, "return uint32(0) if at == last", "return uint32(0) if at > last", 0),
    (TENSOR, "place_of(m if m < rows else uint32(0)", "place_of(m if m <= rows else uint32(0)", 0),
    (TENSOR, "c = c if c < columns else uint32(0)", "c = c if c <= columns else uint32(0)", 0),
    (TENSOR, "(m if m < rows else uint32(0))", "(m if m <= rows else uint32(0))", 0),
    (TENSOR, "digits(c if c < columns else uint32(0)", "digits(c if c <= columns else uint32(0)", 0),
    (TENSOR, "at if n < out.shape[0] else", "at if n <= out.shape[0] else", 0),
    (TENSOR, "if m < rows else int64(-1)", "if m <= rows else int64(-1)", 0),
    (TENSOR, "else kh < taps[1]", "else kh <= taps[1]", 0),
    (TENSOR, "if exist[j] > 1:", "if exist[j] > 0:", 0),
    (TENSOR, "if exist[j] > 0:", "if exist[j] >= 0:", 0),
    (TENSOR, "left = min(int32(terms - first), most)", "left = most", 0),
    (TENSOR, "<< uint32(16)", "<< uint32(15)", 0),
    (TENSOR, "        for part in range(1, partial", "        for part in range(2, partial", 0),
    (TENSOR, "widen(bias[columns[j]]) if exist[j] > 0", "widen(bias[columns[j]]) if exist[j] >= 0", 0),
    (TENSOR, "1]) if exist[j] > 1 else", "1]) if exist[j] > 0 else", 0),
    (TENSOR, "acc[i, j, 2] += first", "acc[i, j, 2] += second", 0),
    (TENSOR, "uint32(c_group * columns + places[j])", "places[j]", 0),
    (AXES, "return one, two, three, uint32(uint32(k)", "return two, one, three, uint32(uint32(k)", 0),
    (AXES, "array.shape[1], array.shape[2], array.shape[3]", "array.shape[2], array.shape[1], array.shape[3]", 0),
    (AXES, "return int32(n), int32(d), int32(h)", "return int32(n), int32(h), int32(d)", 0),
    (GEMM, "w_first += table[g, DEPTH + SUMMED] * w.shape[2]", "w_first += table[g, DEPTH + SUMMED] * w.shape[1]", 0),
    (GEMM, "dy_first += table[g, DEPTH + SUMMED] * dy.shape[2]", "dy_first += 0 * dy.shape[2]", 0),
    (GEMM, "terms = int32(table[g, DEPTH + TERMS] * terms)", "terms = int32(terms)", 0),
    (GEMM, "kd * in_depth(table, g, THIRD_FIXED, 0)", "kd", 0),
    (GEMM, "kd * in_depth(table, g, FIXED_STEP, 0)", "kd", 0),
    (GEMM, "exists = kd < taps[0] if", "exists = kd <= taps[0] if", 0),
    (GEMM, "if axes.number == 3 and width == 1 else b_along_terms", "if width == 1 else not b_along_terms", 0),
    (FUNCTIONS, "outer, first = carried(outer, first, sizes[0])", "pass", 0),
    (FUNCTIONS, "outer, first = carried(uint32(outer + by[0]), first, sizes[0])", "pass", 0),
    (FUNCTIONS, "first, middle = carried(first, middle, sizes[1])", "pass", 0),
    (FUNCTIONS, "            far += int32(outer * steps[0])", "            far += 0", 0),
    (LAUNCHES, "w_oc, d.dilation * x_d, w_d", "w_oc, x_d, w_d", 0),
    (LAUNCHES, "d.phase_step * w_d", "w_d", 0),
    (LAUNCHES, "shape.axes[0].stride * x_d", "x_d", 0),
    (TENSOR, "w_first += table[g, DEPTH + SUMMED] * w.shape[2]", "w_first += table[g, DEPTH + SUMMED] * w.shape[1]", 0),
    (TENSOR, "terms = int32(table[g, DEPTH + TERMS] * terms)", "terms = int32(terms)", 0),
    (TENSOR, "exists = kd < taps[0] if", "exists = kd <= taps[0] if", 0),
    (DEPTHWISE, "d += td * in_depth(table, g, THIRD_TERM, 0)", "d += td", 0),
    (DEPTHWISE, "n, kd = rest // rows_d, rest % rows_d", "n, kd = rest % rows_d, rest // rows_d", 0),
    (OPERANDS, "term // lanes ^ row // 8 % 4", "term // lanes ^ row // 4 % 4", 0),
    (OPERANDS, "term % 2 * 4 + term // 2 % 4", "term % 8", 0),
    (OPERANDS, "term % 4 * 2", "term % 4", 0),
    (OPERANDS, "to ^ (j * together * 16)", "to + (j * together * 16)", 0),
    (OPERANDS, "own // 2 * 8 + own % 2", "own", 0),
    (OPERANDS, "i // 4 * 32 + i % 4 * 2\n", "i * 8\n", 0),
    (OPERANDS, "i // 2 * 16 + i % 2 if is_a", "i * 8 if is_a", 0),
    (OPERANDS, "begin // 8 + octet ^ swizzle(r)", "begin // 8 + (octet ^ swizzle(r))", 0),
    (OPERANDS, "ptx.round_tf32(word) if rounds else word", "word", 0),
    (DEPTHWISE, "    if n >= out.shape[0]:", "    if n > out.shape[0]:", 0),
    (DEPTHWISE, "range(c * times, (c + 1) * times)", "range(c * times, c * times + 1)", 0),
    (DEPTHWISE, "        cuda.syncthreads()\n", "", 0),
    (DEPTHWISE, "acc += widen(bias[c])", "acc = widen(narrow(acc)) + widen(bias[c])", 0),
    (DEPTHWISE, "acc += widen(bias[c])", "acc += widen(bias[c // times])", 0),
    (DEPTHWISE, "for k in range(1, DOWN):", "for k in range(2, DOWN):", 0),
    (DEPTHWISE, "if oc < out.shape[0]:", "if oc <= out.shape[0]:", 0),
    ("tensor/__init__.py", "aligned and whole", "aligned", 0),
    ("tensor/__init__.py", "aligned and size[-1] % 2 == 0", "aligned", 0),
    ("tensor/__init__.py", "tuple(array.shape) == size and tiled.aligned(array)", "tuple(array.shape) == size", 0),
    ("elementwise.py", "if in_first < first and", "if in_first <= first and", 0),
    ("elementwise.py", "in_last < last and", "in_last <= last and", 0),
    ("elementwise.py", " and src_n < src.shape[0]:", ":", 0),
)  # fmt: skip


def kernel_mutants() -> Iterator[Mutant]:
    """Yield the mutants of the kernels; each must be noticed."""
    for file, old, new, which in EDITS:
        path = f"cks_numba/kernels/{file}"
        parts = (ROOT / path).read_text(encoding="utf-8").split(old)
        if len(parts) < which + 2:
            raise SystemExit(f"{path} no longer has {old!r}: change the list in {Path(__file__).name}")
        text = old.join(parts[: which + 1]) + new + old.join(parts[which + 1 :])
        yield Mutant(path, f"{old.strip()} -> {new.strip() or 'nothing'} ({which + 1})", text)


# --- the tests ------------------------------------------------------------------------------------
def tests_of(kind: str, path: str) -> tuple[str, ...]:
    """Return the arguments of pytest that choose the tests that a mutant of this file must break."""
    if kind == "geometry":
        return GEOMETRY_TESTS
    folder, name = Path(path).parts[-2:]
    key = next((key for key in (folder, name) if key in KERNEL_TESTS), "")
    file = "*.py" if name == "elementwise.py" else "test_tensor.py" if folder == "tensor" else "test_kernels.py"
    found = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/kernels/emulator").glob(file))
    return *found, "-k", KERNEL_TESTS[key]


def survives(mutant: Mutant | None, folder: Path, tests: tuple[str, ...]) -> bool:
    """Return whether all tests pass with the mutant, or with the unchanged code for None."""
    original = (ROOT / mutant.path).read_text(encoding="utf-8") if mutant else ""
    if mutant:
        (folder / mutant.path).write_text(mutant.text, encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, timeout=SECONDS
        )
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if mutant:
            (folder / mutant.path).write_text(original, encoding="utf-8")


def run(kind: str, only: str, sample: int | None, seed: int) -> int:
    mutants = list(geometry_mutants() if kind == "geometry" else kernel_mutants())
    mutants = [mutant for mutant in mutants if only in f"{mutant.path}: {mutant.what}"]
    if sample is not None and sample < len(mutants):
        mutants = random.Random(seed).sample(mutants, sample)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("cks_numba", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for tests in {tests_of(kind, mutant.path) for mutant in mutants}:
            if not survives(None, folder, tests):
                raise SystemExit(f"the tests fail without any change: pytest {' '.join(tests)}")
        alive = []
        for number, mutant in enumerate(mutants, 1):
            if survives(mutant, folder, tests_of(kind, mutant.path)):
                alive.append(mutant)
                print(f"SURVIVED {mutant.path}: {mutant.what}", flush=True)
            print(f"{kind}: {number} of {len(mutants)}, {len(alive)} survived", end="\r", flush=True)
    killed = 1 - len(alive) / max(1, len(mutants))
    print(f"{kind}: {len(mutants)} mutants, {killed:.0%} noticed")
    return int(killed < (LEAST if kind == "geometry" else 1.0))


def main() -> int:
    parser = argparse.ArgumentParser(description="Change one line at a time and see whether the tests notice.")
    parser.add_argument("kind", nargs="?", choices=("geometry", "kernels"), default="geometry")
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this text in their file or change")
    parser.add_argument("--sample", type=int, help="number of mutants, chosen at random; all by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return run(arguments.kind, arguments.only, arguments.sample, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
