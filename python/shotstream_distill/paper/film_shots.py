"""Next-shot samples from films: decoded, strided and encoded on the fly.

Called by the stages at full size. The target is a film's last shot, its context comes from all
shots before, picked as at inference. A film that cannot be read is reported and another one taken;
only a row of failures ends the run.

Source: ShotStream's training data set.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt._native import sample_context
from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.model.codec import LatentCodec

from ..common.step_rng import StepRng
from .film_files import FilmFile, read_films, read_frames
from .shot_batch import ShotBatch

_log = logging.getLogger("shotstream_distill.paper.film_shots")
_ATTEMPTS = 8
"""Films tried for one sample before giving up."""


def target_frames(start: int, end: int, count: int) -> list[int]:
    """Return ``count`` frames of a shot, with the largest stride that fits, from its start.

    Args:
        start: the shot's first frame.
        end: the frame behind its last.
        count: frames wanted.

    Raises:
        ConfigError: the shot is shorter.
    """
    stride = (end - start) // count
    if stride < 1:
        raise ConfigError(f"shot of {end - start} frames: wanted at least {count}")
    return list(range(start, start + stride * count, stride))


class FilmShots:
    """Samples from a table of films.

    Args:
        table: the CSV.
        codec: encodes frames; on the device that trains.
        model: gives the size of a frame.
        context_frames: budget of context frames.

    Raises:
        ConfigError: the table is not usable.
    """

    def __init__(
        self, table: Path, codec: LatentCodec, *, model: ModelConfig, context_frames: int
    ) -> None:
        self._films, self._codec, self._budget = read_films(table), codec, context_frames
        self._size = codec.pixel_size(model.latent_height, model.latent_width)
        self._latent = (model.in_dim, model.latent_height, model.latent_width)

    def __len__(self) -> int:
        return len(self._films)

    def shots(self, rng: StepRng, count: int, frames: int) -> ShotBatch:
        """Draw samples; see ``ShotSource``.

        Args:
            rng: random numbers.
            count: samples.
            frames: latent frames of each target.

        Raises:
            ConfigError: several films in a row cannot be read.
        """
        samples = [self._sample(rng, frames) for _ in range(count)]
        return ShotBatch(
            context=torch.stack([context for _, context, _, _ in samples]).to(rng.device),
            target=torch.stack([target for target, _, _, _ in samples]).to(rng.device),
            words=tuple(film.story.captions for _, _, film, _ in samples),
            shots=tuple(len(film.ranges) - 1 for _, _, film, _ in samples),
            context_shots=torch.tensor([shots for _, _, _, shots in samples]),
        )

    def stories(self, rng: StepRng, count: int, shots: int) -> tuple[tuple[str, ...], ...]:
        """Draw the captions of films with at least so many shots.

        Args:
            rng: random numbers.
            count: films.
            shots: of each.

        Raises:
            ConfigError: there is none.
        """
        fitting = [film for film in self._films if len(film.ranges) >= shots]
        if not fitting:
            raise ConfigError(f"shots: got {shots}, and no film of the data has that many")
        chosen = [fitting[rng.own.randrange(len(fitting))] for _ in range(count)]
        return tuple(film.story.captions[:shots] for film in chosen)

    def _sample(self, rng: StepRng, frames: int) -> tuple[Tensor, Tensor, FilmFile, list[int]]:
        last: ConfigError | None = None
        for _ in range(_ATTEMPTS):
            film = self._films[rng.own.randrange(len(self._films))]
            try:
                return self._read(film, frames)
            except ConfigError as error:
                _log.warning("%s: skipped: %s", film.where, error)
                last = error
        raise ConfigError(f"films: {_ATTEMPTS} in a row cannot be read, the last: {last}") from last

    def _read(self, film: FilmFile, frames: int) -> tuple[Tensor, Tensor, FilmFile, list[int]]:
        *earlier, (start, end) = film.ranges
        pictures = 1 + self._codec.temporal_stride * (frames - 1)
        target = target_frames(start, end, pictures)
        picks = sample_context([b - a for a, b in earlier], self._budget) if earlier else []
        numbers = [earlier[shot][0] + frame for shot, frame in picks]
        decoded = read_frames(film.video, [*numbers, *target], self._size)
        clip = decoded[len(numbers) :].transpose(0, 1)[None]
        latents = self._codec.encode_clip(clip)[0].float()
        if not earlier:
            return latents, torch.zeros(self._budget, *self._latent), film, [0] * self._budget
        context = self._codec.encode_frames(decoded[: len(numbers)]).float()
        return latents, context.to(latents.device), film, [shot for shot, _ in picks]
