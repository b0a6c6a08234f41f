"""`pack`: filters that do not change, brought into the order of the CPU kernels once."""

from __future__ import annotations

from typing import Any

from .. import checks
from ..arrays.call import Call, Operand
from ..arrays.packed import Packed
from ..backends import cpu
from ..buffers import HALVES, LAYOUTS, Layout
from .fitting import W

OPERATORS = {
    f"{start}{axes}d{end}": ("conv2d_input" if end or "transpose" in start else "conv2d", axes)
    for axes in (1, 2, 3)
    for start, end in (("conv", ""), ("conv", "_input"), ("conv_transpose", ""))
}
"""For each name of an operator whose filters can be packed, the operator of two axes that it is, and its axes."""


def pack(w: Any, *, operator: str = "conv2d", groups: int = 1, layout: Layout | None = None) -> Packed:
    """Pack filters once, for many calls on the CPU in which they do not change.

    A call with an array brings it into the order of the kernels first. Where filters are larger than maps that takes
    a good part of its time. The result is accepted in the place of w, by the operator and in the layout that are named
    here, with arrays of the same dtype.

    Parameters
    ----------
    w : array (OC, FH, FW, IC/groups)
        float32 or float64, in host memory; in the order of `layout`, with as many spatial axes as the operator has. It
        is copied.
    operator : {"conv2d", "conv2d_input", "conv_transpose2d"}, or the same of 1 or 3 axes
    groups : int
        Channel groups; divides OC.
    layout : {"NHWC", "NCHW"}, or the same of 1 or 3 axes
        Channels last if it is left out.

    Returns
    -------
    Packed

    Raises
    ------
    ValueError, TypeError
        For a wrong argument. A call raises them for filters that were packed for another operator, layout, dtype or
        number of groups, and for another backend than "cpu".

    Examples
    --------
    >>> import numpy as np, cks_numba as cks
    >>> x, w = np.ones((1, 4, 4, 64), np.float32), np.ones((32, 3, 3, 64), np.float32)
    >>> packed = cks.pack(w)
    >>> packed.shape, packed.nbytes // w.nbytes
    ((32, 3, 3, 64), 2)
    >>> y = cks.conv2d(x, packed, padding=1)
    >>> np.array_equal(y, cks.conv2d(x, w, padding=1, backend="cpu"))
    True
    """
    name = checks.choice("operator", operator, tuple(OPERATORS))
    operator, axes = OPERATORS[name]
    layout = checks.choice("layout", LAYOUTS[axes][0] if layout is None else layout, LAYOUTS[axes])
    if isinstance(w, Packed):
        raise TypeError("w is packed already")
    operand = Operand("w", w)
    call: Call[Any] = Call(layout, None, None, operand)
    if call.library.on_gpu or call.dtype in HALVES:
        where = "on a GPU" if call.library.on_gpu else call.dtype
        raise TypeError(f"w must be float32 or float64 in host memory to be packed, got an array {where}")
    call.check_filter(operand, W)
    groups = checks.integer("groups", groups, 1)
    checks.divides(groups, "w", operand.shape[0])
    call.strided = True
    return Packed(operator, layout, groups, cpu.packed.packed_filters(operator, call.view(operand), groups))
