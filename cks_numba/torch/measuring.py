"""Layers and whole models timed both ways, with torch's layers and with ours, on the CPU.

The contenders take turns: a round has a burst of calls of each, after a pause and an untimed call. Before each call all
threads of torch do some work, as they do between the convolutions of a model. A pass is the forward pass, and the
gradients that a training step needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS, CALLS = 5, 3
"""Rounds of a comparison, and most timed calls of a burst."""
LONG = 0.1
"""Seconds after which a burst has no more calls, so that a large network does not take minutes."""
PAUSE = 0.002
"""Seconds of the pause at the start of a burst."""
BETWEEN = 200_000
"""Numbers that torch's threads work on before each call."""

Input = tuple[tuple[Any, ...], dict[str, Any]]


def milliseconds(calls: Mapping[Any, Callable[[], Any]]) -> dict[Any, float]:
    """Return the median time of each call.

    Examples
    --------
    >>> found = milliseconds({"short": lambda: time.sleep(0.0001), "long": lambda: time.sleep(0.02)})
    >>> found["short"] < found["long"]
    True
    """
    found: dict[Any, list[float]] = {key: [] for key in calls}
    between = torch.ones(BETWEEN)
    for _ in range(ROUNDS):
        for key, call in calls.items():
            time.sleep(PAUSE)
            call()
            start = time.perf_counter()
            for k in range(CALLS):
                if k and time.perf_counter() - start > LONG:
                    break
                between.relu()
                begin = time.perf_counter()
                call()
                found[key].append(1e3 * (time.perf_counter() - begin))
    return {key: median(times) for key, times in found.items()}


def pass_of(model: nn.Module, given: Input, train: bool, by_input: bool = False) -> Callable[[], Any]:
    """Return a function that runs a model: forward, and with `train` backward too. Nothing is added to ``.grad``.

    Parameters
    ----------
    model : torch.nn.Module
        Its hooks do not run if it is a layer.
    given : (tuple, dict)
        Positional arguments, and those by keyword.
    train : bool
        Whether the gradients of all parameters are computed that require one.
    by_input : bool
        With `train`, the gradient of the first argument too.
    """
    arguments, keywords = given
    if train and by_input:
        arguments = (arguments[0].detach().requires_grad_(), *arguments[1:])
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad] if train else []
    wanted += arguments[:1] if train and by_input else []

    def run() -> None:
        with nullcontext() if wanted else torch.no_grad():
            y = model(*arguments, **keywords)
        reached = [result for result in _tensors(y) if result.requires_grad] if wanted else []
        if reached:
            torch.autograd.grad(reached, wanted, [torch.ones_like(result) for result in reached], allow_unused=True)

    return run


def _tensors(results: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(results, Tensor):
        return [results]
    if isinstance(results, Mapping):
        results = tuple(results.values())
    return [tensor for part in results for tensor in _tensors(part)] if isinstance(results, (tuple, list)) else []
