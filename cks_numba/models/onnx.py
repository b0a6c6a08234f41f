"""The convolutions of an ONNX file, as `Found`. Needs onnx: ``pip install 'cks-numba[onnx]'``.

`onnx_sizes` finds the size of every map. What stays open is listed without a count.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..buffers import LAYOUTS
from ..flops.networks import Layer
from ..geometry import ConvShape
from . import onnx_sizes
from .found import Found, found, used
from .onnx_sizes import Size

COUNTED = {"Conv": 1, "ConvTranspose": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Operators whose sizes are known here, and which of their inputs is the filter."""
STANDARD = ("", "ai.onnx", "com.microsoft")
"""Domains of these operators."""


class Place(NamedTuple):
    """A node that convolves, with the sizes that are known where it stands.

    Attributes
    ----------
    node : NodeProto
    sizes : dict
    around : tuple of str
        The nodes and attributes whose graphs it is in, such as ("If then_branch",), the outermost first.
    dead : bool
        Whether it is in the branch that a constant condition never takes.
    """

    node: Any
    sizes: dict[str, Size]
    around: tuple[str, ...] = ()
    dead: bool = False

    @property
    def repeated(self) -> bool:
        """Whether it is in the body of a loop, and runs any number of times."""
        return any(not name.startswith("If ") for name in self.around)


def of_onnx(path: Path, input: onnx_sizes.Given = None, train: bool = True) -> list[Found]:
    """List the convolutions of a file, in their order.

    Parameters
    ----------
    path : Path
    input : tuple of int, tuple of sizes, or dict of sizes by name, optional
        Size of the first input, of the first inputs, or of inputs by their names, in place of what the file says;
        needed if the file leaves a size open. A symbol that gets a number has it everywhere.
    train : bool
        Whether the gradients of a training step are counted.

    Returns
    -------
    list of Found
        Both branches of an ``If`` are counted, unless its condition is constant. The body of a ``Loop`` or ``Scan`` is
        counted as often as it runs; if that depends on data, those are zeros.

    Raises
    ------
    ValueError
        If it is no ONNX file, or the size of the input is open or impossible.
    RuntimeError
        If onnx is not installed.
    """
    model = onnx_sizes.load(path)
    opened = onnx_sizes.bind(model.graph, path, input)
    onnx_sizes.infer(model, path)
    places = list(_places(model.graph, {}))
    runs, reason = onnx_sizes.Runs(), ""
    if any(_needs_run(place) for place in places):
        if opened:
            raise ValueError(onnx_sizes.how_to_give(path, opened))
        runs, reason = onnx_sizes.run(model, path, [place.node for place in places])
    sources = {value.name for value in model.graph.input}
    return [_found(place, runs, reason, sources, train) for place in places]


def _places(graph: Any, outer: dict[str, Size], around: tuple[str, ...] = (), dead: bool = False) -> Iterator[Place]:
    """All nodes that convolve, those of inner graphs included."""
    sizes = outer | onnx_sizes.known(graph)
    constants = onnx_sizes.constants(graph)
    for node in graph.node:
        if "Conv" in node.op_type:
            yield Place(node, sizes, around, dead)
        condition = constants.get(node.input[0]) if node.op_type == "If" and node.input else None
        for name, inner in onnx_sizes.graphs(node):
            never = condition is not None and bool(condition.any()) != (name == "then_branch")
            yield from _places(inner, sizes, (*around, f"{node.op_type} {name}"), dead or never)


def _needs_run(place: Place) -> bool:
    """Whether sizes, or how often it runs, are open."""
    if place.dead or not _is_counted(place.node):
        return False
    return place.repeated or None in _operands(place.node, place.sizes)


def _is_counted(node: Any) -> bool:
    return node.op_type in COUNTED and node.domain in STANDARD and len(node.input) > COUNTED[node.op_type]


def _operands(node: Any, sizes: dict[str, Size]) -> list[Size | None]:
    return [sizes.get(node.input[k]) for k in (0, COUNTED[node.op_type])]


