"""The caller's arrays: which library they belong to, and the way to contiguous NHWC and back.

The operators work on contiguous NHWC arrays, in host memory (NumPy) or on a GPU (Numba device
arrays). One class for each library takes its arrays there, without a copy where none is needed, and a
`Call` holds all the arrays of one call of an operator.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from . import checks

LAYOUTS = ("NHWC", "NCHW")
LARGE_BYTES = 2**20  # results from here on begin with a cache line
TO_LAST = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 2, 3, 1)}  # axes of the layout, in the order NHWC
TO_OWN = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 3, 1, 2)}  # axes of NHWC, in the order of the layout


def channels_last(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """A shape of the layout, as NHWC (a filter: as OHWI)."""
    if layout == "NHWC":
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_LAST[layout])


def own_order(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """An NHWC shape in the order of the layout."""
    if layout == "NHWC":
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_OWN[layout])


@lru_cache(maxsize=64)
def _axis_names(letters: str, layout: str) -> str:
    return f"({', '.join(own_order(letters.split(), layout))})"  # type: ignore[arg-type]


# --- one class for each library -------------------------------------------------------------------
class NumPy:
    """NumPy arrays, and what all libraries that index like NumPy share."""

    name = "NumPy arrays"
    on_gpu = False

    def raw(self, array: Any) -> Any:
        """The array as the backends take it: NumPy, or a Numba device array."""
        return array

    def contiguous(self, array: Any, axes: tuple[int, ...], stream: Any) -> Any:
        """The array with its axes permuted, C-contiguous, native and aligned; a copy only if needed."""
        return np.require(self.permuted(array, axes), requirements="C")

    def permuted(self, array: Any, axes: tuple[int, ...]) -> Any:
        """A view with the axes permuted, native and aligned; a copy only if these two need one."""
        if not (array.flags.aligned and array.dtype.isnative):
            array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements="A")
        return array if axes == TO_LAST["NHWC"] else array.transpose(axes)

    def empty(self, shape: tuple[int, ...], like: Any, stream: Any) -> Any:
        """Where it is large it begins with a cache line, which lets the cpu backend write whole lines."""
        dtype = like.dtype.newbyteorder("=")
        count = prod(shape) * dtype.itemsize
        if count < LARGE_BYTES:
            return np.empty(shape, dtype)
        memory = np.empty(count + 64, np.uint8)
        first = -memory.ctypes.data % 64
        return memory[first : first + count].view(dtype).reshape(shape)

    def zero(self, array: Any, stream: Any) -> None:
        array[...] = 0

    def assign(self, target: Any, source: Any, axes: tuple[int, ...], stream: Any) -> None:
        """target = source with its axes permuted."""
        target[...] = source.transpose(axes)

    def add_bias(self, out: Any, bias: Any, stream: Any) -> None:
        with np.errstate(all="ignore"):  # NaN and infinity are the caller's
            out += bias

    def batch_of_one(self, array: Any) -> Any:
        return array[None]

    def only_image(self, array: Any) -> Any:
        return array[0]

    def writeable(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    def stream(self, stream: Any, like: Any) -> Any:
        """The stream to work on."""
        return stream

    def give(self, array: Any) -> Any:
        """A result as the caller's library has it."""
        return array


class CuPy(NumPy):
    """CuPy arrays: the result is a CuPy array, made on CuPy's current stream."""

    name = "CuPy arrays"
    on_gpu = True

    def raw(self, array: Any) -> Any:
        from .kernels.jit import cuda

        return cuda.as_cuda_array(array)

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

    def raw(self, array: Any) -> Any:
        return array.detach().numpy()

    def contiguous(self, array: Any, axes: tuple[int, ...], stream: Any) -> Any:
        return self.permuted(array, axes).contiguous()

    def permuted(self, array: Any, axes: tuple[int, ...]) -> Any:
        return array.detach().permute(axes)

    def empty(self, shape: tuple[int, ...], like: Any, stream: Any) -> Any:
        return sys.modules["torch"].empty(shape, dtype=like.dtype, device=like.device)

    def assign(self, target: Any, source: Any, axes: tuple[int, ...], stream: Any) -> None:
        target.copy_(source.permute(axes))

    def add_bias(self, out: Any, bias: Any, stream: Any) -> None:
        out += bias.detach()

    def writeable(self, array: Any) -> bool:
        return True


