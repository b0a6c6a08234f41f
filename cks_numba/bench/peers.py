"""``cks-numba bench --peers``: this library against PyTorch, ONNX Runtime, OpenVINO and JAX.

Forward layers meet all of them, gradients PyTorch and JAX; a peer that is not installed is left out. Each has the
layout of memory that is usual for it. ONNX Runtime and OpenVINO are given filters that do not change, which they
bring into their own order once, before anything is timed; they are compared with our call on filters that
`cks_numba.pack` has packed. The others read the filters anew in each call, and are compared with ours that does so too.

A burst has calls of one contender alone. It begins with a pause, in which the threads of the contender before it
stop to spin, and with untimed calls; the bursts of the contenders alternate. The layers are those of
`cases.peer_table`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

import numpy as np

from ..buffers import LAYOUTS, is_last
from ..flops.text import put_between
from ..geometry import OPERATORS
from ..operators import pack
from . import accuracy, cases, cpu, results
from .results import OURS, PEER, Bar, Row
from .timing import WARM, Probe, burst, clean_rounds

Call = Callable[[], Any]
PACKED = f"{OURS}, packed"
"""Our contender whose filters are packed before anything is timed."""
CALLS = 5
"""Timed calls of a burst."""
PAUSE = 0.02
"""Seconds of the pause at the start of a burst."""
SLOW = 2.0
"""Seconds: what takes longer is timed once, without the probe."""
LEAST = 0.75
"""Bar: least time of the best peer over ours in any case."""
PACKAGES = ("numpy", "numba", "torch", "onnxruntime", "openvino", "jax", "jaxlib")
"""Packages whose versions are in the CSV."""


def is_forward(case: cases.Case | Row) -> bool:
    """Whether a layer computes its results with the operator of this case, and not a gradient."""
    return case.operator == ("conv2d_input" if case.source == cases.TRANSPOSED else "conv2d")


# --- the peers -----------------------------------------------------------------------------------
def _channels_first(array: Any) -> Any:
    return accuracy.at_line(np.moveaxis(array, -1, 1))


def _output_padding(case: cases.Case) -> list[int]:
    """Positions along each axis of a transposed layer's result that lie beyond the last window."""
    axes = case.shape.axes
    return [a.size + a.before + a.after - (a.outputs - 1) * a.stride - a.span for a in axes]


def _pytorch(case: cases.Case, first: Any, second: Any, layout: str, threads: int) -> Call:
    import torch

    if not (is_forward(case) and case.operator == "conv2d_input"):
        return cpu.peer_in_layout(case, first, second, layout)
    form = torch.channels_last if is_last(layout) else torch.contiguous_format
    w, x = (torch.from_numpy(_channels_first(array)).contiguous(memory_format=form) for array in (first, second))
    s, pads = case.shape, [before for before, _ in case.shape.padding]
    how = (None, s.stride, pads, _output_padding(case), s.groups, s.dilation)
    return lambda: torch.nn.functional.conv_transpose2d(x, w, *how)


