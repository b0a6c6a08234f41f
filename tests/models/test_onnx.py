"""ONNX files in ``cks-numba report``, made here node by node."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cks_numba import ConvShape, flops
from cks_numba.commands import main

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install cks-numba[onnx])")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from cks_numba.models import text  # noqa: E402
from cks_numba.models.onnx import of_onnx  # noqa: E402

pytestmark = pytest.mark.onnx


def file_of(path, nodes, filters, size):
    """Write a file with a chain of nodes from an input "x" of this size, with filters by name."""
    constants = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in filters.items()]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, size)
    results = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", [source], results, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


@pytest.fixture
def net(tmp_path):
    """Write a network with a layer down, a layer up and some that cannot be counted; the batch size is left open."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], "down", strides=[2, 1], pads=[1, 0, 0, 2], dilations=[1, 2]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("ConvTranspose", ["2", "b"], ["3"], "up", strides=[2, 2], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Conv", ["3", "c"], ["4"], "same", auto_pad="SAME_UPPER"),
        helper.make_node("Conv", ["4", "c"], ["5"], "valid", auto_pad="VALID"),
        helper.make_node("GlobalAveragePool", ["5"], ["6"]),
        helper.make_node("Squeeze", ["6", "axis"], ["7"]),
        helper.make_node("Conv", ["7", "d"], ["8"]),
    ]
    filters = {"a": (4, 3, 3, 3), "b": (4, 3, 4, 4), "c": (6, 6, 3, 3), "d": (2, 6, 1)}
    path = file_of(tmp_path / "net.onnx", nodes, filters, ["images", 3, 9, 12])
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([3]), "axis"))
    onnx.save(model, path)
    return path


def test_counts_are_those_of_flops(net):
    found = {row.name: row for row in of_onnx(net, (2, 3, 9, 12))}
    assert list(found) == ["down", "up", "same", "valid", "8"]
    down = ConvShape(n=2, ih=9, iw=12, ic=3, oc=4, fh=3, fw=3, stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2))
    assert found["down"].of("forward") == flops.count("conv2d", down)
    assert list(found["down"].counts[0].passes) == ["forward", "weight gradient"]  # it reads the image
    rows, columns = ((size - 1) * 2 - 2 + 4 for size in (down.oh, down.ow))
    up = ConvShape(n=2, ih=rows, iw=columns, ic=6, oc=4, fh=4, fw=4, stride=2, padding=1, groups=2)
    assert found["up"].of("forward") == flops.count("conv2d_input", up)
    assert found["up"].of("input gradient") == flops.count("conv2d", up)
    point = ConvShape.of((2, 1, 6), (2, 1, 6))
    assert found["8"].of("forward") == flops.count("conv2d", point) and found["8"].why() == "no: below 1.15"
    assert found["valid"].total.saved == 1 / found["valid"].total.share("useful") and found["valid"].why()


def test_the_command(net, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", str(net), "--input", "2x3x9x12", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "swapping 3 of 5 layers" in out
    assert "Zeros in net.onnx, input 2x3x9x12" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (None, "leaves the size of its input x open: give it, such as --input 1x3x32x32"),
        ("3x9x12", "input x has 4 axes, got 3x9x12"),
        ("1x5x9x12", "down: channels do not match: its input has 5 channels"),
    ],
)
def test_inputs_that_do_not_fit(net, capsys, input, message):
    given = ["--input", input] if input else []
    assert main(["report", str(net), *given]) == 2
    assert message in capsys.readouterr().err


def test_a_file_with_its_own_size_and_other_nodes(tmp_path, capsys):
    nodes = [
        helper.make_node("ConvTranspose", ["x", "a"], ["1"], strides=[2, 2], output_shape=[8, 8]),
        helper.make_node("DeformConv", ["1", "b", "1"], ["2"], domain="other"),
    ]
    path = file_of(tmp_path / "own.onnx", nodes, {"a": (3, 3, 2, 2), "b": (3, 3, 1, 1)}, [1, 3, 4, 4])
    assert main(["report", str(path)]) == 0
    out = capsys.readouterr().out
    assert "swapping 1 of 2 layers" in out and "no: not counted: DeformConv of other is not known here" in out
    assert out.splitlines()[-1].endswith("; 1 is not counted")


