"""Scores of models on held-out stories: the detectors, the metrics and the context gate."""
