"""umT5, the text encoder of the released checkpoint."""
