"""Files that are not collected: pytest would import them to look for doctests, and they need an optional package."""

from importlib.util import find_spec

TRAIN = [f"cks_numba/train/{name}.py" for name in ("checkpoint", "architectures", "run")]
OPTIONAL = {"torch": ["cks_numba/torch", *TRAIN], "dask": ["cks_numba/dask.py"], "jax": ["cks_numba/jax.py"]}
collect_ignore = [path for package, paths in OPTIONAL.items() if find_spec(package) is None for path in paths]
