"""Arrays of any other library, read where they lie: the part of `arrays` that speaks DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import arrays, checks

HOST_DEVICES = (1, 3)  # of DLPack: plain and pinned host memory


class DLPack(arrays.NumPy):
    """Arrays of any library in host memory that DLPack can show to NumPy, such as JAX's.

    A result goes back to the library that the array belongs to, if it has the ``from_dlpack`` of the array API
    standard; if not, it stays a NumPy array. No element is copied on the way in, nor by us on the way out.
    """

    def __init__(self, array: Any) -> None:
        self.name = f"{type(array).__module__.partition('.')[0].lstrip('_')} arrays"
        space = getattr(array, "__array_namespace__", None)
        self._own = getattr(space(), "from_dlpack", None) if space else None

    def give(self, array: Any) -> Any:
        return self._own(array) if self._own else array


def numpy_view(name: str, array: Any) -> np.ndarray[Any, Any]:
    """A NumPy array over the same memory, read-only where its library says so or says nothing.

    NumPy before 2.1 does not ask, so that with it no ``out=`` can be given through DLPack.
    """
    device = int(array.__dlpack_device__()[0])
    if device not in HOST_DEVICES:
        raise TypeError(
            f"{name} must be in host memory, or have the CUDA array interface, got DLPack device {device}: "
            f"take cupy.from_dlpack({name}) or torch.from_dlpack({name}), which copy nothing"
        )
    if hasattr(array, "dtype"):
        checks.dtypes({name: arrays.dtype_name(array)})
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name} cannot be read through DLPack: {error}") from error
