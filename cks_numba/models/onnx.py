"""The convolutions of an ONNX file, as `Found`. Needs onnx: ``pip install 'cks-numba[onnx]'``.

ONNX infers the size of every map from that of the input. What it cannot infer is listed without a count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..flops.networks import Layer
from ..geometry import ConvShape
from .found import Found, found

COUNTED = ("Conv", "ConvTranspose")


def of_onnx(path: Path, input: tuple[int, ...] | None = None) -> list[Found]:
    """List the convolutions of a file, in their order.

    Parameters
    ----------
    path : Path
    input : tuple of int, optional
        Size of the first input, in place of what the file says; needed if the file leaves a size open.

    Returns
    -------
    list of Found

    Raises
    ------
    ValueError
        If it is no ONNX file, or the size of the input is open or impossible.
    RuntimeError
        If onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise RuntimeError("an ONNX file needs onnx: pip install 'cks-numba[onnx]'") from error
    try:
        model = onnx.load(str(path), load_external_data=False)  # only sizes are needed
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except Exception as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    source = _set_input(model.graph, path, input)
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception as error:
        raise ValueError(f"{path} does not take this input: {error}") from error
    sizes = _sizes(graph)
    return [_found(node, sizes, source) for node in graph.node if "Conv" in node.op_type]


def _set_input(graph: Any, path: Path, size: tuple[int, ...] | None) -> str:
    """Give the first input its size, forget the sizes that followed from another one, and return its name."""
    constants = {constant.name for constant in graph.initializer}
    first = next((value for value in graph.input if value.name not in constants), None)
    if first is None:
        raise ValueError(f"{path} has no input")
    dims = first.type.tensor_type.shape.dim
    if size is None and not all(dim.dim_value for dim in dims):
        raise ValueError(f"{path} leaves the size of its input {first.name} open: give it, such as --input 1x3x32x32")
    if size is not None:
        if len(size) != len(dims):
            raise ValueError(f"input {first.name} has {len(dims)} axes, got {'x'.join(map(str, size))}")
        for dim, number in zip(dims, size, strict=True):
            dim.dim_value = number
        del graph.value_info[:]
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
    return str(first.name)


def _sizes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Sizes of tensors by name, where they are fully known."""
    sizes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.HasField("dim_value") for dim in dims):
            sizes[value.name] = tuple(dim.dim_value for dim in dims)
    return sizes


def _found(node: Any, sizes: dict[str, tuple[int, ...]], source: str) -> Found:
    import onnx

    name, options = node.name or node.output[0], {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    x, w, y = (sizes.get(key) for key in (node.input[0], node.input[1], node.output[0]))
    note = _why_not(node.op_type, options, x, w, y)
    if note or x is None or w is None or y is None:  # mypy needs the last three
        return Found(name, node.op_type, note=note)
    transposed, groups = node.op_type == "ConvTranspose", options.get("group", 1)
    wanted = w[0] if transposed else w[1] * groups
    if x[1] != wanted:  # ONNX does not check this
        raise ValueError(f"{name}: channels do not match: its input has {x[1]} channels, its filter is for {wanted}")
    try:
        shape = _shape((y, x) if transposed else (x, y), w[2:], options)
    except ValueError as error:  # for example negative padding
        return Found(name, node.op_type, note=str(error))
    return found(name, node.op_type, [Layer(name, shape, transposed, node.input[0] == source)])


def _why_not(kind: str, options: dict[str, Any], *known: tuple[int, ...] | None) -> str:
    """Reason why a node cannot be counted; empty if it can."""
    if kind not in COUNTED:
        return f"not {' or '.join(COUNTED)}"
    if any(size is None for size in known):
        return "its size cannot be inferred"
    axes = len(known[0] or ()) - 2
    if axes != 2:
        return f"{axes} ax{'i' if axes == 1 else 'e'}s"
    auto_pad = options.get("auto_pad", b"NOTSET").decode()
    if auto_pad not in ("NOTSET", "VALID"):
        return f"auto_pad={auto_pad}"
    return "output_shape sets its padding" if "output_shape" in options else ""


def _shape(maps: tuple[Any, Any], taps: Any, options: dict[str, Any]) -> ConvShape:
    (n, ic, ih, iw), oc = maps[0], maps[1][1]
    top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
    stride, dilation = (tuple(options.get(key, (1, 1))) for key in ("strides", "dilations"))
    sizes = dict(n=n, ih=ih, iw=iw, ic=ic, oc=oc, fh=taps[0], fw=taps[1], groups=options.get("group", 1))
    return ConvShape(**sizes, stride=stride, padding=((top, bottom), (left, right)), dilation=dilation)