class TorchCuda(Torch):
    """PyTorch tensors on a GPU: the result is a tensor, made on PyTorch's current stream."""

    name = "PyTorch CUDA tensors"
    on_gpu = True

    def raw(self, array: Any) -> Any:
        from .kernels.jit import cuda

        return cuda.as_cuda_array(array.detach())

    def stream(self, stream: Any, like: Any) -> Any:
        current = sys.modules["torch"].cuda.current_stream(like.device).cuda_stream
        return _current_stream(stream, self.name, current)


class Numba(NumPy):
    """Numba device arrays (the simulator's too); tiny kernels do what NumPy does elsewhere."""

    name = "Numba device arrays"
    on_gpu = True

    def contiguous(self, array: Any, axes: tuple[int, ...], stream: Any) -> Any:
        if len(array.shape) != 4:  # a bias
            return array
        if axes == TO_LAST["NHWC"] and array.is_c_contiguous():
            return array
        shape = tuple(array.shape[axis] for axis in axes)
        result = self.empty(shape, array, stream)
        self._copy(array, result, axes != TO_LAST["NHWC"], False, stream)
        return result

    def empty(self, shape: tuple[int, ...], like: Any, stream: Any) -> Any:
        from .kernels.jit import cuda

        return cuda.device_array(shape, dtype=like.dtype, stream=stream or 0)

    def zero(self, array: Any, stream: Any) -> None:
        from .backends import cuda

        cuda.fill_zero(array, stream or 0)

    def assign(self, target: Any, source: Any, axes: tuple[int, ...], stream: Any) -> None:
        self._copy(source, target, False, axes != TO_OWN["NHWC"], stream)

    def add_bias(self, out: Any, bias: Any, stream: Any) -> None:
        from .backends import cuda

        cuda.add_bias(out, bias, stream or 0)

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
        from .backends import cuda

        cuda.copy(source, target, from_first, to_first, stream or 0)


def _current_stream(stream: Any, name: str, pointer: int) -> Any:
    """The library's own current stream, on which its arrays were made and are used next."""
    if stream is not None:
        raise ValueError(f"stream must be None with {name}, whose library has a current stream; got {stream!r}")
    from .kernels.jit import cuda

    return cuda.external_stream(pointer) if pointer else 0


def library_of(name: str, array: Any) -> tuple[NumPy, Any]:
    """The library of an array, and the array (foreign GPU arrays: as a Numba device array)."""
    known = _LIBRARIES.get(type(array))
    if known is not None:
        return known, array
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")  # loaded already, if the array is theirs
    if isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray):
        return NumPy(), array
    if torch is not None and isinstance(array, torch.Tensor):
        return _torch_library(name, array, torch), array
    if cupy is not None and isinstance(array, cupy.ndarray):
        return CuPy(), array
    if hasattr(type(array), "__cuda_ndarray__"):
        return _LIBRARIES.setdefault(type(array), Numba()), array
    if hasattr(array, "__cuda_array_interface__"):
        from .kernels.jit import cuda

        return Numba(), cuda.as_cuda_array(array)
    if hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray):
        from . import dlpack

        return dlpack.DLPack(array), dlpack.numpy_view(name, array)
    raise TypeError(
        f"{name} must be a NumPy array, a PyTorch tensor, a GPU array of Numba, CuPy or PyTorch, or have DLPack or the "
        f"CUDA array interface, got {type(array).__name__}"
    )


def _torch_library(name: str, tensor: Any, torch: Any) -> Torch:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires grad, which would be lost: use {name}.detach(), or torch.no_grad()")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if tensor.device.type not in ("cpu", "cuda"):
        raise TypeError(f"{name} must be on the CPU or a CUDA GPU, got device {tensor.device}")
    return TorchCuda() if tensor.device.type == "cuda" else Torch()


