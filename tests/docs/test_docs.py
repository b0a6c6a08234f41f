"""The documents: examples run, links, commands and named files exist, and numbers are up to date."""

from __future__ import annotations

import re
import runpy
import shlex
import textwrap
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import geometric_mean
from types import ModuleType

import pytest

from cks_numba import flops
from cks_numba.bench import cases, results
from cks_numba.commands import COMMANDS, parse
from cks_numba.emulator import __main__ as emulator_demo
from cks_numba.models.found import THRESHOLD

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "figures" / "README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES = 170  # largest number of lines of README
FOLDERS = ("cks_numba", "docs", "figures", "tests", "tutorials", ".ci", ".github")
PLACEHOLDER = r"NAME|NN|\bX\b"  # parts of a file name for the reader to fill in
MINUTES_APART = 5  # largest difference between the minutes that a notebook states and the estimate


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def local_links(text: str) -> list[str]:
    """Return the files that a page links to or shows."""
    targets = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'<img src="([^"]+)"', text)]
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def commands(text: str) -> list[list[str]]:
    """Return the words of every cks-numba command, in indented blocks without comments, and inside the text."""
    lines = re.findall(r"^ {4,}cks-numba (.*)$", text, flags=re.MULTILINE)
    inside = re.findall(r"`cks-numba ([a-z][^`]*)`", text)
    return [shlex.split(line, comments=True) for line in (*lines, *inside)]


def named_files(text: str) -> list[str]:
    """Return the files and folders that a page names: by a path from the top, or in backticks with an ending."""
    paths = re.findall(rf"(?<![\w/.-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*\w(?![\w*])", text)
    files = re.findall(r"`([\w./-]+\.(?:py|md|csv|toml|yml|ipynb|png|gif))`", text)
    return [name for name in (*paths, *files) if not re.search(PLACEHOLDER, name)]


def run_blocks(text: str, using: str = "") -> list[str]:
    """Run the examples of a page, or those with a certain text, in order, as a reader would type them."""
    blocks = [block for block in code_blocks(text) if using in block]
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number + 1} {using}", "exec"), names)
    return blocks


# --- examples ---------------------------------------------------------------------------------------
def test_readme_examples_run_in_order(capsys) -> None:
    blocks = run_blocks(README)
    assert len(blocks) >= 2
    printed = capsys.readouterr().out
    assert "conv2d_weight: " in printed and "useful" in printed
    for name in ("conv2d(", "conv2d_input(", "conv2d_weight(", "conv_transpose2d("):
        assert any(f"cks_numba.{name}" in block for block in blocks), name


def test_readme_shows_what_the_emulator_prints(capsys, tmp_path) -> None:
    assert emulator_demo.main(["--html", str(tmp_path / "report.html")]) == 0
    assert textwrap.indent(capsys.readouterr().out, "    ") in README
    assert "race: one thread writes element 32" in (tmp_path / "report.html").read_text("utf-8")
    assert emulator_demo.main(["--html", str(tmp_path)]) == 1  # a folder
    assert capsys.readouterr().err.startswith("python -m cks_numba.emulator: ")


def test_examples_of_the_emulator(capsys, tmp_path) -> None:
    """They are in a file, as a reader's, so that the report can quote it; the page repeats what it prints."""
    blocks = code_blocks(page("emulator"))
    example = tmp_path / "example.py"
    example.write_text("\n".join(blocks), encoding="utf-8")
    runpy.run_path(str(example))
    printed = capsys.readouterr().out
    assert len(blocks) == 2 and len(printed.splitlines()) > 10
    assert "".join(textwrap.indent(printed, "    ").split()) in "".join(page("emulator").split())


@pytest.mark.torch
def test_examples_of_pytorch(capsys) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
    assert run_blocks(page("pytorch"), "import torch")
    assert "swapping 1 of 2 layers" in capsys.readouterr().out


@pytest.mark.jax
def test_examples_of_jax() -> None:
    pytest.importorskip("jax", reason="JAX is not installed (pip install jax)")
    assert run_blocks(page("pytorch"), "import jax")


@pytest.mark.dask
def test_examples_of_dask(capsys) -> None:
    """The text repeats what the example prints."""
    pytest.importorskip("dask.array", reason="dask is not installed (pip install cks-numba[dask])")
    assert run_blocks(page("cluster"))
    printed = capsys.readouterr().out.split()
    assert printed[:2] == ["1000", "workers"] and " ".join(printed) + "." in " ".join(page("cluster").split())


def test_every_example_is_run_by_a_test() -> None:
    """The quotes in docs/kernels.md are compared with the kernels by a test below."""
    with_examples = {path.name for path in DOCUMENTS if code_blocks(path.read_text(encoding="utf-8"))}
    assert with_examples == {"README.md", "pytorch.md", "cluster.md", "kernels.md", "cpu.md", "emulator.md"}
    assert all("import torch" in block or "import jax" in block for block in code_blocks(page("pytorch")))


