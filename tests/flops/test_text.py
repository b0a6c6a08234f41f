"""The command ``cks-numba flops``: text, CSV and the table of docs/networks.md."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from cks_numba import flops
from cks_numba.commands import main
from cks_numba.flops import text as tables
from cks_numba.flops.networks import NETWORKS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "networks.md"


def test_the_page_about_networks_has_the_table_of_today() -> None:
    text = PAGE.read_text(encoding="utf-8")
    stated = text.partition(tables.MARKERS[0] + "\n")[2].partition("\n" + tables.MARKERS[1])[0]
    assert stated == tables.summary(tables.all_networks()), "cks-numba flops all --readme docs/networks.md"


def test_readme_option_puts_the_table_between_the_markers(tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.MARKERS[0]}\nold\n{tables.MARKERS[1]}\nafter\n")
    assert main(["flops", "all", "--readme", str(page)]) == 0
    table = tables.summary(tables.all_networks())
    assert page.read_text() == f"before\n{tables.MARKERS[0]}\n{table}\n{tables.MARKERS[1]}\nafter\n"
    assert capsys.readouterr().out == f"{table}\n"
    page.write_text("no markers")
    assert main(["flops", "all", "--readme", str(page)]) == 1
    assert "has no <!-- flops: networks -->" in capsys.readouterr().err


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_a_line_for_each_layer_and_sums(capsys, name: str) -> None:
    assert main(["flops", name, "--batch", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counted = flops.network(name, batch=2)
    rows = lines[lines.index("") + 3 :]
    for layer, line in zip(counted.layers, rows, strict=False):
        assert line.startswith(layer.layer.name) and len(line) <= 120
    total = rows[len(counted.layers)].split()
    assert total[:2] == ["total", f"{counted.of('forward').useful / 1e6:.1f}"]
    assert f"{counted.total.useful / 1e9:.2f} G useful" in lines[-1]


def test_strided_and_transposed_layers_are_told_apart(capsys) -> None:
    assert main(["flops", "unet"]) == 0
    assert "28x28x1024   2x2x512*2" in capsys.readouterr().out
    assert main(["flops", "resnet18", "--input", "64x32"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ResNet-18, 64x32, batch 1.") and "64x32x64     3x3x128/2" in out


@pytest.mark.parametrize(
    ("name", "title", "layer"),
    [
        ("unet3d", "3-D U-Net, 132x132x116", "9x9x7x512      2x2x2x512*2"),
        ("r3d18", "R3D-18, 16x112x112", "16x112x112x3 3x7x7x64/1x2x2"),
        ("wavenet", "WaveNet, 100000", "105116x256   2x32"),
        ("ecg-resnet", "ECG ResNet, 4096", "4096x128     16x128/4"),
    ],
)
def test_layers_of_one_and_three_axes_have_all_their_sizes(capsys, name: str, title: str, layer: str) -> None:
    assert main(["flops", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{title}, batch 1.") and layer in out


def test_csv_tells_axes_apart(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    assert main(["flops", "r3d18", "--csv", str(path)]) == 0
    with path.open(newline="") as file:
        stem, *_, last = csv.DictReader(file)
    assert [stem[key] for key in ("i", "f", "stride", "padding")] == ["16x112x112", "3x7x7", "1x2x2", "1x1x3x3x3x3"]
    assert [last[key] for key in ("i", "f", "stride", "dilation", "padding")] == ["2x7x7", "3x3x3", "1", "1", "1"]


def test_csv_has_every_pass_of_every_layer(tmp_path: Path, capsys) -> None:
    path = tmp_path / "new" / "counts.csv"
    assert main(["flops", "resnet18", "--input", "32", "--csv", str(path)]) == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    counted = flops.network("resnet18", 32)
    assert len(rows) == 3 * len(counted.layers) - 1
    for kind in ("regular", "useful", "padded", "inserted", "both", "bytes"):
        assert sum(int(row[kind]) for row in rows) == getattr(counted.total, kind)
    assert (rows[0]["network"], rows[0]["pass"], rows[0]["operator"]) == ("ResNet-18, 32x32", "forward", "conv2d")
    assert main(["flops", "all", "--csv", str(path)]) == 0
    with path.open(newline="") as file:
        assert len({row["network"] for row in csv.DictReader(file)}) == len(tables.all_networks())


def test_an_operator_has_its_kinds(capsys) -> None:
    assert main(["flops", "sk_dilated", "i=4,stride=2,padding=1"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in words[1:6]] == [
        ["regular", "81"],
        ["useful", "25"],
        ["padded", "11"],
        ["inserted", "39"],
        ["both", "6"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg16", "--input", "8"], "vgg16 cannot take an input of 8x8"),
        (["unet", "--input", "100"], "pooling needs even sides"),
        (["wavenet", "--input", "8x8"], "input must be an int or a list of one, got (8, 8)"),
        (["alexnet", "i=3"], "SHAPE goes with an operator, got alexnet"),
        (["conv2d"], "conv2d needs a SHAPE"),
        (["conv2d", "i=4", "--input", "3"], "--input and --batch go with one network, got conv2d"),
        (["all", "--batch", "3"], "--input and --batch go with one network, got all"),
        (["conv2d", "i=4", "--csv", "x.csv"], "--csv goes with networks, got conv2d"),
        (["vgg16", "--readme", "x.md"], "--readme goes with all, got vgg16"),
    ],
)
def test_what_cannot_be_counted_says_why(capsys, arguments, message) -> None:
    assert main(["flops", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cks-numba flops: ") and message in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: NAME"),
        (["vgg"], "name must be one of alexnet, vgg16, .*got 'vgg'"),
        (["vgg16", "--input", "big"], "input must be an integer"),
        (["vgg16", "--batch", "-1"], "must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_leave_with_2(capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["flops", *arguments])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
