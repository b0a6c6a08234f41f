"""The ablation of the CPU backend's special paths; no test depends on the speed of this machine."""

from __future__ import annotations

import re
from pathlib import Path

import numba
import numpy as np
import pytest

from cks_numba.backends.cpu import compiled, gather
from cks_numba.bench import ablation, cases, results, timing
from cks_numba.commands import main
from cks_numba.geometry import ConvShape

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "figures" / "data" / "ablation_cpu_amd_epyc_2_threads.csv"
PATHS = {path.title: path for path in ablation.PATHS}
# For each path an operator, sizes and a layout that it serves.
SERVED = {
    "few channels": ("conv2d_weight", dict(n=4, ih=16, iw=16, ic=3, oc=64, fh=3, fw=3, padding=1), "NHWC"),
    "sum in parts": ("conv2d_weight", dict(n=32, ih=16, iw=16, ic=32, oc=32, fh=3, fw=3, padding=1), "NHWC"),
    "large blocks": ("conv2d_weight", dict(n=4, ih=8, iw=8, ic=64, oc=64, fh=3, fw=3, padding=1), "NHWC"),
    "narrow": ("conv2d", dict(ih=6, iw=6, ic=16, oc=3, fh=3, fw=3, padding=1), "NHWC"),
    "lanes of positions": ("conv2d", dict(ih=16, iw=16, ic=16, oc=3, fh=3, fw=3, padding=1), "NHWC"),
    "tall tiles": ("conv2d", dict(ih=32, iw=32, ic=3, oc=16, fh=3, fw=3, padding=1), "NHWC"),
    "streaming": ("conv2d", dict(n=4, ih=64, iw=64, ic=3, oc=64, fh=3, fw=3, padding=1), "NHWC"),
    "panels together": ("conv2d", dict(n=9, ih=4, iw=4, ic=16, oc=256, fh=3, fw=3, padding=1), "NHWC"),
    "short tiles": ("conv2d", dict(ih=13, iw=13, ic=64, oc=256, fh=3, fw=3, padding=1), "NHWC"),
    "rows of filters in place": ("conv2d_input", dict(ih=14, iw=14, ic=256, oc=64, fh=3, fw=3, padding=1), "NHWC"),
    "shared packed taps": ("conv2d_input", dict(n=9, ih=4, iw=4, ic=16, oc=16, fh=3, fw=3, padding=1), "NHWC"),
    "copy to channels last": ("conv2d", dict(n=2, ih=16, iw=16, ic=16, oc=64, fh=3, fw=3, padding=1), "NCHW"),
    "taps last": ("conv2d", dict(n=2, ih=16, iw=16, ic=16, oc=64, fh=3, fw=3, padding=1), "NCHW"),
    "bands": ("conv2d", dict(n=32, ih=32, iw=32, ic=64, oc=32, fh=3, fw=3, padding=1), "NCHW"),
    "one thread for little work": ("conv2d", dict(ih=16, iw=16, ic=16, oc=3, fh=3, fw=3, padding=1), "NHWC"),
    "filters in place": ("conv2d", dict(ih=2, iw=2, ic=256, oc=64, fh=3, fw=3, padding=1), "NHWC"),
}


def layered(title):
    operator, sizes, layout = SERVED[title]
    return ablation.Layered(cases.Case("test", operator, ConvShape(**{"n": 1, **sizes})), layout)


@pytest.fixture
def two_threads():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread cannot show which calls use two")
    before = numba.get_num_threads()
    numba.set_num_threads(2)
    yield
    numba.set_num_threads(before)


def test_every_path_has_a_case_here():
    assert list(SERVED) == list(PATHS)


@pytest.mark.parametrize("title", SERVED)
def test_without_a_path_other_sizes_give_the_same_result(title, two_threads):
    path, case = PATHS[title], layered(title)
    assert ablation.served(path, [case]) == [case]
    rng = np.random.default_rng(0)
    call = ablation.call_of(case, lambda size: rng.standard_normal(size, np.float32))
    wanted = call()
    with path.switched_off():
        got = call()
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_all_is_as_before_when_a_path_is_on_again():
    path, usual = PATHS["streaming"], gather.STREAM_BYTES
    with pytest.raises(KeyError), path.switched_off():
        assert gather.STREAM_BYTES == ablation.ALL
        raise KeyError
    assert gather.STREAM_BYTES == usual
    assert gather.sizes_of.cache_info().currsize == 0


