"""Fast CPU forms of the kernels that need one; their twins are in ``kernels/reference``."""
