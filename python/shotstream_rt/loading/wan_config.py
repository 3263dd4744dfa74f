"""Wan's or Diffusers' ``config.json`` beside a released student, held against its tensors.

The file says what tensors do not (heads, epsilon, caption positions). It is taken only if the rest
of it describes the same tensors: one copied from another model would be believed where it cannot be
checked.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.inputs import parse_json, read_text
from shotstream_rt.printable import shown

_MAX_BYTES = 1 << 20
_IN_TENSORS = ("dim", "ffn_dim", "num_layers", "in_dim", "out_dim", "freq_dim", "text_dim")
_FIXED: dict[str, Any] = {
    "model_type": "t2v", "patch_size": [1, 2, 2], "window_size": [-1, -1], "qk_norm": True,
    "cross_attn_norm": True,
}  # fmt: skip
"""What this runtime computes; other values are other networks."""

_DIFFUSERS_CLASS = "WanTransformer3DModel"
_DIFFUSERS_KEYS = {
    "num_attention_heads": "num_heads", "ffn_dim": "ffn_dim", "num_layers": "num_layers",
    "in_channels": "in_dim", "out_channels": "out_dim", "freq_dim": "freq_dim",
    "text_dim": "text_dim", "eps": "eps", "patch_size": "patch_size",
    "cross_attn_norm": "cross_attn_norm",
}  # fmt: skip
"""Diffusers' names of the same settings."""


def read_wan_config(path: Path) -> dict[str, Any]:
    """Return the file's settings; none where it is not a transformer's configuration.

    Raises:
        WeightsError: it cannot be read, or is of a network that this runtime does not compute.
    """
    text = read_text(path, limit_bytes=_MAX_BYTES, what="model configuration", error=WeightsError)
    data = parse_json(text, path, WeightsError)
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: got {type(data).__name__}, wanted a JSON object")
    if data.get("_class_name") == _DIFFUSERS_CLASS:
        data = {ours: data[key] for key, ours in _DIFFUSERS_KEYS.items() if key in data}
    elif not {*_IN_TENSORS, "num_heads"} & data.keys():
        return {}  # a configuration of something else: many tools have one of this name
    for key, wanted in _FIXED.items():
        if key in data and data[key] != wanted:
            raise WeightsError(
                f"{path}: {key}: got {shown(data[key])}, wanted {wanted!r}: this runtime computes "
                "the text-to-video transformer of Wan2.1"
            )
    heads = data.get("num_heads")
    if heads is not None and (not isinstance(heads, int) or isinstance(heads, bool) or heads < 1):
        raise WeightsError(f"{path}: num_heads: got {shown(heads)}, wanted an integer from 1")
    return data


def apply_wan_config(model: ModelConfig, data: dict[str, Any], path: Path) -> ModelConfig:
    """Return a student's shape with the settings that its tensors do not tell.

    Args:
        model: as read off the tensors, with the file's heads.
        data: of ``read_wan_config``.
        path: the file, for messages.

    Raises:
        WeightsError: the file describes other tensors, or a setting is out of range.
    """
    wrong = [
        f"{key} {shown(data[key])} (the student has {getattr(model, key)})"
        for key in _IN_TENSORS
        if key in data and data[key] != getattr(model, key)
    ]
    if wrong:
        raise WeightsError(
            f"{path}: got {', '.join(wrong)}: the file is another model's. Take the config.json "
            "that belongs to the student, or none for heads of 128 features"
        )
    told = {key: data[key] for key in ("eps", "text_len") if key in data}
    try:
        return dataclasses.replace(model, **told)
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
