"""Compute kernels of the runtime: every one in plain torch, and compiled forms of it.

Imports torch (and, inside the files that need them, triton and the native core), nothing else of
the project. Reach it as ``shotstream_rt.kernels``.
"""
