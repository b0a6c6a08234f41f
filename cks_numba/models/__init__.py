"""The convolutions of any model: their sizes, their zeros, and where skipping pays.

`pytorch.of_torch` reads a PyTorch model and `onnx.of_onnx` a file; both give a list of `found.Found`, which `text` and
`page` show and ``cks_numba.torch.convert`` follows.
"""
