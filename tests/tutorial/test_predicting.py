"""Predictions: what is said to a guess, and what is folded until there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cks_numba.tutorial import behind, predict, predicting
from cks_numba.tutorial.guesses import Choice, Number

LESSONS = sorted(path.name[:-6].split("_")[0] for path in (Path(__file__).parents[2] / "tutorials").glob("*.ipynb"))
needs_ipython = pytest.mark.skipif(not find_spec("IPython"), reason="IPython is not installed")
NOTHING_YET = "Prediction 02.a: replace the ... by your guess, a number, and run this cell. Then run the next one.\n"


@pytest.fixture(autouse=True)
def new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "_made", set())


def said(capsys: pytest.CaptureFixture[str], guess: Any, name: str = "02.a") -> str:
    predict(name, guess)
    return " ".join(capsys.readouterr().out.split())


def test_a_right_a_close_and_a_wrong_guess(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a 4 x 4 map with a 3 x 3 filter and padding 1: 4 corners waste 5 and 8 edges waste 3, which is 44."""
    assert said(capsys, 4 * 5 + 8 * 3).startswith("Prediction 02.a: right. It is 44: 5 for each of the 4 corners")
    assert said(capsys, 42).startswith("Prediction 02.a: close. It is 44")
    assert said(capsys, 20).startswith("Prediction 02.a: no. The corners alone waste that.")
    assert said(capsys, 2).startswith("Prediction 02.a: no. Every output at the border wastes some")
    assert said(capsys, 143).startswith("Prediction 02.a: no. Only corners waste 5.")


def test_no_guess_is_answered_by_one_line_and_opens_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    predict("02.a", ...)
    assert capsys.readouterr().out == NOTHING_YET
    for guess, shown in (("44", "'44'"), (None, "None"), (True, "True"), (float("nan"), "nan"), ([1], "[1]")):
        assert said(capsys, guess) == f"Prediction 02.a: Guess a number; {shown} is none."
    assert predicting._made == set()
    predict("02.a", 3)
    assert predicting._made == {"02.a"}


def test_a_choice_is_one_of_those_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Choice(("up", "down", 4), lambda: 4, "Four it is.", {"up": "Not up.", "down": "Not down."})
    monkeypatch.setitem(import_module("cks_numba.tutorial.lesson_02").PREDICTIONS, "02.z", choice)
    assert "your guess, one of 'up', 'down', 4, and run" in said(capsys, ..., "02.z")
    assert said(capsys, 4, "02.z") == "Prediction 02.z: right. Four it is."
    assert said(capsys, " Down", "02.z") == "Prediction 02.z: no. Not down. Four it is."
    assert said(capsys, 5, "02.z") == "Prediction 02.z: Choose one of 'up', 'down', 4; 5 is none of them."


@pytest.mark.parametrize("name", ["02.zz", "02.1", "99.a", "", "answers.a", "02.a.b"])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"got {name!r}")):
        predict(name, 1)
    with pytest.raises(ValueError, match=r"prediction must be (one of 02\.a, |a lesson and a letter such as)"):
        with behind(name):
            pass