def _found(place: Place, runs: onnx_sizes.Runs, reason: str, sources: set[str], train: bool) -> Found:
    node, kind = place.node, ", ".join((place.node.op_type, *place.around))
    name = node.name or node.output[0]
    if not _is_counted(node):
        domain = f" of {node.domain}" if node.domain else ""
        return Found(name, kind, note=f"not counted: {node.op_type}{domain} is not known here")
    if place.dead:
        return Found(name, kind, note="not reached")
    sizes = runs.of(node) or [_operands(node, place.sizes)]
    note = _why_not(sizes[0], reason)
    if place.repeated and not runs.of(node):
        note = f"how often it runs is not known: {reason}" if reason else "not reached"
    if note:
        return Found(name, kind, note=note)
    for x, w in sizes:
        _check_channels(name, node, x, w)
    integers = node.op_type in ("ConvInteger", "QLinearConv")
    first = integers or not train or node.input[0] in sources
    try:
        layers = [_layer(name, node, x, w, first) for x, w in sizes]
    except ValueError as error:  # for example negative padding
        return Found(name, kind, note=str(error))
    counted = [used(layer, first, integers or not train) for layer in layers]
    return found(name, kind, counted, "integers" if integers else "")


def _why_not(operands: list[Size | None], reason: str) -> str:
    """Reason why a node cannot be counted; empty if it can."""
    if None in operands:
        return f"its size cannot be inferred{reason and ': '}{reason}"
    axes = {len(size or ()) - 2 for size in operands}
    return "" if len(axes) == 1 and axes <= {*LAYOUTS} else f"{max(axes)} axes"


def _check_channels(name: str, node: Any, x: Any, w: Any) -> None:
    """Check what ONNX does not."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    wanted = w[0] if node.op_type == "ConvTranspose" else w[1] * groups
    if x[1] != wanted:
        raise ValueError(f"{name}: channels do not match: its input has {x[1]} channels, its filter is for {wanted}")


def _layer(name: str, node: Any, x: Any, w: Any, first: bool) -> Layer:
    import onnx

    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    transposed, groups = node.op_type == "ConvTranspose", options.get("group", 1)
    steps = [options.get(key, [1] * len(w[2:])) for key in ("strides", "dilations")]
    axes = list(zip(x[2:], w[2:], *steps, strict=True))
    pads = (_transposed_pads if transposed else _pads)(axes, options)
    shape = _shape(x, w, axes, pads, transposed, groups, options)
    return Layer(name, shape, transposed, first)


def _shape(x: Any, w: Any, axes: Any, pads: Any, transposed: bool, groups: int, options: Any) -> ConvShape:
    """The convolution of a layer."""
    maps = list(x[2:])
    if transposed:
        added = options.get("output_padding", [0] * len(axes))
        maps = [
            (size - 1) * stride + more + (taps - 1) * dilation + 1 - sum(pad)
            for (size, taps, stride, dilation), more, pad in zip(axes, added, pads, strict=True)
        ]
        if "output_shape" in options:
            maps = list(options["output_shape"][-len(axes) :])
    stride, dilation = (tuple(axis[k] for axis in axes) for k in (2, 3))
    x_shape, w_shape = (x[0], *maps, w[1] * groups), (w[0], *w[2:], w[1])
    shape = ConvShape.of(x_shape, w_shape, stride, tuple(pads), dilation, groups)
    return shape.with_outputs(*x[2:]) if transposed else shape


def _split(total: int, more_after: bool) -> tuple[int, int]:
    less, more = total // 2, total - total // 2
    return (less, more) if more_after else (more, less)


def _pads(axes: Any, options: dict[str, Any]) -> list[tuple[int, int]]:
    """Padding before and after, along each axis."""
    auto = options.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = ((-(-size // s) - 1) * s + (taps - 1) * d + 1 - size for size, taps, s, d in axes)
        return [_split(max(total, 0), auto == "SAME_UPPER") for total in totals]
    pads = [0] * (2 * len(axes)) if auto == "VALID" else options.get("pads", [0] * (2 * len(axes)))
    return list(zip(pads[: len(axes)], pads[len(axes) :], strict=True))


def _transposed_pads(axes: Any, options: dict[str, Any]) -> list[tuple[int, int]]:
    """Padding before and after, along each axis, from the size of the result where that is given."""
    auto, wanted = options.get("auto_pad", b"NOTSET").decode(), options.get("output_shape", ())[-len(axes) :]
    if auto in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [size * stride for size, _, stride, _ in axes]
    if not wanted:
        return _pads(axes, options)
    added = options.get("output_padding", [0] * len(axes))
    totals = (
        (size - 1) * stride + more + (taps - 1) * dilation + 1 - result
        for (size, taps, stride, dilation), more, result in zip(axes, added, wanted, strict=True)
    )
    return [_split(max(total, 0), auto == "SAME_UPPER") for total in totals]
