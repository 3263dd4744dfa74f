"""Measures what the runtime does and writes records that others can compare.

Run as ``python -m shotstream_rt.bench``; the micro-benchmarks of single kernels are in ``bench/``
of the repository and write the same record.
"""
