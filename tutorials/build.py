"""Make the course from tutorials/solutions/: execute the solutions, then make and execute the learner's notebooks.

A notebook in solutions/ is complete. In an exercise, the solution is between the lines ``### BEGIN SOLUTION`` and
``### END SOLUTION``; the learner's notebook has ``...  # your code here`` in its place, and ``predict("02.a", ...)`` in
place of ``predict("02.a", 44)``.

Usage: ``python tutorials/build.py [--check] [NAME ...]``, such as ``python tutorials/build.py 01_one_equation``; all
notebooks by default. With ``--check`` nothing is executed or written: notebooks that differ from what this script
writes are named.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION$", re.MULTILINE | re.DOTALL)
BLANK = r"\1...  # your code here"
GUESS = re.compile(r'^(predict\("[^"]+", ).+\)$', re.MULTILINE)
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FIRST = """\
import os

if "COLAB_RELEASE_TAG" in os.environ:
    %pip install --quiet cks-numba
from cks_numba.tutorial import setup

setup()"""  # first cell of every notebook; setup() must run before numba is imported
TIMEOUT = 300  # longest time for one cell, in seconds
WORDS_A_MINUTE, LINES_A_MINUTE, MINUTES_AN_EXERCISE, LINES_WRITTEN_A_MINUTE = 150, 20, 3, 2
MOST_MINUTES = 40  # a notebook that takes longer is to be split

Notebook = dict[str, Any]


def solutions() -> list[Path]:
    """Return all notebooks with solutions, in the order of the course."""
    return sorted((FOLDER / "solutions").glob("*.ipynb"))


def read(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


def text_of(notebook: Notebook) -> str:
    """Return the text of a notebook's file in one fixed form, so that a change gives a small diff."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def source_of(cell: Notebook) -> str:
    return "".join(cell["source"])


def minutes(notebook: Notebook) -> float:
    """Estimate the minutes that a notebook with solutions takes a reader, from its words, lines and exercises.

    An exercise takes the same time to think for all. Where a kernel is to be written, each line of its solution counts,
    too: it has to be found, typed and mended, and takes ten times as long as a line that is only read.
    """
    texts = [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    codes = [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    words = sum(len(text.split()) for text in texts)
    lines = sum(_lines(SOLUTION.sub("", code)) for code in codes)
    written = sum(_lines(found[0]) - 2 for code in codes if "@cuda.jit" in code for found in SOLUTION.finditer(code))
    exercises = sum(map(is_exercise, notebook["cells"]))
    reading = words / WORDS_A_MINUTE + lines / LINES_A_MINUTE
    return reading + exercises * MINUTES_AN_EXERCISE + written / LINES_WRITTEN_A_MINUTE


def _lines(code: str) -> int:
    """Count the lines that are not empty."""
    return sum(bool(line.strip()) for line in code.splitlines())


def is_exercise(cell: Notebook) -> bool:
    return cell["cell_type"] == "code" and ("### BEGIN SOLUTION" in source_of(cell) or BLANK[2:] in source_of(cell))


def without_outputs(notebook: Notebook) -> Notebook:
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return notebook


def learner(solution: Notebook) -> Notebook:
    """Return the notebook without solutions and without outputs, for the folder above: its links have one ../ less."""
    notebook = without_outputs(solution)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = GUESS.sub(r"\1...)", SOLUTION.sub(BLANK, source_of(cell))).splitlines(keepends=True)
        else:
            cell["source"] = source_of(cell).replace("](../../", "](../").splitlines(keepends=True)
    return notebook


def execute(notebook: Notebook) -> Notebook:
    """Run all cells in a new kernel, with the environment of a reader who has set no variable."""
    import nbformat
    from nbclient import NotebookClient

    live = nbformat.reads(json.dumps(notebook), as_version=4)
    settings = {**os.environ, "MPLBACKEND": "agg"}
    settings.pop("NUMBA_ENABLE_CUDASIM", None)
    where = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(live, timeout=TIMEOUT, kernel_name="python3", resources=where, coalesce_streams=True)
    client.execute(env=settings)
    nbformat.validate(live)
    return json.loads(nbformat.writes(live))


def tidy(notebook: Notebook, clear_exercises: bool) -> Notebook:
    """Drop what changes from run to run (times, versions) and, for the learner, outputs of exercises."""
    notebook = copy.deepcopy(notebook)
    notebook.update(metadata=copy.deepcopy(METADATA), nbformat=4, nbformat_minor=5)
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        cell["source"] = source_of(cell).splitlines(keepends=True)
        if clear_exercises and is_exercise(cell):
            cell.update(outputs=[], execution_count=None)
    return notebook


def make(path: Path) -> None:
    """Execute a notebook with solutions, make the learner's notebook from it, and write both."""
    start = time.perf_counter()
    solution = tidy(execute(read(path)), clear_exercises=False)
    path.write_text(text_of(solution), encoding="utf-8")
    middle = time.perf_counter()
    blank = tidy(execute(learner(solution)), clear_exercises=True)
    (FOLDER / path.name).write_text(text_of(blank), encoding="utf-8")
    print(f"{path.stem:<28} {middle - start:5.1f} s, learner's {time.perf_counter() - middle:5.1f} s", flush=True)


def faults(path: Path) -> list[str]:
    """Describe what is wrong with the form of a notebook or of the learner's; outputs may be of another run."""
    both = {path: read(path), FOLDER / path.name: read(FOLDER / path.name)}
    found = [
        f"{file}: not in the one form, run make tutorials"
        for file, notebook in both.items()
        if file.read_text(encoding="utf-8") != text_of(tidy(notebook, clear_exercises=file.parent == FOLDER))
    ]
    if without_outputs(both[FOLDER / path.name]) != learner(both[path]):
        found.append(f"{FOLDER / path.name}: not made from {path}, run make tutorials")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute the course and make the learner's notebooks.")
    parser.add_argument("names", nargs="*", help="notebooks without .ipynb; all by default")
    parser.add_argument("--check", action="store_true", help="only name the notebooks that have another form")
    arguments = parser.parse_args()
    known = {path.stem: path for path in solutions()}
    for name in arguments.names:
        if name not in known:
            raise SystemExit(f"name must be one of {', '.join(known)}, got {name!r}")
    paths = [known[name] for name in arguments.names or known]
    if arguments.check:
        raise SystemExit("\n".join(fault for path in paths for fault in faults(path)) or None)
    for path in paths:
        make(path)


if __name__ == "__main__":
    main()
