"""Draws a student's initial parameters.

Called by the trainers. Names are the student's own state-dict names; ``aux.*`` is the auxiliary
class head, which is trained along and never shipped.
"""

from __future__ import annotations

import math

import torch

from shotstream_rt.config import ModelConfig

from .sequence import Parameters


def init_parameters(config: ModelConfig, *, seed: int, aux_classes: int = 0) -> Parameters:
    """Draw a student's initial float32 parameters (Wan's initialisation).

    Args:
        config: the shape.
        seed: of the generator.
        aux_classes: width of the auxiliary class head, 0 for none.

    Returns:
        Tensors by state-dict name; the head starts at zero.
    """
    generator = torch.Generator().manual_seed(seed)
    d, ffn = config.dim, config.ffn_dim
    p: Parameters = {}

    def linear(name: str, rows: int, columns: int, std: float | None = None) -> None:
        bound = math.sqrt(6 / (rows + columns))
        if std is None:
            p[name + ".weight"] = (torch.rand(rows, columns, generator=generator) * 2 - 1) * bound
        else:
            p[name + ".weight"] = torch.randn(rows, columns, generator=generator) * std
        p[name + ".bias"] = torch.zeros(rows)

    linear("patch_embedding", d, config.in_dim * 4)
    p["patch_embedding.weight"] = p["patch_embedding.weight"].view(d, config.in_dim, 1, 2, 2)
    linear("text_embedding.0", d, config.text_dim, 0.02)
    linear("text_embedding.2", d, d, 0.02)
    linear("time_embedding.0", d, config.freq_dim, 0.02)
    linear("time_embedding.2", d, d, 0.02)
    linear("time_projection.1", 6 * d, d)
    for index in range(config.num_layers):
        block = f"blocks.{index}."
        p[block + "modulation"] = torch.randn(1, 6, d, generator=generator) / d**0.5
        for kind in ("self_attn", "cross_attn"):
            for name in "qkvo":
                linear(f"{block}{kind}.{name}", d, d)
            p[f"{block}{kind}.norm_q.weight"] = torch.ones(d)
            p[f"{block}{kind}.norm_k.weight"] = torch.ones(d)
        p[block + "norm3.weight"], p[block + "norm3.bias"] = torch.ones(d), torch.zeros(d)
        linear(block + "ffn.0", ffn, d)
        linear(block + "ffn.2", d, ffn)
    if config.cache_indicator:
        p["cache_indicator.weight"] = torch.randn(2, d, generator=generator) * 0.02
    p["head.modulation"] = torch.randn(1, 2, d, generator=generator) / d**0.5
    linear("head.head", config.out_dim * 4, d)
    p["head.head.weight"].zero_()
    if aux_classes:
        linear("aux", 4 * aux_classes, d)
    return p
