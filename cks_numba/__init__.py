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
from typing import Any

__version__ = "0.1.0"

_HOMES = {  # public name: (module, its name there); an empty name stands for the module itself
    "conv2d": ("operators", "conv2d"),
    "conv2d_input": ("operators", "conv2d_input"),
    "conv_transpose2d": ("operators", "conv_transpose2d"),
    "conv2d_weight": ("operators", "conv2d_weight"),
    "conv_v2": ("operators", "conv2d"),  # the paper's names
    "ks_deconv": ("operators", "conv2d_input"),
    "sk_dilated": ("operators", "conv2d_weight"),
    "ConvShape": ("geometry", "ConvShape"),
    "plan": ("geometry", "plan"),
    "flops": ("flops", ""),
    "kernels": ("kernels", ""),
    "steps": ("steps", ""),
    "trace": ("trace", ""),
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


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
