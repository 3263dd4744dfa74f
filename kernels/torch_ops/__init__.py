"""Kernels made of torch's own fused calls, on any device; twins in ``kernels/reference``."""
