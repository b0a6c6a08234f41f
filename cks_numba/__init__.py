"""cks_numba: convolution, its input gradient and its filter gradient, never multiplying an added zero."""
