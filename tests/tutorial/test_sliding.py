"""Sliders: every picture is in the output, and what cannot be drawn is a picture of the reason."""

from __future__ import annotations

import base64
import io
import json
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from cks_numba.tutorial import slider
from cks_numba.tutorial.sliding import MOST_FRAMES


class Output(HTMLParser):
    """The frames, the sliders and the picture of an output."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.frames: list[tuple[str, str]] = []
        self.inputs: list[dict[str, str | None]] = []
        self.pictures: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if "data-frames" in found:
            self.frames = json.loads(found["data-frames"] or "")
        if tag in ("input", "img"):
            {"input": self.inputs, "img": self.pictures}[tag].append(found)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    display = SimpleNamespace(display=lambda data, raw: found.append(data))
    ipython = SimpleNamespace(display=display, version_info=(9, 0))  # Matplotlib asks for the version
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # also where IPython is not installed
    return found


def square(size: int, colour: str) -> tuple[Figure, str]:
    if colour == "red" and size == 3:
        raise ValueError('no "red" squares of 3 inches')
    figure = Figure(figsize=(size, size), facecolor=colour)
    return figure, f"A {colour} square of <{size}> inches."


def test_a_picture_for_every_choice_in_the_order_of_the_sliders(outputs: list[dict[str, str]]) -> None:
    slider(square, size=(1, 2, 3), colour=("red", "blue"))
    page = Output(outputs[0]["text/html"])
    expected = [f"A {colour} square of <{size}> inches." for size in (1, 2, 3) for colour in ("red", "blue")]
    assert [alt for _, alt in page.frames[:4]] == expected[:4] and page.frames[5][1] == expected[5]
    images = [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data, _ in page.frames]
    assert {image.size for image in images} == {images[0].size}, "nothing on the page moves"
    assert [image.getpixel((20, 20)) for image in images[:4]] == [(255, 0, 0), (0, 0, 255)] * 2
    (picture,) = page.pictures
    assert picture["alt"] == expected[0] == outputs[0]["text/plain"]
    assert picture["src"] == f"data:image/png;base64,{page.frames[0][0]}"


def test_a_choice_that_is_refused_becomes_a_picture_of_the_reason(outputs: list[dict[str, str]]) -> None:
    slider(square, size=(1, 2, 3), colour=("red", "blue"))
    data, alt = Output(outputs[0]["text/html"]).frames[4]
    assert alt == 'There is no picture for size 3, colour red: no "red" squares of 3 inches.'
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("L")
    assert image.getextrema() == (0, 255), "black on white"

    def broken(size: int) -> tuple[Figure, str]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        slider(broken, size=(1,))


def test_sliders_are_named_have_a_value_in_words_and_need_nothing_else(outputs: list[dict[str, str]]) -> None:
    slider(square, size=(1, 2, 3), colour=("red", "blue"))
    page = Output(outputs[0]["text/html"])
    assert page.tags.count("label") == page.tags.count("output") == len(page.inputs) == 2
    assert [word for word in page.words if word.strip()] == ["size", "1", "colour", "red"]
    first, second = page.inputs
    assert (first["type"], first["max"], first["aria-valuetext"]) == ("range", "2", "1")
    assert (second["max"], second["aria-valuetext"], second["data-values"]) == ("1", "red", '["red", "blue"]')
    assert "script" not in page.tags
    assert not any(word in outputs[0]["text/html"] for word in ("http", " id="))


@pytest.mark.parametrize(
    "values, message",
    [({}, "at least one value"), ({"size": ()}, "at least one value"), ({"size": range(65)}, "got 65")],
)
def test_bad_values_are_refused_before_anything_is_drawn(values: dict[str, Any], message: str) -> None:
    assert MOST_FRAMES == 64
    with pytest.raises(ValueError, match=message):
        slider(lambda size: pytest.fail("drawn"), **values)
