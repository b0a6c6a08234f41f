"""The libraries whose arrays the operators take: NumPy, PyTorch, CuPy, Numba, and any other with DLPack.

The backends work on NHWC arrays, in host memory (NumPy) or on a GPU (device arrays of Numba). One class
for each library converts its arrays to that form and back, without a copy where none is needed.
"""

from __future__ import annotations

import sys
from math import prod
from typing import Any

import numpy as np

from .. import checks
from ..backends import gpu
from ..buffers import IN_ORDER, dtype_name, empty

HOST_DEVICES = (1, 3)
"""DLPack's numbers for plain and for pinned host memory."""


# --- one class for each library -------------------------------------------------------------------
class NumPy:
    """NumPy arrays, and all that libraries with NumPy's way of indexing share.

    Attributes
    ----------
    name : str
    on_gpu : bool
    to_float32, permute, taken : str
        For messages: how an array becomes float32, the method that gives its axes another order, and how an array of
        another library becomes one of this.
    """

    name: str = "NumPy arrays"
    on_gpu: bool = False
    to_float32: str = '.astype("float32")'
    permute: str = "transpose"
    taken: str = "numpy.asarray({})"

    def raw(self, array: Any) -> Any:
        """Return the array as the backends take it: a NumPy array or a device array of Numba."""
        return array

    def widened(self, array: Any) -> Any:
        """Return an array of 16 bits, in host memory, as float32."""
        return array.astype(np.float32)

    def contiguous(self, array: Any, axes: tuple[int, ...], stream: Any) -> Any:
        """Return the array with its axes permuted, C-contiguous, native and aligned; a copy only if needed."""
        return np.require(self.permuted(array, axes), requirements="C")

    def permuted(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return a view with the axes permuted; a copy only if the array is not native or not aligned."""
        if not (array.flags.aligned and array.dtype.isnative):
            array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements="A")
        return array if axes in IN_ORDER else array.transpose(axes)

    def empty(self, shape: tuple[int, ...], like: Any, stream: Any) -> Any:
        """Return a new array, like another one."""
        return empty(shape, like.dtype.newbyteorder("="))

    def zero(self, array: Any, stream: Any) -> None:
        """Fill an array with zeros."""
        array[...] = 0

    def assign(self, target: Any, source: Any, axes: tuple[int, ...], stream: Any) -> None:
        """Copy an array, with its axes permuted, into another, and round it to that one's dtype."""
        with np.errstate(all="ignore"):  # what is too large for 16 bits is infinity
            target[...] = source.transpose(axes)

    def add_bias(self, out: Any, bias: Any) -> None:
        """Add a bias to the last axis of an array in host memory, in place."""
        with np.errstate(all="ignore"):  # NaN and infinity are results like any other
            out += bias

    def batch_of_one(self, array: Any) -> Any:
        """Return a view of a single image as a batch."""
        return array[None]

    def only_image(self, array: Any) -> Any:
        """Return a view of the one image of a batch."""
        return array[0]

    def writeable(self, array: Any) -> bool:
        """Return whether a result may be written into the array."""
        return bool(array.flags.writeable)

    def stream(self, stream: Any, like: Any) -> Any:
        """Return the stream to work on, from the caller's stream or None, and an array of the call."""
        return stream

    def give(self, array: Any) -> Any:
        """Return a result as an array of the caller's library."""
        return array


class CuPy(NumPy):
    """CuPy arrays: the result is a CuPy array, made on CuPy's current stream."""

    name = "CuPy arrays"
    on_gpu = True
    taken = "cupy.asarray({})"

    def raw(self, array: Any) -> Any:
        return gpu().cuda.as_cuda_array(array)

    def contiguous(self, array: Any, axes: tuple[int, ...], stream: Any) -> Any:
        return sys.modules["cupy"].ascontiguousarray(array.transpose(axes))

    def empty(self, shape: tuple[int, ...], like: Any, stream: Any) -> Any:
        return sys.modules["cupy"].empty(shape, dtype=like.dtype)

    def writeable(self, array: Any) -> bool:
        return True

    def stream(self, stream: Any, like: Any) -> Any:
        return _current_stream(stream, self.name, sys.modules["cupy"].cuda.get_current_stream().ptr)


class Torch(NumPy):
    """PyTorch tensors in host memory: the backends see NumPy arrays that share their memory."""

    name = "PyTorch CPU tensors"
    to_float32 = ".float()"
    permute = "permute"
    taken = 'torch.as_tensor({}, device="cpu")'

    def raw(self, array: Any) -> Any:
        return _torch_bits(array).numpy()

    def widened(self, array: Any) -> Any:
        return array.detach().float()

    def contiguous(self, array: Any, axes: tuple[int, ...], stream: Any) -> Any:
        return self.permuted(array, axes).contiguous()

    def permuted(self, array: Any, axes: tuple[int, ...]) -> Any:
        return array.detach().permute(axes)

    def empty(self, shape: tuple[int, ...], like: Any, stream: Any) -> Any:
        return sys.modules["torch"].empty(shape, dtype=like.dtype, device=like.device)

    def assign(self, target: Any, source: Any, axes: tuple[int, ...], stream: Any) -> None:
        target.copy_(source.permute(axes))

    def add_bias(self, out: Any, bias: Any) -> None:
        out += bias.detach()

    def writeable(self, array: Any) -> bool:
        return True


class TorchCuda(Torch):
    """PyTorch tensors on a GPU: the result is a tensor, made on PyTorch's current stream."""

    name = "PyTorch CUDA tensors"
    on_gpu = True
    taken = 'torch.as_tensor({}, device="cuda")'

    def raw(self, array: Any) -> Any:
        return gpu().cuda.as_cuda_array(_torch_bits(array))

    def stream(self, stream: Any, like: Any) -> Any:
        current = sys.modules["torch"].cuda.current_stream(like.device).cuda_stream
        return _current_stream(stream, self.name, current)


class Numba(NumPy):
    """Numba device arrays (the simulator's too); tiny kernels do what NumPy does elsewhere."""

    name = "Numba device arrays"
    on_gpu = True
    taken = "numba.cuda.to_device({})"

    def contiguous(self, array: Any, axes: tuple[int, ...], stream: Any) -> Any:
        if len(array.shape) == 1:  # the array is a bias
            return array
        if axes in IN_ORDER and array.is_c_contiguous():
            return array
        shape = tuple(array.shape[axis] for axis in axes)
        result = self.empty(shape, array, stream)
        self._copy(array, result, axes not in IN_ORDER, False, stream)
        return result

    def empty(self, shape: tuple[int, ...], like: Any, stream: Any) -> Any:
        return gpu().cuda.device_array(shape, dtype=like.dtype, stream=stream or 0)

    def zero(self, array: Any, stream: Any) -> None:
        gpu().fill_zero(array, stream or 0)

    def assign(self, target: Any, source: Any, axes: tuple[int, ...], stream: Any) -> None:
        self._copy(source, target, False, axes not in IN_ORDER, stream)

    def batch_of_one(self, array: Any) -> Any:
        if not array.is_c_contiguous():
            raise ValueError(f"an unbatched device array must be C-contiguous, got strides {tuple(array.strides)}")
        return array.reshape((1, *array.shape))

    def only_image(self, array: Any) -> Any:
        return array.reshape(tuple(array.shape)[1:])

    def writeable(self, array: Any) -> bool:
        return True

    def stream(self, stream: Any, like: Any) -> Any:
        return stream if stream is not None else getattr(like, "stream", 0)

    def _copy(self, source: Any, target: Any, from_first: bool, to_first: bool, stream: Any) -> None:
        source, target = _of_four_axes(source, from_first), _of_four_axes(target, to_first)
        gpu().copy(source, target, from_first, to_first, stream or 0)


class DLPack(NumPy):
    """Arrays of any library in host memory that NumPy can read through DLPack, such as JAX's.

    A result is handed to the array's own library if that has the ``from_dlpack`` of the array API standard; if not,
    it stays a NumPy array. The inputs are not copied; the library may copy the result.
    """

    def __init__(self, array: Any) -> None:
        self.name: str = f"{type(array).__module__.partition('.')[0].lstrip('_')} arrays"
        space = array.__array_namespace__() if hasattr(array, "__array_namespace__") else None
        self._own = getattr(space, "from_dlpack", None)
        self._from_numpy = getattr(space, "asarray", None)
        self.taken: str = f"{getattr(space, '__name__', self.name.split()[0])}.asarray({{}})"

    def give(self, array: Any) -> Any:
        give = self._own if array.dtype.kind == "f" else self._from_numpy  # NumPy has no DLPack for bfloat16
        return give(array) if give else array


def _of_four_axes(array: Any, channels_first: bool = False) -> Any:
    """Return a view of a device array that has rows and columns; all spatial axes but the last become its rows."""
    if len(array.shape) == 4:
        return array
    if not array.is_c_contiguous():
        raise ValueError(f"a device array that is no image must be C-contiguous, got strides {tuple(array.strides)}")
    n, *others = array.shape
    c = others.pop(0 if channels_first else -1)
    sizes = prod(others[:-1]), others[-1]
    return array.reshape((n, c, *sizes) if channels_first else (n, *sizes, c))


def _torch_bits(tensor: Any) -> Any:
    """Return a tensor without its gradient; bfloat16, which neither NumPy nor Numba knows, as int16."""
    torch = sys.modules["torch"]
    return tensor.detach().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.detach()


def _current_stream(stream: Any, name: str, pointer: int) -> Any:
    """Return the current stream of the library, on which its arrays were made and will be used next."""
    if stream is not None:
        raise ValueError(f"stream must be None with {name}, whose library has a current stream; got {stream!r}")
    return gpu().cuda.external_stream(pointer) if pointer else 0


def library_of(name: str, array: Any) -> tuple[NumPy, Any]:
    """Return the library of an array, and the array; a foreign GPU array as a device array of Numba."""
    known = _LIBRARIES.get(type(array))
    if known is not None:
        return known, array
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")  # loaded if the array is one of theirs
    if isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray):
        return NumPy(), array
    if torch is not None and isinstance(array, torch.Tensor):
        return _torch_library(name, array, torch), _resolved(name, array)
    if cupy is not None and isinstance(array, cupy.ndarray):
        return CuPy(), array
    if hasattr(type(array), "__cuda_ndarray__"):
        return _LIBRARIES.setdefault(type(array), Numba()), array
    if hasattr(array, "__cuda_array_interface__"):
        return Numba(), gpu().cuda.as_cuda_array(array)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(array, jax.core.Tracer):
        raise TypeError(
            f"{name} is an array that JAX is tracing (in jit, grad or vmap), which has no elements yet: "
            "cks_numba.jax has conv2d and conv_transpose2d for it"
        )
    if hasattr(array, "__dlpack__") and not isinstance(array, (np.ndarray, type)):
        return DLPack(array), _numpy_view(name, array)
    raise TypeError(
        f"{name} must be a NumPy array, a PyTorch tensor, a GPU array of Numba, CuPy or PyTorch, or have DLPack or the "
        f"CUDA array interface, got {type(array).__name__}{_way_out(name, array)}"
    )


