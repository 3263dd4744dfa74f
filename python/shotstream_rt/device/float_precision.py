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
    """Check that float32 products on a CPU are float32; another device is not looked at.

    Raises:
        ConfigError: the host lets them be rounded.
    """
    if device.type != "cpu":
        return
    for part in ("matmul", "conv"):
        settings = getattr(torch.backends.mkldnn, part, None)
        if settings is None:  # torch before 2.9
            name, remedy = "torch.get_float32_matmul_precision()", "high"
            value = torch.get_float32_matmul_precision()
        else:
            name, value = f"torch.backends.mkldnn.{part}.fp32_precision", settings.fp32_precision
            remedy = "ieee"
        if value in ("bf16", "medium"):
            raise ConfigError(
                f"{name}: got {value!r}, with which this film's float32 numbers are rounded on a "
                f"CPU; wanted {remedy!r} (settings of a GPU may stay)"
            )
