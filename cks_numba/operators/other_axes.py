"""The operators of two spatial axes, with one and with three."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, Protocol

from ..arrays.packed import Packed
from ..backends import Backend
from ..buffers import LAYOUTS, ArrayT, Layout
from ..checks import Ints, Padding, Precision
from .two_axes import Operator, conv2d, conv2d_input, conv2d_weight, conv_transpose2d, over


def like(operator: Operator, axes: int, module: str, doc: str) -> Operator:
    """Return an operator of two axes, decorated by `over`, as one of `axes`.

    It is the same code, with layouts, a name, a module and a text of its own.
    """
    plain: Any = operator
    new: Any = over(axes)(plain.__wrapped__)
    new.__module__, new.__doc__ = module, doc
    new.__name__ = new.__qualname__ = plain.__name__.replace("2d", f"{axes}d")
    known = signature(plain)
    layout = known.parameters["layout"].replace(default=LAYOUTS[axes][0])
    new.__signature__ = known.replace(parameters=[*(known.parameters | {"layout": layout}).values()])
    operator_of_axes: Operator = new
    return operator_of_axes


# --- the types of the operators, whatever the number of axes ---------------------------------------
class Convolution(Protocol):
    """Takes what `conv2d` takes."""

    def __call__(
        self,
        x: ArrayT,
        w: ArrayT | Packed,
        bias: ArrayT | None = None,
        *,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        layout: Layout = ...,
        backend: Backend = "auto",
        precision: Precision = "float32",
        out: ArrayT | None = None,
        stream: Any = None,
    ) -> ArrayT:
        """Compute the result; see the operator of two axes."""


class InputGradient(Protocol):
    """Takes what `conv2d_input` takes."""

    def __call__(
        self,
        input_size: Sequence[int],
        w: ArrayT | Packed,
        dy: ArrayT,
        *,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        layout: Layout = ...,
        backend: Backend = "auto",
        precision: Precision = "float32",
        out: ArrayT | None = None,
        stream: Any = None,
    ) -> ArrayT:
        """Compute the result; see the operator of two axes."""


class WeightGradient(Protocol):
    """Takes what `conv2d_weight` takes."""

    def __call__(
        self,
        x: ArrayT,
        weight_size: Sequence[int],
        dy: ArrayT,
        *,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        layout: Layout = ...,
        backend: Backend = "auto",
        precision: Precision = "float32",
        out: ArrayT | None = None,
        stream: Any = None,
    ) -> ArrayT:
        """Compute the result; see the operator of two axes."""


class TransposedConvolution(Protocol):
    """Takes what `conv_transpose2d` takes."""

    def __call__(
        self,
        x: ArrayT,
        w: ArrayT | Packed,
        bias: ArrayT | None = None,
        *,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        layout: Layout = ...,
        backend: Backend = "auto",
        precision: Precision = "float32",
        out: ArrayT | None = None,
        stream: Any = None,
    ) -> ArrayT:
        """Compute the result; see the operator of two axes."""


# --- the operators ---------------------------------------------------------------------------------
conv1d: Convolution = like(
    conv2d,
    1,
    __name__,
    """Convolution of signals: `conv2d` with one spatial axis.

    ``y[n, ow, oc] = sum over fw, ic of x[n, ow*s - p + fw*d, ic] * w[oc, fw, ic]``

    Parameters
    ----------
    x : array (N, IW, IC), or (IW, IC) for one signal
    w : array (OC, FW, IC/groups)
    bias : array (OC,), optional
    stride, dilation : int
    padding : int, (left, right), "same" or "valid"
    layout : {"NWC", "NCW"}
        "NCW" is PyTorch's: x (N, IC, IW), w (OC, IC/groups, FW), y (N, OC, OW).
    groups, backend, precision, out, stream
        As in `conv2d`.

    Returns
    -------
    array (N, OW, OC), or (OW, OC) for one signal

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 8, 2), np.float32), np.ones((4, 3, 2), np.float32)
    >>> conv1d(x, w, padding=1, backend="cpu")[0, :, 0]
    array([4., 6., 6., 6., 6., 6., 6., 4.], dtype=float32)
    """,
)

conv3d: Convolution = like(
    conv2d,
    3,
    __name__,
    """Convolution of volumes: `conv2d` with three spatial axes, depth, rows and columns.

    ``y[n, od, oh, ow, oc]`` is the sum of ``x[n, id, ih, iw, ic] * w[oc, fd, fh, fw, ic]`` over fd, fh, fw and ic, with
    ``id = od*s - p + fd*d`` and ih and iw alike.

    Parameters
    ----------
    x : array (N, ID, IH, IW, IC), or (ID, IH, IW, IC) for one volume
    w : array (OC, FD, FH, FW, IC/groups)
    bias : array (OC,), optional
    stride, dilation : int or (int, int, int)
    padding : int, three ints, three pairs, six ints, "same" or "valid"
    layout : {"NDHWC", "NCDHW"}
        "NCDHW" is PyTorch's: x (N, IC, ID, IH, IW), w (OC, IC/groups, FD, FH, FW), y (N, OC, OD, OH, OW).
    groups, backend, precision, out, stream
        As in `conv2d`.

    Returns
    -------
    array (N, OD, OH, OW, OC), or (OD, OH, OW, OC) for one volume

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 4, 4, 4, 2)), np.ones((8, 3, 3, 3, 2))
    >>> y = conv3d(x, w, padding=1, backend="cpu")
    >>> y.shape, y[0, 0, 0, 0, 0], y[0, 1, 1, 1, 0]
    ((1, 4, 4, 4, 8), np.float64(16.0), np.float64(54.0))
    """,
)

conv1d_input: InputGradient = like(
    conv2d_input,
    1,
    __name__,
    """Gradient of `conv1d` with respect to x: `conv2d_input` with one spatial axis.

    Parameters
    ----------
    input_size : (N, IW, IC), or (IW, IC) for one signal
        Shape of x, in the order of `layout`.
    w : array (OC, FW, IC/groups)
    dy : array (N, OW, OC), or (OW, OC)
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv1d`.

    Returns
    -------
    array of shape `input_size`

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv2d_input`.

    Examples
    --------
    >>> import numpy as np
    >>> w, dy = np.ones((1, 3, 1)), np.ones((1, 3, 1))
    >>> conv1d_input((1, 6, 1), w, dy, stride=2, padding=1, backend="cpu")[0, :, 0]
    array([1., 2., 1., 2., 1., 1.])
    """,
)

conv3d_input: InputGradient = like(
    conv2d_input,
    3,
    __name__,
    """Gradient of `conv3d` with respect to x: `conv2d_input` with three spatial axes.

    Parameters
    ----------
    input_size : (N, ID, IH, IW, IC), or (ID, IH, IW, IC) for one volume
        Shape of x, in the order of `layout`.
    w : array (OC, FD, FH, FW, IC/groups)
    dy : array (N, OD, OH, OW, OC), or (OD, OH, OW, OC)
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv3d`.

    Returns
    -------
    array of shape `input_size`

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv2d_input` and `conv3d`.

    Examples
    --------
    >>> import numpy as np
    >>> w, dy = np.ones((1, 2, 2, 2, 1)), np.ones((1, 2, 2, 2, 1))
    >>> conv3d_input((1, 3, 3, 3, 1), w, dy, backend="cpu")[0, 1, :, :, 0]
    array([[2., 4., 2.],
           [4., 8., 4.],
           [2., 4., 2.]])
    """,
)

conv1d_weight: WeightGradient = like(
    conv2d_weight,
    1,
    __name__,
    """Gradient of `conv1d` with respect to w: `conv2d_weight` with one spatial axis.

    Parameters
    ----------
    x : array (N, IW, IC), or (IW, IC) for one signal
    weight_size : (OC, FW, IC/groups)
        Shape of w, in the order of `layout`.
    dy : array (N, OW, OC), or (OW, OC)
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv1d`.

    Returns
    -------
    array of shape `weight_size`

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv2d_weight`.

    Examples
    --------
    >>> import numpy as np
    >>> x, dy = np.ones((2, 4, 1)), np.ones((2, 4, 1))
    >>> conv1d_weight(x, (1, 3, 1), dy, padding=1, backend="cpu")[0, :, 0]
    array([6., 8., 6.])
    """,
)

conv3d_weight: WeightGradient = like(
    conv2d_weight,
    3,
    __name__,
    """Gradient of `conv3d` with respect to w: `conv2d_weight` with three spatial axes.

    Parameters
    ----------
    x : array (N, ID, IH, IW, IC), or (ID, IH, IW, IC) for one volume
    weight_size : (OC, FD, FH, FW, IC/groups)
        Shape of w, in the order of `layout`.
    dy : array (N, OD, OH, OW, OC), or (OD, OH, OW, OC)
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv3d`.

    Returns
    -------
    array of shape `weight_size`

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv2d_weight` and `conv3d`.

    Examples
    --------
    >>> import numpy as np
    >>> x, dy = np.ones((1, 2, 2, 2, 1)), np.ones((1, 2, 2, 2, 1))
    >>> conv3d_weight(x, (1, 3, 3, 3, 1), dy, padding=1, backend="cpu")[0, 1, :, :, 0]
    array([[2., 4., 2.],
           [4., 8., 4.],
           [2., 4., 2.]])
    """,
)

conv_transpose1d: TransposedConvolution = like(
    conv_transpose2d,
    1,
    __name__,
    """Transposed convolution of signals: `conv1d_input` with x in the place of dy, plus a bias.

    Parameters
    ----------
    x : array (N, W, IN), or (W, IN) for one signal
    w : array (IN, FW, OUT/groups)
        Layout "NCW": (IN, OUT/groups, FW), as in PyTorch.
    bias : array (OUT,), optional
    output_padding : int
        Positions added at the end; smaller than stride or dilation. They are computed, not zeros.
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv1d`.

    Returns
    -------
    array (N, OW, OUT), or (OW, OUT) for one signal
        OW = (W - 1)*stride - left - right + dilation*(FW - 1) + output_padding + 1.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 4, 3)), np.ones((3, 4, 5))
    >>> conv_transpose1d(x, w, stride=2, padding=1, backend="cpu").shape
    (1, 8, 5)
    """,
)

conv_transpose3d: TransposedConvolution = like(
    conv_transpose2d,
    3,
    __name__,
    """Transposed convolution of volumes: `conv3d_input` with x in the place of dy, plus a bias.

    Parameters
    ----------
    x : array (N, D, H, W, IN), or (D, H, W, IN) for one volume
    w : array (IN, FD, FH, FW, OUT/groups)
        Layout "NCDHW": (IN, OUT/groups, FD, FH, FW), as in PyTorch.
    bias : array (OUT,), optional
    output_padding : int or (int, int, int)
        Positions added at the end of each axis; smaller than stride or dilation. They are computed, not zeros.
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv3d`.

    Returns
    -------
    array (N, OD, OH, OW, OUT), or (OD, OH, OW, OUT) for one volume

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `conv_transpose2d` and `conv3d`.

    Examples
    --------
    A layer of a decoder with stride 2: the regular way multiplies seven of eight numbers by an inserted zero.

    >>> import numpy as np
    >>> x, w = np.ones((1, 2, 2, 2, 3)), np.ones((3, 4, 4, 4, 5))
    >>> conv_transpose3d(x, w, stride=2, padding=1, backend="cpu").shape
    (1, 4, 4, 4, 5)
    """,
)