# --- links and commands -----------------------------------------------------------------------------
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    for target in local_links(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_named_files_exist() -> None:
    """A name may leave out the folders that are clear from the text, such as `flops/counts.py`."""
    known = [f"/{path.relative_to(ROOT).as_posix()}" for name in FOLDERS for path in (ROOT / name).rglob("*")]
    known += [f"/{path.name}" for path in ROOT.iterdir()]
    named = {(path.name, name) for path in DOCUMENTS for name in named_files(path.read_text(encoding="utf-8"))}
    named.add(("a planted name", named_files("see `steps/nowhere.py`")[0]))
    assert len(named) > 100
    assert {(place, name) for place, name in named if not any(path.endswith(f"/{name}") for path in known)} == {
        ("a planted name", "steps/nowhere.py")
    }


def test_readme_is_short_and_links_to_every_page() -> None:
    links = local_links(README)
    assert len(README.splitlines()) <= MOST_LINES
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(links)
    assert {"figures/zeros.png", "figures/conv2d.gif", "figures/conv2d_input.gif", "figures/conv2d_weight.gif"} <= set(
        links
    )


def test_commands_of_the_documents_are_understood() -> None:
    found = [words for document in DOCUMENTS for words in commands(document.read_text(encoding="utf-8"))]
    for words in found:
        assert len(words) == 1 or parse(words).command == words[0]  # a single word only names a command
    assert {words[0] for words in found} == set(COMMANDS)


def test_the_page_about_pytorch_states_the_threshold() -> None:
    assert f"at least {THRESHOLD:g} times the useful multiply-adds" in page("pytorch")


def test_make_targets_of_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    used = {name for path in DOCUMENTS for name in re.findall(r"(?:^    |`)make (\w+)", path.read_text(), re.MULTILINE)}
    assert {"demo", "test", "lint", "figures"} <= used
    for name in used:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


# --- numbers ----------------------------------------------------------------------------------------
def test_readme_states_the_share_of_zeros_that_is_counted() -> None:
    share = flops.network("resnet18", 32).total.share("redundant")
    assert f"ResNet-18 on 32x32 images, computed the regular way, **{share:.0%}** of all multiply-adds" in " ".join(
        README.split()
    )


def course() -> ModuleType:
    spec = spec_from_file_location("build_of_the_course", ROOT / "tutorials" / "build.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_states_the_minutes_of_the_notebooks_and_they_are_near_the_estimate() -> None:
    build = course()
    rows = re.findall(r"^\| \[(\d\d[a-z]?_\w+)\].* (\d+) \|$", README, re.MULTILINE)
    stated = {name: int(number) for name, number in rows}
    assert list(stated) == [path.stem for path in build.solutions()]
    for path in build.solutions():
        notebook = build.read(path)
        (said,) = re.findall(r"(\d+) minutes", build.source_of(notebook["cells"][1]))
        assert stated[path.stem] == int(said), path.stem
        assert abs(int(said) - build.minutes(notebook)) <= MINUTES_APART, f"{path.stem}: {build.minutes(notebook):.0f}"
        assert build.minutes(notebook) <= build.MOST_MINUTES, f"{path.stem} is to be split"
    rates = build.WORDS_A_MINUTE, build.LINES_A_MINUTE, build.MINUTES_AN_EXERCISE, build.LINES_WRITTEN_A_MINUTE
    assert (*rates, MINUTES_APART) == (150, 20, 3, 2, 5)


def test_the_syllabus_adds_up_the_minutes_that_the_notebooks_state() -> None:
    build = course()
    stated = {}
    for path in build.solutions():
        notebook = build.read(path)
        stated[path.name.split("_")[0]] = int(re.findall(r"(\d+) minutes", build.source_of(notebook["cells"][1]))[0])
    (text,) = (
        build.source_of(cell)
        for cell in build.read(build.solutions()[0])["cells"]
        if "## How much time do you have?" in build.source_of(cell)
    )
    rows = re.findall(r"^\| (20 minutes|two hours|a day) \| (.*?)(?:, and look .*?)? \| (\d+) \|$", text, re.MULTILINE)
    assert [time for time, _, _ in rows] == ["20 minutes", "two hours", "a day"]
    for (_, lessons, minutes), most in zip(rows, (20, 120, 480), strict=True):
        assert sum(stated[name] for name in lessons.split(", ")) == int(minutes) <= most
    assert rows[-1][1].split(", ") == list(stated)  # a day is for all of them


def test_a_kernel_takes_longer_than_an_answer_and_a_solution_is_not_read() -> None:
    build = course()
    cell = "x = 1\n### BEGIN SOLUTION\ny = 2\n\nz = 3\n### END SOLUTION"

    def minutes(source: str) -> float:
        return float(build.minutes({"cells": [{"cell_type": "code", "source": source}]}))

    assert minutes(cell) == 3 + 1 / 20
    assert minutes(f"@cuda.jit\n{cell}") == 3 + 2 / 20 + 2 / 2


def test_the_reading_order_of_readme_takes_the_minutes_that_it_says() -> None:
    _, _, after = README.partition("| minutes | read |")
    rows = re.findall(r"^\| (\d+) \|", after.partition("\n\n")[0], re.MULTILINE)
    assert len(rows) == 5 and f"## Read it in {sum(map(int, rows))} minutes" in README


def mean(found: list[results.Ratio], operator: str, what: str) -> float:
    return geometric_mean(getattr(ratio, what) for ratio in found if ratio.row.operator == operator)


def test_the_page_about_the_paper_states_what_was_counted_and_timed() -> None:
    text = page("paper")
    for name, input, words in (
        ("vgg16", 224, "VGG-16 at 224x224"),
        ("dcgan-discriminator", 64, "DCGAN's discriminator"),
    ):
        assert f"{flops.network(name, input).total.share('redundant'):.0%} of " in text and words in text
    timed = results.ratios(results.read(ROOT / "figures" / "data" / "cpu_amd_epyc_2_threads.csv"))
    peer = {
        operator: f"{mean(timed, operator, 'peer'):.2f}" for operator in ("conv2d", "conv2d_input", "conv2d_weight")
    }
    assert f"{peer['conv2d_input']} times as long for `conv2d_input`, {peer['conv2d']} for `conv2d`, " in text
    assert f"{peer['conv2d_weight']} for `conv2d_weight`" in text
    forward, gradient = ({r.row.case[1:]: r for r in timed if r.row.operator == name} for name in list(peer)[:2])
    both = forward.keys() & gradient.keys()
    rates = [geometric_mean(found[key].limit for key in both) for found in (gradient, forward)]
    assert f"over the {len(both)} layers timed both ways, {rates[0]:.2f} of the rate of BLAS" in text
    assert f"for `conv2d_input`, {rates[1]:.2f} for `conv2d`" in text
    shapes = [case.shape for case in cases.table() if case.operator == "conv2d_input"]
    saved = geometric_mean(flops.count("conv2d_input", shape).saved for shape in shapes)
    assert f"{mean(timed, 'conv2d_input', 'regular'):.2f} times the time, {saved:.2f} times the multiply-adds" in text


# --- words ------------------------------------------------------------------------------------------
def glossary() -> list[tuple[str, str]]:
    """Return the words of the glossary, each with the file where it is at home."""
    rows = re.findall(r"^\| (.+?) \| .+ \| ([\w/.\\]+\.py) \|$", page("glossary"), re.MULTILINE)
    return [(word, file.replace("\\", "")) for words, file in rows for word in words.split(", ")]


def test_words_of_the_glossary_are_at_home_where_it_says() -> None:
    words = glossary()
    rows = [line for line in page("glossary").splitlines() if line.startswith("| ") and not line.startswith("| word ")]
    assert len(words) >= len(rows) > 60
    for word, file in words:
        text = (ROOT / "cks_numba" / file).read_text(encoding="utf-8")
        assert re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE), f"{word} is not in {file}"


def test_one_word_for_one_thing() -> None:
    """Groups of channels are called channel groups, and kernels of a ladder rungs, never variants."""
    for document in DOCUMENTS:
        text = " ".join(re.sub(r"`[^`]*`", "", document.read_text(encoding="utf-8")).split())
        assert not re.search(r"\bgroups? of channels|\bvariants?\b", text), document.name


@pytest.mark.parametrize(("name", "folder", "least"), [("kernels", "kernels", 12), ("cpu", "backends/cpu", 5)])
def test_the_pages_about_kernels_quote_the_kernels(name: str, folder: str, least: int) -> None:
    text = page(name)
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "cks_numba" / folder).rglob("*.py"))
    quoted = [line.strip() for block in re.findall(r"```python\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert len(quoted) >= least
    assert [line for line in quoted if line not in sources] == []
    assert all((ROOT / "docs" / link).resolve().exists() for link in re.findall(r"\]\((\.\./[^)]+)\)", text))


def test_the_spread_of_the_timings_is_that_of_their_file() -> None:
    rows = results.read(ROOT / "figures" / "data" / "cpu_amd_epyc_2_threads.csv")
    spread = sorted(row.max_ms / row.min_ms for row in rows if row.contender == results.OURS)
    text = " ".join((ROOT / "docs" / "cpu.md").read_text(encoding="utf-8").split())
    assert f"among the {max(row.rounds for row in rows)} rounds of a case, or fewer" in text
    half, tenth = spread[len(spread) // 2], spread[9 * len(spread) // 10]
    assert f"{half:.2f} times as long as the fastest for half of our rows, and more than {tenth:.2f} times" in text
