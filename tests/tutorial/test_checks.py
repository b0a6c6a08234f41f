"""The checks of the course: every right answer is taken, every wrong one is told its cause; hints and progress."""

from __future__ import annotations

import json
import re
import time
from importlib import import_module
from pathlib import Path

import answers
import numpy as np
import pytest
from numba import cuda, float32

from cks_numba import ConvShape, conv2d_input, conv2d_weight, flops, geometry
from cks_numba.flops import networks
from cks_numba.kernels.jit import outputs_of_tap, taps_of_output
from cks_numba.trace.machine import Machine
from cks_numba.tutorial import check, checking, hint, progress, small_kernels, solved

SOLUTIONS = Path(__file__).resolve().parents[2] / "tutorials" / "solutions"
NAMES = {  # names that earlier cells of a notebook define
    "np": np,
    "cuda": cuda,
    "float32": float32,
    "multiply": small_kernels.multiply,
    "TILE": small_kernels.TILE,
    "ConvShape": ConvShape,
    "flops": flops,
    "geometry": geometry,
    "networks": networks,
    "conv2d_input": conv2d_input,
    "conv2d_weight": conv2d_weight,
    "outputs_of_tap": outputs_of_tap,
    "taps_of_output": taps_of_output,
    "small_y": np.zeros((4, 4)),
    "right": np.pad(np.zeros((3, 3)), ((1, 0), (1, 0)), constant_values=1),
}
FILES = sorted(path.stem for path in (Path(__file__).parent / "answers").glob("lesson_*.py"))
for file in FILES:
    import_module(f"answers.{file}")
EXERCISES = [name for lesson in checking.LESSONS for name in checking.import_module(
    f"cks_numba.tutorial.lesson_{lesson}").EXERCISES]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(solved, "cache_folder", lambda: tmp_path / "kept")
    monkeypatch.setattr(checking, "_given", {})


def lines(capsys, exercise, answer) -> list[str]:
    check(exercise, answer)
    return capsys.readouterr().out.splitlines()


def called(answer) -> str:
    return getattr(getattr(answer, "py_func", answer), "__name__", "value")


def listed(found):
    """Parameters of a test, with names that are the same in every process."""
    return [
        pytest.param(name, *one, id=f"{name}-{number}-{called(one[0])}")
        for name, many in found
        for number, one in enumerate(many)
    ]


@pytest.mark.parametrize(("exercise", "answer"), listed([(n, [(a,) for a in m]) for n, m in answers.RIGHT.items()]))
def test_a_right_answer_is_taken(exercise, answer, capsys):
    assert lines(capsys, exercise, answer)[0].startswith(f"Exercise {exercise}: right. ")


@pytest.mark.parametrize(("exercise", "answer", "words"), listed(answers.WRONG.items()))
def test_a_wrong_answer_is_told_its_cause(exercise, answer, words, capsys):
    start = time.perf_counter()
    printed = lines(capsys, exercise, answer)
    text = " ".join(" ".join(printed).split())
    assert text.startswith(f"Exercise {exercise}: not yet. ")
    for word in words:
        assert word in text, "\n".join(printed)
    assert len(printed) <= (7 if "results are wrong" in text else 14) and max(map(len, printed)) <= 140
    assert time.perf_counter() - start < 30


LOOKED_AT = ["01b.1", "01b.2", "01b.3", "01b.4", "01b.5", "02.4", "03.4", "04.4", "04b.3", "04c.1", "05.4", "06.4"]
LOOKED_AT += ["06b.4", "08.4"]


@pytest.mark.parametrize("exercise", LOOKED_AT)
def test_a_kernel_whose_source_cannot_be_followed_is_not_praised(exercise, capsys, monkeypatch):
    monkeypatch.setattr(Machine, "launch", lambda *_: 1 / 0)
    text = " ".join(lines(capsys, exercise, answers.RIGHT[exercise][0]))
    assert "not yet." in text and "right. But this exercise looks at what your source does, and cannot follow" in text


