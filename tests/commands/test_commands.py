"""The cks-numba command, with every subcommand run in this process, and the regular way that it checks against."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

import cks_numba as cks
from cks_numba import operators, plots, steps
from cks_numba.backends import cuda as backend
from cks_numba.backends.cpu import threads
from cks_numba.bench import accuracy
from cks_numba.commands import demo, main, verify
from cks_numba.commands.arguments import parse_shape
from cks_numba.geometry import OPERATORS, ConvShape, plan
from cks_numba.steps import regular


def brute_force(shape, x, w, dy):
    """Compute all three operators from the equation i = o*stride - padding + f*dilation, one product at a time."""
    y, dx, dw = np.zeros(shape.y_shape, int), np.zeros(shape.x_shape, int), np.zeros(shape.w_shape, int)
    per_in, per_out = shape.ic // shape.groups, shape.oc // shape.groups
    for oh, ow, fh, fw in product(range(shape.oh), range(shape.ow), range(shape.fh), range(shape.fw)):
        ih = oh * shape.stride[0] - shape.padding[0][0] + fh * shape.dilation[0]
        iw = ow * shape.stride[1] - shape.padding[1][0] + fw * shape.dilation[1]
        if not (0 <= ih < shape.ih and 0 <= iw < shape.iw):
            continue
        for n, oc, c in product(range(shape.n), range(shape.oc), range(per_in)):
            ic = oc // per_out * per_in + c
            y[n, oh, ow, oc] += x[n, ih, iw, ic] * w[oc, fh, fw, c]
            dx[n, ih, iw, ic] += dy[n, oh, ow, oc] * w[oc, fh, fw, c]
            dw[oc, fh, fw, c] += x[n, ih, iw, ic] * dy[n, oh, ow, oc]
    return {"conv2d": y, "conv2d_input": dx, "conv2d_weight": dw}


@pytest.mark.parametrize("seed", range(80))
def test_regular_is_the_equation(seed):
    rng = np.random.default_rng(seed)
    shape = accuracy.random_shape(rng, small=seed % 4 > 0)  # a quarter of the shapes are of full size
    x, w, dy = (rng.integers(-9, 10, size) for size in (shape.x_shape, shape.w_shape, shape.y_shape))
    operands = {"conv2d": (x, w), "conv2d_input": (w, dy), "conv2d_weight": (x, dy)}
    for operator, expected in brute_force(shape, x, w, dy).items():
        got = regular.BY_OPERATOR[operator](*operands[operator], shape)
        assert got.shape == expected.shape and got.dtype == x.dtype
        assert np.array_equal(got, expected), (operator, str(shape))


def test_regular_crops_where_the_padding_is_larger_than_the_filter():
    shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=1, fw=1, padding=(2, 0, 1, 3))
    dy = np.arange(shape.oh * shape.ow).reshape(shape.y_shape)
    dx = regular.conv2d_input(np.full((1, 1, 1, 1), 5), dy, shape)
    assert np.array_equal(dx, 5 * dy[:, 2:6, 1:5])
    behind = ConvShape(n=1, ih=1, iw=1, ic=1, oc=1, fh=1, fw=1, stride=4, padding=(2, 1, 2, 1))  # dy ends before it
    assert regular.conv2d_input(np.ones((1, 1, 1, 1), int), np.ones((1, 1, 1, 1), int), behind).tolist() == [[[[0]]]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regular_keeps_the_dtype(dtype):
    shape = parse_shape("i=5,ic=2,oc=3,stride=2,padding=1")
    for operator in OPERATORS:
        operands = accuracy.operands(operator, shape, np.random.default_rng(0), dtype)
        assert regular.BY_OPERATOR[operator](*operands, shape).dtype == dtype


def test_random_shapes_are_as_awkward_as_promised():
    rng = np.random.default_rng(0)
    shapes = [accuracy.random_shape(rng) for _ in range(300)]
    assert any(s.n == 0 for s in shapes) and any(s.groups == 3 for s in shapes)
    assert any(s.ic % 2 for s in shapes) and any(s.dilation[0] == 3 for s in shapes)
    assert any(s.padding[0][0] != s.padding[0][1] for s in shapes)
    assert any(s.fh < s.stride[0] for s in shapes) and any(s.fh > s.ih for s in shapes)
    assert any((s.fh, s.fw) == (1, 1) and max(s.stride) > 1 for s in shapes)
    assert any((s.ih + sum(s.padding[0]) - s.h.span) % s.stride[0] for s in shapes)


# --- shapes written as text ------------------------------------------------------------------------
def test_shape_defaults_and_every_form():
    assert parse_shape("") == ConvShape(n=1, ih=8, iw=8, ic=1, oc=1, fh=3, fw=3)
    text = "n=2, i=8x6, ic=4, oc=6, f=3x5, stride=2x1, padding=1x0x2x3, dilation=1x2, groups=2"
    assert parse_shape(text) == ConvShape(
        n=2, ih=8, iw=6, ic=4, oc=6, fh=3, fw=5, stride=(2, 1), padding=(1, 0, 2, 3), dilation=(1, 2), groups=2
    )
    assert parse_shape("i=7,padding=same").oh == 7
    assert parse_shape("ih=5,iw=6,fh=2,fw=1") == parse_shape("i=5x6,f=2x1")
    assert parse_shape("ih=5,i=7") == parse_shape("i=5x7")


def test_shapes_of_signals_and_volumes():
    volume = ConvShape.of((2, 4, 8, 6, 3), (5, 3, 3, 3, 3), stride=2, padding=(1, 0, 1, 1, 0, 2))
    assert parse_shape("n=2,i=4x8x6,ic=3,oc=5,stride=2,padding=1x0x1x1x0x2") == volume
    assert parse_shape("axes=3,i=4,f=2x3x1") == ConvShape.of((1, 4, 4, 4, 1), (1, 2, 3, 1, 1))
    assert parse_shape("f=2x3x1") == ConvShape.of((1, 8, 8, 8, 1), (1, 2, 3, 1, 1))
    signal = ConvShape.of((1, 100, 1), (1, 5, 1), stride=2, padding=((1, 2),))
    assert parse_shape("axes=1,i=100,f=5,stride=2,padding=1x2") == signal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k=3", "got 'k=3'"),
        ("i", "expected key=value"),
        ("i=three", "i must be an integer, or integers joined by x, got 'three'"),
        ("ic=2x2", "ic takes 1 number, got '2x2'"),
        ("padding=1x2x3", "padding must be an int"),
        ("padding=1x2x3x4x5", "padding takes 1 or 2 or 3 or 4 or 6 numbers"),
        ("i=8,i=9", "i is given twice"),
        ("axes=4", "axes must be 1, 2 or 3, got 4"),
        ("axes=3,ih=4", "ih is for two axes, got 3: write i=8x8x8"),
        ("axes=1,i=4x4", "i must have a number for each axis, 1 in all, got 4x4"),
        ("i=4x4,f=3x3x3", "f must have a number for each axis, 2 in all, got 3x3x3"),
        ("i=4x4x4,stride=2x1", "stride must be"),
        ("i=4x4x4,padding=1x1", "padding must be"),
        ("stride=0", "stride must be at least 1, got 0"),
        ("i=2,f=5", "filter is larger than the padded input"),
        ("ic=4,oc=3,groups=2", "groups must divide oc"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "explain"])
def test_wrong_shapes_leave_with_2_and_a_clear_message(capsys, command, text, message):
    with pytest.raises(SystemExit) as stop:
        main([command, "conv2d", text])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["bake"], ["plan"], ["plan", "conv3d", "i=8"], ["verify", "--cases", "0"], ["demo", "--size", "9"]],
)
def test_wrong_arguments_leave_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: cks-numba" in capsys.readouterr().err


# --- the subcommands -------------------------------------------------------------------------------
def test_info_names_versions_and_the_backend(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert np.__version__ in out and "numba-cuda" in out
    assert 'backend="auto" uses "' in out
    assert 'backend="emulator" runs the compiled kernels' in out


def test_info_names_the_cores_that_may_be_used(capsys, monkeypatch):
    """numba/numba#3253: not those of the machine alone."""
    monkeypatch.setattr(threads, "quota", lambda: 0.5)
    assert main(["info"]) == 0
    assert f"1 of {os.cpu_count()} cores by a quota of 0.5; a call uses up to " in capsys.readouterr().out


