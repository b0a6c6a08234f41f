"""The three operators as CUDA kernels, rung by rung, and the launches that run them."""

from __future__ import annotations

from typing import Any

from .. import checks
from ..buffers import with_unit_axes
from ..geometry import ConvShape
from . import conv_v2, ks_deconv, sk_dilated, tensor, three_axes
from .elementwise import launch_add_bias
from .launch import Launch

BY_OPERATOR = {"conv2d": conv_v2, "conv2d_input": ks_deconv, "conv2d_weight": sk_dilated}
RUNGS = tuple(conv_v2.RUNGS)
SIMULATED_RUNGS = tuple(rung for rung in RUNGS if rung != "tensor")
"""The rungs that Numba's simulator and `trace` can run: all but the last one, which holds PTX."""

DTYPES = {rung: ("float32", "float64") for rung in SIMULATED_RUNGS} | {"tensor": tuple(tensor.FORMATS)}
"""The dtypes that each rung takes."""

__all__ = ["BY_OPERATOR", "DTYPES", "RUNGS", "SIMULATED_RUNGS", "Launch", "launches"]


def launches(
    operator: str, shape: ConvShape, arrays: tuple[Any, Any, Any], rung: str = "tiled", bias: Any = None
) -> list[Launch]:
    """Build the launches of an operator, without running them; no GPU needed.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        Of one, two or three spatial axes. One axis runs as two, of which the first has one element.
    arrays : tuple of three arrays
        (x, w, out), (w, dy, out) or (x, dy, out): NumPy or device arrays, C-contiguous, channels last (NHWC, OHWI),
        all of one dtype: float32 or float64; for the rung "tensor" float32 (multiplied as tf32), float16 or bfloat16.
        `out` is written when the launches run.
    rung : {"with_zeros", "skip_zeros", "shared", "grouped", "register_tile", "tiled", "tensor"}
    bias : array, optional
        Added to the result of conv2d or conv2d_input: of the same dtype, an element for each channel.

    Returns
    -------
    list of Launch
        They must run in this order. Memory that one of them hands to the next is allocated here. The list is
        empty where there is nothing to write.

    Raises
    ------
    ValueError, TypeError
        For an unknown operator or rung, for arrays of another shape, dtype or memory order, and for a bias of
        "conv2d_weight".
    RuntimeError
        For the rung "tensor" in Numba's simulator.

    Examples
    --------
    >>> import numpy as np
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=2, oc=3, fh=3, fw=3, padding=1)
    >>> x, w, y = (np.zeros(size, np.float32) for size in (shape.x_shape, shape.w_shape, shape.y_shape))
    >>> for launch in launches("conv2d", shape, (x, w, y), rung="skip_zeros"):
    ...     print(launch)
    conv2d skip_zeros[(1,), (128,)](float32[1, 4, 4, 2], float32[3, 3, 3, 2], float32[1, 4, 4, 3], 1, 1, 1, 1, 1, 1)
    """
    if operator not in BY_OPERATOR:
        raise ValueError(f"operator must be one of {tuple(BY_OPERATOR)}, got {operator!r}")
    if rung not in RUNGS:
        raise ValueError(f"rung must be one of {RUNGS}, got {rung!r}")
    _check(operator, shape, arrays, rung)
    if bias is not None:
        _check_bias(operator, bias, arrays[2])
    if len(shape.axes) == 1:
        one, two, out = (with_unit_axes(array, 2) for array in arrays)
        shape, arrays = shape.with_unit_axes(2), (one, two, out)
    if 0 in arrays[2].shape:
        return []
    build = _rungs(operator, len(shape.axes))[rung]
    if rung == "tensor" and bias is not None:
        built = build(shape, *arrays, bias)
    else:
        built = build(shape, *arrays)
        built += [] if bias is None else [launch_add_bias(arrays[2], bias)]
    built = [launch for launch in built if min(launch.grid)]  # with no image there is nothing to pad
    for launch in built:
        checks.grid(launch.name, launch.grid)
    return built


def _rungs(operator: str, axes: int) -> dict[str, Any]:
    """Return the builders of launches by rung; the last rungs have one for any number of axes."""
    return BY_OPERATOR[operator].RUNGS | (three_axes.BY_OPERATOR[operator] if axes == 3 else {})


def _check_bias(operator: str, bias: Any, out: Any) -> None:
    if operator == "conv2d_weight":
        raise ValueError("the gradient of the filter has no bias")
    checks.bias(tuple(bias.shape), out.shape[-1])
    if bias.dtype != out.dtype:
        raise TypeError(f"bias must be {out.dtype} like the other arrays, got {bias.dtype}")


def _check(operator: str, shape: ConvShape, arrays: tuple[Any, Any, Any], rung: str) -> None:
    expected = shape.arrays(operator)
    if len(arrays) != 3:
        raise ValueError(f"arrays must be three arrays {tuple(name for name, _ in expected)}, got {len(arrays)}")
    for (name, size), array in zip(expected, arrays, strict=True):
        if tuple(array.shape) != size:
            raise ValueError(f"{name} must have shape {size}, got {tuple(array.shape)}")
        if str(array.dtype) not in DTYPES[rung] or array.dtype != arrays[0].dtype:
            # int16 stands for bfloat16 on a GPU, and nobody should be told to use it.
            wanted = " or ".join(name for name in DTYPES[rung] if name != "int16")
            raise TypeError(f"{name} must be {wanted} like the other arrays, got {array.dtype}")
        if array.size and not array.flags["C_CONTIGUOUS"]:
            raise ValueError(f"{name} must be C-contiguous")