def test_a_case_that_no_path_changes_is_not_served():
    plain = layered("one thread for little work")
    serving = [title for title, path in PATHS.items() if ablation.served(path, [plain])]
    assert "lanes of positions" in serving
    assert not {"few channels", "copy to channels last", "bands", "streaming", "sum in parts"} & set(serving)


def test_lines_are_those_of_the_functions_and_of_all_that_names_them(tmp_path):
    file = tmp_path / "some.py"
    file.write_text('"""narrow"""\ndef narrow(a):\n    # a comment\n\n    return a\n\n\nb = narrow(1)\nc = b\n')
    assert ablation._lines_with(file, {"narrow"}) == 4
    assert ablation._lines_with(file, {"*"}) == 6
    assert ablation._lines_with(file, {"nothing"}) == 0


def test_every_name_of_a_path_is_in_its_file():
    for path in ablation.PATHS:
        for file, names in path.names.items():
            for name in names.split():
                found = ablation._lines_with(Path(compiled.__file__).with_name(file), {name})
                assert found, f"{path.title}: {name} is not in {file}"


def test_large_cases_are_timed_and_others_chosen_evenly():
    small = [ablation.Layered(case, "NHWC") for case in cases.table()[:7]]
    large = [ablation.Layered(case, "NHWC") for case in ablation.LARGE]
    assert ablation.chosen(small, 3) == [small[0], small[2], small[4]]
    assert ablation.chosen([*small, *large], 4) == [*large, small[0], small[3]]
    assert ablation.chosen(large) == large


def test_a_path_that_changes_the_result_is_an_error(monkeypatch):
    wrong = PATHS["copy to channels last"]._replace(off=((gather, "run", lambda *given: given[-1].fill(7)),))
    with pytest.raises(RuntimeError, match="without copy to channels last the result differs by"):
        ablation.gain(wrong, layered("copy to channels last"), 1, timing.Probe(1))


def test_the_command_times_one_case_and_writes_the_table(tmp_path, capsys, monkeypatch):
    case = layered("lanes of positions")
    monkeypatch.setattr(ablation, "pool", lambda: [case])
    monkeypatch.setattr(timing, "CLEAN", 1e9)  # this machine may be busy
    page, csv = tmp_path / "page.md", tmp_path / "rows.csv"
    page.write_text("\n".join(ablation.MARKERS))
    command = ["bench", "--ablation", "--rounds", "1", "--threads", "1", "--only", "lanes"]
    assert main([*command, "--csv", str(csv), "--readme", str(page)]) == 0
    (row,) = results.read(csv, ablation.AblationRow)
    assert (row.path, row.served, row.timed, row.threads) == ("lanes of positions", 1, 1, 1)
    assert 0 < row.least == row.mean == row.most and row.lines > 20
    assert page.read_text() == f"{ablation.MARKERS[0]}\n{ablation.summary([row])}\n{ablation.MARKERS[1]}"
    assert "lanes of positions" in capsys.readouterr().out
    assert main(["bench", "--ablation", "--only", "no such path"]) == 1
    assert "no path has 'no such path' in its name: few channels, " in capsys.readouterr().err


def test_the_page_says_what_the_committed_ablation_says():
    rows = results.read(COMMITTED, ablation.AblationRow)
    assert [row.path for row in rows] == list(PATHS)
    assert all(row.device and row.versions and row.commit and row.served >= row.timed >= 1 for row in rows)
    text = (ROOT / "docs" / "cpu.md").read_text(encoding="utf-8")
    assert f"{ablation.MARKERS[0]}\n{ablation.summary(rows)}\n{ablation.MARKERS[1]}" in text
    assert [title.lower() for title in re.findall(r"^- \*\*(.+?)\.\*\*", text, re.MULTILINE)] == list(PATHS)


def test_the_committed_lines_are_about_those_of_the_source():
    """A small change of a path need not be measured again at once."""
    for row in results.read(COMMITTED, ablation.AblationRow):
        lines = ablation.lines_of(PATHS[row.path])
        assert row.lines == pytest.approx(lines, rel=0.25, abs=5), f"renew {COMMITTED.name}: {row.path}"
