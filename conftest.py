"""What is not collected: looking for doctests imports a module, and these need an optional package."""

from importlib.util import find_spec

OPTIONAL = {"torch": "cks_numba/torch.py", "dask": "cks_numba/dask.py"}
collect_ignore = [module for package, module in OPTIONAL.items() if find_spec(package) is None]
