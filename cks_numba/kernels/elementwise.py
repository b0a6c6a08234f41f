"""Kernels that make each element of their result from one element, a thread each, and their launches.

Where the place in an image does not matter, the kernels take arrays of four axes: see `as_images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ..geometry import ConvShape
from .jit import cuda, unravel
from .launch import Launch, one_thread_each, scratch


# --- zeros around and between, as the regular way needs them --------------------------------------
@cuda.jit
def insert_zeros(src, out, before_h, before_w, step_h, step_w):
    """Put the elements of src into an array of zeros, the first one at `before` and the others `step` apart.

    A step of 1 pads, a larger one inserts zeros, and a negative `before` crops. One thread an element of `out`.
    """
    index = cuda.grid(1)
    if index >= out.size:
        return
    n, h, w, c = unravel(index, out.shape[1], out.shape[2], out.shape[3])
    sh, sw = (h - before_h) // step_h, (w - before_w) // step_w
    real = h - before_h == sh * step_h and w - before_w == sw * step_w
    real = real and 0 <= sh and sh < src.shape[1] and 0 <= sw and sw < src.shape[2]
    if real:
        out[n, h, w, c] = src[n, sh, sw, c]
    else:
        out[n, h, w, c] = 0


@cuda.jit
def insert_zeros_3d(src, out, before_d, before_h, before_w, step_d, step_h, step_w):
    """The same over three axes."""
    index = cuda.grid(1)
    if index >= out.size:
        return
    n, d, h, w = unravel(index // out.shape[4], out.shape[1], out.shape[2], out.shape[3])
    c = index % out.shape[4]
    sd, sh, sw = (d - before_d) // step_d, (h - before_h) // step_h, (w - before_w) // step_w
    real = d - before_d == sd * step_d and h - before_h == sh * step_h and w - before_w == sw * step_w
    real = real and 0 <= sd and sd < src.shape[1] and 0 <= sh and sh < src.shape[2] and 0 <= sw and sw < src.shape[3]
    if real:
        out[n, d, h, w, c] = src[n, sd, sh, sw, c]
    else:
        out[n, d, h, w, c] = 0


ADD_ZEROS = {2: insert_zeros, 3: insert_zeros_3d}
"""The kernels that make an array with padded or inserted zeros, by the number of spatial axes."""


def zeros_inserted(name: str, src: Any, size: Sequence[int], before: Any, step: Any) -> tuple[Any, Launch]:
    """Allocate an array for src with zeros around or between its elements; return it and the launch that fills it."""
    out = scratch(src, (src.shape[0], *size, src.shape[-1]))
    return out, one_thread_each(name, ADD_ZEROS[len(size)], out, (src, out, *before, *step))


def padded(x: Any, shape: ConvShape) -> tuple[Any, Launch]:
    """Allocate an array for x with its padding; return it and the launch that fills it."""
    size = [axis.before + axis.size + axis.after for axis in shape.axes]
    return zeros_inserted("pad x", x, size, [axis.before for axis in shape.axes], [1] * len(size))


def as_images(array: Any) -> Any:
    """Return a view of a contiguous array, channels last, of which all spatial axes but the last one are rows."""
    n, *rows, columns, channels = array.shape
    return array.reshape((n, prod(rows), columns, channels))


# --- channel groups as long as the tensor rung needs them -----------------------------------------
@cuda.jit
def pad_channels(src, out, first, first_padded, last, last_padded):
    """Copy src to out, which has more channels in each channel group: those are 0. One thread an element of out.

    Both have four axes.

    `last` counts the channels of a group on the last axis, `first` those on the first axis, 1 where that counts images.
    """
    index = cuda.grid(1)
    if index >= out.size:
        return
    n, h, w, c = unravel(index, out.shape[1], out.shape[2], out.shape[3])
    in_first, in_last = n % first_padded, c % last_padded
    src_n, src_c = n // first_padded * first + in_first, c // last_padded * last + in_last
    if in_first < first and in_last < last and src_n < src.shape[0]:
        out[n, h, w, c] = src[src_n, h, w, src_c]
    else:
        out[n, h, w, c] = 0


# --- layouts and the bias -------------------------------------------------------------------------
@cuda.jit
def copy(src, out, h_size, w_size, c_size, src_channels_first, out_channels_first):
    """Copy src to out, either of them NCHW or NHWC, with any strides. One thread an element."""
    index = cuda.grid(1)
    if index >= out.size:
        return
    n, h, w, c = unravel(index, h_size, w_size, c_size)
    if src_channels_first:
        value = src[n, c, h, w]
    else:
        value = src[n, h, w, c]
    if out_channels_first:
        out[n, c, h, w] = value
    else:
        out[n, h, w, c] = value


@cuda.jit
def add_bias(out, bias):
    """Add bias (C,) to out, an array of four axes with channels last. One thread an element."""
    index = cuda.grid(1)
    if index >= out.size:
        return
    n, h, w, c = unravel(index, out.shape[1], out.shape[2], out.shape[3])
    out[n, h, w, c] += bias[c]


def launch_copy(src: Any, out: Any, src_channels_first: bool, out_channels_first: bool) -> Launch:
    """Build the launch that copies one array into another, between the two layouts."""
    h, w, c = (src.shape[k] for k in ((2, 3, 1) if src_channels_first else (1, 2, 3)))
    return one_thread_each("copy", copy, out, (src, out, h, w, c, src_channels_first, out_channels_first))


def launch_add_bias(out: Any, bias: Any) -> Launch:
    """Build the launch that adds a bias in place to a contiguous array, channels last."""
    return one_thread_each("add bias", add_bias, out, (as_images(out), bias))
