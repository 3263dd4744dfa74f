"""How exactly a host lets the CPU multiply float32, which is one setting for the whole process.

With ``torch.set_float32_matmul_precision("medium")``, oneDNN rounds the factors of float32 products
to bfloat16 where the processor multiplies that faster. The film would be another one (nano: some
frames off by a hundred of 255 levels). The runtime may not change the setting, which a host's own
networks are computed with, so it refuses to compute.
"""

from __future__ import annotations

import torch

from ..errors import ConfigError


def check_float_precision(device: torch.device) -> None:
    """Raise ``ConfigError`` if the host lets float32 products on a CPU be rounded."""
    if device.type != "cpu":
        return
    for part in ("matmul", "conv"):
        settings = getattr(torch.backends.mkldnn, part, None)
        if settings is None:  # torch before 2.9
            if torch.get_float32_matmul_precision() == "medium":
                raise _rounded("torch.get_float32_matmul_precision()", "medium", "high")
        elif settings.fp32_precision == "bf16":
            raise _rounded(f"torch.backends.mkldnn.{part}.fp32_precision", "bf16", "ieee")


def _rounded(name: str, value: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"{name}: got {value!r}, with which this film's float32 numbers are rounded on a CPU; "
        f"wanted {remedy!r} (settings of a GPU may stay)"
    )
