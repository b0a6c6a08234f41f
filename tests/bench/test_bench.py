"""The table of layers, and what the benchmark derives from timings; no test depends on the speed of this machine."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest

from cks_numba import flops
from cks_numba.bench import axes, calls, cases, cpu, emulator, first_calls, peers, results, surroundings, timing
from cks_numba.commands import main
from cks_numba.flops.text import put_between
from cks_numba.geometry import OPERATORS, ConvShape, plan

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "figures" / "data"
COMMITTED = sorted(DATA.glob("cpu_*.csv"))


def row(contender=results.OURS, layout="NHWC", operator="conv2d", ih=8, ms=2.0, rate=105.0, **keys):
    sizes = dict(n=4, ih=ih, ic=64, oc=64, fh=3, stride=1, padding=1) | keys
    times = dict(median_ms=ms, min_ms=ms, max_ms=ms, rate=rate, rounds=9, extra_bytes=0)
    about = dict(source="VGG-16, 32x32", dtype="float32", device="a CPU", threads=2, versions="numpy 2", commit="abc")
    return results.Row(operator=operator, contender=contender, layout=layout, **sizes, **times, **about)


@dataclass
class Point:
    """A row with a column that older files do not have."""

    x: int
    y: int
    z: int = 0


def rows(ours=2.0, nhwc=3.0, nchw=4.0, regular=8.0, operators=OPERATORS):
    """Return rows for all operators on 2x2 and 8x8 maps, with these times."""
    found = []
    for operator in operators:
        for ih in (2, 8):
            found += [
                row(ms=ours, operator=operator, ih=ih),
                row(results.PEER, "NHWC", operator, ih, nhwc),
                row(results.PEER, "NCHW", operator, ih, nchw),
                row(results.REGULAR, "NHWC", operator, ih, regular),
                row(results.LIMIT, "", operator, ih, 1.0, 125.0),
            ]
    return found


# --- the table of layers -------------------------------------------------------------------------
def test_authors_sizes_are_those_of_their_measurements():
    with (DATA / "authors_measurements.csv").open(newline="") as file:
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    wanted = [(r["operator"], *(int(r[k]) for k in ("N", "IH", "IC", "OC", "F", "stride", "padding"))) for r in lines]
    for operator, table in cases.AUTHORS.items():
        assert [sizes for name, *sizes in wanted if name == operator] == [list(sizes) for sizes in table]
    for (operator, n, ih, *sizes), line in zip(wanted, lines, strict=True):
        assert cases._shape(n, ih, *sizes).oh == int(line["OH"]), (operator, line)


def test_no_case_is_listed_twice():
    table = cases.table()
    assert len(table) == len({(case.operator, case.shape) for case in table}) > 150


def test_a_network_runs_all_three_operators():
    for source in {case.source for case in cases.table()} - {"authors"}:
        sizes = {op: {c.shape.x_shape[1:] for c in cases.table() if c.operator == op} for op in OPERATORS}
        mine = {case.shape.x_shape[1:] for case in cases.table() if case.source == source}
        assert all(mine <= sizes[operator] for operator in OPERATORS), source


@pytest.mark.parametrize(("flop", "batch"), [(1.2e9, 32), (2e7, 2)])
def test_batches_are_within_their_limits(flop, batch):
    for case in cases.table(flop, batch):
        work = 2 * plan(case.operator, case.shape).useful
        assert case.shape.n <= batch and (work <= flop or case.shape.n == 1)
        assert 2 * work > flop or case.shape.n == batch


# --- ratios, bars and texts from the rows --------------------------------------------------------
def test_ratios_take_the_better_layout_of_pytorch():
    for ratio in results.ratios(rows(ours=2.0, nhwc=3.0, nchw=2.5, regular=8.0)):
        assert (ratio.peer, ratio.regular, ratio.limit) == (1.25, 4.0, 0.84)
        assert ratio.gflop == pytest.approx(0.21)


def test_bars_are_missed_by_what_is_too_slow():
    names = {bar.what: bar.missed for bar in results.bars(rows(nhwc=3.3, nchw=3.3))}
    assert any("rate over BLAS" in name and missed for name, missed in names.items())  # the rate is 0.84 of BLAS
    assert not any(missed for name, missed in names.items() if "rate over BLAS" not in name and "least" not in name)
    slow = results.bars(rows(ours=2.0, nhwc=2.4, nchw=9.0))
    assert sum(bar.missed for bar in slow if "mean of all" in bar.what) == 3


def test_memory_has_a_bar():
    allowed = 4 * 4 * 8 * 8 * 64 // 10 + results.SPARE_BYTES
    for extra, missed in ((allowed, False), (allowed + 2**16, True)):
        found = [replace(r, extra_bytes=extra) if r.contender == results.OURS and r.ih == 8 else r for r in rows()]
        assert [bar.missed for bar in results.bars(found) if "MiB" in bar.what] == [missed]


def test_rows_survive_a_csv(tmp_path):
    results.write(rows(), tmp_path / "new" / "rows.csv")
    assert results.read(tmp_path / "new" / "rows.csv") == rows()
    older = tmp_path / "older.csv"
    older.write_text("x,y\n1,2\n")
    assert results.read(older, Point) == [Point(1, 2)]


def test_summary_goes_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    begin, end = results.markers("cpu")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    put_between(page, results.summary(rows()), (begin, end))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| `conv2d_input` | 2 | 1.50 (1.50-1.50) |  | 1.50 (1.50-1.50) |  | 1.50 | 4.00 | 0.84 |" in text
    page.write_text("no markers")
    with pytest.raises(RuntimeError, match="has no <!-- bench: cpu -->"):
        put_between(page, "text", (begin, end))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_timings_are_of_the_whole_table(path):
    """Every committed file has all cases, and names its machine, versions and commit."""
    found = results.read(path)
    expected = [(c.operator, c.shape.n, c.shape.ih, c.shape.ic, c.shape.oc, c.shape.fh) for c in cases.table()]
    assert [r.row.case[:6] for r in results.ratios(found)] == expected
    assert all(r.device and r.versions and r.commit and r.threads and r.rounds >= 3 for r in found)


@pytest.mark.parametrize("path", sorted(DATA.glob("peers_*.csv")), ids=lambda path: path.stem)
def test_committed_timings_of_peers_are_of_the_whole_table(path):
    found = results.read(path)
    wanted = [(case.source, results.key(case)) for case in cases.peer_table()]
    assert [(ratio.ours.source, ratio.ours.case) for ratio in peers.ratios(found)] == wanted
    assert {peer.name for peer in peers.PEERS} < {row.contender for row in found}
    assert all(r.device and r.versions and r.commit and r.threads for r in found)


def test_the_page_about_the_cpu_says_what_the_committed_timings_say():
    """Each committed file has a table: for each width of vectors, for layers of one and of three axes, for peers."""
    text = (ROOT / "docs" / "cpu.md").read_text(encoding="utf-8")
    tables = [(results.read(path), results.summary) for path in COMMITTED]
    tables += [(results.read(path), axes.summary) for path in sorted(DATA.glob("axes_*.csv"))]
    tables += [(results.read(path), peers.summary) for path in sorted(DATA.glob("peers_*.csv"))]
    for found, summary in tables:
        what = cpu.vectors(found[0]) if found[0].axes == 2 else f"axes {found[0].axes}"
        what = "peers" if summary is peers.summary else what
        begin, end = results.markers(what)
        assert text.partition(begin + "\n")[2].partition("\n" + end)[0] == summary(found)


# --- the timing itself ---------------------------------------------------------------------------
def test_all_of_it_runs_on_one_small_case(tmp_path, capsys, monkeypatch):
    small = [cases.Case("VGG-16, 32x32", "conv2d", ConvShape(n=1, ih=4, iw=4, ic=8, oc=8, fh=3, fw=3, padding=1))]
    monkeypatch.setattr(cases, "table", lambda **_: small)
    monkeypatch.setattr(cpu, "has_peer", lambda: False)
    monkeypatch.setattr(timing, "CLEAN", 1e9)  # this machine may be busy
    monkeypatch.setattr(calls, "NEIGHBOURS", [small[0].shape])
    monkeypatch.setattr(calls, "first_calls", lambda: {"conv2d": (0.1, 9.0, 0.2)})
    assert main(["bench", "--rounds", "2", "--threads", "1", "--csv", str(tmp_path / "rows.csv")]) == 0
    printed = capsys.readouterr().out
    assert "MISSED    9.00 <= 4     conv2d: seconds of the first call, nothing compiled" in printed
    found = results.read(tmp_path / "rows.csv")
    assert [r.contender for r in found] == [results.OURS, results.OURS, results.REGULAR, results.LIMIT]
    assert all(0 < r.min_ms <= r.median_ms <= r.max_ms and r.rounds == 2 for r in found)


def test_contenders_have_bursts_of_their_own(monkeypatch):
    did = []
    monkeypatch.setattr(timing.time, "sleep", did.append)
    bursts = {
        "a": partial(timing.burst, lambda: did.append("a"), times=2, before=lambda: did.append("before")),
        "b": partial(timing.burst, lambda: did.append("b"), pause=9),
    }
    found = timing.clean_rounds(bursts, rounds=2)
    assert did == [timing.PAUSE, "a", "before", "a", "before", "a", 9, "b", "b"] * 2
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 4, "b": 2}


def test_a_burst_may_begin_with_many_untimed_calls():
    did = []
    assert len(timing.burst(lambda: did.append(0), pause=0, warm=0.01)) == 1
    assert len(did) > 2


@pytest.mark.parametrize(("seconds", "timed", "calls"), [(0.125, 2, 3), (0.25, 1, 2), (8.0, 1, 1)])
def test_a_burst_of_long_calls_has_few(monkeypatch, seconds, timed, calls):
    ends = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: sum(ends))
    assert timing.burst(lambda: ends.append(seconds), times=5, pause=0) == [seconds] * timed
    assert len(ends) == calls


class ProbeOf:
    """A probe that finds these seconds."""

    def __init__(self, *seconds):
        self.found, self.best = iter(seconds), 1.0

    def seconds(self):
        return next(self.found)


def test_bursts_beside_which_the_machine_was_busy_are_made_again(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE", 0)
    did = []
    bursts = {name: lambda name=name: did.append(name) or [len(did)] for name in "ab"}
    # Before the first burst, and after each: it is busy beside the second one of a, and so beside the first one of b.
    found = timing.clean_rounds(bursts, 2, ProbeOf(1, 1, 1, 1.5, 1, 1, 1, 1))
    assert did == ["a", "b", "a", "b", "a", "b"] and found == {"a": [1, 5], "b": [2, 6]}


def test_on_a_busy_machine_the_least_busy_bursts_count(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE", 0)
    number = iter(range(100))
    probe = ProbeOf(9, *[9] * 3, 4, 2, 3, 4, *[9] * 13)
    assert timing.clean_rounds({"a": lambda: [next(number)]}, 5, probe) == {"a": [5, 4, 6]}
    assert len(timing.clean_rounds({"a": lambda: [next(number)]}, 1, ProbeOf(*[9] * 5))["a"]) == 1


def test_wrong_results_are_not_timed(monkeypatch):
    case = cases.Case("", "conv2d", ConvShape(n=1, ih=4, iw=4, ic=8, oc=8, fh=3, fw=3))
    made = {(results.REGULAR, "NHWC"): lambda: np.ones(3), (results.OURS, "NHWC"): lambda: np.ones(3) * 1.01}
    with pytest.raises(RuntimeError, match="cks_numba .* differs from the regular way by"):
        cpu._checked(case, made)


def test_check_needs_pytorch_and_a_case(monkeypatch, capsys):
    assert main(["bench", "--only", "no such layer"]) == 1
    assert "no case has 'no such layer' in it" in capsys.readouterr().err
    monkeypatch.setattr(cpu, "has_peer", lambda: False)
    assert main(["bench", "--check"]) == 1
    assert "pip install torch" in capsys.readouterr().err
    assert main(["bench", "--readme", "README.md"]) == 1
    monkeypatch.setattr(cpu, "has_peer", lambda: True)
    assert main(["bench", "--check", "--quick"]) == 1
    assert "--check needs all cases" in capsys.readouterr().err


# --- the emulator -----------------------------------------------------------------------------------
def test_bars_of_the_emulator_are_printed_and_a_missed_one_is_an_exit_code(capsys, monkeypatch):
    good, bad = results.Bar("a time", 0.1, 0.2, at_most=True), results.Bar("a rate", 0.1, 0.2)
    for part in ("to_ptx", "to_machine_code", "reporting", "beside_the_simulator"):
        monkeypatch.setattr(emulator, part, lambda: iter([good]))
    monkeypatch.setattr(emulator, "running", lambda: iter([good]))
    assert main(["bench", "--emulator"]) == 0
    monkeypatch.setattr(emulator, "running", lambda: iter([bad]))
    assert main(["bench", "--emulator"]) == 1
    printed = [str(good)] * 5 + [str(good)] * 3 + [str(bad), str(good)]
    assert capsys.readouterr().out.splitlines() == printed


def test_what_is_timed_of_the_emulator():
    """A tile of one block, kernels that nothing has compiled before, and a time that is tried again."""
    for operator, shape in emulator.ONE_BLOCK.items():
        launch = emulator.tiled_launch(operator, shape)
        assert prod(launch.grid) == 1 and "128x128" in launch.name
        assert flops.count(operator, shape).useful >= 0.95 * 128 * 128 * 2048
    launches = [launch for _, launch in emulator.every_tiled_launch()]
    assert len({launch.kernel for launch in launches}) == len(launches) == 24
    assert ".entry" in emulator.compiled_anew(launches[-1])
    calls = []
    assert 0 <= emulator.seconds_of(lambda: calls.append(1), -1.0) < 1 and len(calls) == emulator.TRIES
    assert emulator.seconds_of(lambda: calls.append(1), 60) < 60 and len(calls) == emulator.TRIES + 1


# --- layers of one axis and of three -------------------------------------------------------------
def test_signals_and_volumes_have_one_axis_and_three():
    for count, listed in ((1, list(cases.signals())), (3, list(cases.volumes()))):
        assert len(listed) == len(set(listed)) and {case.operator for case in listed} == set(OPERATORS)
        assert all(len(case.shape.axes) == count and case.name for case in listed)
        assert all(before == after for case in listed for before, after in case.shape.padding)
        assert len({results.key(case) for case in listed}) == len(listed)
    volumes = {case.shape for case in cases.volumes()}
    assert {shape.axes[0].size for shape in volumes} == {4, 8, 16} and {shape.fh for shape in volumes} == {3, 4}
    assert {shape.n for shape in volumes} == {1, 2, 8} and {shape.stride for shape in volumes} == {(1,) * 3, (2,) * 3}


TINY = {
    1: ConvShape.of((1, 30, 3), (5, 4, 3), stride=2, padding=1),
    3: ConvShape.of((2, 3, 4, 5, 3), (5, 3, 3, 3, 3), padding=1),
}


@pytest.mark.parametrize("count", axes.SETS)
def test_bars_of_a_set_decide_only_with_check(count, monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch", reason="compares with PyTorch")
    listed = [cases.Case("tiny", operator, TINY[count]) for operator in OPERATORS]
    begin, end = results.markers(f"axes {count}")
    page, file = tmp_path / "page.md", tmp_path / "rows.csv"
    page.write_text(f"{begin}\n{end}")
    for bar, check, code in ((0.0, True, 0), (1e9, True, 1), (1e9, False, 0)):
        monkeypatch.setitem(axes.SETS, count, axes.LayerSet(lambda: iter(listed), bar, 0.0, bar))
        assert axes.run(count, 1, 1, False, check, file, page, "") == code
    assert capsys.readouterr().out.count("MISSED") == 6
    found = results.read(file)
    assert page.read_text() == f"{begin}\n{axes.summary(found)}\n{end}"
    assert {(row.axes, row.operator) for row in found} == {(count, operator) for operator in OPERATORS}
    assert [row.contender for row in found[:4]] == [results.OURS, results.PEER, results.PEER, results.PEAK]
    with pytest.raises(RuntimeError, match="no case has 'nothing'"):
        axes.run(count, 1, 1, False, False, None, None, "nothing")


def rates(ours, peer, peak=100.0, **keys):
    """Return the rows of a case of three axes with these rates; PyTorch is slower in its other layout."""
    named = ((results.OURS, ours), (results.PEER, peer), (results.PEER, peer / 2), (results.PEAK, peak))
    return [row(contender=name, rate=rate, axes=3, **keys) for name, rate in named]


def test_shares_of_the_peak_and_what_code_at_the_peak_would_reach():
    found = rates(90.0, 45.0) + rates(80.0, 20.0, ih=16)
    assert axes.shares(found) == [(0.9, 0.45), (0.8, 0.2)]
    table = axes.summary(found).splitlines()
    assert table[-1] == "| `conv2d` | 2 | 2.83 | 2.00-4.00 | 3.33 | 0.85 | 0.30 |"


@pytest.mark.parametrize(
    ("ours", "peer", "lines"),
    [
        (60.0, 30.0, 0),  # twice as fast
        (90.0, 95.0, 0),  # slower, and near the peak
        (80.0, 70.0, 0),  # faster, and not too far from the peak for the mean
        (60.0, 50.0, 1),  # faster, but less than twice, and far from the peak
        (80.0, 90.0, 1),  # slower, and too far from the peak for a case
        (60.0, 70.0, 2),
    ],
)
def test_a_bar_is_cleared_by_the_ratio_or_by_the_share_of_the_peak(ours, peer, lines):
    layer_set = axes.LayerSet(cases.volumes, 2.0, 1.0)
    found = axes.missed(rates(ours, peer), layer_set)
    assert len(found) == lines and all(line.startswith("conv2d: ") for line in found)


def test_a_set_needs_pytorch(monkeypatch):
    monkeypatch.setattr(axes, "has_peer", lambda: False)
    with pytest.raises(RuntimeError, match="pip install torch"):
        axes.run(1, 1, 1, True, False, None, None, "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # JAX warns of every fork
def test_surroundings_have_a_row_each(monkeypatch, capsys):
    monkeypatch.setattr(surroundings, "LAYER", ConvShape(n=2, ih=4, iw=4, ic=4, oc=4, fh=3, fw=3, padding=1))
    monkeypatch.setattr(surroundings, "CALLS", 2)
    monkeypatch.setattr(surroundings, "PAUSES", (0.001,))
    surroundings.arrays.cache_clear()
    surroundings.main()
    out = capsys.readouterr().out
    surroundings.arrays.cache_clear()
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")][1:]
    assert len(rows) in (5, 7)  # half a core needs the right to make a cgroup
    assert all(0 < float(middle) <= float(worst.strip(" |")) for _, middle, worst in rows)


@pytest.mark.slow
def test_a_first_call_compiles_and_the_next_process_reads_its_code(monkeypatch, capsys):
    monkeypatch.setattr(first_calls, "CASES", {"few channels": first_calls.CASES["few channels"]})
    monkeypatch.setattr(first_calls, "both", lambda operator, name: (2.0, 0.25))
    first_calls.main([])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| few")]
    assert rows[1:] == [f"| few channels | `conv2d_{what}` | 2.00 | 0.25 |" for what in ("input", "weight")]
    monkeypatch.undo()
    compiles, reads = first_calls.both("conv2d", "few channels")
    assert 0 < 2 * reads < compiles
