"""The Wan 2.1 video VAE."""
