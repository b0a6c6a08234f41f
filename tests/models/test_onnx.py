"""ONNX files in ``cks-numba report``, made here node by node."""

from __future__ import annotations

import numpy as np
import pytest

from cks_numba import ConvShape, flops
from cks_numba.commands import main

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install cks-numba[onnx])")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

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
    assert found["same"].note == "auto_pad=SAME_UPPER" and found["8"].note == "1 axis"
    assert found["valid"].total.saved == 1 / found["valid"].total.share("useful") and found["valid"].why()


def test_the_command(net, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", str(net), "--input", "2x3x9x12", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "swapping 3 of 5 layers" in out and "no: auto_pad=SAME_UPPER" in out
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
    assert "no: output_shape sets its padding" in out and "no: not Conv or ConvTranspose" in out


def test_no_onnx_file(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.onnx")]) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "text.onnx").write_text("hello")
    assert main(["report", str(tmp_path / "text.onnx")]) == 2
    assert "text.onnx is not an ONNX file" in capsys.readouterr().err
