"""Compiling every kernel for every architecture without a GPU, and reading the machine code."""
