"""umT5's encoder: transformers' network with the released or a Hugging Face file's weights in it.

Called by ``text_encoder.py``, which puts a tokenizer and a cache around it. Captions come one at a
time and without padding, which the original masks: it would cost time and change nothing.

Source: umT5-xxl as packed with Wan2.1 (242 tensors, 24 layers, one bias table per layer).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from shotstream_rt.errors import WeightsError

from ..checkpoint import check_tensors, place_into
from ..lazy_tensors import LazyTensors, listing
from ..wrappers import without_wrappers
from .tokenizer import text_library

_TABLE = "embed_tokens.weight"
_MAX_LAYERS = 128
_ANCHORS = ("token_embedding.weight", "shared.weight", f"encoder.{_TABLE}")
_LAYER_NAMES = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def released_names(layers: int) -> dict[str, str]:
    """Return every tensor's released name with its name in transformers' encoder.

    Args:
        layers: transformer blocks; 24 give 242 names.
    """
    names = {"token_embedding.weight": _TABLE, "norm.weight": "final_layer_norm.weight"}
    for layer in range(layers):
        for ours, theirs in _LAYER_NAMES.items():
            names[f"blocks.{layer}.{ours}.weight"] = f"block.{layer}.{theirs}.weight"
    return names


def umt5_from_state(
    state: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    source: str = "umT5 weights",
) -> nn.Module:
    """Build transformers' ``UMT5EncoderModel``; every size is read off the tensors.

    Args:
        state: released names, or a Hugging Face state dict, whose decoder and heads are ignored.
        device: where to compute.
        dtype: to compute in; ``None`` keeps the file's.
        source: named in errors.

    Raises:
        WeightsError: not a umT5 encoder, or tensors missing, unexpected or mis-shaped.
        ConfigError: transformers is not installed (``pip install 'shotstream_rt[text]'``).
    """
    tensors, names = _named(without_wrappers(state, source, _ANCHORS), source)
    files = {name: file for file, name in names.items()}

    def matrix(name: str) -> tuple[int, int]:
        entry = tensors.entries.get(files[name])
        if entry is None or len(entry.shape) != 2 or 0 in entry.shape:
            got = "nothing" if entry is None else f"shape {entry.shape}"
            raise WeightsError(
                f"{source}: tensor {files[name]!r}: got {got}, wanted a matrix; is this "
                f"umT5's encoder? The file has {len(tensors)} tensors: {listing(tensors)}"
            )
        return entry.shape[0], entry.shape[1]

    vocab, dim = matrix(_TABLE)
    inner = matrix("block.0.layer.0.SelfAttention.q.weight")[0]
    heads = matrix("block.0.layer.0.SelfAttention.relative_attention_bias.weight")[1]
    if inner % heads:
        raise WeightsError(f"{source}: got {heads} heads, wanted a divisor of {inner}")
    library = text_library("transformers")
    # The library loads a class when it is first asked for. On the meta device, where only the
    # network itself is to be made, code of its modules that computes with a tensor would fail.
    network_class = library.UMT5EncoderModel
    config = library.UMT5Config(
        vocab_size=vocab, d_model=dim, d_kv=inner // heads, num_heads=heads,
        d_ff=matrix("block.0.layer.1.DenseReluDense.wi_1.weight")[0],
        num_layers=_bounded((len(names) - 2) // len(_LAYER_NAMES), source),
        feed_forward_proj="gated-gelu", dropout_rate=0.0, layer_norm_epsilon=1e-6,
        relative_attention_num_buckets=32, relative_attention_max_distance=128,
        # The original's order of rounding; fused attention has another.
        attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        network: nn.Module = network_class(config)
    encoder = network.get_submodule("encoder")
    shapes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    # Under the file's own names, so that complaints can be looked up in it.
    check_tensors(tensors, {file: shapes[name] for file, name in names.items()}, source)
    tensors = tensors.checked(source)
    renamed = LazyTensors({names[file]: entry for file, entry in tensors.entries.items()})
    place_into(encoder, renamed, device=device, dtype=dtype)
    # The table is in the network twice, and only the encoder's was loaded.
    network.add_module("shared", encoder.get_submodule("embed_tokens"))
    return network.eval().requires_grad_(False)


def _named(state: LazyTensors, source: str) -> tuple[LazyTensors, dict[str, str]]:
    """Return the encoder's tensors, and for each name wanted of the file the encoder's own."""
    if "token_embedding.weight" in state:
        return state, released_names(_layers(state, r"blocks\.([0-9]+)\."))
    kept = {k: v for k, v in state.entries.items() if not k.startswith(("decoder.", "lm_head."))}
    layers = _layers(kept, r"encoder\.block\.([0-9]+)\.")
    names = {f"encoder.{name}": name for name in released_names(layers).values()}
    inner, shared = f"encoder.{_TABLE}", kept.get("shared.weight")
    if shared is not None:
        names["shared.weight"] = names.pop(inner)
        copy = kept.pop(inner, shared)
        same = copy.dtype == shared.dtype and copy.shape == shared.shape
        if not same or not torch.equal(copy.read(), shared.read()):
            raise WeightsError(
                f"{source}: tensors 'shared.weight' and {inner!r} differ, wanted one token table"
            )
    return LazyTensors(kept), names


def _bounded(layers: int, source: str) -> int:
    if layers > _MAX_LAYERS:
        raise WeightsError(f"{source}: got {layers} layers, wanted at most {_MAX_LAYERS}")
    return layers


def _layers(state: Iterable[str], pattern: str) -> int:
    # Counted, not the largest number: a gap then shows as a missing tensor. At least one, so that
    # the error about a file of another model names the first layer as missing.
    numbers = {match[1] for match in (re.match(pattern, name) for name in state) if match}
    return max(1, len(numbers))
