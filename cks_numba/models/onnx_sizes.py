"""Sizes of the maps of an ONNX model.

They are known in three steps, each for what the one before leaves open: ONNX infers them from those of the inputs; what
is computed from sizes alone, as before a Resize, is computed, and ONNX infers again; and the model runs on zeros, in
ONNX's reference evaluator, which does not compute the costly operators, or in ONNX Runtime where that is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Size = tuple[int, ...]
Given = Size | Sequence[Size] | Mapping[str, Size] | None
"""Sizes that a user gives: of the first input, of inputs in their order, or of inputs by name."""

SMALL = 10_000
"""Most elements of a tensor that is computed to infer sizes."""
COSTLY = ("Conv", "ConvTranspose", "Resize", "Upsample", "MaxPool", "AveragePool", "GlobalAveragePool", "LRN")
"""Operators of which the reference evaluator computes only the size of the result."""


# --- reading -----------------------------------------------------------------------------------------
def load(path: Path) -> Any:
    """Read a model without its weights, with its own functions written out where they are called."""
    try:
        import onnx
        import onnx.inliner
    except ModuleNotFoundError as error:
        raise RuntimeError("an ONNX file needs onnx: pip install 'cks-numba[onnx]'") from error
    try:
        model = onnx.load(str(path), load_external_data=False)  # only sizes are needed
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except Exception as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    constant = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]  # old files list their constants too
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
    return model


def graphs(node: Any) -> list[tuple[str, Any]]:
    """The graphs inside a node, by the names of their attributes."""
    inside = [(a.name, graph) for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]
    return sorted(inside, key=lambda item: item[0] != "then_branch")


def everywhere(graph: Any) -> Iterator[Any]:
    """The graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for _, inner in graphs(node):
            yield from everywhere(inner)


def known(graph: Any) -> dict[str, Size]:
    """Sizes of tensors by name, where they are fully known."""
    sizes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if not _is_open(value):
            sizes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return sizes


def _is_open(value: Any) -> bool:
    """Whether the size of a value is not fully known."""
    tensor = value.type.tensor_type
    if not (value.type.HasField("tensor_type") and tensor.HasField("shape")):
        return True
    return any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in tensor.shape.dim)


# --- the inputs --------------------------------------------------------------------------------------
def bind(graph: Any, path: Path, given: Given) -> list[str]:
    """Give the inputs their sizes, and symbols their numbers; return the names of inputs that stay open.

    Sizes that followed from other inputs are forgotten.
    """
    inputs = {value.name: value for value in graph.input}
    if not inputs:
        if given:
            raise ValueError(f"{path} has no input")
        return []
    sizes = _by_name(list(inputs), path, given)
    symbols: dict[str, int] = {}
    for name, size in sizes.items():
        _resize(inputs[name], size, symbols)
    if sizes:
        _forget(graph)
    for value in (*graph.input, *(value for inner in everywhere(graph) for value in inner.value_info)):
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
    sizes = known(graph)
    tensors = [name for name, value in inputs.items() if value.type.HasField("tensor_type")]
    opened = [name for name in tensors if 0 in sizes.get(name, (0,))]
    if opened and opened[0] == next(iter(inputs)):
        raise ValueError(how_to_give(path, opened))
    return opened


def _by_name(names: list[str], path: Path, given: Given) -> dict[str, Size]:
    """The sizes that are given, by the names of their inputs."""
    if isinstance(given, Mapping):
        sizes = {name: tuple(size) for name, size in given.items()}
    else:
        several: list[Any] = [] if given is None else list(given)
        if all(type(item) is int for item in several):
            several = [given] if several else []
        if len(several) > len(names):
            raise ValueError(f"{path} has {len(names)} inputs, got {len(several)} sizes")
        sizes = {name: tuple(size) for name, size in zip(names, several, strict=False)}
    for name in sizes:
        if name not in names:
            raise ValueError(f"{path} has no input {name}; its inputs are {', '.join(names)}")
    return sizes


