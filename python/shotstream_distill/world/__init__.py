"""The drawn world: stories, captions and pictures with known truth, functions of a seed."""
