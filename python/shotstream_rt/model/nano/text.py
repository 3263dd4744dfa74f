"""Text encoder of the embedded nano model: canonical tokens through a two-layer transformer.

Implements ``TextEncoder``; called by the session, trained by ``shotstream_distill``. Knows a closed
vocabulary (``vocabulary.py``): words for what nano cannot draw are dropped, and ``check`` names
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shotstream_rt.printable import listed

from ..lazy_tensors import LazyTensor
from .files import load_float32
from .vocabulary import TOKEN_IDS, TOKENS, canonical

TEXT_DIM = 128
TEXT_LEN = 64
_MOST_NAMED = 50
"""Unknown words that a note names."""
_HEADS = 4
_LAYERS = 2


class _Layer(nn.Module):
    """Pre-norm transformer layer with a key padding bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map ``[N, L, dim]`` to the same shape; ``bias`` is ``[N, 1, 1, L]``."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1)  # [N, heads, L, L]
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + torch.as_tensor(self.down(F.gelu(self.up(self.norm2(x)))))


class NanoTextNet(nn.Module):
    """Token ids to embeddings; rows at and past each length come out as zeros.

    Args:
        words: tokens known, leading ones of the vocabulary.
    """

    def __init__(self, words: int = len(TOKENS)) -> None:
        super().__init__()
        self.words = words
        self.embedding = nn.Embedding(words, TEXT_DIM, _weight=_random_table(words))
        self.positions = nn.Parameter(_random_table(TEXT_LEN, scale=0.02))
        self.layers = nn.ModuleList([_Layer(TEXT_DIM) for _ in range(_LAYERS)])
        self.norm = nn.LayerNorm(TEXT_DIM)

    @classmethod
    def fitting(cls, state: Mapping[str, Tensor | LazyTensor]) -> NanoTextNet:
        """Return a new network for as many tokens as some weights have, at most this version's.

        Tokens are only ever appended to the vocabulary, so weights from before know leading ones.
        """
        table = state.get("embedding.weight")
        rows = table.shape[0] if table is not None and len(table.shape) == 2 else 0
        return cls(min(rows, len(TOKENS)) or len(TOKENS))

    def forward(self, ids: Tensor) -> Tensor:
        """Embed int64 ``[N, L]`` below ``words``, padded with 0, ``L <= 64``: ``[N, L, 128]``."""
        x, padded = self.embedding(ids) + self.positions[: ids.shape[1]], ids == 0
        # Finite, so that a caption without any token does not give NaN.
        bias = padded[:, None, None].to(x.dtype) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return torch.as_tensor(self.norm(x)).masked_fill(padded[..., None], 0.0)


def _random_table(rows: int, scale: float = 1.0) -> Tensor:
    """Initial values ``[rows, 128]``; on the meta device none, where drawing imports a compiler."""
    table = torch.empty(rows, TEXT_DIM)
    return table if table.is_meta else table.normal_().mul_(scale)


def caption_ids(prompts: Sequence[str], words: int = len(TOKENS)) -> tuple[Tensor, list[int]]:
    """Return int64 ids ``[N, 64]`` of the first ``words`` tokens, padded with 0, and lengths."""
    known = [[TOKEN_IDS[t] for t in canonical(prompt, words)[0][:TEXT_LEN]] for prompt in prompts]
    ids = torch.tensor([row + [0] * (TEXT_LEN - len(row)) for row in known], dtype=torch.long)
    return ids.view(-1, TEXT_LEN), [len(row) for row in known]


class NanoTextEncoder:
    """The frozen encoder as a ``TextEncoder``."""

    def __init__(self, net: NanoTextNet) -> None:
        self._net = net.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> NanoTextEncoder:
        """Read ``text.safetensors``; computes in float32.

        Raises:
            WeightsError: the file is missing, or its tensors do not fit this encoder.
        """
        return cls(load_float32(NanoTextNet.fitting, path, "nano text encoder").to(device))

    @property
    def text_dim(self) -> int:
        """Width of an embedding."""
        return TEXT_DIM

    @property
    def text_len(self) -> int:
        """Positions of every caption, padding included."""
        return TEXT_LEN

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """See ``TextEncoder``: float32 ``[N, 64, 128]`` and the lengths in canonical tokens."""
        ids, lengths = caption_ids(prompts, self._net.words)
        # Only occupied columns are computed; the rest is zero by definition.
        width = max([*lengths, 1])
        with torch.inference_mode():
            embedded = self._net(ids[:, :width].to(self._net.positions.device))
            return F.pad(embedded, (0, 0, 0, TEXT_LEN - width)), lengths

    def check(self, prompt: str) -> list[str]:
        """Return what the model does not understand of a prompt, or leaves out."""
        tokens, unknown = canonical(prompt, self._net.words)
        understood = tokens and not unknown and len(tokens) <= TEXT_LEN
        return [] if understood else self._notes(tokens, unknown)

    def _notes(self, tokens: Sequence[str], unknown: Sequence[str]) -> list[str]:
        notes = []
        if unknown:
            notes.append(
                "the nano model does not know: " + listed(dict.fromkeys(unknown), _MOST_NAMED)
                + " (dropped; nano/MODEL_CARD.md lists what it knows)"
            )  # fmt: skip
        if len(tokens) > TEXT_LEN:
            notes.append(f"prompt cut after {TEXT_LEN} of {len(tokens)} words")
        if not tokens:
            notes.append("no known word in the prompt: the model draws what it likes")
        return notes
