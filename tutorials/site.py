"""The course as web pages that need no server and no network: a page for each notebook, and an index with all figures.

Nothing is executed: the outputs are those committed with the notebooks. pdoc makes the reference of the public
functions, in ``api/``, from their docstrings.

Usage: ``python tutorials/site.py [FOLDER]``, or ``make site``; FOLDER is ``site`` by default, and is replaced.
"""

from __future__ import annotations

import argparse
import re
import shutil
import warnings
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import nbformat
import pdoc
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from cks_numba.models.page import STYLE

COURSE = Path(__file__).resolve().parent
FIGURES = COURSE.parent / "figures"
PUBLIC = ("", ".plots", ".tutorial", ".torch", ".dask")  # modules in api/; the last two only if installed
MARK = "cks-numba site"  # marks every index, so that only a site is ever deleted

LAYOUT = """
a { color: #00568c; }
h1 { font-size: 1.75rem; } h2 { font-size: 1.375rem; } h3 { font-size: 1.125rem; margin: 1.5rem 0 .5rem; }
h1 .anchor-link, h2 .anchor-link, h3 .anchor-link { display: none; }
.prompt { display: none; }
.cell { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
pre { margin: 0; padding: .6rem .8rem; overflow-x: auto; font: .8125rem/1.45 ui-monospace, monospace; }
.rendered_html pre { font-size: 1rem; }
.rendered_html pre code { font-size: inherit; }
.input_area pre { background: #f6f6f2; border-left: 4px solid #0072b2; }
.output_stream pre, .output_text pre { background: none; }
.output_stream pre.said { white-space: pre-wrap; overflow-wrap: break-word; }
.output_html { overflow-x: auto; }
.rendered_html p, .rendered_html li { max-width: 45rem; }
.rendered_html table { display: block; overflow-x: auto; }
.rendered_html td, .rendered_html th { white-space: normal; vertical-align: top; padding: .35rem .6rem; }
.rendered_html table { font-size: 1rem; }
code { font-family: ui-monospace, monospace; font-size: .875em; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding: .6rem 0; }
nav a { padding: .5rem 0; }
nav.top { border-bottom: 1px solid var(--line); } nav.end { border-top: 1px solid var(--line); }
.course { padding-left: 0; list-style: none; } .course li { margin: 0 0 1.25rem; max-width: 45rem; }
.course a:first-child { font-weight: 700; font-size: 1.1rem; }
figure { margin: 1.5rem 0 2.5rem; max-width: 48rem; } figcaption { margin-top: .5rem; max-width: 45rem; }
"""


class Lesson(NamedTuple):
    """A notebook: its file name without .ipynb, its title, what the reader will do, and how many minutes it takes."""

    name: str
    title: str
    task: str
    minutes: int


