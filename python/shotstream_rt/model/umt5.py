"""umT5's encoder: transformers' network with the released or a Hugging Face file's weights in it.

Called by ``text_encoder.py``, which puts a tokenizer and a cache around it. Captions come one at a
time and without padding, which the original masks: it would cost time and change nothing.

Source: umT5-xxl as packed with Wan2.1 (242 tensors, 24 layers, one bias table per layer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from shotstream_rt.errors import WeightsError

from .tokenizer import text_library
from .weights import check_tensors, load_into

_TABLE = "embed_tokens.weight"
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
    state, names = _named(state, source)
    files = {name: file for file, name in names.items()}

    def matrix(name: str) -> tuple[int, int]:
        tensor = state.get(files[name])
        if tensor is None or tensor.dim() != 2 or not tensor.numel():
            got = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
            raise WeightsError(f"{source}: tensor {files[name]!r}: got {got}, wanted a matrix; "
                               "is this umT5's encoder?")  # fmt: skip
        return tensor.shape[0], tensor.shape[1]

    vocab, dim = matrix(_TABLE)
    inner = matrix("block.0.layer.0.SelfAttention.q.weight")[0]
    heads = matrix("block.0.layer.0.SelfAttention.relative_attention_bias.weight")[1]
    if inner % heads:
        raise WeightsError(f"{source}: got {heads} heads, wanted a divisor of {inner}")
    library = text_library("transformers")
    config = library.UMT5Config(
        vocab_size=vocab, d_model=dim, d_kv=inner // heads, num_heads=heads,
        d_ff=matrix("block.0.layer.1.DenseReluDense.wi_1.weight")[0],
        num_layers=(len(names) - 2) // len(_LAYER_NAMES),
        feed_forward_proj="gated-gelu", dropout_rate=0.0, layer_norm_epsilon=1e-6,
        relative_attention_num_buckets=32, relative_attention_max_distance=128,
        # The original's order of rounding; fused attention has another.
        attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        network: nn.Module = library.UMT5EncoderModel(config)
    encoder = network.get_submodule("encoder")
    shapes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    # First under the file's own names, so that complaints can be looked up in it.
    check_tensors(state, {file: shapes[name] for file, name in names.items()}, source)
    renamed = {names[file]: tensor for file, tensor in state.items()}
    load_into(encoder, renamed, source=source, device=device, dtype=dtype)
    # The table is in the network twice, and only the encoder's was loaded.
    network.add_module("shared", encoder.get_submodule("embed_tokens"))
    return network.eval().requires_grad_(False)


def _named(state: Mapping[str, Tensor], source: str) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Return the encoder's tensors, and for each name wanted of the file the encoder's own."""
    if "token_embedding.weight" in state:
        return state, released_names(_layers(state, r"blocks\.([0-9]+)\."))
    kept = {k: v for k, v in state.items() if not k.startswith(("decoder.", "lm_head."))}
    layers = _layers(kept, r"encoder\.block\.([0-9]+)\.")
    names = {f"encoder.{name}": name for name in released_names(layers).values()}
    inner, shared = f"encoder.{_TABLE}", kept.get("shared.weight")
    if shared is not None:
        names["shared.weight"] = names.pop(inner)
        copy = kept.pop(inner, shared)
        same = copy.dtype == shared.dtype and torch.equal(copy, shared)
        if not same:
            raise WeightsError(
                f"{source}: tensors 'shared.weight' and {inner!r} differ, wanted one token table"
            )
    return kept, names


def _layers(state: Mapping[str, Tensor], pattern: str) -> int:
    # Counted, not the largest number: a gap then shows as a missing tensor. At least one, so that
    # the first layer's absence is what a foreign file is told of.
    numbers = {match[1] for match in (re.match(pattern, name) for name in state) if match}
    return max(1, len(numbers))