def dtype_name(array: Any) -> str:
    """ "float32", whatever the library and the byte order."""
    if isinstance(array, np.ndarray) or hasattr(array, "__cuda_ndarray__"):
        char = array.dtype.char
        if char in _NAMES:
            return _NAMES[char]
    return getattr(array.dtype, "name", None) or str(array.dtype).removeprefix("torch.")


_LIBRARIES: dict[type, NumPy] = {np.ndarray: NumPy()}  # of types whose arrays are all of one library, at once
_NAMES = {"f": "float32", "d": "float64"}  # because the attribute `name` of a NumPy dtype is slow


# --- the arrays of one call -----------------------------------------------------------------------
class Call:
    """The arrays of one call of an operator, in the caller's library and layout.

    Parameters
    ----------
    layout : {"NHWC", "NCHW"}
    out : array or None
        The caller's buffer for the result.
    stream : stream or None
    inputs : arrays by the names of the arguments; only a bias may be None
    """

    def __init__(self, layout: Any, out: Any, stream: Any, **inputs: Any) -> None:
        self.layout = checks.choice("layout", layout, LAYOUTS)
        self.unbatched = False
        self._ranks: dict[str, int] = {}  # as they came, of the inputs that have a batch
        self.inputs: dict[str, Any] = {}
        dtypes = {}
        for name, array in inputs.items():
            if array is not None or name != "bias":
                self.inputs[name] = array = self._taken(name, array)
                dtypes[name] = dtype_name(array)
        self.dtype = checks.dtypes(dtypes)
        self._given_out, self.out = out, None if out is None else self._taken("out", out)
        self.strided = False
        self.stream = self.library.stream(stream, self._first)

    def _taken(self, name: str, array: Any) -> Any:
        """The array, which must be of the library of the first one."""
        library, array = library_of(name, array)
        if not self.inputs:
            self.library, self._first = library, array
        elif library is not self.library and type(library) is not type(self.library):
            first = next(iter(self.inputs))
            raise TypeError(
                f"{first} and {name} must be of one kind, got {self.library.name} for {first} "
                f"and {library.name} for {name}"
            )
        return array

    def axes(self, letters: str) -> str:
        """Names of four axes in the order of the layout: "N H W C" as "(N, C, H, W)"."""
        return _axis_names(letters, self.layout)

    def batched(self, name: str, letters: str) -> tuple[int, ...]:
        """NHWC shape of an input with a batch; one without gets a batch of one."""
        shape = tuple(self.inputs[name].shape)
        checks.rank(name, shape, self.axes(letters), unbatched=True)
        self._ranks[name] = len(shape)
        if len(set(self._ranks.values())) > 1:
            raise ValueError(f"{' and '.join(self._ranks)} must both be batched or both not, got ranks {self._ranks}")
        if len(shape) == 3:
            self.unbatched = True
            self.inputs[name], shape = self.library.batch_of_one(self.inputs[name]), (1, *shape)
        return channels_last(shape, self.layout)

    def filter(self, letters: str) -> tuple[int, ...]:
        """OHWI shape of the filter w; none of its sizes may be 0."""
        shape = tuple(self.inputs["w"].shape)
        checks.rank("w", shape, self.axes(letters))
        if 0 in shape:
            raise ValueError(f"w must not be empty, got shape {shape}")
        return channels_last(shape, self.layout)

    def shown(self, shape: Sequence[int], batch: bool = True) -> tuple[int, ...]:
        """An NHWC shape as the caller wrote or expects it."""
        own = own_order(shape, self.layout)
        return own[1:] if self.unbatched and batch else own

    def check_out(self, shape: Sequence[int], batch: bool = True) -> None:
        """Check the caller's buffer for a result of an NHWC shape, before anything is written."""
        if self.out is None:
            return
        checks.shape_of("out", tuple(self.out.shape), self.shown(shape, batch), "like the result")
        swapped = isinstance(self.out, np.ndarray) and not self.out.dtype.isnative
        if swapped or dtype_name(self.out) != self.dtype:
            raise TypeError(f"out must be {self.dtype} like the inputs, got {self.out.dtype}")
        if not self.library.writeable(self.out):
            raise ValueError("out must be writeable, got a read-only array")
        raw = self.library.raw(self.out)
        if not _is_contiguous(raw):
            raise ValueError(f"out must be C-contiguous, got shape {tuple(raw.shape)} with strides {raw.strides}")
        first, last = _bounds(raw)
        for name, array in self.inputs.items():
            low, high = _bounds(self.library.raw(array))
            if max(first, low) < min(last, high):
                raise ValueError(f"out must not overlap an input, it shares memory with {name}")

    def allocate(self, shape: tuple[int, ...], backend: str) -> Any:
        """The NHWC buffer for a backend to compute into: where that can be, the result itself.

        The cpu backend takes views of any strides, the others contiguous arrays.
        """
        self.strided = backend == "cpu"
        if self.layout != "NHWC" and not self.strided:
            return self.library.empty(shape, self._first, self.stream)
        own = self.out
        if own is None:
            own = self.library.empty(own_order(shape, self.layout), self._first, self.stream)
        elif len(own.shape) == 3:
            own = self.library.batch_of_one(own)
        return own if self.layout == "NHWC" else self.library.permuted(own, TO_LAST[self.layout])

    def operand(self, name: str) -> Any:
        """An input as the backend takes it, channels last."""
        array, axes = self.inputs[name], TO_LAST[self.layout]
        if self.strided:
            return self.library.raw(self.library.permuted(array, axes))
        return self.library.raw(self.library.contiguous(array, axes, self.stream))

    def add_bias(self, buffer: Any) -> None:
        """Add the bias, if there is one, to an NHWC buffer."""
        if "bias" in self.inputs:
            bias = self.library.contiguous(self.inputs["bias"], (0,), self.stream)
            self.library.add_bias(buffer, bias, self.stream)

    def finish(self, buffer: Any, batch: bool = True) -> Any:
        """The result in the caller's layout, from the NHWC buffer."""
        result = buffer
        if self.layout != "NHWC":
            axes = TO_OWN[self.layout]
            result = self.library.permuted(buffer, axes) if self.strided else self._own_layout(buffer)
        if self._given_out is not None:
            return self._given_out
        return self.library.give(self.library.only_image(result) if self.unbatched and batch else result)

    def _own_layout(self, buffer: Any) -> Any:
        """The NHWC buffer as C-contiguous NCHW, in `out` where there is one."""
        target = self.out
        if target is None:
            target = self.library.empty(own_order(buffer.shape, self.layout), buffer, self.stream)
        elif len(target.shape) == 3:
            target = self.library.batch_of_one(target)
        self.library.assign(target, buffer, TO_OWN[self.layout], self.stream)
        return target


def address(raw: Any) -> int:
    """Where the first element lies."""
    if isinstance(raw, np.ndarray):
        return int(raw.ctypes.data)
    pointer = getattr(raw, "device_ctypes_pointer", None)  # of a Numba device array; the interface takes longer
    if pointer is not None:
        return int(pointer.value or 0)
    interface = getattr(raw, "__cuda_array_interface__", None) or raw.__array_interface__  # the simulator's are NumPy's
    return int(interface["data"][0] or 0)


def _is_contiguous(raw: Any) -> bool:
    return bool(raw.flags.c_contiguous if isinstance(raw, np.ndarray) else raw.is_c_contiguous())


def _bounds(raw: Any) -> tuple[int, int]:
    """First and past-the-last address of an array."""
    start, itemsize = address(raw), raw.dtype.itemsize
    if not raw.size or _is_contiguous(raw):
        return start, start + raw.size * itemsize
    reach = [(length - 1) * stride for length, stride in zip(raw.shape, raw.strides, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + itemsize
