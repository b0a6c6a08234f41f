"""The report of a model as one self-contained page: a figure and a sortable table, without access to a network."""

from __future__ import annotations

from html import escape

from .. import flops
from .found import THRESHOLD, Found
from .text import sentence, sizes, step

KINDS = {
    "useful": "useful",
    "padded": "by a padded zero",
    "inserted": "by an inserted zero",
    "both": "padded × inserted",
}
COLUMNS = (  # heading, and whether the column holds numbers
    ("Layer", False),
    ("Factor", True),
    ("Convert", False),
    ("Forward, %", True),
    ("Backward, %", True),
    ("Useful, M", True),
    ("Kind", False),
    ("Input", False),
    ("Filter", False),
)

STYLE = """
:root { color-scheme: light; --line: #d5d5d0; --ink: #1c1c1a; --soft: #5b5b57; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 75rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 45rem; }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .75rem 0; list-style: none; }
.key svg { vertical-align: -2px; margin-right: .35rem; }
.bars { list-style: none; margin: 0; padding: 0; }
.bars li { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr 4.5rem; gap: .75rem; align-items: center;
  border-bottom: 1px solid var(--line); padding: 2px 0; }
.bars span:first-child { overflow-wrap: anywhere; font-size: .875rem; line-height: 1.2; }
.bars .factor { text-align: right; font-variant-numeric: tabular-nums; }
.bars .swap { font-weight: 700; }
.missing { padding-left: 1.25rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; border: 1px solid var(--line); }
.wide:focus-visible, button:focus-visible { outline: 3px solid #0072b2; outline-offset: -3px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
thead th { background: #f2f2ee; padding: 0; }
tbody th { font-weight: 600; position: sticky; left: 0; background: #fff; max-width: 11rem; overflow-wrap: anywhere;
  white-space: normal; }
tr.swap td.verdict { font-weight: 700; }
button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; width: 100%; min-height: 2.75rem;
  padding: .35rem .6rem; text-align: inherit; cursor: pointer; white-space: nowrap; }
thead button::after { content: " \\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
footer { color: var(--soft); margin-top: 2rem; font-size: .875rem; }
@media (max-width: 40rem) { .bars li { grid-template-columns: 1fr 4.5rem; gap: 0 .5rem; }
  .bars span:first-child { grid-column: 1 / -1; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = document.querySelector("tbody"), column = head.cellIndex;
    const sorted = head.getAttribute("aria-sort"), number = head.className === "number";
    const down = sorted === null ? number : sorted === "ascending";
    const key = (row) => row.cells[column].textContent;
    const order = (a, b) => number
      ? (parseFloat(key(a)) || 0) - (parseFloat(key(b)) || 0)
      : key(a).localeCompare(key(b), undefined, { numeric: true });
    const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * order(a, b));
    document.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  });
}
"""