@pytest.mark.skipif(backend.SIMULATED, reason="the simulator asks no driver")
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(TypeError("no CUDA installed"), id="NVIDIA/numba-cuda#233"),
        pytest.param(RuntimeError("a bad driver"), id="numba/numba#2841"),
        pytest.param(KeyError("driver missing function: cuInit"), id="numba/numba#3963"),
        pytest.param(OSError("no device"), id="no device"),
    ],
)
def test_a_driver_that_raises_is_no_gpu(capsys, monkeypatch, error):
    def is_available():
        raise error

    monkeypatch.setattr(backend, "NUMBA_CUDA", True)
    monkeypatch.setattr(backend.cuda, "is_available", is_available)
    backend.available.cache_clear()
    x = np.ones((1, 3, 3, 1))
    try:
        with pytest.warns(RuntimeWarning, match=f"the CUDA driver cannot be used, so there is no GPU: .*{error}"):
            assert cks.conv2d(x, x).item() == 9
        assert main(["info"]) == 0
        assert "none found" in capsys.readouterr().out
        with pytest.raises(RuntimeError, match="found no CUDA GPU"):
            cks.conv2d(x, x, backend="cuda")
    finally:
        backend.available.cache_clear()


@pytest.mark.parametrize("name", [*OPERATORS, "ks_deconv"])
def test_plan_prints_the_groups(capsys, name):
    text = "i=8,ic=3,oc=4,stride=2,padding=1"
    assert main(["plan", name, text]) == 0
    operator = "conv2d_input" if name == "ks_deconv" else name
    assert capsys.readouterr().out == f"{plan(operator, parse_shape(text))}\n"


