"""Shots of the nano world for the paper's stages, read from the shards of the latent bank.

Called by the stages. Unlike the flow-matching recipe's batches these are whole next-shot samples:
six context frames and the leading latents of one shot, or the captions of a whole story.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.config import ContextChoice
from shotstream_rt.errors import ConfigError
from shotstream_rt.film.picks import pick_context

from ..common.step_rng import StepRng
from ..world.bank import CANDIDATE_FRAMES, CONTEXT_FRAMES
from ..world.render import SHOT_FRAMES
from .shot_batch import ShotBatch

_PLAIN_SHARE = 0.55
"""Share of samples told in the story's own wording; the others use free wording."""


class NanoShots:
    """Shots of many stories as latents and token ids.

    Args:
        folder: of shards.
        frames: latent frames a shot must have.
        choice: which frames of earlier shots are context (``CacheConfig.context_choice``).

    Raises:
        ConfigError: no shard with shots that long.
    """

    def __init__(self, folder: Path, frames: int, choice: ContextChoice = "dynamic") -> None:
        self._choice: ContextChoice = choice
        self._shards: list[dict[str, Tensor]] = []
        self._rows: list[tuple[int, int]] = []
        self._stories: list[tuple[int, int, int]] = []
        for path in sorted(folder.glob("*.pt")):
            shard = torch.load(path, weights_only=True)
            if shard["lat"].shape[1] < frames:
                continue
            index = len(self._shards)
            self._shards.append(shard)
            self._rows += [(index, row) for row in range(len(shard["lat"]))]
            shots = shard["lab"][:, -2].tolist()
            firsts = [row for row, shot in enumerate(shots) if shot == 0]
            for first, end in zip(firsts, [*firsts[1:], len(shots)], strict=True):
                self._stories.append((index, first, end - first))
        if not self._rows:
            raise ConfigError(
                f"{folder}: got no shard with shots of {frames} latent frames, wanted at least "
                "one; draw some with: python -m shotstream_distill make-bank --long"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def shots(self, rng: StepRng, count: int, frames: int) -> ShotBatch:
        """Draw next-shot samples with their true context.

        Args:
            rng: random numbers.
            count: samples.
            frames: latent frames of each target.
        """
        chosen = [self._rows[rng.own.randrange(len(self._rows))] for _ in range(count)]
        numbers = [self._number(*place) for place in chosen]
        words = torch.stack([self._words(rng, *place, max(numbers) + 1) for place in chosen])
        told = [self._context(*place) for place in chosen]
        targets = [self._shards[s]["lat"][row, :frames] for s, row in chosen]
        return ShotBatch(
            context=torch.stack([latents for latents, _ in told]).float().to(rng.device),
            target=torch.stack(targets).float().to(rng.device),
            words=words,
            shots=tuple(numbers),
            context_shots=torch.tensor([shots for _, shots in told]),
        )

    def stories(self, rng: StepRng, count: int, shots: int) -> Tensor:
        """Draw the captions of stories as token ids ``[count, shots, L]``.

        Args:
            rng: random numbers.
            count: stories.
            shots: of each.

        Raises:
            ConfigError: no story is that long.
        """
        fitting = [story for story in self._stories if story[2] >= shots]
        if not fitting:
            raise ConfigError(f"shots: got {shots}, and no story of the data has that many")
        chosen = [fitting[rng.own.randrange(len(fitting))] for _ in range(count)]
        return torch.stack(
            [self._words(rng, shard, first + shots - 1, shots) for shard, first, _ in chosen]
        )

    def _number(self, shard: int, row: int) -> int:
        return int(self._shards[shard]["lab"][row, -2])

    def _context(self, shard: int, row: int) -> tuple[Tensor, list[int]]:
        held, number = self._shards[shard], self._number(shard, row)
        if number == 0:
            return torch.zeros(CONTEXT_FRAMES, *held["cand"].shape[2:]), [0] * CONTEXT_FRAMES
        chosen = pick_context([SHOT_FRAMES] * number, CONTEXT_FRAMES, self._choice)
        rows = [(row - number + shot, CANDIDATE_FRAMES.index(frame)) for shot, frame in chosen]
        return torch.stack([held["cand"][place] for place in rows]), [shot for shot, _ in chosen]

    def _words(self, rng: StepRng, shard: int, row: int, rows: int) -> Tensor:
        """Token ids of shots 0 .. this row's in one wording, padded to ``rows`` shots."""
        tokens, number = self._shards[shard]["tok"], self._number(shard, row)
        wordings = tokens.shape[1]
        form = 0 if rng.own.random() < _PLAIN_SHARE else rng.own.randrange(1, wordings)
        told = torch.zeros(rows, tokens.shape[-1], dtype=torch.long)
        told[: number + 1] = tokens[row - number : row + 1, form].long()
        return told
