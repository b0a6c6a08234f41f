"""The pictures: committed ones are what their scripts draw, the same bytes in every run."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageSequence

from cks_numba.bench import results
from cks_numba.commands import main
from cks_numba.plots import gallery

COMMITTED = {path.name for kind in ("png", "gif") for path in gallery.FOLDER.glob(f"*.{kind}")}
SCRIPTS = ["animations", "architecture", "barrier", "f10_training", "f11_axes", "f12_tiles", "f1_conv_v2"]
SCRIPTS += [
    "f2_ks_deconv",
    "f3_sk_dilated",
    "f4_redundancy",
    "f5_authors",
    "f6_speed",
    "f7_networks",
    "f8_roofline",
    "f9_sass",
    "zeros",
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Return a function that draws a script's pictures when first called, and gives their paths and the figures."""
    folder, plain = tmp_path_factory.mktemp("figures"), gallery.pictures

    @cache
    def draw(name):
        figures = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gallery, "pictures", lambda *args: figures.update(plain(*args)) or figures)
            return gallery.make(name, folder), figures

    return draw


def test_every_picture_has_a_script() -> None:
    assert list(gallery.scripts()) == SCRIPTS
    animated = {f"{name}.gif" for name in gallery.load("animations").animations()}
    assert COMMITTED == animated | {f"{name}.png" for name in SCRIPTS if name != "animations"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_committed_pictures_are_what_the_script_draws(drawn, name: str) -> None:
    """Another version of Matplotlib may move text by some pixels; with one, only the sizes are compared."""
    paths = [path for path in drawn(name)[0] if path.suffix != ".svg"]
    assert {path.name for path in paths} <= COMMITTED and paths
    for path in paths:
        committed, new = frames(gallery.FOLDER / path.name), frames(path)
        assert len(committed) == len(new)
        if same_version():
            assert all(np.array_equal(*pair) for pair in zip(committed, new, strict=True)), f"cks-numba figures {name}"
        else:
            assert np.allclose(committed[0].shape, new[0].shape, rtol=0.02)
        assert 10_000 < path.stat().st_size < (600_000 if path.suffix == ".gif" else 450_000)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "animations"])
def test_no_words_are_cut_off(drawn, name: str) -> None:
    with gallery.look():
        for fig in drawn(name)[1].values():
            fig.draw_without_rendering()
            words = [*fig.texts, *(text for ax in fig.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label))]
            for text in words:
                box = text.get_window_extent()
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1
                assert inside or not text.get_text(), f"{text.get_text()!r} leaves the picture"


def same_version() -> bool:
    """Return whether zeros.png, and so all pictures, were made with the installed version of Matplotlib."""
    with Image.open(gallery.FOLDER / "zeros.png") as committed:
        return bool(committed.info["Software"] == f"Matplotlib {matplotlib.__version__}")


def frames(path: Path) -> list[np.ndarray]:
    """Return all frames of a GIF, or the one of a PNG."""
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


@pytest.mark.parametrize("name", ["zeros", "f2_ks_deconv", "f5_authors"])
def test_two_runs_give_the_same_bytes(drawn, tmp_path: Path, name: str) -> None:
    with matplotlib.rc_context({"font.size": 3, "svg.hashsalt": None}):  # a user's settings
        paths = gallery.make(name, tmp_path)
    for path, before in zip(paths, drawn(name)[0], strict=True):
        assert path.name == before.name and path.read_bytes() == before.read_bytes()


