"""Models that the stand-in hub has."""

from __future__ import annotations

SF = "gdhe17/Self-Forcing"
SF_FILE = "checkpoints/self_forcing_dmd.pt"
BASE_FILES = {
    "Wan2.1_VAE.pth": b"v" * 3000, "models_t5_umt5-xxl-enc-bf16.pth": b"t" * 5000,
    "google/umt5-xxl/tokenizer.json": b"{}", "google/umt5-xxl/spiece.model": b"s" * 2000,
    "config.json": b"{}", "README.md": b"words", "diffusion_pytorch_model.safetensors": b"w" * 9000,
}  # fmt: skip
