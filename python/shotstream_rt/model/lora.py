"""LoRA adapters folded into the weights they adapt.

Called by ``weights.py`` and the trainers. ``W + (alpha / r) B A`` per adapted layer, in float32.

Source: ShotStream stage 2 (rank 256, alpha 256, every linear layer of every transformer block);
tensor names as PEFT writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from shotstream_rt.errors import WeightsError

_NAME = re.compile(r"^(?:base_model\.)?(?:model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")


def merge_lora(
    state: Mapping[str, Tensor],
    adapters: Mapping[str, Tensor],
    *,
    source: Path,
    alpha: float | None = None,
) -> dict[str, Tensor]:
    """Return ``state`` with every adapter merged; tensors without one are passed through.

    Args:
        state: bare names.
        adapters: ``<layer>.lora_A.weight`` ``[r, in]`` and ``<layer>.lora_B.weight`` ``[out, r]``,
            with or without PEFT's ``base_model.model.`` in front.
        source: the adapters' file; an ``adapter_config.json`` beside it gives alpha.
        alpha: overrides it; without either, alpha is the rank.

    Returns:
        A new dict; merged weights are float32.

    Raises:
        WeightsError: a name that is not an adapter's, half an adapter, or shapes that do not fit.
    """
    if alpha is None:
        alpha = _configured_alpha(source)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapters.items():
        match = _NAME.match(name)
        if match is None or f"{match[1]}.weight" not in state:
            raise WeightsError(
                f"{source}: tensor {name!r} adapts no layer of this model, wanted "
                "base_model.model.<layer>.lora_A.weight or .lora_B.weight"
            )
        pairs.setdefault(match[1], {})[match[2]] = tensor
    merged = dict(state)
    for layer, pair in pairs.items():
        weight = state[f"{layer}.weight"]
        shapes = {side: tuple(tensor.shape) for side, tensor in pair.items()}
        rank = shapes.get("A", (0,))[0]
        wanted = {"A": (rank, weight.shape[-1]), "B": (weight.shape[0], rank)}
        if weight.dim() != 2 or rank == 0 or shapes != wanted:
            raise WeightsError(
                f"{source}: layer {layer!r}: got LoRA shapes {shapes}, wanted A [r, in] and "
                f"B [out, r] for a weight of {tuple(weight.shape)}"
            )
        scale = 1.0 if alpha is None else alpha / rank
        update = pair["B"].float() @ pair["A"].float()
        merged[f"{layer}.weight"] = weight.float().add(update, alpha=scale)
    return merged


def _configured_alpha(source: Path) -> float | None:
    path = source.parent / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        unusual = [k for k in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")
                   if config.get(k)]  # fmt: skip
        alpha = float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: got {type(error).__name__}: {error}, wanted PEFT's JSON with lora_alpha"
        ) from error
    if unusual:
        raise WeightsError(
            f"{path}: got {', '.join(unusual)}, wanted plain LoRA; merge it with PEFT first"
        )
    return alpha
