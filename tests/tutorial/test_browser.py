"""The course in a browser, as a reader sees it: JupyterLab by menu and keyboard, and the web pages."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (pip install cks-numba[tutorials])")
pytest.importorskip("selenium", reason="selenium is not installed (pip install cks-numba[browser])")
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
    pytest.mark.filterwarnings("default"),  # selenium warns
]

COURSE = Path(__file__).resolve().parents[2] / "tutorials"
TOKEN = "of-a-test"
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,1600",
)  # fmt: skip
RUN_MENU = "//div[contains(@class, 'lm-MenuBar-itemLabel') and text()='Run']"
RUN_ALL = "//div[contains(@class, 'lm-Menu-itemLabel') and text()='Run All Cells']"
PAIRS = """return [...document.querySelectorAll("div[style*='display: flex']:has(+ details)")].map(pair => [
    new Set([...pair.children].map(column => column.getBoundingClientRect().top)).size == 1,
    [...pair.querySelectorAll("pre")].every(text => text.scrollWidth <= text.clientWidth)])"""
SECONDS = 240  # longest time for a notebook, on a slow machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Start a JupyterLab on a copy of the course; yield its address and the folder."""
    folder = tmp_path_factory.mktemp("course")
    for path in COURSE.glob("*.ipynb"):
        notebook = json.loads(path.read_text("utf-8"))
        for cell in notebook["cells"]:  # outputs that the file has later come from this test
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
        (folder / path.name).write_text(json.dumps(notebook), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", "--no-browser", "--allow-root",
        "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}",
    ]  # fmt: skip
    with open(folder / "server.log", "w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "MPLBACKEND": ""})
    try:
        for _ in range(120):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert running.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree", folder
    finally:
        running.terminate()
        running.wait(30)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.save_screenshot(str(tmp_path / "end.png"))
    driver.quit()


def run_all_cells(browser: Any, server: tuple[str, Path], name: str) -> None:
    """Open a notebook, choose Run > Run All Cells, and save until every code cell in the file has run without error.

    JupyterLab shows "idle" even before it has a kernel, and would ask for one; its server knows when it is connected.
    """
    address, folder = server
    browser.get(f"{address}/{name}.ipynb?token={TOKEN}&reset")
    WebDriverWait(browser, 90).until(lambda at: at.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell"))
    sessions = address.replace("/lab/tree", f"/api/sessions?token={TOKEN}")

    def connected(at: Any) -> bool:
        with urlopen(sessions) as answer:
            return any(one["path"] == f"{name}.ipynb" and one["kernel"]["connections"] for one in json.load(answer))

    WebDriverWait(browser, 90).until(connected)
    WebDriverWait(browser, 60).until(
        lambda at: at.find_elements(By.CSS_SELECTOR, ".jp-Notebook-ExecutionIndicator[data-status='idle']")
    )
    browser.find_element(By.XPATH, RUN_MENU).click()
    WebDriverWait(browser, 20).until(lambda at: at.find_elements(By.XPATH, RUN_ALL))[0].click()

    def finished(at: Any) -> bool:
        ActionChains(at).key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()
        time.sleep(1)
        cells = [cell for cell in read(folder / f"{name}.ipynb")["cells"] if cell["cell_type"] == "code"]
        errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        assert not errors, errors[0]["evalue"]
        return all(cell["execution_count"] for cell in cells)

    WebDriverWait(browser, SECONDS).until(finished)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


SLIDERS = "div[data-frames] input[type=range]"
SHOWN = """const box = arguments[0].closest('[data-frames]'), image = box.querySelector('img');
    return [image.src, image.alt, arguments[0].nextElementSibling.value, arguments[0].getAttribute('aria-valuetext')]"""


def move(browser: Any, handle: Any, key: str) -> list[list[str]]:
    """Press a key on a slider; return picture, its text, and the value twice, before and after."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    before = browser.execute_script(SHOWN, handle)
    handle.send_keys(key)
    return [before, browser.execute_script(SHOWN, handle)]


def test_a_guess_opens_the_answer_and_a_slider_changes_its_picture(browser: Any, server: tuple[str, Path]) -> None:
    """The folds of 00 are closed; a slider follows the keys; after a guess the next cell has no fold."""
    run_all_cells(browser, server, "00_start_here")
    folds = browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea details")
    assert len(folds) == 3 and not any(fold.get_attribute("open") for fold in folds)
    handle = browser.find_elements(By.CSS_SELECTOR, SLIDERS)[0]
    before, after = move(browser, handle, Keys.ARROW_RIGHT)
    assert before[2:] == ["conv2d"] * 2 and after[2:] == ["conv2d_input"] * 2
    assert after[0] != before[0] and before[1].startswith("conv2d, ") and after[1].startswith("conv2d_input, ")

    path = server[1] / "00_start_here.ipynb"
    notebook = read(path)
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace('predict("00.a", ...)', 'predict("00.a", 50)')
    path.write_text(json.dumps(notebook), "utf-8")
    run_all_cells(browser, server, "00_start_here")
    texts = [text.text for text in browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea pre")]
    assert any(text.startswith("Prediction 00.a: no. Only the outputs along the border") for text in texts)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea details")) == 2


def test_a_lesson_runs_through_the_menu(browser: Any, server: tuple[str, Path]) -> None:
    size = {"width": 1280, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    run_all_cells(browser, server, "04_sk_dilated")
    assert browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea img")
    pairs = browser.execute_script(PAIRS)
    assert len(pairs) == 2 and all(beside and whole for beside, whole in pairs), "two sources fit beside each other"


def look_right(browser: Any, folder: Path) -> None:
    """An equation is as large as text, a heading larger than those below it, and a table's head above its columns."""
    size = "return parseFloat(getComputedStyle(document.querySelector(arguments[0])).fontSize)"
    left = """return ['th', 'td'].map(tag => [...document.querySelectorAll(`.rendered_html ${tag}`)].slice(0, 3)
        .map(at => at.getBoundingClientRect().left + parseFloat(getComputedStyle(at).paddingLeft)))"""
    browser.get((folder / "01_one_equation.html").as_uri())
    h1, h2, h3, p, equation, table = (
        browser.execute_script(size, f"{tag}") for tag in ("h1", "h2", "h3", "p", ".rendered_html pre code", "td")
    )
    assert h1 > h2 > h3 > p == equation == table
    head, row = browser.execute_script(left)
    assert head == row and len(head) > 1


def sliders_work(browser: Any, folder: Path) -> None:
    """Every slider of every page changes its picture, and that alone; keys reach the reason for a size that is none."""
    moved = 0
    for page in folder.glob("0*.html"):
        browser.get(page.as_uri())
        for fold in browser.find_elements(By.CSS_SELECTOR, "details"):
            browser.execute_script("arguments[0].open = true", fold)
        for handle in browser.find_elements(By.CSS_SELECTOR, SLIDERS):
            before, after = move(browser, handle, Keys.ARROW_RIGHT)
            assert all(old != new for old, new in zip(before, after, strict=True)), (page.name, before[1], after[1])
            assert move(browser, handle, Keys.HOME)[1] == before
            moved += 1
        if page.name.startswith("04_"):
            assert move(browser, handle, Keys.END)[1][1].startswith("There is no picture for parts 20000: ")
    assert moved >= 9


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_window(browser: Any, tmp_path: Path, width: int) -> None:
    folder = tmp_path / "site"
    subprocess.run([sys.executable, COURSE / "site.py", folder], check=True, stdout=subprocess.DEVNULL)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    pages = [*folder.glob("*.html"), *(folder / "solutions").glob("*.html"), folder / "api" / "cks_numba.html"]
    assert len(pages) > 18
    for page in pages:
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page.name
        assert not browser.execute_script("return [...document.images].filter(at => at.width > innerWidth).length")
    look_right(browser, folder)
    sliders_work(browser, folder)
    pairs = []
    for page in folder.glob("0*.html"):
        browser.get(page.as_uri())
        pairs += browser.execute_script(PAIRS)
    assert len(pairs) >= 5
    for beside, whole in pairs:
        assert beside == (width > 1000), "two sources stand beside each other where there is room"
        assert whole or width < 1000, "a source is cut"