def _onnxruntime(case: cases.Case, first: Any, second: Any, layout: str, threads: int) -> Call:
    """A session with one node, whose filters are an initializer."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    s, forward = case.shape, case.operator == "conv2d"
    x, w = (first, second) if forward else (second, first)
    y = case.shape.arrays(case.operator)[2][1]
    how: dict[str, Any] = {"strides": s.stride, "dilations": s.dilation, "group": s.groups}
    how["pads"] = [pads[k] for k in (0, 1) for pads in s.padding]
    if not forward:
        how["output_padding"] = _output_padding(case)
    node = helper.make_node("Conv" if forward else "ConvTranspose", ["x", "w"], ["y"], **how)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [size[0], size[-1], *size[1:-1]])
        for name, size in (("x", x.shape), ("y", y))
    ]
    graph = helper.make_graph([node], "layer", ends[:1], ends[1:], [numpy_helper.from_array(_channels_first(w), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"x": _channels_first(x)}
    return lambda: session.run(None, given)[0]


def _openvino(case: cases.Case, first: Any, second: Any, layout: str, threads: int) -> Call:
    """A compiled model with one operation, whose filters are a constant; float32 all the way."""
    import openvino
    from openvino import opset13

    s, forward = case.shape, case.operator == "conv2d"
    x, w = (first, second) if forward else (second, first)
    x, w = _channels_first(x), _channels_first(w)
    begin, end = ([pads[k] for pads in s.padding] for k in (0, 1))
    if s.groups > 1:
        w = w.reshape(s.groups, -1, *w.shape[1:])
    data = opset13.parameter(x.shape, np.float32)
    how = dict(strides=list(s.stride), pads_begin=begin, pads_end=end, dilations=list(s.dilation))
    if not forward:
        how["output_padding"] = _output_padding(case)
    name = ("group_" if s.groups > 1 else "") + ("convolution" if forward else "convolution_backprop_data")
    layer = getattr(opset13, name)(data, opset13.constant(w), **how)
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(openvino.Model([layer], [data]), "CPU", config).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


def _jax(case: cases.Case, first: Any, second: Any, layout: str, threads: int) -> Call:
    """A compiled function; filters are in JAX's order (fh, fw, ic, oc), and gradients transpose the linear layer."""
    os.environ["PJRT_NPROC"] = str(threads)  # read when JAX starts its threads
    import jax

    s = case.shape
    names = [name for name, _ in s.arrays(case.operator)[:2]]
    given = [
        jax.numpy.asarray(np.moveaxis(array, 0, -1) if name == "w" else array)
        for name, array in zip(names, (first, second), strict=True)
    ]

    def layer(x: Any, w: Any) -> Any:
        how: dict[str, Any] = {"rhs_dilation": s.dilation, "feature_group_count": s.groups}
        spatial = "DHW"[-len(s.axes) :]
        how["dimension_numbers"] = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
        return jax.lax.conv_general_dilated(x, w, s.stride, s.padding, **how)

    def gradient(linear: Any, shape: tuple[int, ...], dy: Any) -> Any:
        return jax.linear_transpose(linear, jax.numpy.empty(shape, np.float32))(dy)[0]

    oc, *taps = s.w_shape
    function = {
        "conv2d": layer,
        "conv2d_input": lambda w, dy: gradient(lambda x: layer(x, w), s.x_shape, dy),
        "conv2d_weight": lambda x, dy: gradient(lambda w: layer(x, w), (*taps, oc), dy),
    }[case.operator]
    compiled = jax.jit(function)
    return lambda: compiled(*given).block_until_ready()


LAST, FIRST = 0, 1
"""Places of the layouts with channels last and channels first in each pair of `LAYOUTS`."""


class Peer(NamedTuple):
    """A library to compare with.

    Its name, the packages it needs, its layouts, whether it has gradients, whether it packs filters before anything
    is timed, and the function that makes its call.
    """

    name: str
    packages: tuple[str, ...]
    layouts: tuple[int, ...]
    gradients: bool
    packs: bool
    make: Callable[[cases.Case, Any, Any, str, int], Call]


PEERS = (
    Peer(PEER, ("torch",), (LAST, FIRST), True, False, _pytorch),
    Peer("ONNX Runtime", ("onnxruntime", "onnx"), (FIRST,), False, True, _onnxruntime),
    Peer("OpenVINO", ("openvino",), (FIRST,), False, True, _openvino),
    Peer("JAX", ("jax",), (LAST,), True, False, _jax),
)


def missing(peer: Peer) -> list[str]:
    """The packages of a peer that are not installed."""
    return [package for package in peer.packages if find_spec(package) is None]


# --- one case ------------------------------------------------------------------------------------
def _in_our_order(case: cases.Case, name: str, layout: str, result: Any) -> Any:
    """A result with the axes of ours with channels last."""
    if name == "JAX" and case.operator == "conv2d_weight":
        return np.moveaxis(np.asarray(result), -1, 0)
    return np.moveaxis(np.asarray(result), 1, -1) if name == PEER or not is_last(layout) else np.asarray(result)


def measure(case: cases.Case, present: Sequence[Peer], rounds: int, probe: Probe, threads: int) -> list[Row]:
    """Time all contenders on a case, after a check that their results agree.

    Raises
    ------
    RuntimeError
        If a result differs from ours by more than rounding.
    """
    first, second = accuracy.operands(case.operator, case.shape, np.random.default_rng(0), np.float32)
    layouts = LAYOUTS[len(case.shape.axes)]
    last = layouts[LAST]
    calls = {(OURS, layout): cpu.ours_call(case, first, second, layout) for layout in layouts}
    if is_forward(case):
        operator = case.operator.replace("2d", f"{len(case.shape.axes)}d")
        how: dict[str, Any] = {"operator": operator, "groups": case.shape.groups}
        x, w = (first, pack(second, **how)) if case.operator == "conv2d" else (pack(first, **how), second)
        calls[PACKED, last] = lambda: accuracy.call(case.operator, case.shape, x, w, "cpu", last)
    for peer in present:
        for layout in [layouts[k] for k in peer.layouts] if peer.gradients or is_forward(case) else ():
            calls[peer.name, layout] = peer.make(case, first, second, layout, threads)
    want = np.array(calls[OURS, last]())
    once: dict[tuple[str, str], list[float]] = {}
    for (name, layout), call in calls.items():
        error = float(np.abs(_in_our_order(case, name, layout, call()) - want).max() / np.abs(want).max())
        if not error < 1e-3:
            raise RuntimeError(f"{name} ({layout}) differs by {error:.1e}: {case}")
        seconds = burst(call)
        if seconds[0] > SLOW:
            once[name, layout] = seconds
    bursts = {key: partial(burst, call, CALLS, PAUSE, WARM) for key, call in calls.items() if key not in once}
    found = once | clean_rounds(bursts, rounds, probe)
    rows = [results.row_of(case, name, layout, found[name, layout]) for name, layout in calls]
    return [replace(row, threads=threads, versions=results.versions(PACKAGES)) for row in rows]