@pytest.mark.parametrize("exercise", [name for name in EXERCISES if f"lesson_{name.split('.')[0]}" in FILES])
def test_there_are_enough_answers(exercise):
    assert len(answers.WRONG[exercise]) >= 8 and len(answers.RIGHT[exercise]) >= 3


@pytest.mark.parametrize("exercise", EXERCISES)
def test_dots_are_open_and_nothing_else_is(exercise, capsys):
    assert "is still open" in lines(capsys, exercise, ...)[0]
    for nothing in (None, NotImplemented, -1.5, "text", [], object(), lambda *_: 1 / 0, lambda: 0, lambda *_: None):
        printed = lines(capsys, exercise, nothing)
        assert f"Exercise {exercise}: not yet. " in printed[0] and "still open" not in " ".join(printed)


def test_dots_in_a_function_or_kernel_are_open(capsys):
    def meets(i, taps, outputs, stride, padding):
        pairs = []  # noqa: F841
        ...  # your code here

    @cuda.jit
    def deconv1d(dy, w, dx, stride, padding):
        i = cuda.grid(1)  # noqa: F841
        ...  # your code here

    @cuda.jit
    def written(dy, w, dx, stride, padding):
        i = cuda.grid(1)
        ...  # your code here
        if i < dx.size:
            dx[i] = 0

    @cuda.jit
    def empty(dy, w, dx, stride, padding):
        pass

    assert "is still open" in lines(capsys, "03.2", meets)[0]
    assert "is still open" in lines(capsys, "03.4", deconv1d)[0]
    assert "wrong" in " ".join(lines(capsys, "03.4", written))
    assert "never written" in " ".join(lines(capsys, "03.4", empty))


@pytest.mark.parametrize("name", ["1.1", "77.1", "00.99", "03"])
@pytest.mark.parametrize("function", [lambda name: check(name, 1), hint])
def test_unknown_exercises(name, function):
    with pytest.raises(ValueError, match="exercise must be"):
        function(name)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_three_hints_one_a_call(exercise, capsys):
    for number in (1, 2, 3, 3):
        hint(exercise)
        assert capsys.readouterr().out.startswith(f"Hint {number} of 3 for {exercise}: ")


def test_progress_is_kept(capsys, folder, tmp_path):
    progress()
    assert capsys.readouterr().out.startswith(f"0 of {len(EXERCISES)} solved\n  open: 00.1, 00.2\n")
    check("03.3", 1)
    check("03.1", 1)
    check("03.3", 2)  # it was solved once
    capsys.readouterr()
    progress()
    printed = capsys.readouterr().out
    assert printed.startswith(f"1 of {len(EXERCISES)} solved") and "  open: 03.1, 03.2, 03.4\n" in printed
    assert json.loads((tmp_path / "kept" / solved.NAME).read_text()) == ["03.3"]


@pytest.mark.parametrize("text", ["", "{", "{}", "3", '["03.3", 4]'])
def test_a_damaged_file_is_no_obstacle(text, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / solved.NAME).write_text(text)
    solved.add("03.1")
    assert "03.1" in solved.read() and solved.read() <= {"03.1", "03.3"}


def test_a_folder_that_cannot_be_made_is_no_obstacle(tmp_path, capsys):
    (tmp_path / "kept").write_text("a file, where the folder should be")
    check("03.3", 1)
    assert ": right." in capsys.readouterr().out and solved.read() == set()


@pytest.mark.parametrize("path", sorted(SOLUTIONS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_solutions_are_right(path, capsys, tmp_path):
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    for answer, checked in zip(sources, sources[1:], strict=False):
        if found := re.match(r'check\("([\w.]+)", (\w+)\)', checked):
            file, names = tmp_path / f"{found[1]}.py", dict(NAMES)
            file.write_text(answer, encoding="utf-8")  # so that its source can be read
            exec(compile(answer, str(file), "exec"), names)
            assert ": right." in lines(capsys, found[1], names[found[2]])[0]
