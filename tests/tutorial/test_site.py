"""The course as web pages: complete, without anything fetched from elsewhere, and without broken links."""

from __future__ import annotations

import importlib.util
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import cks_numba

for package in ("nbconvert", "pdoc"):
    pytest.importorskip(package, reason=f"{package} is not installed (pip install cks-numba[tutorials])")

ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """The links, ids, sources and tag names of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.without_alt = 0
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        self.without_alt += tag == "img" and not found.get("alt", "").strip()


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_of_the_course", ROOT / "tutorials" / "site.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("course") / "site"
    script().build(made)
    return made


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[Path, Page]:
    """Return the pages of the course, without those of pdoc in api/, whose search needs a script."""
    return {path: Page(path) for path in folder.rglob("*.html") if folder / "api" not in path.parents}


def test_every_notebook_and_every_figure_is_there(folder: Path, pages: dict[Path, Page]) -> None:
    names = {path.stem for path in (ROOT / "tutorials").glob("*.ipynb")}
    assert len(names) >= 9
    lessons = {folder / part / f"{name}.html" for part in ("", "solutions") for name in names}
    assert set(pages) == {*lessons, folder / "index.html"}
    figures = {f"figures/{path.name}" for kind in ("png", "gif") for path in (ROOT / "figures").glob(f"*.{kind}")}
    assert set(pages[folder / "index.html"].sources) == figures


def test_the_index_says_how_long_each_lesson_takes_as_the_map_does(folder: Path) -> None:
    """The index reads the minutes at the top of each notebook; the table at the end of 00 was typed by hand."""
    text = (folder / "index.html").read_text("utf-8")
    stated = dict(re.findall(r'href="(\w+)\.html">[^<]*</a> · (\d+) minutes', text))
    start = (folder / "00_start_here.html").read_text("utf-8")
    mapped = dict(re.findall(r"<tr>\s*<td>(?:<[^>]*>)*(\d\d[a-z]?_\w+).*?<td>(\d+)</td>\s*</tr>", start, re.DOTALL))
    assert len(stated) >= 9 and stated == mapped


def test_a_page_begins_with_its_title(folder: Path) -> None:
    for path in folder.glob("0*.html"):
        text = path.read_text("utf-8")
        assert text.index("<h1") < text.index("COLAB_RELEASE_TAG") < text.index("<h2"), path


def test_every_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    checked = 0
    for path, page in pages.items():
        for link in page.links + page.sources:
            to = urlsplit(link)
            if to.scheme in ("https", "data"):
                continue
            assert not to.scheme, f"{path}: {link}"
            target = Path(os.path.normpath(path.parent / unquote(to.path))) if to.path else path
            assert target.is_file(), f"{path}: {link}"
            assert target not in pages or not to.fragment or unquote(to.fragment) in pages[target].ids, (
                f"{path}: {link}"
            )
            checked += 1
    assert checked > 100


def test_nothing_is_fetched_and_every_picture_is_described(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert not page.tags & {"script", "link", "iframe"}, path
        assert not [source for source in page.sources if urlsplit(source).scheme not in ("", "data")], path
        assert page.without_alt == 0, path


def test_every_public_name_has_its_reference(folder: Path) -> None:
    page = Page(folder / "api" / "cks_numba.html")
    functions = {"conv2d", "conv2d_input", "conv2d_weight", "conv_transpose2d", "ConvShape", "plan"}
    assert functions <= set(cks_numba.__all__) and functions <= page.ids
    for name in ("flops", "kernels", "steps", "trace", "plots", "tutorial"):
        assert (folder / "api" / "cks_numba" / f"{name}.html").is_file()
    assert not [source for source in page.sources if urlsplit(source).scheme not in ("", "data")]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SystemExit, match="folder must be new"):
        script().build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_site_is_made_anew(tmp_path: Path) -> None:
    module = script()
    module.build(tmp_path / "site")
    (tmp_path / "site" / "old.html").write_text("from a lesson that is gone")
    module.build(tmp_path / "site")
    assert not (tmp_path / "site" / "old.html").exists() and (tmp_path / "site" / "index.html").is_file()
