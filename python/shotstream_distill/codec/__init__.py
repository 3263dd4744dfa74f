"""Training of nano's codec: pictures to latents and back."""