@pytest.mark.parametrize("operator", OPERATORS)
def test_explain_prints_the_stages(capsys, operator):
    assert main(["explain", operator, "i=4,stride=2,padding=1"]) == 0
    expected = steps.explain(operator, None, None, parse_shape("i=4,stride=2,padding=1"))
    assert capsys.readouterr().out == f"{expected}\n"
    assert main(["explain", operator]) == 0
    assert capsys.readouterr().out == f"{steps.explain(operator)}\n"


def test_verify_passes_and_counts_its_checks(capsys):
    assert main(["verify", "--cases", "12", "--seed", "5", "--backend", "cpu", "--backend", "steps"]) == 0
    out = capsys.readouterr().out
    assert "all correct" in out
    lines = [line.split() for line in out.splitlines() if line.startswith(("cpu ", "steps "))]
    assert [(line[1], line[2], line[3]) for line in lines] == [(op, "36", "0") for op in OPERATORS] * 2


def test_verify_tells_what_it_checks(capsys, monkeypatch):
    """What runs is said before it runs: its first call compiles for seconds, and any call may hang."""
    said = []

    def call(operator, shape, *rest):
        said.append(capsys.readouterr().out)
        return right(operator, shape, *rest)

    right = verify.call
    monkeypatch.setattr(verify, "call", call)
    monkeypatch.setattr(verify, "SILENCE", float("inf"))
    assert main(["verify", "--cases", "3", "--backend", "cpu", "--backend", "steps"]) == 0
    assert said[0].startswith("3 random shapes") and said[0].endswith("shape 1 of 3: conv2d on steps\n")
    assert [text.split(": ")[1] for text in said[1:18] if text] == [
        f"{op} on {name}\n" for op in OPERATORS for name in ("steps", "cpu")
    ][1:]
    monkeypatch.setattr(verify, "SILENCE", 0.0)
    said.clear()
    assert main(["verify", "--cases", "2", "--backend", "cpu"]) == 0
    assert "shape 2 of 2: conv2d_weight on cpu" in said[-1]


