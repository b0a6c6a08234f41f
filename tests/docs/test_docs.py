"""The documents: examples run, and links, commands and named files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import cks_numba
from cks_numba.commands import parse
from cks_numba.models.found import THRESHOLD

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "figures" / "README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def local_links(text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def commands(text: str) -> list[list[str]]:
    """Return the words of every cks-numba line in the indented blocks, without comments."""
    lines = re.findall(r"^    cks-numba (.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def needs(block: str) -> str:
    """Return the optional package that a block imports, or an empty text."""
    found = re.search(r"^(?:import|from) (?:cks_numba\.)?(torch|dask|jax)\b", block, flags=re.MULTILINE)
    return found.group(1) if found else ""


def run_blocks(package: str = "") -> list[str]:
    """Run the blocks that need a package, in order, in one namespace, as if a reader typed them one after the other."""
    blocks = [block for block in code_blocks(README) if needs(block) == package]
    names: dict[str, object] = {"cks_numba": cks_numba} if package else {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, block {number + 1} of {package or 'those for all'}", "exec"), names)
    return blocks


def test_readme_examples_run_in_order(capsys) -> None:
    blocks = run_blocks()
    assert len(blocks) >= 5
    printed = capsys.readouterr().out
    assert "conv2d_weight: " in printed and "useful multiply-adds" in printed
    for name in ("conv2d(", "conv2d_input(", "conv2d_weight(", "conv_transpose2d("):
        assert any(f"cks_numba.{name}" in block for block in blocks), name


@pytest.mark.torch
def test_readme_examples_of_pytorch(capsys) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
    assert run_blocks("torch")
    assert "swapping 1 of 2 layers" in capsys.readouterr().out


@pytest.mark.dask
def test_readme_examples_of_dask(capsys) -> None:
    """The text repeats what the example prints."""
    pytest.importorskip("dask.array", reason="dask is not installed (pip install cks-numba[dask])")
    assert run_blocks("dask")
    printed = capsys.readouterr().out.split()
    assert printed[:2] == ["1000", "workers"] and " ".join(printed) + "." in " ".join(README.split())


@pytest.mark.jax
def test_readme_examples_of_jax() -> None:
    pytest.importorskip("jax", reason="JAX is not installed (pip install jax)")
    assert run_blocks("jax")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    for target in local_links(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_readme_has_links_to_check() -> None:
    links = local_links(README)
    assert "figures/zeros.png" in links and "LICENSE" in links and len(links) >= 10


def test_commands_of_the_documents_are_understood() -> None:
    assert {words[0] for words in commands(README)} == {
        *("demo", "info", "verify", "plan", "explain", "flops", "bench", "report", "sass")
    }
    for words in (words for document in DOCUMENTS for words in commands(document.read_text(encoding="utf-8"))):
        assert parse(words).command == words[0]


def test_readme_states_the_threshold() -> None:
    assert f"at least {THRESHOLD:g} times the useful multiply-adds" in README


def test_make_targets_of_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    used = {name for path in DOCUMENTS for name in re.findall(r"(?:^    |`)make (\w+)", path.read_text(), re.MULTILINE)}
    assert {"demo", "test", "lint", "figures"} <= used
    for name in used:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_the_page_about_kernels_quotes_the_kernels():
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "cks_numba" / "kernels").rglob("*.py"))
    quoted = [line.strip() for block in re.findall(r"```python\n(.*?)```", page, re.S) for line in block.splitlines()]
    assert len(quoted) > 10
    assert [line for line in quoted if line not in sources] == []
    assert all((ROOT / "docs" / link).resolve().exists() for link in re.findall(r"\]\((\.\./[^)]+)\)", page))
