"""The small model inside the package: its codec and its text encoder."""
