"""Video files and pictures."""
