"""TAEHV's tiny decoder of Wan latents."""
