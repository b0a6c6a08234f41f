"""Files that run elsewhere, compared with the repository: steps, workflows, issue forms, citation, coverage."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import cks_numba
from cks_numba.commands import parse

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash") or "bash"
STEPS = sorted(path.name for path in (ROOT / ".ci" / "steps").iterdir())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
KNOWN = (  # patterns of the commands that a workflow may run
    r"bash \.ci/steps/(?P<step>\w+)",
    r"make (?P<target>\w+)",
    r"python -m pip install --editable \.\[(?P<extra>\w+)\]",
    r"python -m pytest -n auto @(?P<tests>\S+)",
)


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def commands(job: dict[str, Any]) -> list[str]:
    """Return the commands of a job, one for each entry of its matrix."""
    runs = [step["run"] for step in job["steps"] if "run" in step]
    for name, values in job.get("strategy", {}).get("matrix", {}).items():
        place = f"${{{{ matrix.{name} }}}}"
        runs = [run.replace(place, value) for run in runs for value in (values if place in run else [""])]
    return runs


def called() -> dict[str, set[str]]:
    """Return the names that the workflows use, by kind: steps, targets of make, extras, lists of tests."""
    found: dict[str, set[str]] = {"step": set(), "target": set(), "extra": set(), "tests": set()}
    for path in WORKFLOWS:
        for job in loaded(path)["jobs"].values():
            for command in commands(job):
                matches = [match for form in KNOWN if (match := re.fullmatch(form, command))]
                assert len(matches) == 1, f"{path.name}: {command}"
                ((kind, name),) = matches[0].groupdict().items()
                found[kind].add(name)
    return found


def test_workflows_call_every_step_and_nothing_that_does_not_exist() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "nightly.yml"]
    names, makefile = called(), (ROOT / "Makefile").read_text("utf-8")
    assert names["step"] == set(STEPS) and len(STEPS) > 10
    assert names["target"] and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in names["target"])
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    assert names["extra"] and all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in names["extra"])
    assert names["tests"] and all((ROOT / name).is_file() for name in names["tests"])


def test_the_pythons_of_the_workflow_begin_with_the_oldest_allowed() -> None:
    (oldest,) = re.findall(r'^requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    versions = loaded(WORKFLOWS[0])["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions == [f"3.{minor}" for minor in range(int(oldest.split(".")[1]), 15)]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_runs_alone(name: str) -> None:
    """The file is read here, not run: it must load lib.sh and say what it does."""
    assert re.fullmatch(r"\d\d_[a-z_]+", name)
    lines = (ROOT / ".ci" / "steps" / name).read_text("utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and lines[1].startswith("# ") and lines[1].endswith(".")
    assert lines[2] == '. "$(dirname "$0")/../lib.sh"'
    assert any(line.startswith("step ") for line in lines)


def test_core_tests_exist() -> None:
    names = (ROOT / ".ci" / "core_tests").read_text("utf-8").split()
    assert len(names) == len(set(names)) >= 4 and all((ROOT / name).exists() for name in names)


def test_one_case_in_so_many_runs_and_every_test_does() -> None:
    """Of the chosen cases: conv2d_weight is never the first case of a test."""

    def cases(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/geometry", *options]
        command += ["-k", "conv2d_weight or same_keeps"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if "::" in line]

    whole, some = cases(), cases("--one-in", "4")
    assert {case.partition("[")[0] for case in some} == {case.partition("[")[0] for case in whole}
    assert set(some) < set(whole) and len(whole) - len(some) > 10


def test_the_core_of_the_coverage_exists() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (core,) = re.findall(r"^\[tool\.coverage\.report\]\ninclude = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    patterns = re.findall(r'"(\S+)"', core)
    assert len(patterns) > 10
    assert [pattern for pattern in patterns if not list(ROOT.glob(pattern))] == []


def test_commands_of_the_issue_forms_are_understood() -> None:
    texts = "\n".join(path.read_text("utf-8") for path in FORMS)
    found = re.findall(r"^ +cks-numba (.*)$|`cks-numba (.*?)`", texts, re.MULTILINE)
    words = [shlex.split(block or inline) for block, inline in found]
    assert {first for first, *_ in words} == {"bench", "info"}
    for line in words:
        assert parse(line).command == line[0]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_github_asks_for(path: Path) -> None:
    form = loaded(path)
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "body", "labels"}
    fields = [part for part in form["body"] if part["type"] == "textarea"]
    assert all(part["attributes"]["value"] for part in form["body"] if part["type"] == "markdown")
    assert {part["type"] for part in form["body"]} <= {"markdown", "textarea"} and fields
    assert len({part["id"] for part in fields}) == len(fields) and all(part["attributes"]["label"] for part in fields)


def test_the_citation_is_of_this_version() -> None:
    citation = loaded(ROOT / "CITATION.cff")
    assert citation["version"] == cks_numba.__version__
    released = re.findall(rf"^## {re.escape(citation['version'])} - (\S+)$", changelog(), re.MULTILINE)
    assert released == [str(citation["date-released"])]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Zhang", "Xu", "Wang"]
    assert paper["doi"].endswith("arXiv.2306.15951") and paper["url"].endswith("/2306.15951")


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_container_makes_targets_of_the_makefile() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    make, *stamps = container["postCreateCommand"].split()
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    extras = [stamp.removeprefix(".venv/.") for stamp in stamps]
    assert make == "make" and extras and all(re.search(rf"^{name} = \[", pyproject, re.M) for name in extras)


def test_hooks_before_a_commit_run_what_is_here() -> None:
    (repository,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "notebooks"}
    command = [sys.executable, *shlex.split(hooks["notebooks"]["entry"])[1:]]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 0


def test_the_pass_on_a_gpu(tmp_path: Path) -> None:
    """Programs that stand in for those of a GPU: parts come in order, one may fail, what has passed is left out."""
    programs = {
        "nvidia-smi": "echo a GPU",
        "ncu": "echo profile",
        "compute-sanitizer": 'exec "${@:5}"',
        "python": 'echo "$@"; case "$*" in *every_tile*) exit 9;; esac',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    places = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GPU_OUT": str(tmp_path / "out")}

    def gpu(*parts: str, path: str = places["PATH"]) -> tuple[int, list[str]]:
        environment = {**os.environ, **places, "PATH": path, "PYTHON": str(tmp_path / "python")}
        done = subprocess.run([BASH, ".ci/gpu", *parts], cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()

    (tmp_path / "no GPU").mkdir()
    (tmp_path / "no GPU" / "dirname").symlink_to(shutil.which("dirname") or "dirname")
    assert gpu(path=str(tmp_path / "no GPU")) == (
        1, ["nvidia-smi was not found: this needs an NVIDIA GPU and its driver"]
    )  # fmt: skip
    assert gpu("racing") == (2, ["there is no part racing"])
    code, lines = gpu()
    assert code == 1 and [line.split()[:2] for line in lines[:-1]] == [
        ["info", "passed"], ["tests", "passed"], ["races", "FAILED"], ["bench", "passed"], ["profile", "passed"]
    ]  # fmt: skip
    assert "-m gpu" in (tmp_path / "out" / "tests.txt").read_text("utf-8")
    code, lines = gpu("info", "races")
    assert code == 1 and lines[0].startswith("info passed before") and "races    FAILED (9)" in lines[1]