def markdown(notebook: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def lesson(path: Path) -> Lesson:
    text = markdown(nbformat.read(path, as_version=4))
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    task = re.search(r"^\*\*You will do\*\* (.+?)\n\n", text, re.MULTILINE | re.DOTALL)
    minutes = re.search(r"(\d+) minutes", text)
    if not title or not task or not minutes:
        raise ValueError(f"{path.name} must have a title, its minutes, and **You will do**")
    return Lesson(path.stem, title[1], "You will do " + " ".join(task[1].replace("`", "").split()), int(minutes[1]))


def pictures() -> list[tuple[str, str]]:
    """Return file name and caption of each figure, from the table in figures/README.md."""
    found = []
    for row in re.findall(r"^\| (\[.+?) \| (.+?) \|", (FIGURES / "README.md").read_text("utf-8"), re.MULTILINE):
        for name in re.findall(r"\((\w+\.(?:png|gif))\)", row[0]):
            caption = re.sub(r"[`]|\]\(.*?\)|\[", "", row[1])
            found.append((name, caption[0].upper() + caption[1:] + "."))
    return found


def page(title: str, body: str) -> str:
    """Return a complete page that contains its style."""
    code = HtmlFormatter(style="default").get_style_defs(".highlight").replace("background: #f8f8f8;", "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{code}{LAYOUT}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def links(html: str) -> str:
    """Turn links to notebooks into links to pages; a file that is not in the site is only named."""
    html = re.sub(r'(href="[^":]+)\.ipynb(["#])', r"\1.html\2", html)
    return re.sub(r'<a href="\.\./(?!figures/)[^":]*">(.*?)</a>', r"\1", html, flags=re.DOTALL)


def sentences(html: str) -> str:
    """Let printed sentences wrap; printed tables and code scroll instead."""
    return re.sub(r"<pre>(?=\s*(?:Exercise \d|Prediction \d|Kernels run))", '<pre class="said">', html)


def content(path: Path) -> str:
    """Return a notebook as HTML, with its title above the set-up cell, which matters only where it runs."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[:2] = notebook.cells[1::-1]
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return sentences(links(body))


def navigation(lessons: list[Lesson], k: int, folder: str, kind: str) -> str:
    """Return the links of lesson k, in the folder of the lessons or in that of the solutions."""
    up = "../" if folder else ""
    steps = [(f"{up}index.html", "The course")]
    if k > 0:
        steps.append((f"{lessons[k - 1].name}.html", f"← {lessons[k - 1].title}"))
    if k + 1 < len(lessons):
        steps.append((f"{lessons[k + 1].name}.html", f"{lessons[k + 1].title} →"))
    name = lessons[k].name
    steps.append((f"../{name}.html", "Without solutions") if folder else (f"solutions/{name}.html", "With solutions"))
    return f'<nav class="{kind}">' + "".join(f'<a href="{to}">{escape(text)}</a>' for to, text in steps) + "</nav>"


def index(lessons: list[Lesson]) -> str:
    """Return the first page: the lessons, then all figures."""
    items = "".join(
        f'<li><a href="{at.name}.html">{escape(at.title)}</a> · {at.minutes} minutes<br>{escape(at.task)}<br>'
        f'<a href="solutions/{at.name}.html">With solutions</a></li>\n'
        for at in lessons
    )
    figures = "".join(
        f'<figure id="{Path(name).stem}"><a href="figures/{name}"><img src="figures/{name}" alt="{escape(caption)}" '
        f'loading="lazy"></a><figcaption>{escape(caption)}</figcaption></figure>\n'
        for name, caption in pictures()
    )
    return page(
        "cks_numba: the course",
        f"<!-- {MARK} -->\n<h1>Convolution without multiplying an added zero</h1>\n"
        "<p>Padding and strides put zeros between and around the elements of a layer, and the usual way of computing "
        "it multiplies them. This course takes you from the one equation behind the three operators of a "
        "convolutional layer to CUDA kernels in Python that do not. You need NumPy, and no GPU.</p>\n"
        "<p>These pages are for reading. To run the notebooks, and to have your answers checked: "
        "<code>make learn</code>. What every function takes and returns is in the "
        '<a href="api/cks_numba.html">reference</a>.</p>\n'
        '<p>The <a href="00_start_here.html#How-much-time-do-you-have?">syllabus</a> says what to do in 20 minutes, in '
        "two hours, or in a day.</p>\n"
        f'<h2>Lessons</h2>\n<ol class="course">\n{items}</ol>\n'
        f"<h2>Figures</h2>\n{figures}",
    )


def reference(folder: Path) -> None:
    """Write the reference from the docstrings of the public modules."""
    modules = [f"cks_numba{name}" for name in PUBLIC if name not in PUBLIC[3:] or find_spec(name[1:])]
    pdoc.render.configure(docformat="numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pdoc warns about types that exist only for type checkers
        pdoc.pdoc(*modules, output_directory=folder)


def build(folder: Path) -> list[Path]:
    """Write the site, and return its pages; any other folder is left alone."""
    if folder.exists() and any(folder.iterdir()):
        at = folder / "index.html"
        if not at.is_file() or MARK not in at.read_text("utf-8"):
            raise SystemExit(f"folder must be new, empty, or a site made before, got {folder}")
        shutil.rmtree(folder)
    notebooks = sorted(COURSE.glob("*.ipynb"))
    lessons = [lesson(path) for path in notebooks]
    (folder / "solutions").mkdir(parents=True)
    (folder / "figures").mkdir()
    for name, _ in pictures():
        shutil.copy(FIGURES / name, folder / "figures" / name)
    pages = [folder / "index.html"]
    pages[0].write_text(index(lessons), "utf-8")
    for part in ("", "solutions"):
        for k, path in enumerate(notebooks):
            top, end = (navigation(lessons, k, part, kind) for kind in ("top", "end"))
            pages.append(folder / part / f"{path.stem}.html")
            pages[-1].write_text(page(lessons[k].title, f"{top}\n{content(COURSE / part / path.name)}\n{end}"), "utf-8")
    reference(folder / "api")
    return pages


def main() -> None:
    arguments = argparse.ArgumentParser(description="Make web pages of the course.")
    arguments.add_argument("folder", nargs="?", type=Path, default=Path("site"), help="where to; site by default")
    pages = build(arguments.parse_args().folder)
    print(f"{len(pages)} pages; begin with {pages[0]}")


if __name__ == "__main__":
    main()
