"""The benchmark against peers: each peer computes what we do, and what follows from the times."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from cks_numba.bench import accuracy, cases, peers, results
from cks_numba.buffers import LAYOUTS
from cks_numba.commands import main
from cks_numba.geometry import OPERATORS, ConvShape, plan

MARKS = {"PyTorch": "torch", "ONNX Runtime": "onnx", "OpenVINO": "onnx", "JAX": "jax"}
TINY = ConvShape(n=1, ih=5, iw=5, ic=9, oc=9, fh=3, fw=3, padding=1)
AWKWARD = (
    ConvShape(n=2, ih=7, iw=6, ic=4, oc=6, fh=3, fw=2, stride=(2, 3), padding=1, groups=2),
    ConvShape(n=1, ih=9, iw=8, ic=5, oc=5, fh=3, fw=3, stride=2, padding=2, dilation=2, groups=5),
    ConvShape(n=3, ih=8, iw=8, ic=3, oc=4, fh=4, fw=4, stride=2, padding=1),
)
OF_OTHER_AXES = (
    ConvShape.of((2, 30, 3), (5, 4, 3), stride=3, padding=1, dilation=2),
    ConvShape.of((2, 4, 6, 5, 3), (4, 2, 3, 3, 3), stride=(2, 1, 2), padding=1),
)
CONTENDERS = [
    pytest.param(peer, place, marks=getattr(pytest.mark, MARKS[peer.name]), id=f"{peer.name}, {LAYOUTS[2][place]}")
    for peer in peers.PEERS
    for place in peer.layouts
]


@pytest.mark.filterwarnings("ignore:os.fork")  # JAX warns of it from then on, and OpenVINO starts a process.
@pytest.mark.parametrize(("peer", "place"), CONTENDERS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("source", ["dense", cases.TRANSPOSED])
def test_each_peer_computes_what_we_do(peer, place, operator, source):
    if peers.missing(peer):
        pytest.skip(f"{peer.name} is not installed (pip install cks-numba[peers])")
    for shape in (*AWKWARD, *OF_OTHER_AXES):
        case, layout = cases.Case(source, operator, shape), LAYOUTS[len(shape.axes)][place]
        if len(shape.axes) != 2 and source == cases.TRANSPOSED:  # There are transposed images only.
            continue
        if not (peer.gradients or peers.is_forward(case)):
            continue
        first, second = accuracy.operands(operator, shape, np.random.default_rng(0), np.float32)
        got = peers._in_our_order(case, peer.name, layout, peer.make(case, first, second, layout, 1)())
        wanted = accuracy.call(operator, shape, first, second, "cpu", LAYOUTS[len(shape.axes)][peers.LAST])
        np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=f"{operator} {shape}")


def kind_of(case):
    return peers.Ratio(results.row_of(case, results.OURS, "", [1.0]), {}, 1.0).kind


def test_cases_have_every_kind_once_and_fit_a_machine():
    table = list(cases.peer_table())
    assert len(table) == len({(case.operator, case.shape) for case in table})
    assert {"one image", "odd", "depthwise and grouped", "signals and volumes"} < {kind_of(case) for case in table}
    for n in cases.PEER_BATCHES:
        assert {case.operator for case in table if case.shape.n == n} == set(OPERATORS)
    for case in table:
        s = case.shape
        if len(s.axes) != 2:
            continue
        assert s.n == 1 or 2 * plan(case.operator, s).useful <= cases.PEER_FLOP
        assert s.n == 1 or 4 * max(map(prod, (s.x_shape, s.w_shape, s.y_shape))) <= cases.PEER_BYTES
        if s.groups == s.ic == s.oc:
            assert s.oh == -(-s.ih // s.stride[0]), case


def test_a_transposed_layer_runs_conv2d_input_forward():
    forward = {case.operator for case in cases.peer_table() if peers.is_forward(case) and case.source == "transposed"}
    assert forward == {"conv2d_input"}
    assert {c.operator for c in cases.peer_table() if peers.is_forward(c) and c.source != "transposed"} == {"conv2d"}


def made(source="dense", operator="conv2d", shape=TINY, ours=2.0, nchw=2.1, **times):
    """Rows of a case, in milliseconds, and their ratio."""
    case = cases.Case(source, operator, shape)
    milliseconds = {(results.OURS, "NHWC"): ours, (results.OURS, "NCHW"): nchw, (peers.PACKED, "NHWC"): 0.95 * ours}
    milliseconds |= {(name, layout): ms for name, of in times.items() for layout, ms in of.items()}
    return [results.row_of(case, *key, [ms / 1e3]) for key, ms in milliseconds.items()]


def test_the_best_peer_in_its_better_layout_counts():
    rows = made(PyTorch={"NHWC": 3.0, "NCHW": 2.0}, JAX={"NHWC": 1.5})
    (ratio,) = peers.ratios(rows)
    assert ratio.peers == {"PyTorch": 1.0, "JAX": 0.75} and (ratio.best, ratio.channels_first) == (0.75, 1.05)
    assert ratio.kind == "one image" and ratio.packed == 0.95
    (packs,) = peers.ratios(made(OpenVINO={"NCHW": 1.9}, JAX={"NHWC": 2.0}))
    assert packs.peers == {"OpenVINO": 1.0, "JAX": 1.0}  # over ours with packed filters, and without
    text = peers.summary([replace(row, threads=2) for row in rows], ["OpenVINO"])
    assert (
        "| one image | `conv2d` | 1 | 0.75 (0.75-0.75) | 1.00 | 0.75 | 0.95 |" in text and "; without OpenVINO)" in text
    )


def test_bars_are_of_the_kinds_that_were_timed():
    grouped = ConvShape(n=16, ih=5, iw=5, ic=9, oc=9, fh=3, fw=3, padding=1, groups=9)
    large = ConvShape(n=16, ih=8, iw=8, ic=9, oc=9, fh=3, fw=3, padding=1)
    times = {"PyTorch": {"NHWC": 2.4}}
    found = [
        made(shape=TINY, **times),
        made(shape=large, nchw=2.4, **times),
        made("few channels", shape=TINY, **times),
        made(shape=grouped, operator="conv2d_input", **times),
        made(operator="conv2d_weight", **times),
        made("transposed", operator="conv2d", **times),
        made("volumes", shape=OF_OTHER_AXES[1], **times),
    ]
    bars = list(peers.bars(peers.ratios(row for rows in found for row in rows)))
    assert [(bar.what.partition(":")[0], round(bar.value, 3), bar.wanted, bar.missed) for bar in bars] == [
        ("forward, one image", 1.2, 1.05, False),
        ("forward, batches of 16 and more", 1.2, 1.3, True),
        ("forward, odd", 1.2, 1.0, False),
        ("conv2d_input, depthwise and grouped", 1.2, 1.0, False),
        ("forward, signals and volumes", 1.2, 1.0, False),
        ("gradients, dense", 1.2, 1.4, True),
        ("ours in NCHW over ours in NHWC, maps from 8x8, most", 1.2, 1.15, True),
        ("best peer's time over ours, least", 1.2, 0.75, False),
    ]


class StandIn(peers.Peer):
    """A peer that calls ours."""

    @classmethod
    def named(cls, name, packages, wrong=0.0):
        def call(case, first, second, layout, threads):
            return lambda: accuracy.call(case.operator, case.shape, first, second, "cpu") + wrong

        return cls(name, packages, (peers.LAST,), True, False, call)


def test_the_command_names_who_is_left_out_and_misses_bars_only_with_check(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cases, "peer_table", lambda *_: [cases.Case("dense", name, TINY) for name in OPERATORS])
    here, gone = StandIn.named("Here", ()), StandIn.named("Gone", ("no_such_package",))
    monkeypatch.setattr(peers, "PEERS", (here, gone))
    monkeypatch.setattr(peers.cpu, "prepare", lambda threads: None)  # PyTorch goes on keeping gradients
    monkeypatch.setattr(peers, "PAUSE", 0.0)
    monkeypatch.setattr(peers, "WARM", 0.0)
    path, page = tmp_path / "rows.csv", tmp_path / "page.md"
    page.write_text("\n".join(["above", *results.markers("peers"), "below"]), encoding="utf-8")
    files = "--csv", str(path), "--readme", str(page)
    for least, check, code in ((0.0, True, 0), (1e9, True, 1), (1e9, False, 0)):
        monkeypatch.setattr(peers, "bars", lambda ratios, least=least: [results.Bar("a bar", ratios[0].best, least)])
        assert main(["bench", "--peers", "--rounds", "1", *files, *["--check"] * check]) == code
    printed = capsys.readouterr().out
    assert printed.count("left out, because not installed: Gone (pip install no_such_package)") == 3
    assert printed.count("MISSED") == 2 and printed.count("; without Gone)") == 3
    rows = results.read(path)
    assert page.read_text(encoding="utf-8").count(peers.summary(rows, ["Gone"])) == 1
    gradient = [results.OURS, results.OURS, "Here"]
    assert [row.contender for row in rows] == [results.OURS, results.OURS, peers.PACKED, "Here", *gradient, *gradient]
    assert all(row.threads == 2 and "numba" in row.versions for row in rows)
    assert main(["bench", "--peers", "--rounds", "1", *files, "--only", "conv2d "]) == 0
    again = results.read(path)
    assert again[4:] == rows[4:] and again[:4] != rows[:4]  # One case is timed again, and keeps its place.
    assert peers.summary(again, ["Gone"]) in page.read_text(encoding="utf-8")
    results.write([replace(row, threads=3) for row in rows], path)
    assert main(["bench", "--peers", *files, "--only", "conv2d "]) == 1
    assert "rows.csv has rows of another machine" in capsys.readouterr().err


def test_a_peer_with_other_results_is_not_timed(monkeypatch):
    case, wrong = cases.Case("dense", "conv2d", TINY), StandIn.named("Wrong", (), 0.1)
    with pytest.raises(RuntimeError, match=r"Wrong \(NHWC\) differs by"):
        peers.measure(case, [wrong], 1, None, 1)


def test_the_command_needs_a_case_and_a_peer(monkeypatch, capsys):
    monkeypatch.setattr(peers, "PEERS", (StandIn.named("Here", ()),))
    assert main(["bench", "--peers", "--only", "no such layer"]) == 1
    assert "no case has 'no such layer' in it" in capsys.readouterr().err
    monkeypatch.setattr(peers, "PEERS", ())
    assert main(["bench", "--peers"]) == 1
    assert "pip install torch" in capsys.readouterr().err
