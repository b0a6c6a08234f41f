"""The command ``cks-numba report``: a model of PyTorch or ONNX as a table and as a page."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pytest

from cks_numba import ConvShape
from cks_numba.commands import main
from cks_numba.flops.networks import Layer
from cks_numba.models import page, text
from cks_numba.models.found import Found, found

MODEL = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), depthwise, nn.ConvTranspose2d(8, 2, 4, 2, 1))

ready = Net()
number = 3
class inner:
    build = Net
class Own(nn.ConvTranspose2d):
    pass
def own():
    return Own(4, 4, 4, 2, 1)
def broken():
    raise KeyError("no weights")
"""


def rows(count=3):
    shapes = [
        ConvShape(n=1, ih=8 * k, iw=8, ic=4, oc=8, fh=3, fw=3, stride=1 + k % 2, padding=1) for k in range(1, count + 1)
    ]
    counted = [found(f"body.{k}<b>", "Conv2d", [Layer(f"{k}", s)]) for k, s in enumerate(shapes)]
    return [*counted, Found("odd & end", "Conv3d", note="3 axes")]


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, whether they are nested well, and the cells of its table."""

    VOID = {"meta", "rect", "circle", "path"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.cells = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1] += data


def test_text_has_a_line_for_each_layer():
    lines = text.text(rows()).splitlines()
    assert [line.split()[0] for line in lines[4:8]] == ["body.0<b>", "body.1<b>", "body.2<b>", "odd"]
    assert lines[4].endswith("swap") and lines[5].endswith("no: below 1.15") and lines[7].endswith("no: 3 axes")
    bars = [re.search(r"  (#+\.*)  ", line) for line in lines[4:7]]
    assert max(len(bar.group(1)) for bar in bars if bar) == text.BAR
    assert all(len(line) <= 120 for line in lines)


def test_columns_of_large_volumes_are_straight():
    shapes = [ConvShape.of((1, *[size] * 3, 64), (512, 3, 3, 3, 64), stride=2) for size in (8, 128)]
    lines = text.text([found("a", "Conv3d", [Layer("a", shape)]) for shape in shapes]).splitlines()[3:6]
    assert len({line.index(mark) for line, mark in zip(lines, ("convert", "swap", "swap"), strict=True)}) == 1
    assert "128x128x128x64 3x3x3x512/2" in lines[2]


def test_nothing_to_report():
    assert text.text([]).endswith("swapping 0 of 0 layers saves 0.0 of 0.0 multiply-adds of a training step (0%)")
    assert Page(page.page("nothing", [])).cells


def test_page_stands_alone_and_says_the_same():
    text = page.page("my <net>", rows())
    seen = Page(text)
    assert not re.search(r"https?://|@import|<link|src=", text)  # the page fetches nothing
    assert "my &lt;net&gt;" in text and "<net>" not in text and "body.0&lt;b&gt;" in text
    assert ("html", {"lang": "en"}) in seen.tags and any(a.get("name") == "viewport" for _, a in seen.tags)
    assert [cells[0] for cells in seen.cells] == ["Layer", "body.0<b>", "body.1<b>", "body.2<b>", "odd & end"]
    assert all(len(cells) == len(page.COLUMNS) for cells in seen.cells)
    assert '<ul class="missing"><li>odd &amp; end: 3 axes</li></ul>' in text and "; 1 is not counted." in text
    for row, cells in zip(rows(), seen.cells[1:], strict=True):
        assert cells[2] == row.why() and cells[1] == (f"{row.total.saved:.2f}" if row.counts else "")
    figures = [attributes for tag, attributes in seen.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(figures) == 3 and all("useful" in figure["aria-label"] for figure in figures)
    ids = {attributes["id"] for tag, attributes in seen.tags if tag == "pattern"}
    assert {used for used in re.findall(r"url\(#(\w+)\)", text)} <= ids == set(page.KINDS)


def test_bars_are_as_long_as_the_work():
    found = rows()
    most = max(row.total.regular for row in found)
    bars = [re.findall(r'<rect x="([\d.]+)%" width="([\d.]+)%"', page._bar(row, most, True)) for row in found[:3]]
    for row, boxes in zip(found, bars, strict=False):
        assert sum(float(width) for _, width in boxes) == pytest.approx(100 * row.total.regular / most, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m:f", "--input", "3x0"], "input must be sizes of at least 1 joined by x"),
        (["m:f", "--input", "big"], "such as 1x3x32x32, got 'big'"),
        (["m:f", "--threshold", "0.5"], "threshold must be a number of at least 1, got 0.5"),
        (["m:f", "--threshold", "nan"], "threshold must be a number of at least 1"),
        ([], "required: MODEL"),
    ],
)
def test_wrong_arguments_leave_with_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


# --- PyTorch ---------------------------------------------------------------------------------------
@pytest.fixture
def net(tmp_path: Path, monkeypatch) -> str:
    """Write a module into the current folder, as a user would."""
    pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
    name = f"net_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.torch
@pytest.mark.parametrize("attribute", ["Net", "ready", "inner.build"])
def test_a_model_of_pytorch(capsys, net, attribute, tmp_path):
    page_file = tmp_path / "new" / "page.html"
    assert main(["report", f"{net}:{attribute}", "--input", "1x3x8x8", "--html", str(page_file)]) == 0
    out = capsys.readouterr().out
    assert "swapping 2 of 3 layers" in out and "no: depthwise" in out and "4x4x2*2" in out
    assert f"Zeros in {net}:{attribute}, input 1x3x8x8" in page_file.read_text(encoding="utf-8")
    assert main(["report", f"{net}:{attribute}", "--input", "1x3x8x8", "--threshold", "9"]) == 0
    assert "swapping 0 of 3 layers" in capsys.readouterr().out
    named = ["--input", "input=1x3x8x8", "--forward", "--html", str(page_file)]
    assert main(["report", f"{net}:{attribute}", *named]) == 0
    assert "of a forward pass" in capsys.readouterr().out
    assert f"Zeros in {net}:{attribute}, input input=1x3x8x8" in page_file.read_text(encoding="utf-8")


@pytest.mark.torch
@pytest.mark.parametrize(("asked", "swapped"), [([], "0 of 1"), (["--subclasses"], "1 of 1")])
def test_layers_of_subclasses_are_swapped_if_asked(capsys, net, asked, swapped):
    assert main(["report", f"{net}:own", "--input", "1x4x8x8", *asked]) == 0
    out = capsys.readouterr().out
    assert f"swapping {swapped} layers" in out and ("no: unless subclasses=True" in out) == (not asked)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "input", "message"),
    [
        ("{}:Net", None, "needs the size of its input, such as --input 1x3x32x32"),
        ("{}", "1x3x8x8", "MODEL must be module.path:name or a file FILE.onnx"),
        ("{}:", "1x3x8x8", "MODEL must be module.path:name or a file FILE.onnx"),
        ("{}:Nut", "1x3x8x8", "has no Nut"),
        ("{}:number", "1x3x8x8", "must be or return a torch.nn.Module, got int"),
        ("{}:broken", "1x3x8x8", "could not be called without arguments: 'no weights'"),
        ("{}.more:Net", "1x3x8x8", "cannot import"),
        ("{}:Net", "1x4x8x8", "the model does not take an input of 1x4x8x8"),
    ],
)
def test_what_cannot_be_reported_says_why(capsys, net, name, input, message):
    given = ["--input", input] if input else []
    assert main(["report", name.format(net), *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cks-numba report: ") and message in said


def test_without_pytorch_it_says_how_to_install(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main(["report", "m:f", "--input", "1x3x8x8"]) == 1
    assert "pip install 'cks-numba[torch]'" in capsys.readouterr().err
    monkeypatch.delitem(__import__("sys").modules, "cks_numba.torch", raising=False)
    with pytest.raises(ImportError, match=r"cks_numba.torch needs PyTorch: pip install 'cks-numba\[torch\]'"):
        __import__("cks_numba.torch")
