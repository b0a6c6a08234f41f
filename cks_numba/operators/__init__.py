"""The public operators: conv2d, conv2d_input, conv_transpose2d, conv2d_weight, and those of one and three axes.

Each is three steps: check everything, allocate, dispatch to a backend.

Names and meaning are those of ``torch.nn.functional`` and ``torch.nn.grad``; what follows the arrays
is keyword-only. The arrays may be NumPy arrays, PyTorch tensors, or GPU arrays of Numba, CuPy or
PyTorch, all of one kind; the result is of that kind too. Any other array in host memory with DLPack (JAX) is read
in place, and the result is handed to its own library. Any other array with the CUDA array interface gives
Numba device arrays. `out` may be of any kind that can be written to; JAX arrays cannot. All have one dtype: float16,
bfloat16, float32 or float64.
"""

from .fitting import added_size, transposed_size
from .other_axes import (
    conv1d,
    conv1d_input,
    conv1d_weight,
    conv3d,
    conv3d_input,
    conv3d_weight,
    conv_transpose1d,
    conv_transpose3d,
)
from .packing import pack
from .two_axes import conv2d, conv2d_input, conv2d_weight, conv_transpose2d

__all__ = [
    "added_size",
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
    "pack",
    "transposed_size",
]
