"""The notebooks as files; .ci/steps/70_notebooks executes them."""

from __future__ import annotations

import ast
import html
import json
import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from cks_numba.tutorial.checking import LESSONS
from cks_numba.tutorial.guesses import Number

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"
MOST_BYTES = 1_500_000
MACHINE = re.compile(r"/(tmp|home|root|work|Users|mnt)/|site-packages|<ipython-input|ipykernel_\d")


def load_build():
    spec = spec_from_file_location("tutorials_build", FOLDER / "build.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
SOLUTIONS = build.solutions()
NOTEBOOKS = [path for solution in SOLUTIONS for path in (solution, FOLDER / solution.name)]
every_solution = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")


def number(path: Path) -> str:
    """Return the number of a lesson: two digits, and perhaps a letter."""
    return path.name.split("_")[0]


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs_of(cell) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def test_there_are_notebooks_and_no_others() -> None:
    assert len(SOLUTIONS) >= 1
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == [path.name for path in SOLUTIONS]
    assert [number(path) for path in SOLUTIONS] == list(LESSONS)


@every_solution
def test_both_notebooks_are_what_build_makes(path: Path) -> None:
    assert build.faults(path) == []


def test_another_form_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant three faults: a space at the end, a solution left in place, and a cell that only one notebook has."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    (tmp_path / "solutions").mkdir()
    path, blank = tmp_path / "solutions" / SOLUTIONS[1].name, tmp_path / SOLUTIONS[1].name
    text, blank_text = SOLUTIONS[1].read_text("utf-8"), (FOLDER / SOLUTIONS[1].name).read_text("utf-8")
    other = build.read(SOLUTIONS[1])
    del other["cells"][-1]
    for solution, learners, count in (
        (text, blank_text, 0),
        (text + " ", blank_text, 1),
        (text, blank_text + " ", 1),
        (text, text, 2),
        (build.text_of(other), blank_text, 1),
    ):
        path.write_text(solution, "utf-8")
        blank.write_text(learners, "utf-8")
        assert len(build.faults(path)) == count


@every_notebook
def test_the_format(path: Path) -> None:
    notebook, text = build.read(path), path.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    assert (notebook["nbformat"], notebook["nbformat_minor"], notebook["metadata"]) == (4, 5, build.METADATA)
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in names)
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert build.source_of(notebook["cells"][-1]).strip()


@every_notebook
def test_the_first_cells(path: Path) -> None:
    first, second = build.read(path)["cells"][:2]
    assert build.source_of(first) == build.FIRST
    assert second["cell_type"] == "markdown"
    text = build.source_of(second)
    assert re.match(rf"# {number(path)} ", text) and re.search(r"\d+ minutes", text)
    for part in ("**You will do**", "**You will learn**", "**You need**"):
        assert part in text, part


@every_notebook
def test_it_was_executed_and_names_no_machine(path: Path) -> None:
    blank = path.parent == FOLDER
    for cell in code_cells(build.read(path)):
        cleared = blank and build.is_exercise(cell)
        assert (cell["execution_count"] is None) == cleared, build.source_of(cell)
        assert not (cleared and cell["outputs"])
        for output in cell["outputs"]:
            assert output["output_type"] != "error", output
            assert output.get("name") != "stderr", output
            assert not MACHINE.search(str({**output, "data": {**output.get("data", {}), "image/png": ""}})), output


@every_notebook
def test_pictures_are_described(path: Path) -> None:
    for cell in build.read(path)["cells"]:
        for output in cell.get("outputs", []):
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    assert len(output["metadata"].get(kind, {}).get("alt", "")) > 20, build.source_of(cell)
            page = "".join(output.get("data", {}).get("text/html", ""))
            for frames in re.findall(r'data-frames="([^"]*)"', page):
                assert all(len(alt) > 20 for _, alt in json.loads(html.unescape(frames))), build.source_of(cell)
            for tag in re.findall(r"<img[^>]*>", page):
                assert len(re.search(r'alt="([^"]*)"', tag)[1]) > 20, build.source_of(cell)
        if cell["cell_type"] == "markdown":
            text = build.source_of(cell)
            assert not re.search(r"!\[\s*\]\(", text) and all("alt=" in tag for tag in re.findall(r"<img[^>]*>", text))


@every_solution
def test_every_exercise_is_checked_right_after_it(path: Path) -> None:
    exercises = import_module(f"cks_numba.tutorial.lesson_{number(path)}").EXERCISES
    cells = build.read(path)["cells"]
    checked = []
    for cell, after in zip(cells, cells[1:], strict=False):
        if build.is_exercise(cell):
            checked += re.findall(r'^check\("(\d\d[a-z]?\.\d+)", \w+\)$', build.source_of(after), re.MULTILINE)
            assert ": right." in outputs_of(after), build.source_of(after)
    assert checked == list(exercises)


@every_solution
def test_no_solution_is_left(path: Path) -> None:
    text = (FOLDER / path.name).read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in text and "END SOLUTION" not in text and ": right." not in text
    count = sum(build.is_exercise(cell) for cell in code_cells(build.read(path)))
    assert text.count("# your code here") == text.count("is still open") == count


@every_notebook
def test_links_lead_to_files(path: Path) -> None:
    texts = [build.source_of(cell) for cell in build.read(path)["cells"] if cell["cell_type"] == "markdown"]
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(texts)):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.split("#")[0]).exists(), target


