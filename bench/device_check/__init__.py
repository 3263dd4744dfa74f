"""What ``bench/gpu_check.py`` runs on a machine with a GPU, and how it keeps what came of it.

Nothing here imports torch or the package: until ``build`` has passed, there is none to import.
"""
