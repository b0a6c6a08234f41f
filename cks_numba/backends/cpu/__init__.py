"""The operators on a CPU: the plan's groups as one grouped GEMM, compiled by Numba.

Every compiled kernel computes tiles of results in registers; a row of a tile is two vectors, and their places are the
lanes. For each term of its sum it multiplies a number, or a row of lanes, of A by a row of lanes of B:

================  ====================  ======================  ===================  ======================  ==========
kernel            operators             rows of a tile          lanes of a row       sum over                A * B
================  ====================  ======================  ===================  ======================  ==========
gather            conv2d, conv2d_input  positions               result channels      taps, source channels   number*row
gather (short)    conv2d, conv2d_input  positions, panels       result channels      taps, source channels   number*row
gather (narrow)   conv2d, conv2d_input  positions, 2 channels   source channels      taps, then lanes        row*row
tall              conv2d, conv2d_input  line of positions       result channels      taps, source channels   number*row
planes            conv2d, conv2d_input  result channels         positions            taps, source channels   number*row
across            conv2d, conv2d_input  positions               result channels      source channels, taps   number*row
along             conv2d                2 positions, channels   source channels      taps, then lanes        row*row
weight            conv2d_weight         channels of dy          channels of x        images, positions       number*row
few               conv2d_weight         taps, few channels      many channels        images, positions       number*row
depthwise         conv2d, conv2d_input  neighbouring positions  channels             taps                    row*row
of_filters        conv2d_weight         neighbouring taps       channels             images, positions       row*row
================  ====================  ======================  ===================  ======================  ==========

`plain` is the version for reading, in plain NumPy. In the compiled version `tile` has the inner loop, and a table of
what it multiplies for each operator. `gather` (conv2d and conv2d_input), `weight` (conv2d_weight), `unpacked` (`gather`
with few positions) and `few` (conv2d_weight with few channels) are built on it. Loops of their own have `tall` and
`planes` (`gather` with few result channels) and `depthwise`, for layers with small channel groups: its tiles of
`in_lines` are parts of whole rows, and `in_groups` and `of_filters_in_groups` are for groups of several channels.
`bias` adds a bias. `packed` has filters that are packed once for many calls, and `repeats` keeps what a call has found
for the next one of its kind. `threads` share the tasks. The environment variable CKS_NUMBA_CPU=numpy selects `plain`,
which also takes over if Numba cannot compile.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError

from ... import checks
from ...geometry import ConvShape
from . import bias as bias_kernel
from . import bounds, compiled, depthwise, gather, packed, plain, planes, registers, repeats, tall, unpacked, weight

Array = np.ndarray[Any, Any]
Operand = Array | packed.PackedFilters
_CHOICE = checks.choice("CKS_NUMBA_CPU", os.environ.get("CKS_NUMBA_CPU") or "numba", ("numba", "numpy", "checked"))
NOTES_CALLS = True  # The benchmark of the special paths, and tests that change what a call does, turn it off.
COMPILED = _CHOICE != "numpy" and not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


def run(
    operator: str, shape: ConvShape, first: Operand, second: Operand, out: Array, bias: Array | None = None
) -> None:
    """Run an operator on arrays of any strides, channels last, with one, two or three spatial axes.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        With at least one image.
    first, second : numpy.ndarray
        (x, w), (w, dy) or (x, dy), in the order of the operators above; of one dtype, aligned. w may be packed.
    out : numpy.ndarray
        y, dx or dw; every element is written.
    bias : numpy.ndarray, optional
        Contiguous; added to each position of the result.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> y = np.empty(shape.y_shape)
    >>> run("conv2d", shape, np.ones(shape.x_shape), np.ones(shape.w_shape), y)
    >>> y.ravel()
    array([4., 4., 4., 4.])
    """
    if not (COMPILED and NOTES_CALLS):
        _run_all(operator, shape, first, second, out, bias)
        return
    (x, *panels_x), (y, *panels_y) = packed.arrays_of(first), packed.arrays_of(second)
    panels = panels_x + panels_y
    strides = (each.strides for each in (x, y, out, *panels))
    key = key_of(operator, shape, bias is None, out.dtype.char, *strides)
    known: repeats.Repeat | None = repeats.known(key)
    if known is not None:
        addresses = bounds.addresses_of(x, y, out, bias, *panels)
        known.run(*addresses)
    else:
        at_bias = 0 if bias is None else bias.ctypes.data
        addresses = (x.ctypes.data, y.ctypes.data, out.ctypes.data, at_bias, *(each.ctypes.data for each in panels))
        known = repeats.noting(key, addresses, lambda: _run_all(operator, shape, first, second, out, bias))
    repeats.now.last = None if known is None else (known, addresses)


def key_of(
    operator: str, shape: ConvShape, without_bias: bool, char: str, *strides: tuple[int, ...]
) -> tuple[Any, ...]:
    """Return what is equal for calls that do the same on other addresses."""
    return operator, shape, without_bias, char, strides, compiled.threads_of_numba()


def _run_all(operator: str, shape: ConvShape, first: Operand, second: Operand, out: Array, bias: Array | None) -> None:
    """Run an operator, and add the bias."""
    _run(operator, shape, first, second, out)
    if bias is None:
        return
    if not COMPILED:
        plain.add_bias(out, bias)
        return
    try:
        bias_kernel.add(out, bounds.only_read(bias) if registers.CHECKED else bias)
    except NumbaError:  # `_run` has warned
        repeats.not_again()
        plain.add_bias(out, bias)


def _run(operator: str, shape: ConvShape, first: Operand, second: Operand, out: Array) -> None:
    """Run an operator by the kernel that suits the layer."""
    panels = None
    if isinstance(first, packed.PackedFilters):
        first, panels = first
    if isinstance(second, packed.PackedFilters):
        second, panels = second
    if not COMPILED:
        plain.run(operator, shape, first, second, out)
        return
    if registers.CHECKED:
        first, second = bounds.only_read(first), bounds.only_read(second)
    try:
        if depthwise.fits(shape, out.itemsize):
            depthwise.run(operator, shape, first, second, out)
        elif operator == "conv2d_weight":
            weight.run(shape, first, second, out)
        else:
            source, w = (first, second) if operator == "conv2d" else (second, first)
            way = unpacked.way_of(operator, shape, source, w, panels)
            if not way and tall.fits(operator, shape, source.strides, out.strides, out.itemsize):
                tall.run(operator, shape, source, w, out)
                return
            if planes.fits(operator, shape, out.itemsize):
                planes.run(operator, shape, source, w, out)
                return
            w = w if panels is None or way == "along" else panels
            if way:
                unpacked.run(way, operator, shape, source, w, out)
            else:
                gather.run(operator, shape, source, w, out)
    except NumbaError as error:  # raised by the compiler, so nothing has been written
        repeats.not_again()
        warnings.warn(f"Numba cannot compile the CPU kernels, NumPy takes over: {error}", RuntimeWarning, stacklevel=2)
        plain.run(operator, shape, first, second, out)
