"""The commands of ``python -m shotstream_distill``, by subject."""