def test_no_onnx_file(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.onnx")]) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "text.onnx").write_text("hello")
    assert main(["report", str(tmp_path / "text.onnx")]) == 2
    assert "text.onnx is not an ONNX file" in capsys.readouterr().err


# --- sizes that ONNX leaves to others --------------------------------------------------------------------
def ones(shape, name):
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def model_of(nodes, inputs, constants=(), functions=(), opset=17):
    """Make a model; its inputs are sizes by name, or values, and its result is that of the last node."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size) if isinstance(size, (list, type(None))) else size
        for name, size in inputs.items()
    ]
    results = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", values, results, list(constants))
    opsets = [
        helper.make_opsetid(domain, version) for domain, version in (("", opset), ("own", 1), ("com.microsoft", 1))
    ]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)


def rows_of(tmp_path, model, *given, **options):
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return of_onnx(path, *given, **options)


def real_pairs(model, x):
    """Pairs of real elements that a convolution of ones multiplies: its result added up, as ONNX computes it."""
    from onnx.reference import ReferenceEvaluator

    return int(ReferenceEvaluator(model).run(None, {"x": np.ones(x, np.float32)})[0].sum())


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize(
    ("taps", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (2, 1, 1), (2, 3, 1), (3, 2, 2), (1, 2, 1)]
)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_auto_pad(tmp_path, auto_pad, taps, stride, dilation, axes):
    size, wide = [7, 8, 4][:axes], [taps, taps + 1, taps][:axes]
    options = dict(strides=[stride] * axes, dilations=[dilation] * axes, auto_pad=auto_pad)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **options)
    model = model_of([node], {"x": [1, 2, *size]}, [ones((3, 2, *wide), "w")])
    (row,) = rows_of(tmp_path, model)
    assert row.of("forward").useful == real_pairs(model, (1, 2, *size))


TRANSPOSED = [  # options, the size of the result, and the pairs of real elements that ONNX Runtime multiplies
    (dict(strides=[2, 2], output_shape=[8, 9]), (8, 9), 858),
    (dict(strides=[2, 2], output_shape=[9, 11], output_padding=[1, 1]), (9, 11), 924),
    (dict(strides=[2, 2], output_shape=[1, 3, 10, 12]), (10, 12), 1080),
    (dict(strides=[3, 2], output_shape=[12, 9], auto_pad="SAME_UPPER"), (12, 9), 936),
    (dict(strides=[3, 2], output_shape=[12, 9], auto_pad="SAME_LOWER"), (12, 9), 936),
    (dict(strides=[2, 2], auto_pad="SAME_UPPER"), (8, 10), 924),
    (dict(strides=[2, 3], auto_pad="SAME_LOWER"), (8, 15), 990),
    (dict(strides=[2, 1], pads=[1, 0, 0, 1], auto_pad="NOTSET"), (8, 6), 924),
    # ONNX Runtime refuses this one: as torch counts it
    (dict(strides=[1, 1], pads=[2, 2, 2, 2], output_padding=[2, 2], dilations=[3, 3]), (8, 9), 780),
]


@pytest.mark.parametrize(("options", "size", "pairs"), TRANSPOSED)
def test_transposed_layers_by_the_size_of_the_result(tmp_path, options, size, pairs):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **options)
    (row,) = rows_of(tmp_path, model_of([node], {"x": [1, 2, 4, 5]}, [ones((2, 3, 3, 3), "w")]))
    shape = row.counts[0].layer.shape
    assert (shape.ih, shape.iw) == size and (shape.oh, shape.ow) == (4, 5)
    assert row.of("forward").useful == pairs


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_layers_of_every_number_of_axes(tmp_path, axes):
    size, more = (4, 5, 3)[:axes], [1, 0, 1][:axes]
    options = dict(strides=[2] * axes, pads=[1, 0, 1][:axes] * 2, output_padding=more)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **options)
    model = model_of([node], {"x": [1, 4, *size]}, [ones((4, 3, *[3] * axes), "w")])
    (row,) = rows_of(tmp_path, model)
    assert row.of("forward").useful == real_pairs(model, (1, 4, *size))


def up(before, after, scaled):
    """Nodes of an upsampling to the size of a map, as exporters write them."""
    size = [
        helper.make_node("Shape", [after], [f"{after}_size"]),
        helper.make_node("Slice", [f"{after}_size", "two", "four"], [f"{after}_rows"]),
        helper.make_node("Shape", [before], [f"{before}_size"]),
        helper.make_node("Slice", [f"{before}_size", "zero", "two"], [f"{before}_head"]),
    ]
    if scaled:  # through a quotient of floats, which ONNX does not follow
        size += [
            helper.make_node("Cast", [f"{after}_rows"], [f"{after}_float"], to=TensorProto.FLOAT),
            helper.make_node("Floor", [f"{after}_float"], [f"{after}_floor"]),
            helper.make_node("Cast", [f"{after}_floor"], [f"{after}_ends"], to=TensorProto.INT64),
        ]
    tail = f"{after}_ends" if scaled else f"{after}_rows"
    return [
        *size,
        helper.make_node("Concat", [f"{before}_head", tail], [f"{before}_wanted"], axis=0),
        helper.make_node("Resize", [before, "", "", f"{before}_wanted"], [f"{before}_up"], mode="nearest"),
    ]


NUMBERS = [numpy_helper.from_array(np.array([k]), name) for k, name in ((0, "zero"), (2, "two"), (4, "four"))]


@pytest.mark.parametrize("scaled", [False, True])
def test_sizes_that_are_computed_as_in_a_unet(tmp_path, scaled):
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], "down1", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["1", "b"], ["2"], "down2", strides=[2, 2], pads=[1, 1, 1, 1]),
        *up("2", "1", scaled),
        helper.make_node("Conv", ["2_up", "b"], ["3"], "up2", pads=[1, 1, 1, 1]),
        *up("3", "x", scaled),
        helper.make_node("Conv", ["3_up", "b"], ["4"], "up1", pads=[1, 1, 1, 1]),
    ]
    constants = [ones((4, 3, 3, 3), "a"), ones((4, 4, 3, 3), "b"), *NUMBERS]
    rows = rows_of(tmp_path, model_of(nodes, {"x": ["N", 3, "H", "W"]}, constants), (1, 3, 13, 18))
    maps = {row.name: (row.counts[0].layer.shape.ih, row.counts[0].layer.shape.iw) for row in rows}
    assert maps == {"down1": (13, 18), "down2": (7, 9), "up2": (7, 9), "up1": (13, 18)}


def chosen(kind="NonZero"):
    """Nodes whose result has a size that depends on data: (1, 4, as many as there are zeros, 3)."""
    return [
        helper.make_node("Equal", ["x", "nothing"], ["is"]),
        helper.make_node(kind, ["is"], ["where"], domain="" if kind == "NonZero" else "own"),
        helper.make_node("Cast", ["where"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "wanted"], ["1"]),
        helper.make_node("Conv", ["1", "w"], ["2"], "after", pads=[1, 1, 1, 1]),
    ]


FOR_CHOSEN = [
    numpy_helper.from_array(np.float32(0), "nothing"),
    numpy_helper.from_array(np.array([1, 4, -1, 3]), "wanted"),
    ones((2, 4, 3, 3), "w"),
]


def test_sizes_that_depend_on_data_are_those_of_zeros(tmp_path):
    (row,) = rows_of(tmp_path, model_of(chosen(), {"x": [1, 3, 5, 5]}, FOR_CHOSEN))
    assert row.counts[0].layer.shape.x_shape == (1, 25, 3, 4)
    (row,) = rows_of(tmp_path, model_of(chosen("Own"), {"x": [1, 3, 5, 5]}, FOR_CHOSEN))
    assert not row.counts and row.why().startswith("no: its size cannot be inferred: ")
    assert len(text.text([row]).splitlines()[4]) <= 160


def test_onnx_runtime_is_asked_for_operators_of_its_own(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (pip install onnxruntime)")
    nodes = [
        helper.make_node("FusedConv", ["x", "a"], ["1"], "fused", activation="Relu", domain="com.microsoft"),
        helper.make_node("Conv", ["1", "b"], ["2"], "after"),
    ]
    model = model_of(nodes, {"x": [1, 3, 8, 8]}, [ones((4, 3, 3, 3), "a"), ones((2, 4, 1, 1), "b")])
    rows = rows_of(tmp_path, model)
    assert [row.counts[0].layer.shape.x_shape for row in rows] == [(1, 8, 8, 3), (1, 6, 6, 4)]


# --- where layers hide ----------------------------------------------------------------------------------
def branch(name, inside):
    node = helper.make_node("Conv", ["x", "w"], [f"{name}_y"], name, pads=[inside] * 4)
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)])


def test_both_branches_of_an_if(tmp_path):
    node = helper.make_node("If", ["p"], ["y"], then_branch=branch("one", 0), else_branch=branch("two", 1))
    condition = helper.make_tensor_value_info("p", TensorProto.BOOL, [])
    model = model_of([node], {"x": [1, 3, 8, 8], "p": condition}, [ones((4, 3, 3, 3), "w")])
    one, two = rows_of(tmp_path, model)
    assert (one.kind, two.kind) == ("Conv, If then_branch", "Conv, If else_branch")
    assert two.of("forward").regular == one.of("forward").regular * 64 // 36
    assert list(one.counts[0].passes) == ["forward", "weight gradient"]  # it reads the image
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "p"))
    one, two = rows_of(tmp_path, model)
    assert one.why() == "no: not reached" and two.counts


def loop(*turns):
    """A loop that makes its map smaller by 2 each turn; as many turns as a constant, or an input, says."""
    values = [("i", TensorProto.INT64, []), ("on", TensorProto.BOOL, []), ("c", TensorProto.FLOAT, None)]
    body = helper.make_graph(
        [helper.make_node("Conv", ["c", "w"], ["c2"], "inside"), helper.make_node("Identity", ["on"], ["on2"])],
        "body",
        [helper.make_tensor_value_info(*value) for value in values],
        [helper.make_tensor_value_info("on2", TensorProto.BOOL, []), helper.make_tensor_value_info("c2", 1, None)],
    )
    node = helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)
    constants = [ones((3, 3, 3, 3), "w"), *(numpy_helper.from_array(np.array(turn), "turns") for turn in turns)]
    inputs = {"x": [1, 3, 12, 12]} | ({} if turns else {"turns": helper.make_tensor_value_info("turns", 7, [])})
    return model_of([node], inputs, constants)


def test_a_loop_counts_as_often_as_it_runs(tmp_path):
    (row,) = rows_of(tmp_path, loop(4))
    assert row.kind == "Conv, Loop body"
    assert [count.layer.shape.ih for count in row.counts] == [12, 10, 8, 6]
    (row,) = rows_of(tmp_path, loop())
    assert row.why() == "no: not reached"  # a number of turns that is an input is 0
    broken = loop(4)
    broken.graph.node.insert(0, helper.make_node("Own", ["x"], ["other"], domain="own"))
    (row,) = rows_of(tmp_path, broken)
    assert row.why().startswith("no: how often it runs is not known: ")


def test_the_body_of_a_scan(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Conv", ["slice", "w"], ["out"], "inside", pads=[1, 1, 1, 1])],
        "body",
        [helper.make_tensor_value_info("slice", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    (row,) = rows_of(tmp_path, model_of([node], {"x": [5, 1, 3, 8, 8]}, [ones((3, 3, 3, 3), "w")]))
    assert row.kind == "Conv, Scan body" and len(row.counts) == 5


def test_functions_of_a_model_are_read_at_every_call(tmp_path):
    inner = helper.make_node("Conv", ["a", "b"], ["c"], "inside", pads=[1, 1, 1, 1])
    function = helper.make_function("own", "Block", ["a", "b"], ["c"], [inner], [helper.make_opsetid("", 17)])
    calls = [helper.make_node("Block", [str(k), "w"], [str(k + 1)], domain="own") for k in (1, 2)]
    nodes = [helper.make_node("Relu", ["x"], ["1"]), *calls]
    rows = rows_of(tmp_path, model_of(nodes, {"x": [1, 3, 8, 8]}, [ones((3, 3, 3, 3), "w")], [function]))
    assert len(rows) == 2 and all(row.counts for row in rows) and rows[0].total == rows[1].total


def test_names_that_only_look_like_a_convolution(tmp_path):
    nodes = [
        helper.make_node("ConvertColour", ["x"], ["1"], "by chance", domain="own"),
        helper.make_node("Conv", ["x", "w"], ["2"], "strange", domain="own"),
        helper.make_node("Conv", ["x", "w"], ["3"], "real"),
    ]
    rows = rows_of(tmp_path, model_of(nodes, {"x": [1, 3, 8, 8]}, [ones((3, 3, 3, 3), "w")]))
    assert [row.name for row in rows] == ["by chance", "strange", "real"]
    assert rows[0].note == "not counted: ConvertColour of own is not known here" and not rows[1].counts
    assert text.text(rows).splitlines()[-1].endswith("; 2 are not counted") and rows[2].counts


def test_convolutions_of_integers_are_counted_forward(tmp_path):
    bytes_ = [numpy_helper.from_array(np.ones((3, 3, 3, 3), np.uint8), "w")]
    value = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 8, 8])
    model = model_of([helper.make_node("ConvInteger", ["x", "w"], ["y"], pads=[1] * 4)], {"x": value}, bytes_)
    (row,) = rows_of(tmp_path, model)
    assert row.why() == "no: integers" and list(row.counts[0].passes) == ["forward"]
    assert row.of("forward") == flops.count("conv2d", ConvShape(n=1, ih=8, iw=8, ic=3, oc=3, fh=3, fw=3, padding=1))


# --- inputs -------------------------------------------------------------------------------------------------
def pair(*sizes):
    """Two images, each with a layer, and their sum."""
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["1"], "of a"),
        helper.make_node("Conv", ["b", "w"], ["2"], "of b"),
        helper.make_node("Add", ["1", "2"], ["y"]),
    ]
    return model_of(nodes, dict(zip("ab", sizes, strict=True)), [ones((4, 3, 3, 3), "w")])


def test_several_inputs_and_symbols(tmp_path, capsys):
    model = pair(["N", 3, "H", "W"], ["N", 3, "H", "W"])
    rows = rows_of(tmp_path, model, (2, 3, 7, 9))
    assert [row.counts[0].layer.shape.x_shape for row in rows] == [(2, 7, 9, 3)] * 2
    file = str(tmp_path / "net.onnx")
    onnx.save(pair(["N", 3, "H", "W"], None), file)  # b has no shape
    assert main(["report", file, "--input", "a=1x3x8x8", "--input", "b=1x3x9x9"]) == 0
    assert "8x8x3" in (out := capsys.readouterr().out) and "9x9x3" in out and "not counted" not in out
    assert main(["report", file, "--input", "1x3x8x8", "--input", "1x3x9x9", "--forward"]) == 0
    assert capsys.readouterr().out.endswith("of a forward pass (0%)\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["1x3x8x8"], "leaves the size of its input b open"),
        (["b=1x3x8x8"], "leaves the size of its input a open"),
        ([], "leaves the sizes of its inputs a, b open: give them, such as --input a=1x3x32x32 --input b=1x3x32x32"),
        (["c=1x3x8x8"], "has no input c; its inputs are a, b"),
        (["1x3x8x8", "1x3x8x8", "1"], "has 2 inputs, got 3 sizes"),
        (["a=1x3x8x8", "1x3x8x8"], "either all inputs their names, or none"),
        (["a=1x3x8x8", "a=1x3x8x8"], "gives an input twice"),
        (["a=1x3x8x8", "b=2x3x8x8"], "N is 1 and 2: one symbol has one size"),
    ],
)
def test_what_is_wrong_with_several_inputs(tmp_path, capsys, given, message):
    sizes = (["N", 3, "H", "W"], ["N", 3, 8, 8]) if "N is" in message else (["N", 3, "H", "W"], None)
    onnx.save(pair(*sizes), tmp_path / "net.onnx")
    words = [word for size in given for word in ("--input", size)]
    assert main(["report", str(tmp_path / "net.onnx"), *words]) == 2
    assert message in capsys.readouterr().err


FILES = [
    ("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", (1, 3, 48, 192)),
    ("rapidocr", "models/PP-OCRv6_det_small.onnx", (1, 3, 320, 320)),
    ("rapidocr", "models/PP-OCRv6_rec_small.onnx", (1, 3, 48, 320)),
    ("faster_whisper", "assets/silero_vad_v6.onnx", (1, 576)),
    ("magika", "models/standard_v3_3/model.onnx", (1, 2048)),
]


@pytest.mark.parametrize(("package", "file", "size"), FILES)
def test_files_of_packages_are_counted_whole(package, file, size):
    found = importlib.util.find_spec(package)
    path = Path(found.submodule_search_locations[0], file) if found else Path()
    if not path.is_file():
        pytest.skip(f"{package} with {file} is not installed (pip install --no-deps {package.replace('_', '-')})")
    rows = of_onnx(path, size)
    assert rows and all(row.counts for row in rows)
