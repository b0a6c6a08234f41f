"""Elements of an array by flat index, one or four at a time: the vector loads that Numba has no name for.

The arrays are C-contiguous, and an index counts elements from the first one on, or runs of four. It is never
negative, so nothing is tested for that, and four neighbours travel in one instruction: the array must begin at
a multiple of 16 bytes. Numba's simulator runs the same functions in plain Python, which also say what is meant:

>>> import numpy as np
>>> array = np.arange(12.0).reshape(3, 4)
>>> plain_load4(array, 1)
(np.float64(4.0), np.float64(5.0), np.float64(6.0), np.float64(7.0))
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ..jit import ALIGN, intrinsic


def plain_load(array, index):  # type: ignore[no-untyped-def]
    return array.reshape(-1)[index]


def plain_load4(array, index):  # type: ignore[no-untyped-def]
    run = array.reshape(-1, 4)[index]
    return run[0], run[1], run[2], run[3]


def plain_store(array, index, value):  # type: ignore[no-untyped-def]
    array.reshape(-1)[index] = value


def plain_store4(array, index, a, b, c, d):  # type: ignore[no-untyped-def]
    run = array.reshape(-1, 4)[index]
    run[0], run[1], run[2], run[3] = a, b, c, d


def _address(context: Any, builder: Any, signature: Any, arguments: Any, lanes: int) -> Any:
    """The address of an element, or of a run of `lanes` elements, of the array and at the index that come first."""
    array_type, index_type = signature.args[:2]
    at = context.make_array(array_type)(context, builder, arguments[0]).data
    if lanes > 1:
        at = builder.bitcast(at, ir.VectorType(context.get_data_type(array_type.dtype), lanes).as_pointer())
    return builder.gep(at, [context.cast(builder, arguments[1], index_type, types.int64)])


def _lane(k: int) -> Any:
    return ir.Constant(ir.IntType(32), k)


def _load(typing_context, array, index):  # type: ignore[no-untyped-def]
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature, arguments, 1))

    return array.dtype(array, index), code


def _load4(typing_context, array, index):  # type: ignore[no-untyped-def]
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = builder.load(_address(context, builder, signature, arguments, 4), align=ALIGN)
        lanes = [builder.extract_element(vector, _lane(k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, lanes)

    return types.UniTuple(array.dtype, 4)(array, index), code


def _store(typing_context, array, index, value):  # type: ignore[no-untyped-def]
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(context, builder, signature, arguments, 1))
        return context.get_dummy_value()

    return types.void(array, index, array.dtype), code


def _store4(typing_context, array, index, a, b, c, d):  # type: ignore[no-untyped-def]
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.Constant(ir.VectorType(arguments[2].type, 4), ir.Undefined)
        for k, value in enumerate(arguments[2:]):
            vector = builder.insert_element(vector, value, _lane(k))
        builder.store(vector, _address(context, builder, signature, arguments, 4), align=ALIGN)
        return context.get_dummy_value()

    return types.void(array, index, *[array.dtype] * 4), code


load, load4 = intrinsic(plain_load, _load), intrinsic(plain_load4, _load4)
store, store4 = intrinsic(plain_store, _store), intrinsic(plain_store4, _store4)
