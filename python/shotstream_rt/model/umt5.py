"""The umT5 encoder: token numbers to caption embeddings.

The network under the names of Wan's released file, at any size; ``text_encoder.py`` puts a
tokenizer and a cache around it. Captions come one at a time and without padding, which the original
masks: it would cost time and change nothing.

Source: umT5-xxl as packed with Wan2.1 (242 tensors, 24 layers, one bias table per layer).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812  the name everyone knows
from torch import Tensor, nn

from shotstream_rt.errors import WeightsError

from .weights import load_into

BUCKETS = 32
_EXACT = 8  # distances with a bucket of their own, per direction
_EPS = 1e-6

_HF_NAMES = {
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.0.SelfAttention": "attn",
    "layer.0.layer_norm": "norm1",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
    "layer.1.layer_norm": "norm2",
}


def position_buckets(length: int, device: torch.device | None = None) -> Tensor:
    """Return the bias bucket of every (query, key) pair.

    Buckets 0 to 7 are the distances 0 to 7, 8 to 15 grow by a factor of sqrt(2) up to 128; keys
    after the query add 16.

    Returns:
        int64 ``[length, length]``, values 0 to 31.
    """
    index = torch.arange(length, device=device)
    offset = index[None, :] - index[:, None]  # key - query
    distance = offset.abs()
    # 8 + floor(8 ln(a/8) / ln(16)) counts the k with a >= 8 sqrt(2)^k: exact in integers.
    wide = sum((distance.square() >= _EXACT**2 << k).long() for k in range(1, _EXACT))
    bucket = torch.where(distance < _EXACT, distance, _EXACT + wide)
    return bucket + (offset > 0).long() * (BUCKETS // 2)


class _Norm(nn.Module):
    """Root-mean-square norm: statistics in float32, product rounded, then the weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + _EPS)
        return wide.to(x.dtype) * self.weight


class _Attention(nn.Module):
    """Self-attention without scaling; the caller brings the position bias."""

    def __init__(self, dim: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, inner, bias=False)
        self.k = nn.Linear(dim, inner, bias=False)
        self.v = nn.Linear(dim, inner, bias=False)
        self.o = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # [N, T, D]
            for linear in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(1, 2) + bias).float().softmax(-1).to(x.dtype)
        out: Tensor = self.o((weights @ v).transpose(0, 1).flatten(1))
        return out


class _FeedForward(nn.Module):
    """Gated feed-forward: ``fc2(fc1(x) * gelu(gate(x)))``."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        # A list of one: the released names say gate.0, and the activation has no weights.
        self.gate = nn.ModuleList([nn.Linear(dim, ffn_dim, bias=False)])
        self.fc1 = nn.Linear(dim, ffn_dim, bias=False)
        self.fc2 = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x) * F.gelu(self.gate[0](x), approximate="tanh"))
        return out


class _PositionBias(nn.Module):
    """A layer's bias per head and bucket."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BUCKETS, heads)

    def forward(self, buckets: Tensor) -> Tensor:
        bias: Tensor = self.embedding(buckets)
        return bias.permute(2, 0, 1)  # [N, T, T]


class _Block(nn.Module):
    def __init__(self, dim: int, inner: int, ffn_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = _Norm(dim)
        self.attn = _Attention(dim, inner, heads)
        self.norm2 = _Norm(dim)
        self.ffn = _FeedForward(dim, ffn_dim)
        self.pos_embedding = _PositionBias(heads)

    def forward(self, x: Tensor, buckets: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.pos_embedding(buckets))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


class UMT5Encoder(nn.Module):
    """The network; the defaults are umT5-xxl.

    Args:
        vocab: rows of the token table.
        dim: width of an embedding.
        inner: width of all attention heads together.
        ffn_dim: width of the feed-forward layers.
        heads: attention heads, a divisor of ``inner``.
        layers: transformer blocks.
    """

    def __init__(
        self,
        *,
        vocab: int = 256384,
        dim: int = 4096,
        inner: int = 4096,
        ffn_dim: int = 10240,
        heads: int = 64,
        layers: int = 24,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.token_embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(_Block(dim, inner, ffn_dim, heads) for _ in range(layers))
        self.norm = _Norm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed one caption: int64 ``[T]`` token numbers to ``[T, dim]``."""
        x: Tensor = self.token_embedding(tokens)
        buckets = position_buckets(len(tokens), tokens.device)
        for block in self.blocks:
            x = block(x, buckets)
        out: Tensor = self.norm(x)
        return out


def released_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a Hugging Face umT5 state dict under the released names; decoder and heads dropped.

    A state that already has the released names is returned as it is.
    """
    if "token_embedding.weight" in state:
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in ("shared.weight", "encoder.embed_tokens.weight"):
            renamed["token_embedding.weight"] = tensor
        elif name == "encoder.final_layer_norm.weight":
            renamed["norm.weight"] = tensor
        elif match := re.match(r"encoder\.block\.(\d+)\.(.+)$", name):
            rest = match[2]
            for theirs, ours in _HF_NAMES.items():
                if rest.startswith(theirs + "."):
                    rest = ours + rest[len(theirs) :]
                    break
            renamed[f"blocks.{match[1]}.{rest}"] = tensor
    return renamed


def umt5_from_state(
    state: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    source: str = "umT5 weights",
) -> UMT5Encoder:
    """Build the encoder from released or Hugging Face names; every size is read off the tensors.

    Args:
        state: all encoder tensors.
        device: where to compute.
        dtype: to compute in; ``None`` keeps the file's.
        source: named in errors.

    Raises:
        WeightsError: not a umT5 encoder, or tensors missing, unexpected or mis-shaped.
    """
    state = released_names(state)

    def shape(name: str) -> tuple[int, ...]:
        if name not in state or state[name].dim() != 2:
            got = tuple(state[name].shape) if name in state else "nothing"
            raise WeightsError(f"{source}: tensor {name!r}: got {got}, wanted a matrix; "
                               "is this umT5's encoder?")  # fmt: skip
        return tuple(state[name].shape)

    vocab, dim = shape("token_embedding.weight")
    inner = shape("blocks.0.attn.q.weight")[0]
    heads = shape("blocks.0.pos_embedding.embedding.weight")[1]
    if not heads or inner % heads:
        raise WeightsError(f"{source}: got {heads} heads, wanted a divisor of {inner}")
    with torch.device("meta"):
        network = UMT5Encoder(
            vocab=vocab, dim=dim, inner=inner, heads=heads, layers=_layers(state),
            ffn_dim=shape("blocks.0.ffn.fc1.weight")[0],
        )  # fmt: skip
    load_into(network, state, source=source, device=device, dtype=dtype)
    return network.eval().requires_grad_(False)


def _layers(names: Iterable[str]) -> int:
    numbers = (re.match(r"blocks\.(\d+)\.", name) for name in names)
    return 1 + max(int(number[1]) for number in numbers if number)
