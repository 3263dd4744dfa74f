"""Compute kernels of the runtime: torch twins now and always, compiled kernels beside them.

Imports torch (and, inside the files that need it, triton), nothing else of the project. Reach it as
``shotstream_rt.kernels``.
"""
