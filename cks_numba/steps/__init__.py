"""The three operators step by step on the CPU: read these first.

`conv_v2`, `ks_deconv` and `sk_dilated` each do their operator twice, the regular way (add zeros,
then multiply everything) and the skipping way (never touch an added zero), and return every array
that they made on the way. `explain` prints a small case as text. `minimal` has all three operators in under a
hundred lines, and shares nothing with the other files.

Examples
--------
>>> print(explain("conv2d"))  # doctest: +ELLIPSIS
conv2d (ConvV2): y[o] = sum over f of x[o*stride - padding + f*dilation] * w[f]
...
"""

from .conv_v2 import conv_v2
from .explain import BY_OPERATOR, explain
from .ks_deconv import ks_deconv
from .sk_dilated import sk_dilated
from .stages import Stage, Steps

__all__ = ["BY_OPERATOR", "Stage", "Steps", "conv_v2", "explain", "ks_deconv", "sk_dilated"]
