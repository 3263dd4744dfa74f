"""Kernels compiled ahead of time: a bundle of machine code, and a launcher that needs no compiler.

``python -m shotstream_rt.kernels.aot build --out DIR`` compiles every kernel for every architecture
without a GPU; ``SHOTSTREAM_KERNELS=DIR`` runs them.
"""