def page(title: str, rows: list[Found], threshold: float = THRESHOLD) -> str:
    """Return the report as a page.

    Parameters
    ----------
    title : str
    rows : list of Found
    threshold : float
        Factor from which `convert` swaps.

    Returns
    -------
    str
        HTML with its style, script and figures inside.
    """
    said, counted = sentence(rows, threshold), step(rows)
    without = " and both gradients,\nwithout those that nobody needs" if counted == "a training step" else " alone"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Zeros in {escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Zeros in {escape(title)}</h1>
<p><strong>{said[0].upper()}{said[1:]}.</strong></p>
<p>Computed the regular way, a convolution multiplies zeros that nobody put into the data: padding around a map, and
zeros inserted between elements where there is a stride. C&#8209;K&#8209;S multiplies none of them. These are counts of
multiply-adds; the gain in time is smaller, because good libraries trim padding as well.</p>
<h2>{counted[0].upper()}{counted[1:]}, layer by layer</h2>
{_patterns()}
<ul class="key">{"".join(_key(kind, words) for kind, words in KINDS.items())}</ul>
<p>The length of a bar is the work of the regular way, only its blue part is useful. On the right: regular over useful;
bold where converting pays.</p>
<ol class="bars">
{_bars(rows, threshold)}
</ol>
<h2>All layers that convolve</h2>
<p>Forward and backward: the part of the regular multiply-adds by an added zero. Press a heading to sort.</p>
<div class="wide" tabindex="0" role="region" aria-label="All layers that convolve">
<table>
<thead><tr>{"".join(_heading(*column) for column in COLUMNS)}</tr></thead>
<tbody>
{_body(rows, threshold)}
</tbody>
</table>
</div>
{_missing(rows)}<footer><p>Layers are converted from a factor of {threshold:g}. Counted: the forward pass{without}.
Made by cks-numba report.</p></footer>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _missing(rows: list[Found]) -> str:
    """What is not counted, by the reason."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if not row.counts:
            names.setdefault(row.note, []).append(row.name)
    items = (f"<li>{escape(', '.join(found))}: {escape(note)}</li>" for note, found in names.items())
    return f'<h2>Not counted</h2>\n<ul class="missing">{"".join(items)}</ul>\n' if names else ""


def _patterns() -> str:
    """Fills of the kinds in every figure of the page: a colour, and lines or dots that can be told apart without it."""
    marks = {
        "useful": ("#0072b2", ""),
        "padded": ("#dcdcd7", '<circle cx="4" cy="4" r="1.4" fill="#55554f"/>'),
        "inserted": ("#f6c98b", '<path d="M-2 2 2-2M0 8 8 0M6 10 10 6" stroke="#8a4b00" stroke-width="1.4"/>'),
        "both": ("#c9a98b", '<path d="M0 0 8 8M8 0 0 8" stroke="#5a3a1e" stroke-width="1.2"/>'),
    }
    drawn = (
        f'<pattern id="{kind}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" fill="{colour}"/>{mark}</pattern>'
        for kind, (colour, mark) in marks.items()
    )
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{"".join(drawn)}</defs></svg>'


def _key(kind: str, words: str) -> str:
    box = f'<svg width="28" height="14" aria-hidden="true"><rect width="28" height="14" fill="url(#{kind})"/></svg>'
    return f"<li>{box}{words}</li>"


def _bars(rows: list[Found], threshold: float) -> str:
    most = max((row.total.regular for row in rows), default=0)
    return "\n".join(_bar(row, most, row.swaps(threshold)) for row in rows if row.counts and most)


def _bar(row: Found, most: int, swaps: bool) -> str:
    """Draw one layer, in percent of the width, so that it is sharp and legible at any size of the window."""
    left, boxes, words = 0.0, [], []
    for kind, label in KINDS.items():
        count = getattr(row.total, kind)
        if count:
            width = 100 * count / most
            boxes.append(f'<rect x="{left:.3f}%" width="{width:.3f}%" height="18" fill="url(#{kind})"/>')
            words.append(f"{row.total.share(kind):.0%} {label}")
            left += width
    figure = f'<svg width="100%" height="18" role="img" aria-label="{", ".join(words)}">{"".join(boxes)}</svg>'
    factor = f'<span class="factor{" swap" if swaps else ""}">{row.total.saved:.2f} ×</span>'
    return f"<li><span>{escape(row.name)}</span>{figure}{factor}</li>"


def _heading(name: str, number: bool) -> str:
    return f'<th scope="col"{" class=number" if number else ""}><button type="button">{escape(name)}</button></th>'


def _body(rows: list[Found], threshold: float) -> str:
    return "\n".join(_row(row, threshold) for row in rows)


def _row(row: Found, threshold: float) -> str:
    factor, numbers = "", ["", "", ""]
    if row.counts:
        forward, backward = row.of("forward"), row.of(*flops.PASSES[1:])
        shares = (f"{100 * c.share('redundant'):.1f}" if c.regular else "" for c in (forward, backward))
        factor, numbers = f"{row.total.saved:.2f}", [*shares, f"{forward.useful / 1e6:.2f}"]
    head = f'<th scope="row">{escape(row.name)}</th><td class="number">{factor}</td>'
    verdict = f'<td class="verdict">{escape(row.why(threshold))}</td>'
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    texts = "".join(f"<td>{escape(text)}</td>" for text in (row.kind, *sizes(row)))
    mark = ' class="swap"' if row.swaps(threshold) else ""
    return f"<tr{mark}>{head}{verdict}{cells}{texts}</tr>"