def _way_out(name: str, array: Any) -> str:
    """Say how to go on with an object that is no array, where one can tell."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.nn.Module):
        weight = f"{name}.weight.detach() is a tensor, and " if hasattr(array, "weight") else ""
        return f": {weight}cks_numba.torch.convert makes a whole model skip zeros"
    if type(array).__module__.startswith("dask."):
        return ": cks_numba.dask has the operators for dask arrays"
    if isinstance(array, np.ma.MaskedArray):
        return f": take {name}.filled(0)"
    if isinstance(array, (list, memoryview)) or (hasattr(array, "__array__") and not isinstance(array, type)):
        return f': take numpy.asarray({name}, dtype="float32")'
    return ""


def _torch_library(name: str, tensor: Any, torch: Any) -> Torch:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires grad, which would be lost: cks_numba.torch.conv2d and its layers keep it; or use "
            f"{name}.detach(), or torch.no_grad()"
        )
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one: take {name}.to_padded_tensor(0)")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if tensor.device.type not in ("cpu", "cuda"):
        raise TypeError(f"{name} must be on the CPU or a CUDA GPU, got device {tensor.device}")
    return TorchCuda() if tensor.device.type == "cuda" else Torch()


def _resolved(name: str, tensor: Any) -> Any:
    """Return a tensor whose memory has its values: one with PyTorch's negative bit, as z.conj().imag has, is copied."""
    if tensor.is_neg() and name == "out":
        raise TypeError("out has PyTorch's negative bit, so its memory holds other numbers: take out.resolve_neg()")
    return tensor.resolve_neg()


