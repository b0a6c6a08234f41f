"""What is not collected: looking for doctests imports a module, and these need an optional package."""

from importlib.util import find_spec

TRAIN = [f"cks_numba/train/{name}.py" for name in ("checkpoint", "architectures", "run")]
OPTIONAL = {"torch": ["cks_numba/torch.py", *TRAIN], "dask": ["cks_numba/dask.py"]}
collect_ignore = [path for package, paths in OPTIONAL.items() if find_spec(package) is None for path in paths]
