"""Timing of the CPU backend, of the kernels on a GPU, and of a cluster: ``cks-numba bench``.

==========  =====================================================================
`cpu`       the CPU backend against PyTorch, the regular way and BLAS
`axes`      layers of one axis and of three against PyTorch, on a CPU
`peers`     the CPU backend against PyTorch, ONNX Runtime, OpenVINO and JAX
`ablation`  the special paths of the CPU backend, each with and without it
`gpu`       the rungs on a GPU against cuDNN, and what a call costs in Python
`emulator`  what the emulator takes to compile and to run a kernel
`cluster`   one and two local workers of dask
`calls`     what tiny calls and the first call cost on the CPU
`timing`    rounds in which contenders take turns
`results`   rows, CSV, bars, and the table of speed in docs/cpu.md
==========  =====================================================================
"""
