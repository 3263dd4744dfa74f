"""Reads the latent bank and lays training samples out.

Called by the trainer. Shards are written by ``make_bank`` while training may already run:
``refresh`` picks up what is new. Everything stays in memory (about 100 kB a shot).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..common.sequence import Sequence

CANDIDATE_FRAMES = (0, 16, 32, 40, 48, 64, 80)
"""Frames of an 81-frame shot that context sampling can pick for up to six earlier shots."""

CONTEXT_FRAMES = 6
_LAST_FRAME = 80


def context_frames(earlier_shots: int, budget: int = CONTEXT_FRAMES) -> list[tuple[int, int]]:
    """Return (shot, candidate column) of the context of a shot with full-length predecessors."""
    chosen: list[tuple[int, int]] = []
    base, extra = divmod(budget, earlier_shots)
    for shot in range(earlier_shots):
        count = base + (shot >= earlier_shots - extra)
        spread = [0.0] if count == 1 else torch.linspace(0, _LAST_FRAME, count).round().tolist()
        chosen += [(shot, CANDIDATE_FRAMES.index(int(f))) for f in spread[:count]]
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one training step's sequences look like.

    Attributes:
        batch: samples.
        context: context frames kept of the six (cheap early training keeps few).
        group_frames: latent frames of a noisy group; 1 trains single frames.
        groups: noisy groups of a sample.
        chunks: leading chunks a group may be; more than one brings clean history.
        opening: only first shots, which have no context.
        later: only other shots.
    """

    batch: int
    context: int
    group_frames: int
    groups: int
    chunks: int = 1
    opening: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Clean latents of a step and what goes with them.

    Attributes:
        shared: ``[B, shared, C, h, w]`` context and clean history.
        target: ``[B, groups * group_frames, C, h, w]`` clean latents of the noisy groups.
        maps: ``[B, frames, 2, 3, h, w]`` in [0, 1]: per character the area, coat, accessory.
        labels: int64 ``[B, 4]`` species of both characters, colour of both.
        facts: int64 ``[B, 15]`` all of ``make_bank.labels``.
        tokens: int64 ``[B, S, L]`` caption token ids.
        lengths: int64 ``[B, S]``.
        groups: noisy groups of a sample.
        group_frames: latent frames of each.
        context: frames in front of ``shared`` that are context.
    """

    shared: Tensor
    target: Tensor
    maps: Tensor
    labels: Tensor
    facts: Tensor
    tokens: Tensor
    lengths: Tensor
    caption_index: Tensor
    positions: Tensor
    flags: Tensor
    shared_groups: tuple[int, ...]
    visible: tuple[int, ...]
    groups: int
    group_frames: int
    context: int

    def sequence(self, noisy: Tensor, times: Tensor, shared: Tensor | None = None) -> Sequence:
        """Put noisy groups behind the shared frames; ``times`` is ``[B, frames]``.

        Args:
            noisy: ``[B, frames, C, h, w]``.
            times: their noise levels ``[B, frames]``.
            shared: frames before them; default: the batch's own.
        """
        front = self.shared if shared is None else shared
        clean = torch.zeros(front.shape[:2])
        return Sequence(
            latents=torch.cat((front, noisy), 1),
            times=torch.cat((clean, times), 1),
            caption_index=self.caption_index,
            positions=self.positions,
            flags=self.flags,
            shared=front.shape[1],
            context=self.context,
            groups=self.groups,
            shared_groups=self.shared_groups,
            visible=self.visible,
        )


class LatentBank:
    """Shots of many stories as latents, captions and class maps.

    Args:
        folder: of shards.
        names: files of it that are read; by default all, and what appears later.
    """

    def __init__(self, folder: Path, names: Collection[str] | None = None) -> None:
        self._folder = folder
        self._names = names
        self._seen: set[str] = set()
        self._shards: list[dict[str, Tensor]] = []
        self._short: list[tuple[int, int]] = []
        self._long: list[tuple[int, int]] = []
        self.refresh()

    def refresh(self) -> int:
        """Load shards that appeared since; returns the number of shots held."""
        for path in sorted(self._folder.glob("*.pt")):
            wanted = self._names is None or path.name in self._names
            if path.name in self._seen or not wanted:
                continue
            self._seen.add(path.name)
            shard = torch.load(path, weights_only=True)
            rows = [(len(self._shards), row) for row in range(len(shard["lat"]))]
            (self._long if shard["lat"].shape[1] > 6 else self._short).extend(rows)
            self._shards.append(shard)
        return len(self._short) + len(self._long)

    def sample(self, layout: Layout, rng: random.Random) -> Batch:
        """Draw a batch.

        Args:
            layout: shape of the sequences.
            rng: draws shots, caption forms, dropped and foreign contexts.
        """
        needed = layout.chunks * layout.group_frames
        pool = self._long if needed > 6 or not self._short else self._short
        mixed = needed <= 6 and self._long and self._short
        rows = []
        for _ in range(layout.batch):
            chosen = self._long if mixed and rng.random() < 0.3 else pool
            rows.append(self._row(chosen, layout, rng))
        if layout.group_frames == 1:
            starts = None
            history = 0
        else:
            starts = sorted(rng.sample(range(layout.chunks), min(layout.groups, layout.chunks)))
            starts += [rng.randrange(layout.chunks) for _ in range(layout.groups - len(starts))]
            history = max(starts)
        samples = [self._one(layout, row, starts, history, rng) for row in rows]
        keys = (
            "shared", "target", "maps", "labels", "facts", "tokens", "caption_index", "positions",
        )  # fmt: skip
        stacked = {key: torch.stack([s[key] for s in samples]) for key in (*keys, "flags")}
        tokens = stacked["tokens"]
        return Batch(
            **stacked,
            lengths=(tokens > 0).sum(-1),
            shared_groups=(layout.context, *[layout.group_frames] * history) if history else (),
            visible=tuple(layout.context + start * layout.group_frames for start in starts or ())
            if history
            else (),
            groups=layout.groups,
            group_frames=layout.group_frames,
            context=layout.context,
        )

    def _row(
        self, pool: list[tuple[int, int]], layout: Layout, rng: random.Random
    ) -> tuple[int, int]:
        """Draw (shard, row) of a shot; shards hold whole stories, so first shots are frequent."""
        while True:
            shard, row = rng.choice(pool)
            first = self._shards[shard]["lab"][row, -2] == 0
            if not (layout.later if first else layout.opening):
                return shard, row

    def _one(
        self,
        layout: Layout,
        place: tuple[int, int],
        starts: list[int] | None,
        history: int,
        rng: random.Random,
    ) -> dict[str, Tensor]:
        shard, row = self._shards[place[0]], place[1]
        latents = shard["lat"][row]
        variant = 0 if rng.random() < 0.55 else rng.randrange(1, 4)
        context_shard, context_row = shard, row
        if not layout.opening and rng.random() < 0.08:
            other = rng.choice(self._short or self._long)
            context_shard, context_row, variant = self._shards[other[0]], other[1], 0
        index = int(context_shard["lab"][context_row, -2])
        kept = sorted(rng.sample(range(CONTEXT_FRAMES), layout.context))
        tokens = torch.zeros(6, shard["tok"].shape[-1], dtype=torch.long)
        if index == 0 or rng.random() < 0.1:
            # First shots, and a dropped context: zero latents, flags 0, target flag 1.
            context = torch.zeros(layout.context, *latents.shape[1:])
            flags, caption, target_flag = [0] * layout.context, 0, 1
            context_captions = [0] * layout.context
        else:
            first = context_row - index
            chosen = [context_frames(index)[i] for i in kept]
            context = torch.stack([context_shard["cand"][first + s, c] for s, c in chosen]).float()
            flags = [s for s, _ in chosen]
            context_captions, caption, target_flag = flags, index, index
            for s in range(index):
                tokens[s] = context_shard["tok"][first + s, variant].long()
        tokens[caption] = shard["tok"][row, variant].long()
        if starts is None:
            available = min(latents.shape[0], 21)
            frames = [0] if rng.random() < 0.5 else []
            frames += [rng.randrange(available) for _ in range(layout.groups - len(frames))]
            shared = context
            past: list[int] = []
        else:
            size = layout.group_frames
            frames = [s * size + i for s in starts for i in range(size)]
            past = list(range(history * size))
            shared = torch.cat((context, latents[past].float())) if past else context
        count = len(past) + len(frames)
        facts = shard["lab"][row].long()
        return {
            "shared": shared,
            "target": latents[frames].float(),
            "maps": shard["maps"][row, frames].float() / 255,
            "labels": facts[4:8],
            "facts": facts,
            "tokens": tokens,
            "caption_index": torch.tensor(context_captions + [caption] * count),
            "positions": torch.tensor(kept + [CONTEXT_FRAMES + f for f in past + frames]),
            "flags": torch.tensor(flags + [target_flag] * count),
        }
