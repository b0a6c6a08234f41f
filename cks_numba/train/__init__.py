"""``python -m cks_numba.train``: train a network of real size, with our convolutions or with PyTorch's.

Read run.py first: one training, step by step. data.py reads the images, architectures.py builds the networks,
checkpoint.py writes to disk so that a killed training can continue where it stopped.

Needs ``pip install 'cks-numba[train]'``.
"""
