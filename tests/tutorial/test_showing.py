"""Sources beside each other: in narrow lines, unchanged but for what is left out, and with a colour for each index."""

from __future__ import annotations

import ast
import base64
import html
import io
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from cks_numba.geometry import ConvShape
from cks_numba.kernels import conv_v2, ks_deconv, sk_dilated
from cks_numba.steps import minimal
from cks_numba.tutorial import play, side_by_side, source
from cks_numba.tutorial.showing import CHANNEL_GROUPS, COLOURS, COLUMN, coloured, essence

SOLUTIONS = Path(__file__).resolve().parents[2] / "tutorials" / "solutions"
OPERATORS = {
    "conv2d": (minimal.conv2d, conv_v2.skip_zeros),
    "conv2d_input": (minimal.conv2d_input, ks_deconv.skip_zeros),
    "conv2d_weight": (minimal.conv2d_weight, sk_dilated.skip_zeros),
}
MARK = re.compile(r'<span style="color: #000; background: (#\w+)">(\w+)</span>')
WORDS = re.compile(rf"\b(?:{'|'.join(COLOURS)})\b")
NEEDS = {"07": "sklearn"}


def pairs_of(path: Path) -> list[dict[str, Any]]:
    """Return what a notebook shows side by side: titles and functions, found with the notebook's own imports."""
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    calls = [cell for cell in cells if cell.startswith("side_by_side(")]
    found: list[dict[str, Any]] = []
    if calls:
        names: dict[str, Any] = {}
        exec(next(cell for cell in cells if re.search(r"import .*\bcheck\b", cell)), names)
        names["side_by_side"] = lambda **things: found.append(things)
        for call in calls:
            exec(call, names)
    return found


@pytest.mark.parametrize("number", ["02", "03", "04", "05", "07"])
def test_every_line_shown_in_the_course_fits_its_column(number: str) -> None:
    if number in NEEDS and not find_spec(NEEDS[number]):
        pytest.skip(f"{NEEDS[number]}, which the notebook imports, is not installed")
    (path,) = SOLUTIONS.glob(f"{number}_*.ipynb")
    pairs = pairs_of(path)
    assert pairs and all(len(things) == 2 for things in pairs)
    for things in pairs:
        for thing in things.values():
            assert max(map(len, essence(thing).splitlines())) <= COLUMN


def heads(text: str) -> list[str]:
    """Return each statement in one form; of one with a body, only its head."""
    lines = []

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            inner = getattr(node, "body", [])
            if inner:
                node.body = [ast.Pass()]  # type: ignore[attr-defined]
            lines.append(ast.unparse(node))
            visit(inner)

    visit(ast.parse(text).body)
    return lines


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_shown_is_the_source_but_for_docstring_guard_and_channel_groups(operator: str) -> None:
    for thing, most in zip(OPERATORS[operator], (1, 5), strict=True):
        whole, shown = heads(source(thing)), heads(essence(thing))
        left_out = [head for head in whole if head not in shown]
        assert [head for head in whole if head in shown] == shown
        assert 1 <= len(left_out) <= most
        for head in left_out:
            target = {name.strip() for name in head.partition(" = ")[0].split(",")}
            assert head == "return" or head.startswith(("'", '"', "if index >= ")) or target <= CHANNEL_GROUPS, head


def test_a_long_comment_goes_above_its_line_and_strings_are_not_broken() -> None:
    assert "\n    # the trimmed window\n    fh_lo, fh_hi = " in essence(conv_v2.skip_zeros)
    for first, _ in OPERATORS.values():
        assert re.search(r'"nhw[a-z,]+->[a-z]+"', essence(first))


def deeply_nested(x):  # type: ignore[no-untyped-def]
    for _ in x:
        for _ in x:
            for _ in x:
                for _ in x:
                    print(x[0, 1, 2], x[1, 2, 3], x[2, 3, 4], x[3, 4, 5], min(x[4, 5, 6], max(x[5, 6, 7], x[6, 7, 8])))
                    print("a string that is longer than what is left of a column is left alone")


def test_any_function_can_be_shown() -> None:
    shown = essence(deeply_nested)
    assert heads(shown) == heads(source(deeply_nested))
    assert all(len(line) <= COLUMN or '"a string' in line for line in shown.splitlines())
    assert "type: ignore" not in shown


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_same_index_has_the_same_colour_on_both_sides(operator: str) -> None:
    sides = []
    for text in map(essence, OPERATORS[operator]):
        page = coloured(text)
        assert html.unescape(re.sub("<[^>]+>", "", page)) == text
        assert not WORDS.search(MARK.sub("", page)), "an index without a colour"
        marks = {(colour, {"k": "oc", "c": "ic"}.get(name, name)) for colour, name in MARK.findall(page)}
        assert all(COLOURS[name] == colour for colour, name in marks)
        sides.append({name for _, name in marks})
    assert sides[0] & sides[1] >= {"n", "oh", "ow", "oc", "fh", "fw", "ic"}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_black_on_every_colour_has_the_contrast_of_aaa_whatever_the_page_behind() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert min((luminance(colour) + 0.05) / 0.05 for colour in COLOURS.values()) >= 7


def test_plain_text_is_readable_and_the_whole_sources_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    display = SimpleNamespace(display=lambda data, raw: shown.append(data))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # also where IPython is not installed
    left, right = OPERATORS["conv2d_input"]
    side_by_side(in_NumPy=left, the_kernel=right)
    (data,) = shown
    assert data["text/plain"] == f"in NumPy\n\n{essence(left)}\n\nthe kernel\n\n{essence(right)}"
    visible, fold = data["text/html"].split("<details>")
    assert "oc_of_c_group = " not in visible
    whole = html.unescape(re.sub("<[^>]+>", "", fold))
    assert source(left) in whole and source(right) in whole


def test_an_animation_is_described_and_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    display = SimpleNamespace(display=lambda data, raw: shown.append(data), version_info=(9, 0))
    monkeypatch.setitem(sys.modules, "IPython", display)  # Matplotlib asks for the version
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    play("conv2d", ConvShape(n=1, ih=2, iw=1, ic=1, oc=1, fh=2, fw=1, padding=(1, 0)), 'Three "results" one by one.')
    (data,) = shown
    found = re.fullmatch(
        r'<details open><summary>An animation[^<]*</summary><img alt="([^"]*)" [^>]*'
        r'src="data:image/gif;base64,([^"]*)"></details>',
        data["text/html"],
    )
    assert found and html.unescape(found[1]) == data["text/plain"] == 'Three "results" one by one.'
    with Image.open(io.BytesIO(base64.b64decode(found[2]))) as image:
        assert image.n_frames == 3