# --- ratios, bars and the table ------------------------------------------------------------------
class Ratio(NamedTuple):
    """A case in a few numbers: times over ours.

    Each peer's, over ours with packed filters if the peer packs them too; ours with channels first; and ours with
    packed filters, 0 for gradients.
    """

    ours: Row
    peers: dict[str, float]
    channels_first: float
    packed: float = 0.0

    @property
    def best(self) -> float:
        """The time of the fastest peer over ours."""
        return min(self.peers.values())

    @property
    def kind(self) -> str:
        """The kind of layer: each has bars of its own."""
        if self.ours.groups > 1:
            return "depthwise and grouped"
        if self.ours.axes != 2:
            return "signals and volumes"
        if self.ours.source in cases.ODD:
            return "odd"
        return "one image" if self.ours.n == 1 else "batches of 16 and more"


def ratio_of(rows: Sequence[Row]) -> Ratio:
    """Compare the contenders of a case, each in its better layout."""
    ours = next(row for row in rows if row.contender == OURS and is_last(row.layout))
    first = next(row for row in rows if row.contender == OURS and not is_last(row.layout))
    names = dict.fromkeys(row.contender for row in rows)
    times = {name: results.median_of(rows, name) / ours.median_ms for name in names if name != OURS}
    packed = times.pop(PACKED, 0.0)
    for peer in PEERS:
        if peer.packs and peer.name in times:
            times[peer.name] /= packed or 1.0
    return Ratio(ours, times, first.median_ms / ours.median_ms, packed)


def ratios(rows: Iterable[Row]) -> list[Ratio]:
    """Compare the contenders of each case of a file."""
    by_case: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        by_case.setdefault((row.source, row.case), []).append(row)
    return [*map(ratio_of, by_case.values())]


def bars(ratios: Sequence[Ratio]) -> Iterator[Bar]:
    """Yield the bars that the timings can be held to: those of which there are cases."""

    def mean(what: str, of: list[Ratio], wanted: float) -> Iterator[Bar]:
        if of:
            yield Bar(f"{what}: best peer's time over ours, mean", geometric_mean(r.best for r in of), wanted)

    forward = [r for r in ratios if is_forward(r.ours)]
    for kind, wanted in (("one image", 1.05), ("batches of 16 and more", 1.3), ("odd", 1.0)):
        yield from mean(f"forward, {kind}", [r for r in forward if r.kind == kind], wanted)
    for operator in OPERATORS:
        grouped = [r for r in ratios if r.ours.operator == operator and r.kind == "depthwise and grouped"]
        yield from mean(f"{operator}, depthwise and grouped", grouped, 1.0)
    yield from mean("forward, signals and volumes", [r for r in forward if r.kind == "signals and volumes"], 1.0)
    dense = [r for r in ratios if r.kind in ("one image", "batches of 16 and more")]
    yield from mean("gradients, dense", [r for r in dense if not is_forward(r.ours)], 1.4)
    large = [r.channels_first for r in dense if r.ours.ih >= 8]
    if large:
        yield Bar("ours in NCHW over ours in NHWC, maps from 8x8, most", max(large), 1.15, at_most=True)
    yield Bar("best peer's time over ours, least", min(r.best for r in ratios), LEAST)