def _numpy_view(name: str, array: Any) -> np.ndarray[Any, Any]:
    """Return a NumPy array over the same memory, read-only unless its library says that it may be written.

    NumPy before 2.1 does not ask, so ``out=`` cannot be given through DLPack there.
    """
    device = int(array.__dlpack_device__()[0])
    if device not in HOST_DEVICES:
        raise TypeError(
            f"{name} must be in host memory, or have the CUDA array interface, got DLPack device {device}: "
            f"take cupy.from_dlpack({name}) or torch.from_dlpack({name}), which copy nothing"
        )
    dtype = checks.dtypes({name: dtype_name(array)}) if hasattr(array, "dtype") else ""
    try:
        return np.from_dlpack(array) if dtype != "bfloat16" else _numpy_bfloat16(array)
    except (BufferError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name} cannot be read through DLPack: {error}") from error


def _numpy_bfloat16(array: Any) -> np.ndarray[Any, Any]:
    """Return an array of bfloat16, which NumPy does not read through DLPack, as its library gives it to NumPy."""
    found = np.asarray(array)
    if dtype_name(found) != "bfloat16":
        raise TypeError(f"NumPy gets {found.dtype} for bfloat16")
    return found


_LIBRARIES: dict[type, NumPy] = {np.ndarray: NumPy()}  # libraries of the types that need no search
