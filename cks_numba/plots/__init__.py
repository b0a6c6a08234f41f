"""Drawings of where the zeros are, made from the plan, the step-by-step versions and the traced kernels.

Nothing here derives geometry.
"""

from __future__ import annotations

from ..steps.stages import INSERTED, PADDED, REAL
from .animation import animate
from .cells import (
    BLUE,
    INK,
    NAMES,
    RED,
    STYLES,
    canvas,
    draw_cells,
    draw_letters,
    frame,
    legend_of_kinds,
    legend_of_marks,
    mark,
    single,
    write,
    zero_maps,
)
from .counts import BOTH, KINDS, draw_bars, draw_shares, share
from .explore import explore_figure
from .groups import draw_groups, draw_product, draw_windows, group_map, row_map, window_map
from .phases import draw_sub_filters, phase_maps, sub_filters
from .photograph import photograph
from .products import draw_heat, draw_products, products, waste_map
from .triples import draw_triples, triple_map
from .volumes import axes_figure, draw_volume, window_kinds

__all__ = [
    "BLUE",
    "BOTH",
    "INK",
    "INSERTED",
    "KINDS",
    "NAMES",
    "PADDED",
    "REAL",
    "RED",
    "STYLES",
    "animate",
    "axes_figure",
    "canvas",
    "draw_bars",
    "draw_cells",
    "draw_groups",
    "draw_heat",
    "draw_letters",
    "draw_product",
    "draw_products",
    "draw_shares",
    "draw_sub_filters",
    "draw_triples",
    "draw_volume",
    "draw_windows",
    "explore_figure",
    "frame",
    "group_map",
    "legend_of_kinds",
    "legend_of_marks",
    "mark",
    "phase_maps",
    "photograph",
    "products",
    "row_map",
    "share",
    "single",
    "sub_filters",
    "triple_map",
    "waste_map",
    "window_kinds",
    "window_map",
    "write",
    "zero_maps",
]
