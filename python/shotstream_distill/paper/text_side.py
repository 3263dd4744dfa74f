"""Captions for training: the nano encoder, which may learn, or a frozen large one.

Called by the stages. Both give ``Captions``; a sample whose text is dropped gets captions without
a single token, which is what zeroed embeddings are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.model.captions import TextEncoder
from shotstream_rt.model.nano.text import TEXT_LEN, NanoTextNet

from ..common.sequence import Captions
from .shot_batch import Words

_REMEMBERED = 256
"""Captions of a large encoder kept; one is up to 8 MB."""


class TextSide(Protocol):
    """Words in, captions out."""

    def captions(self, words: Words, dropped: Sequence[bool]) -> Captions:
        """Embed the captions of a batch; ``dropped`` samples lose theirs."""
        ...

    def unconditional(self, words: Words) -> Captions:
        """Return one caption per sample for the free side of guidance."""
        ...


class NanoText:
    """The small encoder on token ids; its parameters train where they require gradients.

    Tokens that it does not know are dropped, as the runtime drops them.
    """

    def __init__(self, net: NanoTextNet) -> None:
        self.net = net

    def captions(self, words: Words, dropped: Sequence[bool]) -> Captions:
        """Embed token ids ``[B, shots, L]``."""
        if not isinstance(words, Tensor):
            raise ConfigError("text.kind: got prompts for 'nano', wanted token ids; use 'umt5'")
        device = self.net.positions.device
        known = words.where(words < self.net.words, 0)
        words = known.gather(-1, torch.argsort((known == 0).long(), stable=True))
        lengths = (words > 0).sum(-1)
        ids = words[..., : max(int(lengths.max()), 1)].to(device)
        embedded = self.net(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
        keep = ~torch.tensor(list(dropped), device=device)
        return Captions(
            embeddings=embedded * keep[:, None, None, None],
            lengths=lengths.to(device) * keep[:, None],
            text_len=TEXT_LEN,
        )

    def unconditional(self, words: Words) -> Captions:
        """Return captions without tokens: what dropped text looked like in training."""
        width = self.net.positions.shape[1]
        device = self.net.positions.device
        return Captions(
            embeddings=torch.zeros(len(words), 1, 1, width, device=device),
            lengths=torch.zeros(len(words), 1, dtype=torch.long, device=device),
            text_len=TEXT_LEN,
        )


class FrozenText:
    """A frozen encoder on prompts, remembered by wording.

    Args:
        encoder: umT5 or another.
        negative_prompt: the unconditional side; empty is a caption without tokens.
        device: where captions go.
    """

    def __init__(
        self, encoder: TextEncoder, negative_prompt: str, device: torch.device | str
    ) -> None:
        self._encoder, self._negative, self._device = encoder, negative_prompt, device
        self._known: dict[str, Tensor] = {}

    def captions(self, words: Words, dropped: Sequence[bool]) -> Captions:
        """Embed prompts per sample and shot."""
        if isinstance(words, Tensor):
            raise ConfigError("text.kind: got token ids for 'umt5', wanted prompts; use 'nano'")
        rows = max(len(prompts) for prompts in words)
        padded = [[*prompts, *[""] * (rows - len(prompts))] for prompts in words]
        return self._stacked(
            [["" if drop else p for p in prompts] for prompts, drop in
             zip(padded, dropped, strict=True)]
        )  # fmt: skip

    def unconditional(self, words: Words) -> Captions:
        """Return the negative prompt for each sample."""
        return self._stacked([[self._negative] for _ in words])

    def _stacked(self, prompts: list[list[str]]) -> Captions:
        unknown = {p for row in prompts for p in row if p and p not in self._known}
        for prompt in sorted(unknown):
            encoded, tokens = self._encoder.encode([prompt])
            self._known[prompt] = encoded[0, : tokens[0]].cpu()
        none = torch.zeros(0, self._encoder.text_dim)
        held = [[self._known.get(p, none) for p in row] for row in prompts]
        width = max([1, *(len(e) for row in held for e in row)])
        embeddings = torch.zeros(len(held), len(held[0]), width, self._encoder.text_dim)
        lengths = torch.zeros(len(held), len(held[0]), dtype=torch.long)
        for i, row in enumerate(held):
            for j, rows in enumerate(row):
                embeddings[i, j, : len(rows)] = rows
                lengths[i, j] = len(rows)
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return Captions(
            embeddings=embeddings.to(self._device), lengths=lengths.to(self._device),
            text_len=self._encoder.text_len,
        )  # fmt: skip
