"""Answers to the exercises of 00_start_here."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from cks_numba import ConvShape, flops

from . import right, wrong

# --- 00.1: products by a padded zero ---
right("00.1", 5, 3 + 2, np.int64(9 - 4), 5.0)
wrong("00.1", "The question is about the others", 4)
wrong("00.1", "a row of three above, and two more on the left", 3)
wrong("00.1", "it counts once", 6)
wrong("00.1", "not all of them are padding", 9)
wrong("00.1", "That is the whole border", 20)
wrong("00.1", "Count the dotted squares", 2)
wrong("00.1", "Count the dotted squares", 0)
wrong("00.1", "Count the dotted squares", 16)
wrong("00.1", "whole number", 5 / 9, "five", [5])

# --- 00.2: the share that is wasted ---
COUNT = flops.count("conv2d", ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1))
right("00.2", COUNT.share("redundant"), 5 / 9, 1 - 16 / 36, np.float32(0.5556), 0.56, Fraction(5, 9))
wrong("00.2", "That is the useful share. The wasted one", COUNT.share("useful"))
wrong("00.2", "in percent. The share itself", Fraction(500, 9), 100 * 5 / 9, 55.6, 55.56)
wrong("00.2", "That is the useful share, in percent", 44.4)
wrong("00.2", "number of wasted products. Divide by all 36", 20)
wrong("00.2", "number of useful products", 16)
wrong("00.2", "number of all products", 36)
wrong("00.2", "how many times too much is multiplied", COUNT.saved)
wrong("00.2", "a map of 4 x 4 elements", 44 / 144)
wrong("00.2", "Yours is 0.5.", 0.5)
wrong("00.2", "Yours is 0.", 0.0)
wrong("00.2", "Yours is -0.55", -5 / 9)
wrong("00.2", "A count has a method share()", COUNT, "5/9", True)
