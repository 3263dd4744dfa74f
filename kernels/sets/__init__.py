"""Kernel sets: which implementation of every step a backend runs."""
