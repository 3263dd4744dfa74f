"""Triton and Gluon kernels, one file per kernel, named like its twin in ``reference``."""
