"""`predict` a result before you see it; what stands `behind` a prediction is folded until it was made.

A module ``lesson_NN`` has a dict ``PREDICTIONS`` by the lesson and a letter, such as "02.a".
"""

from __future__ import annotations

import html
import io
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from .answers import Wrong
from .checking import WIDTH, lesson_of
from .guesses import Prediction
from .showing import picture

PRE = "font: 80%/1.5 monospace; white-space: pre; word-break: normal; overflow-x: auto; margin: 0; padding: 0"

_made: set[str] = set()
"""Names of the predictions that were made in this session."""


def predict(name: str, guess: Any) -> None:
    """Print whether a guess is right, close, or neither, and what the likely thought behind a wrong one overlooks.

    A guess, right or wrong, opens what is `behind` the prediction. This never raises for a wrong guess.

    Parameters
    ----------
    name : str
        Lesson and letter, such as "02.a".
    guess : object
        A number or one of the choices, as the question asks; while it is ``...`` there is no guess yet.

    Raises
    ------
    ValueError
        For a prediction that does not exist.

    Examples
    --------
    >>> predict("02.b", ...)
    Prediction 02.b: replace the ... by your guess, a number, and run this cell. Then run the next one.
    """
    prediction = _prediction(name)
    if guess is ...:
        text = f"replace the ... by your guess, {prediction.asks}, and run this cell. Then run the next one."
    else:
        try:
            verdict, thought = prediction.judge(guess)
        except Wrong as wrong:
            text = str(wrong)
        else:
            _made.add(name)
            text = " ".join(filter(None, (f"{verdict}.", thought, _because(prediction))))
    print(textwrap.fill(f"Prediction {name}: {text}", WIDTH, break_long_words=False, break_on_hyphens=False))


@contextmanager
def behind(name: str) -> Iterator[None]:
    """Fold what is printed and displayed inside, unless the prediction was made in this session.

    Variables that are made inside stay. An exception is raised as usual, with what came before it unfolded.

    Parameters
    ----------
    name : str
        Lesson and letter of a prediction, such as "02.a".

    Raises
    ------
    ValueError
        For a prediction that does not exist.

    Examples
    --------
    >>> with behind("02.b"):
    ...     print("outside of a notebook nothing is folded")
    outside of a notebook nothing is folded
    """
    prediction, shell = _prediction(name), _shell()
    if shell is None or name in _made:
        yield
        return
    parts, failed = _Parts(), True
    try:
        with redirect_stdout(parts), _displayed_to(parts, shell):
            yield
            _flush_figures()
        failed = False
    finally:
        _display_fold(name, parts, "" if failed else _because(prediction), opened=failed)


class _Parts(io.TextIOBase):
    """What is printed and displayed, in order: text, or pairs of data and metadata by MIME type."""

    def __init__(self) -> None:
        self.found: list[str | tuple[dict[str, Any], dict[str, Any]]] = []

    def write(self, text: str) -> int:
        if self.found and isinstance(self.found[-1], str):
            self.found[-1] += text
        elif text:
            self.found.append(text)
        return len(text)

    def publish(self, data: dict[str, Any], metadata: dict[str, Any] | None = None, **_: Any) -> None:
        self.found.append((data, metadata or {}))


@contextmanager
def _displayed_to(parts: _Parts, shell: Any) -> Iterator[None]:
    """Take what `display` shows, in the way in which IPython's own `capture_output` does."""
    from IPython.core.displaypub import CapturingDisplayPublisher

    before, publisher = shell.display_pub, CapturingDisplayPublisher()
    publisher.publish = parts.publish  # type: ignore[assignment,method-assign]
    shell.display_pub = publisher
    try:
        yield
    finally:
        shell.display_pub = before


def _shell() -> Any:
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _flush_figures() -> None:
    """Show pyplot's open figures now; a notebook would show them at the end of the cell, outside of the fold."""
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    if inline is not None:
        inline.flush_figures()


def _display_fold(name: str, parts: _Parts, because: str, opened: bool) -> None:
    from IPython.display import display

    summary = f'Predict first: <code>predict("{name}", ...)</code> above. Open anyway'
    inside = "\n".join(map(_as_html, parts.found))
    said = f"<p>{html.escape(because, quote=False)}</p>\n" if because else ""
    page = (
        f'<details{" open" if opened else ""}><summary style="cursor: pointer; padding: 0.5em 0">{summary}</summary>\n'
        f"{inside}\n{said}</details>"
    )
    display({"text/html": page, "text/plain": f'Folded: predict("{name}", ...) first.'}, raw=True)


def _as_html(part: str | tuple[dict[str, Any], dict[str, Any]]) -> str:
    if isinstance(part, str):
        return f'<pre style="{PRE}">{html.escape(part.rstrip(), quote=False)}</pre>'
    data, metadata = part
    if "text/html" in data:
        return str(data["text/html"])
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            about = metadata.get(kind, {})
            return picture(kind, data[kind], about.get("alt") or str(data.get("text/plain", "")), about.get("width"))
    return _as_html(str(data.get("text/markdown") or data.get("text/plain", "")))


def _because(prediction: Prediction) -> str:
    return prediction.because.format(answer=prediction.right)


def _prediction(name: str) -> Prediction:
    try:
        known = getattr(lesson_of(name), "PREDICTIONS", {})
    except ModuleNotFoundError:
        known = {}
    if name not in known:
        named = f"one of {', '.join(known)}" if known else 'a lesson and a letter such as "02.a"'
        raise ValueError(f"prediction must be {named}, got {name!r}")
    found: Prediction = known[name]
    return found