def summary(rows: Sequence[Row], left_out: Sequence[str] = ()) -> str:
    """Summarise the rows in one table, in Markdown: geometric means, and ranges for the best peer."""
    about, found = rows[0], ratios(rows)
    names = list(dict.fromkeys(name for ratio in found for name in ratio.peers))
    pack = [peer.name for peer in PEERS if peer.packs and peer.name in names]
    packed = f", for {' and '.join(pack)} over ours with packed filters" if pack else ""
    without = f"; without {', '.join(left_out)}" if left_out else ""
    lines = [
        f"Time over ours{packed} ({about.device}, {about.threads} threads, float32, {about.versions}{without}):",
        "",
        f"| layers | operator | cases | best peer | {' | '.join(names)} | ours, packed |",
        "|---|---|---|---|" + "---|" * (len(names) + 1),
    ]
    kinds: dict[tuple[str, str], list[Ratio]] = {}
    for ratio in found:
        kinds.setdefault((ratio.kind, ratio.ours.operator), []).append(ratio)
    for (kind, operator), here in kinds.items():
        best = [r.best for r in here]
        cells = [kind, f"`{operator}`", str(len(here)), f"{geometric_mean(best):.2f} ({min(best):.2f}-{max(best):.2f})"]
        times = [[r.peers[name] for r in here if name in r.peers] for name in names]
        times.append([r.packed for r in here if r.packed])
        cells += [f"{geometric_mean(each):.2f}" if each else "" for each in times]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- the command ---------------------------------------------------------------------------------
def run(
    rounds: int, threads: int, quick: bool, check: bool, csv_file: Path | None, readme: Path | None, only: str
) -> int:
    """Run the benchmark against peers; returns 1 if `check` and a bar is missed.

    Parameters
    ----------
    rounds : int
        Clean rounds of each case.
    threads : int
        Threads of each contender.
    quick, check : bool
        Time every tenth case of one image only; fail when a bar is missed.
    csv_file, readme : Path, optional
        File to write the rows to; file with markers to put the summary between.
    only : str
        Time only cases with this text in their line; the rows of other cases stay in `csv_file`.
    """
    present = [peer for peer in PEERS if not missing(peer)]
    left_out = [f"{peer.name} (pip install {' '.join(missing(peer))})" for peer in PEERS if missing(peer)]
    if left_out:
        print(f"left out, because not installed: {', '.join(left_out)}")
    if not any(peer.gradients for peer in present):
        raise RuntimeError("--peers needs PyTorch or JAX, which have all operators: pip install torch")
    chosen = list(cases.peer_table((1,)))[::10] if quick else list(cases.peer_table())
    chosen = [case for case in chosen if only in f"{case.operator} {case.name}"]
    if not chosen:
        raise RuntimeError(f"no case has {only!r} in it")
    cpu.prepare(threads)
    probe, by_case = Probe(threads), _by_case(csv_file, threads) if only else {}
    print(
        f"{'time over ours':<64} {'ours, ms':>9} {'NCHW':>6} {'packed':>6} {' '.join(f'{p.name:>12}' for p in present)}"
    )
    for case in chosen:
        here = by_case[case.source, results.key(case)] = measure(case, present, rounds, probe, threads)
        if csv_file:  # A run takes long: what it has found is there if it is stopped.
            results.write([row for each in by_case.values() for row in each], csv_file)
        print(_line(case, ratio_of(here), present), flush=True)
    rows = [row for each in by_case.values() for row in each]
    table = summary(rows, [peer.name for peer in PEERS if peer not in present])
    print(f"\n{table}\n")
    if csv_file:
        print(f"wrote {csv_file}\n")
    if readme:
        put_between(readme, table, results.markers("peers"))
    found = list(bars(ratios(rows)))
    print("\n".join(map(str, found)))
    return int(check and any(bar.missed for bar in found))


def _by_case(csv_file: Path | None, threads: int) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of a file, if there is one, by source and case; they must be of this machine."""
    by_case: dict[tuple[Any, ...], list[Row]] = {}
    for row in results.read(csv_file) if csv_file and csv_file.exists() else ():
        if (row.device, row.threads, row.versions) != (results.machine(), threads, results.versions(PACKAGES)):
            raise RuntimeError(f"{csv_file} has rows of another machine, number of threads or version of a package")
        by_case.setdefault((row.source, row.case), []).append(row)
    return by_case


def _line(case: cases.Case, ratio: Ratio, present: Sequence[Peer]) -> str:
    cells = (f"{ratio.peers[p.name]:12.2f}" if p.name in ratio.peers else f"{'-':>12}" for p in present)
    line = f"{case.operator:<13} {case.name:<50} {ratio.ours.median_ms:9.3f} {ratio.channels_first:6.2f}"
    return f"{line} {f'{ratio.packed:.2f}' if ratio.packed else '-':>6} {' '.join(cells)}"
