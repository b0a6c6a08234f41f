"""What the zeros of a model cost, layer by layer, as text."""

from __future__ import annotations

from ..flops import PASSES, Count
from ..flops.text import layer_sizes
from .found import THRESHOLD, Found

BAR = 14
"""Characters of the bar of the largest layer."""
STEPS = ((1e9, "G "), (1e6, "M "), (1e3, "k "), (1, ""))


def text(rows: list[Found], threshold: float = THRESHOLD) -> str:
    """Return a table with a line for each layer, and the sums below.

    Parameters
    ----------
    rows : list of Found
    threshold : float
        Factor from which `convert` swaps.

    Returns
    -------
    str

    Examples
    --------
    >>> from cks_numba import ConvShape
    >>> from cks_numba.flops.networks import Layer
    >>> from cks_numba.models.found import found
    >>> layer = Layer("down", ConvShape(n=1, ih=8, iw=8, ic=4, oc=4, fh=3, fw=3, stride=2, padding=1))
    >>> print(text([found("down", "Conv2d", [layer])]).splitlines()[-1])
    swapping 1 of 1 layers saves 12.8 of 18.6 k multiply-adds of a training step (69%)
    """
    cells = [("layer", "kind", " " * 12, " " * 11), *((row.name, row.kind, *sizes(row)) for row in rows)]
    name, kind, input, filters = (max(map(len, column)) for column in zip(*cells, strict=True))
    most = max((row.total.regular for row in rows), default=0) or 1
    lines = [
        f"Multiply-adds by an added zero, of the regular ones; factor: regular over useful in {step(rows)}.",
        f"Bar: multiply-adds of {step(rows)}, # useful and . by zeros.",
        "",
        f"{'layer':<{name}}  {'kind':<{kind}}  {'input':<{input}} {'filter':<{filters}}  fwd   bwd  factor  "
        f"{'bar':<{BAR}}  convert",
    ]
    lines += [_line(row, threshold, (name, kind, input, filters), most).rstrip() for row in rows]
    return "\n".join([*lines, "", sentence(rows, threshold)])


def _line(row: Found, threshold: float, widths: tuple[int, int, int, int], most: int) -> str:
    name, kind, input, filters = widths
    read, taps = sizes(row)
    head = f"{row.name:<{name}}  {row.kind:<{kind}}  {read:<{input}} {taps:<{filters}}"
    if not row.counts:
        return f"{head}  {'':>3}   {'':>3}  {'':>6}  {'':<{BAR}}  {row.why(threshold)}"
    cells = f"{percent(row.of('forward')):>4}  {percent(row.of(*PASSES[1:])):>4}  {row.total.saved:>6.2f}"
    return f"{head} {cells}  {_bar(row, most):<{BAR}}  {row.why(threshold)}"


def _bar(row: Found, most: int) -> str:
    length = max(1, round(BAR * row.total.regular / most))
    useful = round(length * row.total.share("useful"))
    return "#" * useful + "." * (length - useful)


def percent(count: Count) -> str:
    """Share of the multiply-adds that meets an added zero, in percent; empty if there are none."""
    return f"{100 * count.share('redundant'):.0f}%" if count.regular else ""


def sizes(row: Found) -> tuple[str, str]:
    """Input map and filter of the first use, as in ``cks-numba flops``."""
    return layer_sizes(row.counts[0]) if row.counts else ("", "")


def step(rows: list[Found]) -> str:
    """What is counted: "a training step", or "a forward pass" if nothing has a gradient."""
    counted = [row for row in rows if row.counts]
    gradients = any(row.of(*PASSES[1:]).regular for row in counted)
    return "a training step" if gradients or not counted else "a forward pass"


def sentence(rows: list[Found], threshold: float = THRESHOLD) -> str:
    """Return what swapping would save, and how many layers are not counted, in one line."""
    regular = sum(row.total.regular for row in rows)
    saved = sum(row.total.redundant for row in rows if row.swaps(threshold))
    swapped = sum(row.swaps(threshold) for row in rows)
    scale, unit = next((found for found in STEPS if regular >= found[0]), STEPS[-1])
    missing = sum(not row.counts for row in rows)
    return (
        f"swapping {swapped} of {len(rows)} layers saves {saved / scale:.1f} of {regular / scale:.1f} {unit}"
        f"multiply-adds of {step(rows)} ({saved / regular if regular else 0:.0%})"
        + (f"; {missing} {'is' if missing == 1 else 'are'} not counted" if missing else "")
    )