# --- predictions ------------------------------------------------------------------------------------
PREDICT = re.compile(r'^predict\("(\w+\.\w+)", (.+)\)$')
BEHIND = re.compile(r'^with behind\("(\w+\.\w+)"\):$', re.MULTILINE)
ASKED = re.compile(r"\*\*[^*]*\b(?:[Pp]redict|[Gg]uess)")
WORDS = dict(enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2))


def predictions_of(path: Path) -> dict:
    return getattr(import_module(f"cks_numba.tutorial.lesson_{number(path)}"), "PREDICTIONS", {})


PREDICTING = [path for path in SOLUTIONS if predictions_of(path)]
with_predictions = pytest.mark.parametrize("path", PREDICTING, ids=lambda path: path.stem)


def predicted(notebook) -> dict:
    """Return, by the name of each prediction, its cell and the cell right after it."""
    cells = notebook["cells"]
    pairs = zip(cells, cells[1:], strict=False)
    return {found[1]: (cell, after) for cell, after in pairs if (found := PREDICT.match(build.source_of(cell)))}


def folded(output) -> bool:
    return "".join(output.get("data", {}).get("text/html", "")).startswith("<details><summary")


@with_predictions
def test_every_question_is_followed_by_its_prediction_and_that_by_what_is_behind_it(path: Path) -> None:
    notebook = build.read(path)
    cells = notebook["cells"]
    assert list(predicted(notebook)) == list(predictions_of(path))
    for name, (_, after) in predicted(notebook).items():
        assert BEHIND.findall(build.source_of(after)) == [name]
    asked = [
        k for k, cell in enumerate(cells) if cell["cell_type"] == "markdown" and ASKED.search(build.source_of(cell))
    ]
    assert len(asked) == len(predicted(notebook))
    assert all(PREDICT.match(build.source_of(cells[k + 1])) for k in asked)


@with_predictions
def test_a_solution_predicts_rightly_and_has_no_fold(path: Path) -> None:
    notebook = build.read(path)
    for name, (cell, after) in predicted(notebook).items():
        assert outputs_of(cell).startswith(f"Prediction {name}: right. "), outputs_of(cell)
        assert after["outputs"] and not any(map(folded, after["outputs"]))


@with_predictions
def test_a_learner_finds_every_answer_folded(path: Path) -> None:
    notebook = build.read(FOLDER / path.name)
    assert list(predicted(notebook)) == list(predictions_of(path))
    for name, (cell, _) in predicted(notebook).items():
        assert build.source_of(cell) == f'predict("{name}", ...)'
        assert outputs_of(cell).startswith(f"Prediction {name}: replace the ... by your guess, ")
    for cell in code_cells(notebook):
        if BEHIND.search(build.source_of(cell)):
            assert [folded(output) for output in cell["outputs"]] == [True], build.source_of(cell)


def said_openly(notebook, name: str) -> list[str]:
    """Return what a learner reads from a prediction to the next heading outside of the fold, texts in code included."""
    cells = notebook["cells"]
    start = next(k for k, cell in enumerate(cells) if name in BEHIND.findall(build.source_of(cell)))
    strings = [
        node.value for node in ast.walk(ast.parse(build.source_of(cells[start]))) if isinstance(node, ast.Constant)
    ]
    texts = [text for text in strings if isinstance(text, str)]
    for cell in cells[start + 1 :]:
        if cell["cell_type"] == "markdown":
            texts.append(re.split(r"^#", build.source_of(cell), flags=re.MULTILINE)[0])
            if build.source_of(cell) != texts[-1]:
                break
    return texts


def forms(one) -> set[str]:
    """Return how an answer is written in a text."""
    if not isinstance(one, Number):
        return {str(one.right)}
    digits = ("g", ".1f", ".2f") + ((".0f",) if one.right >= 10 else ())
    return {f"{one.right:{form}}" for form in digits} | ({WORDS[one.right]} if one.right in WORDS else set())


@with_predictions
def test_no_answer_is_said_outside_of_its_fold(path: Path) -> None:
    notebook = build.read(FOLDER / path.name)
    for name, one in predictions_of(path).items():
        texts = [text for text in said_openly(notebook, name) if text not in getattr(one, "choices", ())]
        assert texts
        for form in forms(one):
            word = re.compile(rf"(?<![\w.]){re.escape(form)}(?![\w.]*\w)", re.IGNORECASE)
            assert not any(map(word.search, texts)), f"{name}: {form}"


def test_an_answer_that_is_said_is_noticed() -> None:
    """The result of lesson 02's first prediction, once in a text below it and once in the code."""
    notebook = build.read(FOLDER / next(path.name for path in PREDICTING if path.name.startswith("02")))
    cell, after = (
        next(k for k, cell in enumerate(notebook["cells"]) if cell["id"] == name) for name in ("02-06", "02-07")
    )
    notebook["cells"][cell]["source"] = ['with behind("02.a"):\n', '    print("44 in code")']
    notebook["cells"][after]["source"] = ["It is **44**, as you see.\n", "\n", "## 44 below a heading"]
    said = said_openly(notebook, "02.a")
    assert (
        "44 in code" in said and "It is **44**, as you see.\n\n" in said and not any("below" in text for text in said)
    )
