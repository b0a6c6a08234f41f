"""cks_numba: convolution, its input gradient and its filter gradient, never multiplying an added zero.

The public names are loaded at their first use, so that importing the package costs nothing.

Examples
--------
>>> import numpy as np
>>> import cks_numba
>>> y = cks_numba.conv2d(np.ones((1, 4, 4, 3)), np.ones((8, 3, 3, 3)), padding=1)
>>> y.shape
(1, 4, 4, 8)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import flops, kernels, steps, trace
    from .backends import Backend
    from .buffers import Layout
    from .checks import Ints, Padding, Precision
    from .geometry import ConvShape, plan
    from .operators import (
        conv1d,
        conv1d_input,
        conv1d_weight,
        conv2d,
        conv2d_input,
        conv2d_weight,
        conv3d,
        conv3d_input,
        conv3d_weight,
        conv_transpose1d,
        conv_transpose2d,
        conv_transpose3d,
        pack,
    )
    from .operators import conv2d as conv_v2
    from .operators import conv2d_input as ks_deconv
    from .operators import conv2d_weight as sk_dilated

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "ConvShape",
    "Ints",
    "Layout",
    "Padding",
    "Precision",
    "__version__",
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
    "conv_v2",
    "flops",
    "kernels",
    "ks_deconv",
    "pack",
    "plan",
    "sk_dilated",
    "steps",
    "trace",
]

_HOMES = {  # for each public name its module, and its name there; an empty name means the module itself
    "conv2d": ("operators", "conv2d"),
    "conv2d_input": ("operators", "conv2d_input"),
    "conv_transpose2d": ("operators", "conv_transpose2d"),
    "conv2d_weight": ("operators", "conv2d_weight"),
    "conv1d": ("operators", "conv1d"),
    "conv1d_input": ("operators", "conv1d_input"),
    "conv_transpose1d": ("operators", "conv_transpose1d"),
    "conv1d_weight": ("operators", "conv1d_weight"),
    "conv3d": ("operators", "conv3d"),
    "conv3d_input": ("operators", "conv3d_input"),
    "conv_transpose3d": ("operators", "conv_transpose3d"),
    "conv3d_weight": ("operators", "conv3d_weight"),
    "conv_v2": ("operators", "conv2d"),  # this and the next two are the paper's names
    "ks_deconv": ("operators", "conv2d_input"),
    "sk_dilated": ("operators", "conv2d_weight"),
    "pack": ("operators", "pack"),
    "ConvShape": ("geometry", "ConvShape"),
    "plan": ("geometry", "plan"),
    "Ints": ("checks", "Ints"),
    "Padding": ("checks", "Padding"),
    "Precision": ("checks", "Precision"),
    "Layout": ("buffers", "Layout"),
    "Backend": ("backends", "Backend"),
    "flops": ("flops", ""),
    "kernels": ("kernels", ""),
    "steps": ("steps", ""),
    "trace": ("trace", ""),
}


if not TYPE_CHECKING:  # hidden from type checkers, so that they report a wrong name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home, inner = _HOMES[name]
        module = import_module(f".{home}", __name__)
        value = getattr(module, inner) if inner else module
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