PREDICTIONS = {
    name: one
    for lesson in LESSONS
    for name, one in getattr(import_module(f"cks_numba.tutorial.lesson_{lesson}"), "PREDICTIONS", {}).items()
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_every_prediction_says_something_to_every_guess(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A thought belongs to a guess that is wrong; a choice has one for every wrong answer."""
    one = PREDICTIONS[name]
    assert said(capsys, one.right, name).startswith(f"Prediction {name}: right.")
    assert "{" not in said(capsys, one.right, name)
    if isinstance(one, Choice):
        assert one.right in one.choices
        wrong = {choice for choice in one.choices if choice != one.right}
        assert wrong <= set(one.thoughts) <= set(one.choices)  # what is measured may come out in another way elsewhere
    else:
        assert isinstance(one, Number)
        assert len(one.thoughts) >= 2
    for guess, thought in ((guess, thought) for guess, thought in one.thoughts.items() if guess != one.right):
        assert one.judge(guess) == ("no", thought)
        assert said(capsys, guess, name).startswith(f"Prediction {name}: no. {thought}")


# --- behind ------------------------------------------------------------------------------------------
@pytest.fixture
def shell() -> Iterator[Any]:
    """A shell of IPython that keeps what is displayed, in `shown`."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    made = InteractiveShell.instance()
    made.display_pub = CapturingDisplayPublisher()
    made.enable_gui = lambda gui=None: None  # only a kernel has a loop of events
    made.shown = made.display_pub.outputs
    yield made
    InteractiveShell.clear_instance()


class Fold(HTMLParser):
    """Texts and pictures inside of a fold, in order, and whether it is open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.opened: bool | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "details" and self.opened is None:
            self.opened = "open" in dict(attrs)
        if tag == "img":
            self.found.append(f"picture: {dict(attrs)['alt']}")

    def handle_data(self, data: str) -> None:
        self.found += [data.strip()] if data.strip() else []


CELL = """
from matplotlib.figure import Figure
from cks_numba.tutorial import behind, show, side_by_side
def twice(x):
    return 2 * x
with behind("02.a"):
    kept = 7
    print("first <b>")
    show(Figure(figsize=(1, 1)), 'A "white" square')
    print("then", end=" ")
    print(kept)
    side_by_side(left=twice)
"""


@needs_ipython
def test_without_a_guess_everything_is_in_one_closed_fold_in_order(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell(CELL).raise_error()
    assert capsys.readouterr().out == ""
    (output,) = shell.shown
    fold = Fold(output["data"]["text/html"])
    assert fold.opened is False
    assert fold.found[:3] == ["Predict first:", 'predict("02.a", ...)', "above. Open anyway"]
    assert fold.found[3:7] == ["first <b>", 'picture: A "white" square', "then 7", "left"]
    assert "return 2 * x" in fold.found[7]
    assert fold.found[-1].startswith("It is 44: ")
    assert shell.user_ns["kept"] == 7
    assert "44" not in output["data"]["text/plain"]


@needs_ipython
def test_after_a_guess_nothing_is_folded(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    predict("02.a", 1)
    capsys.readouterr()
    shell.run_cell(CELL).raise_error()
    assert capsys.readouterr().out == "first <b>\nthen 7\n"
    assert [sorted(output["data"]) for output in shell.shown] == [
        ["image/png", "text/plain"],
        ["text/html", "text/plain"],
    ]
    shell.run_cell(CELL.replace("02.a", "02.b")).raise_error()
    assert capsys.readouterr().out == "", "another prediction stays closed"


@needs_ipython
def test_an_exception_is_raised_and_what_came_before_it_is_open(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = shell.run_cell(
        'from cks_numba.tutorial import behind\nwith behind("02.a"):\n    print("before")\n    1 / 0'
    )
    assert isinstance(result.error_in_exec, ZeroDivisionError)
    (output,) = shell.shown
    fold = Fold(output["data"]["text/html"])
    assert fold.opened is True and fold.found[-1] == "before"
    capsys.readouterr()
    shell.run_cell('print("after")\ndisplay("shown")')
    assert capsys.readouterr().out == "after\n" and len(shell.shown) == 2, "nothing is collected any longer"


@needs_ipython
def test_figures_of_pyplot_are_in_the_fold(shell: Any) -> None:
    pytest.importorskip("matplotlib_inline", reason="matplotlib-inline, which comes with ipykernel, is not installed")
    import matplotlib

    before = matplotlib.get_backend()
    shell.run_line_magic("matplotlib", "inline")
    try:
        shell.run_cell(
            "from cks_numba.tutorial import behind\nimport matplotlib.pyplot as plt\n"
            'with behind("02.a"):\n    plt.plot([1, 2])\n    print("below it in the code")'
        ).raise_error()
    finally:
        matplotlib.use(before)
    (output,) = shell.shown
    fold = Fold(output["data"]["text/html"])
    assert fold.found[3] == "below it in the code" and fold.found[4].startswith("picture: <Figure size")


def test_outside_of_a_notebook_nothing_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    with behind("02.a"):
        print("open")
    assert capsys.readouterr().out == "open\n"
