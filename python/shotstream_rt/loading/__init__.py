"""From a model's name or folder to a loaded model."""
