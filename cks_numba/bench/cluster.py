"""``cks-numba bench --dask``: the three operators on one and on two local workers, one thread each.

Both clusters run all the time, and each round, counted as in `timing`, calls both. Images and maps are on the
workers before the clock starts, and results stay there; the time includes adding up the filter gradient over all
workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ..geometry import OPERATORS, ConvShape, plan
from .timing import Probe, burst, clean_rounds

WORKERS = (1, 2)
CHUNKS = 8
IMAGES, FEW = 512, 16
LAYER = dict(ih=8, iw=8, ic=128, oc=128, fh=3, fw=3, padding=1)
"""A layer of ResNet-18 on 64x64 images."""
MANY = 1000
"""Workers of a large cluster, whose cost is counted and not measured."""
ONE_THREAD = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Start worker processes with one thread each, and yield their client."""
    from distributed import Client, LocalCluster

    options: dict[str, Any] = dict(threads_per_worker=1, processes=True, dashboard_address=":0", env=ONE_THREAD)
    options["silence_logs"] = logging.ERROR  # hides messages about workers that are slow to end
    with LocalCluster(n_workers=workers, **options) as here, Client(here, set_as_default=False) as client:
        client.wait_for_workers(workers)
        yield client


def lazy(operator: str, shape: ConvShape, operands: dict[str, Any]) -> Any:
    """Return the result of an operator on arrays that are on the workers, not computed yet."""
    from .. import dask as cd

    x, w, dy = operands["x"], operands["w"], operands["dy"]
    if operator == "conv2d":
        return cd.conv2d(x, w, padding=shape.padding, stride=shape.stride)
    if operator == "conv2d_input":
        return cd.conv2d_input(shape.x_shape, w, dy, padding=shape.padding, stride=shape.stride)
    return cd.conv2d_weight(x, shape.w_shape, dy, padding=shape.padding, stride=shape.stride)


def spread(client: Any, shape: ConvShape) -> dict[str, Any]:
    """Random x, w and dy, cut along the images and spread over the workers; the same numbers for every cluster."""
    import dask.array as da
    from distributed import wait

    rng = da.random.default_rng(0)
    cut = (shape.n // CHUNKS, -1, -1, -1)
    found = {
        name: client.persist(rng.standard_normal(size, chunks=cut, dtype=np.float32))
        for name, size in (("x", shape.x_shape), ("dy", shape.y_shape))
    }
    with client.as_current():
        wait(list(found.values()))
    return found | {"w": np.random.default_rng(0).standard_normal(shape.w_shape, dtype=np.float32)}


def compute(client: Any, result: Any, operands: dict[str, Any]) -> None:
    """Compute a result, which stays on the workers until nothing refers to it."""
    from distributed import wait

    with client.as_current():
        wait(client.persist(again(result, operands)))


def again(result: Any, operands: dict[str, Any]) -> Any:
    """Copy a result under new names, because dask does not compute again what a worker still has."""
    from dask.graph_manipulation import clone

    return clone(result, omit=[operands["x"], operands["dy"]])


def measure(shape: ConvShape, rounds: int) -> dict[str, dict[int, float]]:
    """Measure the median seconds of each operator over clean rounds, for each number of workers.

    Raises
    ------
    RuntimeError
        If a result depends on the number of workers.
    """
    with ExitStack() as stack:
        clients = {workers: stack.enter_context(cluster(workers)) for workers in WORKERS}
        operands = {workers: spread(client, shape) for workers, client in clients.items()}
        found, probe = {}, Probe(max(WORKERS))
        for operator in OPERATORS:
            results = {workers: lazy(operator, shape, operands[workers]) for workers in WORKERS}
            _same(operator, lambda workers: clients[workers].compute(results[workers].sum(axis=0)).result())  # noqa: B023
            calls = {k: partial(burst, partial(compute, clients[k], results[k], operands[k])) for k in WORKERS}
            times = clean_rounds(calls, rounds, probe)
            found[operator] = {workers: median(times[workers]) for workers in WORKERS}
    return found


def _same(operator: str, compute: Callable[[int], Any]) -> None:
    """Check that any number of workers gives the same bits; these first calls also compile."""
    first, *others = (compute(workers) for workers in WORKERS)
    if not all(np.array_equal(first, other) for other in others):
        raise RuntimeError(f"{operator}: one worker and several give other results")


def run(rounds: int, quick: bool) -> int:
    """Print how the operators scale from one worker to two, and what a large cluster would take.

    Parameters
    ----------
    rounds : int
        Most clean rounds of each operator.
    quick : bool
        Use few images, to see that it works.

    Returns
    -------
    int
        0.

    Raises
    ------
    RuntimeError
        Without dask, and if a result depends on the number of workers.
    """
    try:
        import distributed  # noqa: F401

        from .. import dask as cd
    except ImportError as error:
        raise RuntimeError(f"--dask needs dask and distributed: pip install 'cks-numba[dask]' ({error})") from None
    shape = ConvShape(n=FEW if quick else IMAGES, **LAYER)
    print(f"{shape}; {CHUNKS} chunks, one thread a worker, median of up to {rounds} clean rounds")
    print(f"{'operator':<13} {'1 worker':>20} {'2 workers':>20}   throughput")
    for operator, times in measure(shape, rounds).items():
        gflop = 2 * plan(operator, shape).useful / 1e9
        cells = " ".join(f"{1e3 * t:8.1f} ms {gflop / t:7.1f}/s" for t in times.values())
        print(f"{operator:<13} {cells}   {times[1] / times[2]:.2f} times that of one")
    print("/s: useful GFLOP a second. On paper, for a training step of this layer with as many images a chunk:")
    print(cd.cost(ConvShape(n=MANY * shape.n // CHUNKS, **LAYER), MANY))
    return 0