def how_to_give(path: Path, names: list[str]) -> str:
    """Ask for the sizes of inputs."""
    if len(names) == 1:
        return f"{path} leaves the size of its input {names[0]} open: give it, such as --input 1x3x32x32"
    ways = " ".join(f"--input {name}=1x3x32x32" for name in names)
    return f"{path} leaves the sizes of its inputs {', '.join(names)} open: give them, such as {ways}"


def _resize(value: Any, size: Size, symbols: dict[str, int]) -> None:
    """Give an input its size, and note what its symbols stand for; "?" and "None" are no symbols."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        for _ in size:
            tensor.shape.dim.add()
    if len(size) != len(tensor.shape.dim):
        raise ValueError(f"input {value.name} has {len(tensor.shape.dim)} axes, got {'x'.join(map(str, size))}")
    for dim, number in zip(tensor.shape.dim, size, strict=True):
        symbol = dim.dim_param
        if any(map(str.isalpha, symbol)) and symbol != "None" and symbols.setdefault(symbol, number) != number:
            raise ValueError(f"{dim.dim_param} is {symbols[dim.dim_param]} and {number}: one symbol has one size")
        dim.dim_value = number


def _forget(graph: Any) -> None:
    for inner in everywhere(graph):
        del inner.value_info[:]
        for value in inner.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")


# --- inferring ---------------------------------------------------------------------------------------
def infer(model: Any, path: Path) -> None:
    """Write the sizes that follow from those of the inputs into the model."""
    import onnx

    while True:
        try:
            model.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))
        except Exception as error:
            raise ValueError(f"{path} does not take this input: {error}") from error
        if not _fold(model):
            return


def constants(graph: Any) -> dict[str, Any]:
    """Values of small tensors that are constant."""
    import onnx

    values = {}
    for tensor in graph.initializer:
        if np.prod(tensor.dims, dtype=float) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            values[tensor.name] = onnx.numpy_helper.to_array(tensor)
    for name, value in ((node.output[0], node.attribute[0]) for node in graph.node if node.op_type == "Constant"):
        if value.name == "value" and np.prod(value.t.dims, dtype=float) <= SMALL:
            values[name] = onnx.numpy_helper.to_array(value.t)
        elif value.name in ("value_int", "value_ints"):
            values[name] = np.array(onnx.helper.get_attribute_value(value), np.int64)
    return values


def _fold(model: Any) -> bool:
    """Put constants in place of nodes that compute from constants and sizes alone; whether there are any."""
    import onnx

    sizes, values = known(model.graph), constants(model.graph)
    kept, folded = [], False
    for node in model.graph.node:
        result = None if node.op_type == "Constant" else _value(model, node, sizes, values)
        if result is None:
            kept.append(node)
            continue
        folded = True
        values[node.output[0]] = result
        model.graph.initializer.append(onnx.numpy_helper.from_array(result, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return folded


def _value(model: Any, node: Any, sizes: dict[str, Size], values: dict[str, Any]) -> Any:
    """Result of a node that follows from constants and sizes, or None."""
    if node.op_type in ("Shape", "Size") and node.input[0] in sizes:
        inputs = {node.input[0]: np.broadcast_to(np.float32(0), sizes[node.input[0]])}
    elif node.input and all(name in values for name in node.input if name):
        inputs = {name: values[name] for name in node.input if name}
    else:
        return None
    wide = np.prod(sizes.get(node.output[0], ()), dtype=float) > SMALL
    if len(node.output) != 1 or graphs(node) or wide or "Random" in node.op_type:
        return None
    try:
        found = np.asarray(_evaluator(model, [node], list(inputs), node.output).run(None, inputs)[0])
    except Exception:  # The reference evaluator does not have every operator.
        return None
    return found if found.size <= SMALL else None


def _evaluator(model: Any, nodes: Any, inputs: Any, outputs: Any) -> Any:
    import onnx
    from onnx.reference import ReferenceEvaluator

    first, last = ([onnx.helper.make_empty_tensor_value_info(name) for name in names] for names in (inputs, outputs))
    graph = onnx.helper.make_graph(nodes, "part", first, last)
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import))


# --- running -----------------------------------------------------------------------------------------
class Runs:
    """Sizes of the operands of nodes, for each time that they ran."""

    def __init__(self) -> None:
        self.found: dict[str, list[list[Size | None]]] = {}

    def of(self, node: Any) -> list[list[Size | None]]:
        """The sizes of a node; empty if it did not run."""
        return self.found.get(node.doc_string, [])


def run(model: Any, path: Path, nodes: list[Any]) -> tuple[Runs, str]:
    """Run a model on zeros and note the sizes that its convolutions meet; or say why it does not run."""
    runs, reasons = Runs(), []
    for number, node in enumerate(nodes):
        node.doc_string = str(number)  # names need not be unique
    try:
        from onnx.external_data_helper import load_external_data_for_model

        load_external_data_for_model(model, str(path.parent))
        inputs = {value.name: _zeros(value) for value in model.graph.input}
    except Exception as error:
        return runs, _short(error)
    for way in (_run_reference, _run_runtime):
        try:
            way(model, inputs, nodes, runs)
            return runs, ""
        except Exception as error:
            runs.found.clear()
            reasons.append(_short(error))
    return runs, reasons[0]


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:50]


def _zeros(value: Any) -> Any:
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return np.zeros([dim.dim_value for dim in value.type.tensor_type.shape.dim], dtype)


def _run_reference(model: Any, inputs: dict[str, Any], nodes: list[Any], runs: Runs) -> None:
    from onnx.reference import ReferenceEvaluator

    _end_loops(model)
    operators = [_sized(kind, model, runs) for kind in COSTLY]
    ReferenceEvaluator(model, new_ops=operators).run(None, inputs)


def _end_loops(model: Any) -> None:
    """Give every loop the condition and the number of turns that ONNX lets it leave out, the evaluator does not."""
    import onnx

    left_out = {0: ("(most turns)", np.array(SMALL)), 1: ("(go on)", np.array(True))}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in left_out.values())
    for node in (node for graph in everywhere(model.graph) for node in graph.node if node.op_type == "Loop"):
        for place, (name, _) in left_out.items():
            node.input[place] = node.input[place] or name


def _sized(kind: str, model: Any, runs: Runs) -> Any:
    """Make an operator of the reference evaluator that computes the size of its result and returns zeros."""
    import onnx
    from onnx.reference.op_run import OpRun

    version = next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    schema = onnx.defs.get_schema(kind, version)

    def compute(self: Any, *inputs: Any, **options: Any) -> Any:
        node = self.onnx_node
        if node.doc_string:
            runs.found.setdefault(node.doc_string, []).append([inputs[0].shape, inputs[1].shape])
        given = {name: value for name, value in zip(node.input, inputs, strict=False) if name}
        data = {name: onnx.numpy_helper.from_array(value) for name, value in given.items() if value.size <= SMALL}
        types = {name: onnx.helper.make_tensor_type_proto(_type(value), value.shape) for name, value in given.items()}
        results = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[*model.opset_import]
        )
        sizes = [[dim.dim_value for dim in results[name].tensor_type.shape.dim] for name in node.output]
        return tuple(np.zeros(size, inputs[0].dtype) for size in sizes)

    return type(kind, (OpRun,), {"_run": compute, "op_domain": ""})


def _type(value: Any) -> int:
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))


def _run_runtime(model: Any, inputs: dict[str, Any], nodes: list[Any], runs: Runs) -> None:
    """Run in ONNX Runtime, which tells the sizes of the outermost graph alone."""
    import onnx
    import onnxruntime

    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    outer = {node.doc_string for node in model.graph.node}
    seen = [node for node in nodes if node.doc_string in outer and node.doc_string]
    asked = {name for node in seen for name in node.input}
    made = {name for node in model.graph.node for name in node.output}
    del wider.graph.output[:]
    wider.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in sorted(asked & made))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(wider.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))
    sizes = known(model.graph) | {name: value.shape for name, value in (inputs | results).items()}
    for node in seen:
        runs.found[node.doc_string] = [[sizes.get(node.input[0]), sizes.get(node.input[1])]]
