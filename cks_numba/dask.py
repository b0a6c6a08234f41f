"""The operators on dask arrays that are cut along the batch: each worker computes for the images that it has.

`conv2d`, `conv2d_input` and `conv_transpose2d` give one chunk for each chunk of images, so nothing is moved but the
filter. `conv2d_weight` is a map and a sum: each chunk gives a filter gradient of its own, and a tree adds them up, in
the same order on any number of workers. Everything is lazy; a chunk whose worker dies is computed again by another. The
operators of one and three axes are the same code. `cost` counts memory and traffic.

Needs dask: ``pip install 'cks-numba[dask]'``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from math import prod
from typing import Any

import numpy as np

from . import operators, plan_table
from .geometry import ConvShape

try:
    import dask.array as da
except ModuleNotFoundError as _missing:
    raise ImportError("cks_numba.dask needs dask: pip install 'cks-numba[dask]'") from _missing

__all__ = [
    "Cost",
    "conv1d",
    "conv1d_input",
    "conv1d_weight",
    "conv2d",
    "conv2d_input",
    "conv2d_weight",
    "conv3d",
    "conv3d_input",
    "conv3d_weight",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cost",
]

FAN_IN = 8
"""Filter gradients that one step of the tree adds up."""


def conv2d(x: Any, w: Any, bias: Any = None, **options: Any) -> da.Array:
    """`cks_numba.conv2d` for a dask array x.

    Parameters
    ----------
    x : dask array (N, IH, IW, IC)
        Chunked along N alone.
    w, bias : NumPy array, or dask array of one chunk
    **options
        stride, padding, dilation, groups, layout, backend and precision, as in `cks_numba.conv2d`.

    Returns
    -------
    dask array (N, OH, OW, OC)
        With the chunks of x.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((10, 4, 4, 3), chunks=(4, -1, -1, -1), dtype=np.float32)
    >>> y = conv2d(x, np.ones((8, 3, 3, 3), np.float32), padding=1)
    >>> y.chunks[0], y.shape
    ((4, 4, 2), (10, 4, 4, 8))
    >>> float(y.sum().compute())
    24000.0
    """
    return _convolution("conv2d", 2, x, w, bias, options)


def conv_transpose2d(x: Any, w: Any, bias: Any = None, **options: Any) -> da.Array:
    """`cks_numba.conv_transpose2d` for a dask array x.

    Parameters
    ----------
    x : dask array (N, H, W, IN)
        Chunked along N alone.
    w, bias : NumPy array, or dask array of one chunk
    **options
        As in `cks_numba.conv_transpose2d`, but for `out` and `stream`.

    Returns
    -------
    dask array (N, OH, OW, OUT)
        With the chunks of x.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((10, 4, 4, 3), chunks=(4, -1, -1, -1))
    >>> y = conv_transpose2d(x, np.ones((3, 2, 2, 5)), stride=2)
    >>> y.chunks[0], y.shape
    ((4, 4, 2), (10, 8, 8, 5))
    """
    return _convolution("conv_transpose2d", 2, x, w, bias, options)


def conv2d_input(input_size: Any, w: Any, dy: Any, **options: Any) -> da.Array:
    """`cks_numba.conv2d_input` for a dask array dy.

    Parameters
    ----------
    input_size : (N, IH, IW, IC)
    w : NumPy array, or dask array of one chunk
    dy : dask array (N, OH, OW, OC)
        Chunked along N alone.
    **options
        As in `conv2d`.

    Returns
    -------
    dask array of shape `input_size`
        With the chunks of dy along N.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> dy = da.ones((10, 2, 2, 1), chunks=(5, -1, -1, -1))
    >>> conv2d_input((10, 4, 4, 3), np.ones((1, 3, 3, 3)), dy, stride=2, padding=1).chunks[0]
    (5, 5)
    """
    return _input_gradient(2, input_size, w, dy, options)


def conv2d_weight(x: Any, weight_size: Any, dy: Any, **options: Any) -> da.Array:
    """`cks_numba.conv2d_weight` for dask arrays x and dy: one gradient a chunk, added up as a tree.

    Parameters
    ----------
    x : dask array (N, IH, IW, IC)
    weight_size : (OC, FH, FW, IC/groups)
    dy : dask array (N, OH, OW, OC)
        x and dy are chunked along N alone; dy is cut like x.
    **options
        As in `conv2d`.

    Returns
    -------
    dask array of shape `weight_size`, one chunk
        The same bits for the same chunks, whichever of several equal machines computes them.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> x, dy = (da.ones((10, 4, 4, 1), chunks=(4, -1, -1, -1)) for _ in range(2))
    >>> conv2d_weight(x, (1, 3, 3, 1), dy, padding=1)[0, :, :, 0].compute()
    array([[ 90., 120.,  90.],
           [120., 160., 120.],
           [ 90., 120.,  90.]])
    """
    return _weight_gradient(2, x, weight_size, dy, options)


# --- one axis and three ----------------------------------------------------------------------------
def conv1d(x: Any, w: Any, bias: Any = None, **options: Any) -> da.Array:
    """`cks_numba.conv1d` for a dask array x (N, IW, IC); as `conv2d`.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((10, 100, 3), chunks=(4, -1, -1))
    >>> conv1d(x, np.ones((8, 5, 3)), stride=2, padding=2).shape
    (10, 50, 8)
    """
    return _convolution("conv1d", 1, x, w, bias, options)


def conv_transpose1d(x: Any, w: Any, bias: Any = None, **options: Any) -> da.Array:
    """`cks_numba.conv_transpose1d` for a dask array x (N, W, IN); as `conv_transpose2d`.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((10, 50, 8), chunks=(4, -1, -1))
    >>> conv_transpose1d(x, np.ones((8, 4, 3)), stride=2, padding=1).shape
    (10, 100, 3)
    """
    return _convolution("conv_transpose1d", 1, x, w, bias, options)


def conv1d_input(input_size: Any, w: Any, dy: Any, **options: Any) -> da.Array:
    """`cks_numba.conv1d_input` for a dask array dy (N, OW, OC); as `conv2d_input`.

    Examples
    --------
    >>> import dask.array as da
    >>> dy = da.ones((10, 50, 8), chunks=(4, -1, -1))
    >>> conv1d_input((10, 100, 3), np.ones((8, 5, 3)), dy, stride=2, padding=2).shape
    (10, 100, 3)
    """
    return _input_gradient(1, input_size, w, dy, options)


def conv1d_weight(x: Any, weight_size: Any, dy: Any, **options: Any) -> da.Array:
    """`cks_numba.conv1d_weight` for dask arrays x (N, IW, IC) and dy (N, OW, OC); as `conv2d_weight`.

    Examples
    --------
    >>> import dask.array as da
    >>> x, dy = da.ones((10, 100, 3), chunks=(4, -1, -1)), da.ones((10, 50, 8), chunks=(4, -1, -1))
    >>> conv1d_weight(x, (8, 5, 3), dy, stride=2, padding=2)[0, :, 0].compute().tolist()
    [490.0, 490.0, 500.0, 500.0, 490.0]
    """
    return _weight_gradient(1, x, weight_size, dy, options)


def conv3d(x: Any, w: Any, bias: Any = None, **options: Any) -> da.Array:
    """`cks_numba.conv3d` for a dask array x (N, ID, IH, IW, IC); as `conv2d`.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((10, 8, 8, 8, 3), chunks=(4, -1, -1, -1, -1))
    >>> conv3d(x, np.ones((8, 3, 3, 3, 3)), padding=1).chunks[0]
    (4, 4, 2)
    """
    return _convolution("conv3d", 3, x, w, bias, options)


def conv_transpose3d(x: Any, w: Any, bias: Any = None, **options: Any) -> da.Array:
    """`cks_numba.conv_transpose3d` for a dask array x (N, D, H, W, IN); as `conv_transpose2d`.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((10, 4, 4, 4, 8), chunks=(4, -1, -1, -1, -1))
    >>> conv_transpose3d(x, np.ones((8, 4, 4, 4, 3)), stride=2, padding=1).shape
    (10, 8, 8, 8, 3)
    """
    return _convolution("conv_transpose3d", 3, x, w, bias, options)


def conv3d_input(input_size: Any, w: Any, dy: Any, **options: Any) -> da.Array:
    """`cks_numba.conv3d_input` for a dask array dy (N, OD, OH, OW, OC); as `conv2d_input`.

    Examples
    --------
    >>> import dask.array as da
    >>> dy = da.ones((10, 4, 4, 4, 8), chunks=(4, -1, -1, -1, -1))
    >>> conv3d_input((10, 8, 8, 8, 3), np.ones((8, 4, 4, 4, 3)), dy, stride=2, padding=1).shape
    (10, 8, 8, 8, 3)
    """
    return _input_gradient(3, input_size, w, dy, options)


def conv3d_weight(x: Any, weight_size: Any, dy: Any, **options: Any) -> da.Array:
    """`cks_numba.conv3d_weight` for dask arrays x (N, ID, IH, IW, IC) and dy (N, OD, OH, OW, OC); as `conv2d_weight`.

    Examples
    --------
    >>> import dask.array as da
    >>> x, dy = (da.ones((10, 4, 4, 4, 1), chunks=(4, -1, -1, -1, -1)) for _ in range(2))
    >>> conv3d_weight(x, (1, 3, 3, 3, 1), dy, padding=1)[0, 1, 1, :, 0].compute().tolist()
    [480.0, 640.0, 480.0]
    """
    return _weight_gradient(3, x, weight_size, dy, options)


# --- what the operators share, whatever the number of axes ----------------------------------------
def _convolution(name: str, axes: int, x: Any, w: Any, bias: Any, options: dict[str, Any]) -> da.Array:
    operator = partial(getattr(operators, name), **options)
    x, w = _by_images("x", x, axes), _whole("w", w)
    rest = () if bias is None else (_whole("bias", bias),)
    meta = operator(_like(x, 0), *map(_like, (w, *rest)))  # no image: checks all, computes nothing
    return _map(operator, meta, x, w, *rest)


def _input_gradient(axes: int, input_size: Any, w: Any, dy: Any, options: dict[str, Any]) -> da.Array:
    operator = partial(getattr(operators, f"conv{axes}d_input"), **options)
    dy, w = _by_images("dy", dy, axes), _whole("w", w)
    _same_images("input_size", input_size, dy)
    size = tuple(input_size[1:])
    meta = operator((0, *size), _like(w), _like(dy, 0))

    def of_chunk(dy: Any, w: Any) -> Any:
        return operator((len(dy), *size), w, dy)

    return _map(of_chunk, meta, dy, w)


def _weight_gradient(axes: int, x: Any, weight_size: Any, dy: Any, options: dict[str, Any]) -> da.Array:
    operator = partial(getattr(operators, f"conv{axes}d_weight"), **options)
    x, dy = _by_images("x", x, axes), _by_images("dy", dy, axes)
    _same_images("dy", dy.shape, x)
    dy = dy.rechunk({0: x.chunks[0]})
    meta = operator(_like(x, 0), weight_size, _like(dy, 0))
    wide = np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype  # the sum of all chunks is rounded once

    def of_chunk(x: Any, dy: Any) -> Any:
        x, dy = (array.astype(wide, copy=False) for array in (x, dy))
        return operator(x, weight_size, dy)[None]

    parts = _map(of_chunk, meta.astype(wide)[None], x, dy, cut=2, adjust_chunks={0: 1})
    return parts.sum(axis=0, dtype=wide, split_every=FAN_IN).astype(x.dtype)


def _map(function: Any, meta: Any, *arrays: da.Array, cut: int = 1, **options: Any) -> da.Array:
    """Apply a function to each chunk of images; the first `cut` arrays are cut, the others go whole to every chunk.

    Images have index 0 in all arrays. Every other axis has an index of its own, because an axis of an operand is summed
    over or gets another size.
    """
    index = count(1)
    inputs: list[Any] = []
    for k, array in enumerate(arrays):
        own = [next(index) for _ in range(array.ndim)]
        inputs += [array, [0, *own[1:]] if k < cut else own]
    axes = {next(index): size for size in meta.shape[1:]}
    return da.blockwise(
        function, [0, *axes], *inputs, new_axes=axes, concatenate=True, dtype=meta.dtype, meta=meta, **options
    )


def _by_images(name: str, array: Any, axes: int) -> da.Array:
    if not isinstance(array, da.Array):
        raise TypeError(f"{name} must be a dask array, got {type(array).__name__}")
    _known(name, array)
    if array.ndim != axes + 2:
        raise ValueError(f"{name} must have {axes + 2} axes, got shape {array.shape}")
    if any(len(chunks) > 1 for chunks in array.chunks[1:]):
        raise ValueError(
            f"{name} must be chunked along its first axis alone, got chunks {array.chunks}: "
            f"use {name}.rechunk({dict.fromkeys(range(1, array.ndim), -1)})"
        )
    return array


def _known(name: str, array: da.Array) -> None:
    if np.isnan(array.shape).any():
        raise ValueError(
            f"{name} must have axes of known size, got shape {array.shape}: use {name}.compute_chunk_sizes()"
        )


def _whole(name: str, array: Any) -> da.Array:
    """Check a filter or a bias, which every chunk needs."""
    if not isinstance(array, da.Array):
        return da.from_array(np.asarray(array), chunks=-1)  # so it is in the graph once, and not in every task
    _known(name, array)
    if array.npartitions > 1:
        raise ValueError(f"{name} must be one chunk, got chunks {array.chunks}: use {name}.rechunk(-1)")
    return array


def _like(array: da.Array, images: int | None = None) -> Any:
    """An array of this shape and dtype (and number of images) that takes no memory."""
    shape = array.shape if images is None else (images, *array.shape[1:])
    return np.broadcast_to(np.zeros((), array.dtype), shape)


def _same_images(name: str, size: Any, array: da.Array) -> None:
    if not isinstance(size, (tuple, list)) or len(size) != array.ndim:
        raise ValueError(f"{name} must have {array.ndim} axes, got {size!r}")
    if size[0] != len(array):
        raise ValueError(f"{name} must have {len(array)} images, like the array that is chunked, got {size[0]}")


# --- memory and traffic ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Cost:
    """Memory and traffic of a layer on a cluster in a training step, in bytes.

    Attributes
    ----------
    workers, images : int
        Number of workers, and of images on the worker with the most.
    memory : int
        Peak memory of that worker: x, y, their gradients, the filter, its gradient, and those that a step of the tree
        adds up.
    filters : int
        Traffic of the filter, which every worker needs once.
    gradients : int
        Traffic of the filter gradients: every one but the last moves once.
    steps : int
        Steps of the tree, one after the other.
    """

    workers: int
    images: int
    memory: int
    filters: int
    gradients: int
    steps: int

    def __str__(self) -> str:
        return (
            f"{self.workers} workers with up to {self.images} images each: {_bytes(self.memory)} of memory a worker, "
            f"{_bytes(self.filters)} of filters out, {_bytes(self.gradients)} of filter gradients back in "
            f"{self.steps} steps"
        )


def cost(shape: ConvShape, workers: int, itemsize: int = 4) -> Cost:
    """Count what a training step of a layer takes on a cluster where every worker has one chunk.

    Parameters
    ----------
    shape : ConvShape
        The layer with all images.
    workers : int
    itemsize : int
        Bytes of an element.

    Returns
    -------
    Cost
        Images, activations and their gradients stay where they are, so they count as memory and not as traffic.

    Raises
    ------
    ValueError
        For fewer than one worker.

    Examples
    --------
    >>> shape = ConvShape(n=64000, ih=8, iw=8, ic=256, oc=256, fh=3, fw=3, padding=1)
    >>> print(cost(shape, 1000))
    1000 workers with up to 64 images each: 40.4 MB of memory a worker, 2.36 GB of filters out,
    2.36 GB of filter gradients back in 4 steps
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    images = plan_table.ceil_div(shape.n, workers)
    used = min(workers, shape.n)
    filter_bytes = itemsize * prod(shape.w_shape)
    maps = itemsize * images * (prod(shape.x_shape[1:]) + prod(shape.y_shape[1:]))
    steps, left = 0, used
    while left > 1:
        steps, left = steps + 1, plan_table.ceil_div(left, FAN_IN)
    memory = 2 * maps + (2 + min(used, FAN_IN)) * filter_bytes
    return Cost(workers, images, memory, used * filter_bytes, max(0, used - 1) * filter_bytes, steps)


def _bytes(number: int) -> str:
    """Three digits, such as 2.36 GB."""
    size, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