def test_verify_runs_the_emulator(capsys):
    assert main(["verify", "--cases", "1", "--backend", "emulator"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("emulator ")]
    assert [(line[1], line[2], line[3]) for line in lines] == [(op, "3", "0") for op in OPERATORS]


@pytest.mark.parametrize("operator", OPERATORS)
def test_verify_catches_a_wrong_backend(capsys, monkeypatch, operator):
    right = getattr(operators, operator)

    def wrong(*arrays, backend, **options):
        result = right(*arrays, backend=backend, **options)
        if backend == "cpu" and result.size:
            result.flat[-1] += 1
        return result

    monkeypatch.setattr(operators, operator, wrong)
    assert main(["verify", "--cases", "3", "--backend", "cpu", "--backend", "steps"]) == 1
    out = capsys.readouterr().out
    failed = {
        tuple(line.split()[:2]): int(line.split()[3]) for line in out.splitlines() if line[:4] in ("cpu ", "step")
    }
    assert failed.pop(("cpu", operator)) == 9
    assert set(failed.values()) == {0} and "9 checks FAILED" in out


def _breaks(result):
    raise ZeroDivisionError("broken on purpose")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_breaks, "ZeroDivisionError: broken on purpose"),
        (lambda result: result.astype(np.float16), "got float16"),
        (lambda result: result[..., None], "expected float32"),
        (lambda result: result * np.nan, "inf"),
    ],
)
def test_verify_reports_a_backend_that_breaks(capsys, monkeypatch, change, message):
    right = operators.conv2d
    monkeypatch.setattr(operators, "conv2d", lambda *arrays, **options: change(right(*arrays, **options)))
    assert main(["verify", "--cases", "2", "--seed", "1", "--backend", "cpu"]) == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "demo"])
def test_without_a_gpu_it_says_how_to_go_on(capsys, monkeypatch, tmp_path, command):
    monkeypatch.setattr(verify.cuda, "available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main([command, "--backend", "cuda"]) == 1
    assert "NUMBA_ENABLE_CUDASIM=1" in capsys.readouterr().err


def test_demo_says_where_it_cannot_write(capsys, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    assert main(["demo", "--out", str(tmp_path / "taken"), "--size", "16"]) == 1
    assert "taken" in capsys.readouterr().err


def test_an_error_where_no_product_reaches_is_infinite():
    zero = np.zeros(2)
    assert accuracy.relative_error(zero, zero, zero) == 0
    assert accuracy.relative_error(np.array([0.0, 1e-30]), zero, zero) == np.inf
    assert accuracy.relative_error(np.array([0.0, np.nan]), zero, zero + 1) == np.inf


def test_demo_checks_everything_and_draws(capsys, tmp_path):
    assert main(["demo", "--out", str(tmp_path / "new"), "--size", "32", "--repeats", "1", "--backend", "cpu"]) == 0
    printed = capsys.readouterr()
    picture = (tmp_path / "new" / "demo.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 20_000
    assert "every result is the regular one" in printed.out
    rows = [line for line in printed.out.splitlines() if line.startswith(("halve", "random"))]
    assert len(rows) == 3 * len(demo.build(32)) == 15
    assert "15/15" in printed.err


def test_demo_fails_on_a_wrong_result(capsys, tmp_path, monkeypatch):
    right = operators.conv2d_weight
    monkeypatch.setattr(operators, "conv2d_weight", lambda *arrays, **options: right(*arrays, **options) * 1.001)
    assert main(["demo", "--out", str(tmp_path), "--size", "16", "--repeats", "1", "--backend", "cpu"]) == 1
    out = capsys.readouterr().out
    assert out.count(" WRONG") == len(demo.build(16)) + 1


def test_demo_filters_are_orthonormal_and_give_the_picture_back():
    layers = demo.build(64)
    for layer in layers[:-1]:
        flat = layer.w.reshape(len(layer.w), -1).astype(np.float64)
        assert np.allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-6)
    pictures = plots.photograph(64)
    x = accuracy.call("conv2d", layers[0].shape, pictures, layers[0].w, "cpu")
    again = demo.climb(layers[:1], x, "cpu")
    assert np.allclose(again[:, 1:-1, 1:-1], pictures[:, 1:-1, 1:-1], atol=1e-5)  # no channel was lost


def test_zero_maps_count_what_the_regular_way_adds():
    shape = parse_shape("i=4,f=4,stride=2,padding=1")
    kinds, _ = plots.zero_maps("conv2d_input", shape)
    assert kinds.shape == (7, 7)
    assert [int((kinds == kind).sum()) for kind in (plots.REAL, plots.INSERTED, plots.PADDED)] == [4, 5, 40]
    padded, spread = plots.zero_maps("conv2d_weight", shape)
    assert int((padded == plots.PADDED).sum()) == 20
    assert spread.tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


def test_python_dash_m_runs_the_command():
    command = [sys.executable, "-m", "cks_numba", "plan", "conv2d", "i=2,padding=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "useful multiply-adds" in done.stdout