def test_some_figures_and_unknown_ones(capsys, tmp_path: Path) -> None:
    assert main(["figures", "f5_authors", "--out", str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["f5_authors.png", "f5_authors.svg"]
    assert capsys.readouterr().out.startswith("f5_authors ")
    assert main(["figures", "f5_authors", "nothing", "--out", str(tmp_path)]) == 1
    assert "figure must be one of animations, architecture, barrier, f10_training, " in capsys.readouterr().err


def test_without_a_checkout_it_says_so(capsys, monkeypatch, tmp_path: Path) -> None:
    for folder in (tmp_path / "figures", tmp_path / "with_another" / "figures"):  # the second is another package's
        monkeypatch.setattr(gallery, "FOLDER", folder)
        assert main(["figures"]) == 1
        assert "run this in a checkout" in capsys.readouterr().err
        (tmp_path / "with_another" / "figures").mkdir(parents=True, exist_ok=True)


# --- the data of the pictures ------------------------------------------------------------------------
def test_authors_ratios_of_counts_are_those_of_their_file() -> None:
    authors = gallery.load("f5_authors")
    rows = authors.authors()
    assert len(rows) == 22 and all("target" not in row["note"] for row in rows)
    for row in rows:
        assert authors.padding_alone(row) == pytest.approx(float(row["trim_ratio_theory"]), abs=6e-4), row
    measured = authors.ours()
    assert all((row["operator"], authors.sizes(row)) in measured for row in rows)


def test_authors_file_names_its_source() -> None:
    lines = (gallery.FOLDER / "data" / "authors_measurements.csv").read_text(encoding="utf-8").splitlines()
    head = " ".join(line for line in lines if line.startswith("#"))
    assert "GilgameshXYZ123" in head and "inferred" in head
    assert all("inferred" in row["gpu"] for row in csv.DictReader(line for line in lines if not line.startswith("#")))


def test_speed_takes_our_nhwc_and_the_better_layout_of_pytorch(tmp_path: Path, monkeypatch) -> None:
    speed = gallery.load("f6_speed")
    about = dict(source="", dtype="float32", min_ms=1.0, max_ms=1.0, rate=1.0, rounds=9, extra_bytes=0, threads=1)
    size = dict(operator="conv2d", n=1, ih=4, ic=8, oc=8, fh=3, stride=1, padding=1, versions="", commit="")
    ours, peer = results.OURS, results.PEER
    times = ((ours, "NHWC", 2.0), (ours, "NCHW", 1.0), (peer, "NHWC", 7.0), (peer, "NCHW", 5.0))
    rows = [
        results.Row(contender=name, layout=layout, median_ms=ms, device="a GPU", **size, **about)
        for name, layout, ms in times
    ]
    assert speed.ratios(rows)["conv2d"] == {4: [2.5]}
    results.write(rows, tmp_path / "gpu_some.csv")
    results.write(rows, tmp_path / "cpu_some.csv")
    layouts = {"NHWC": "NDHWC", "NCHW": "NCDHW"}
    results.write([replace(row, axes=3, layout=layouts[row.layout]) for row in rows], tmp_path / "axes_3_some.csv")
    other = replace(rows[-1], contender="Another", operator="conv2d", median_ms=4.0)
    results.write([*rows, other], tmp_path / "peers_some.csv")
    monkeypatch.setattr(speed, "DATA", tmp_path)
    panels = speed.draw().axes  # one for each file
    texts = [[label.get_text() for label in ax.get_xticklabels()] for ax in panels]
    assert texts == [["4²\n1"], [peer, "Another"], ["4³\n1"], ["4²\n1"]]
    means = [line.get_ydata()[0] for line in panels[1].lines if line.get_linewidth() == 4]
    assert means == pytest.approx([2.5, 2.0])


def test_speed_joins_no_mean_of_few_cases() -> None:
    """A line goes through means of many cases; those of one case are points in the band of their size."""
    speed = gallery.load("f6_speed")
    with gallery.look():
        ax = speed.draw().axes[0]
    found = speed.ratios(results.read(speed.DATA / "cpu_amd_epyc_2_threads.csv"))
    sizes = sorted({size for by_size in found.values() for size in by_size})
    assert any(len(found[operator][size]) == 1 for operator in found for size in found[operator])
    for line in ax.lines[: len(found)]:
        joined = [sizes[round(float(x))] for x in line.get_xdata()]
        assert joined == [size for size in sizes if len(found[line.get_label()].get(size, [])) >= speed.MANY]
    for points in ax.collections[: len(found)]:
        away = np.abs(points.get_offsets()[:, 0] - np.round(points.get_offsets()[:, 0]))
        assert away.max() < 0.5 - 0.1


def test_lines_of_redundancy_are_told_apart(drawn) -> None:
    """The lines of each panel spread over a fifth of its height at least, and its axis says where it begins."""
    for ax in drawn("f4_redundancy")[1]["f4_redundancy"].axes:
        low, high = ax.get_ylim()
        at_two = [float(line.get_ydata()[0]) for line in ax.lines if len(line.get_ydata()) > 5]
        assert len(at_two) == 4 and max(at_two) - min(at_two) > 0.1 * (high - low)
        assert [text.get_text() for text in ax.texts] == ([f"axis from {low:g}%"] if low else [])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_what_is_counted_over_axes_lies_on_the_lines(axes: int) -> None:
    """And the lines of stride 2 tend to 2, 4 and 8, as the picture says."""
    script = gallery.load("f11_axes")
    for stride in script.STRIDES:
        shapes = [script.layer(axes, size, stride) for size in script.COUNTED]
        assert [script.counted(shape) for shape in shapes] == [script.theory(shape) for shape in shapes]
        assert script.theory(script.layer(axes, 4096, stride)) == pytest.approx(stride**axes, rel=1e-3)


def test_every_layer_of_a_network_can_be_read(drawn) -> None:
    """Below the bars of the work each layer has a bar of full height."""
    axes = drawn("f7_networks")[1]["f7_networks"].axes
    for work, share in zip(axes[0::4] + axes[1::4], axes[2::4] + axes[3::4], strict=True):
        full = [bar for bar in share.patches if bar.get_height() == pytest.approx(1) and not bar.get_fill()]
        assert len(full) == sum(not bar.get_fill() for bar in work.patches) > 0


def test_a_room_whose_text_does_not_fit_is_no_picture(monkeypatch) -> None:
    architecture = gallery.load("architecture")
    monkeypatch.setattr(architecture, "summary", lambda name: "many words " * 20)
    with pytest.raises(ValueError, match="first sentence of commands takes 7 lines, and there is place for 4"):
        architecture.draw()


def test_trainings_are_as_close_as_pytorch_is_to_itself() -> None:
    """Our losses are as close to PyTorch's as those of the control, and all logs are of the same training."""
    training = gallery.load("f10_training")
    logs = {which: training.read(which) for which in training.LOOK}
    ours, theirs, control = (
        np.log([float(row["loss"]) for row in logs[which]])
        for which in (training.OURS, training.PEER, training.CONTROL)
    )
    assert np.median(np.abs(ours - theirs)) < 1.5 * np.median(np.abs(control - theirs))
    same = ("data", "model", "device", "versions", "batch_size", "lr", "seed", "regular", "useful", "epoch", "step")
    assert len({tuple(tuple(row[key] for key in same) for row in log) for log in logs.values()}) == 1
    assert {which: log[0]["threads"] for which, log in logs.items()} == {
        "cks": "1",
        "torch": "1",
        "torch_2_threads": "2",
    }
    assert [log[0]["backend"] for log in logs.values()] == ["torch", "torch", "cks"]
