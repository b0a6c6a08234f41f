"""The operators in PyTorch: functions and layers in torch's own order and names, with gradients of every order.

There are convolutions and transposed ones over one, two and three axes, and `convert` for whole models.

Tensors may be contiguous or channels_last (channels_last_3d), in host memory or on a GPU; neither needs a copy on the
CPU. As in torch, the result is channels_last where an operand is. Tensors are float16, bfloat16, float32 or float64,
and so is the result; sums of 16 bits are made in float32. Autocast casts the tensors as it does for torch's own
convolutions. On CUDA, float32 is multiplied as TF32 where `torch.backends.cudnn` lets torch's own do so (`allow_tf32`,
which is torch's default). A batch may change its size under torch.compile; a new size of the map compiles anew, because
it has another plan. The transforms of torch.func and forward-mode differentiation work too, in any order: the tangent
of an operator is the operator itself, and a batch of `vmap` is a batch of images, or of groups where every sample has
its own filter.

Needs PyTorch: ``pip install 'cks-numba[torch]'``.
"""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as _missing:
    raise ImportError("cks_numba.torch needs PyTorch: pip install 'cks-numba[torch]'") from _missing

from .conversion import Report, convert, revert
from .functions import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .layers import (
    CKSConv1d,
    CKSConv2d,
    CKSConv3d,
    CKSConvTranspose1d,
    CKSConvTranspose2d,
    CKSConvTranspose3d,
)

__all__ = [
    "CKSConv1d",
    "CKSConv2d",
    "CKSConv3d",
    "CKSConvTranspose1d",
    "CKSConvTranspose2d",
    "CKSConvTranspose3d",
    "Report",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convert",
    "revert",
]
