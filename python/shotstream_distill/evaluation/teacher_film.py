"""Films of a many-step teacher: what a student is distilled from, measured with the same ruler.

Called by the evaluation. Both forms walk from noise to a shot by guided Euler steps and see the
earlier shots as a student does: decoded, picked, encoded again. *Causal* teachers (``train-nano``)
make chunk after chunk over cached keys of the clean context and the clean chunks before, and their
plain side loses text and context, as in their distillation. *Bidirectional* teachers (the paper's)
make the whole shot at once, and their plain side loses the text, as in the sampling of their
trajectories.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.model.codec import LatentCodec
from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.text import caption_ids
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.plan.schedule import euler_grid

from ..paper.film import Film
from ..paper.network import TrainNet, joined
from ..paper.quirks import Quirks
from ..paper.sampler import sample_states
from ..paper.shot_batch import Conditioning, ShotBatch, condition
from ..world.render import HEIGHT, SHOT_FRAMES, WIDTH
from ..world.story import WorldStory
from .examinee import Examinee
from .film import FilmSource, to_bytes, told
from .records import fingerprint

TeacherForm = Literal["causal", "bidirectional"]
"""Chunk by chunk, or the whole shot at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """Which teacher, and how it is sampled.

    Attributes:
        checkpoint: file with names and averages: network and text encoder.
        form: how it was trained.
        steps: Euler steps of a chunk (causal) or shot.
        guidance: weight of the direction that the conditions give; 1 is none, 0 the plain side.
    """

    checkpoint: Path
    form: TeacherForm = "causal"
    steps: int = 50
    guidance: float = 2.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.checkpoint.is_file():
            raise ConfigError(f"teacher: {self.checkpoint}: no such checkpoint file")
        if self.form not in get_args(TeacherForm):
            raise ConfigError(f"teacher form: got {self.form!r}, wanted {get_args(TeacherForm)}")
        if self.steps < 1:
            raise ConfigError(f"teacher steps: got {self.steps}, wanted at least 1")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ConfigError(f"teacher guidance: got {self.guidance}, wanted a number from 0 on")

    def identity(self) -> dict[str, Any]:
        """Return what the films depend on, as plain JSON types."""
        return {
            "checkpoint": fingerprint(self.checkpoint), "form": self.form, "steps": self.steps,
            "guidance": self.guidance,
        }  # fmt: skip


@torch.no_grad()
def causal_shot(
    net: TrainNet,
    sides: Conditioning,
    noise: Sequence[Tensor],
    *,
    steps: int,
    shift: float,
    guidance: float,
) -> Tensor:
    """Make a shot chunk by chunk.

    Args:
        net: a causally trained network.
        sides: two samples of the same shot, with everything and plain. They run as one batch, and
            each keeps keys and values of its own, as in the walks of ``trajectory``.
        noise: of each chunk, ``[1, F, C, h, w]``.
        steps: Euler steps of a chunk.
        shift: of the noise levels.
        guidance: weight of the conditional direction.

    Returns:
        Latents ``[1, chunks * F, C, h, w]`` like the noise.
    """
    captions = sides.target_caption()
    levels, times = euler_grid(steps, shift)
    falls = torch.diff(levels, append=levels.new_zeros(1)).tolist()
    _, past = net(sides.context_pass(), flow=False)
    made: list[Tensor] = []
    first = 0
    for x in noise:
        for time, fall in zip(times.tolist(), falls, strict=True):
            both = x.expand(2, -1, -1, -1, -1)
            told, free = net(sides.chunk(both, time, first, captions), past)[0].chunk(2)
            x = x + fall * (free + guidance * (told - free))
        made.append(x)
        if len(made) < len(noise):
            clean = sides.chunk(x.expand(2, -1, -1, -1, -1), 0.0, first, captions)
            past = joined(past, net(clean, past, flow=False)[1])
        first += x.shape[1]
    return torch.cat(made, 1)


class TeacherFilms:
    """Makes films of captions with a teacher.

    Args:
        examinee: network, text encoder, shapes and schedule; its ``bidirectional`` is the form.
        codec: latents to pictures and back.
        steps: see ``TeacherConfig``.
        guidance: see ``TeacherConfig``.
    """

    def __init__(
        self, examinee: Examinee, codec: LatentCodec, *, steps: int, guidance: float
    ) -> None:
        self._teacher, self._codec = examinee, codec
        self._steps, self._guidance = steps, guidance

    @torch.no_grad()
    def make(self, captions: Sequence[str], seed: int) -> Tensor:
        """Make a film.

        Args:
            captions: prompt of every shot, as ``Story.captions``.
            seed: of the noise, which is the noise a session of that seed begins its chunks with.

        Returns:
            float32 ``[shots, P, 3, H, W]`` in [-1, 1].
        """
        stream = self._teacher.stream
        words = caption_ids(captions, self._teacher.text.net.words)[0][None]
        film = Film(self._codec, stream, words, stream.shot.shot_frames)
        noise, shots = PhiloxNoise(seed), []
        for number in range(len(captions)):
            latents = self._shot(film.batch(), noise, number)
            shots.append(self._codec.decode_full(latents)[0])
            if number + 1 < len(captions):
                film.remember_frames([shots[-1]])
        return torch.stack(shots)

    def _shot(self, batch: ShotBatch, source: PhiloxNoise, number: int) -> Tensor:
        teacher, stream = self._teacher, self._teacher.stream
        chunk = stream.shot.chunk_frames
        shape = (1, chunk, *batch.target.shape[2:])
        noise = [
            source.draw(number, index, 0, shape) for index in range(batch.target.shape[1] // chunk)
        ]
        shift = stream.schedule.shift
        if not teacher.bidirectional:
            return causal_shot(
                teacher.net, self._sides(batch), noise, steps=self._steps, shift=shift,
                guidance=self._guidance,
            )  # fmt: skip
        captions = teacher.text.captions(batch.words, [False])
        told = condition(batch, captions, dropped=[False], quirks=teacher.quirks)
        plain = told.replaced(teacher.text.unconditional(batch.words))
        states = sample_states(
            teacher.net, told, plain, torch.cat(noise, 1), steps=self._steps, shift=shift,
            guidance=self._guidance, context_clean=teacher.context_clean,
        )  # fmt: skip
        *_, latents = states
        return latents

    def _sides(self, batch: ShotBatch) -> Conditioning:
        """Lay out the shot twice, the second time without text and context."""
        assert isinstance(batch.words, Tensor)
        words, dropped = batch.words.expand(2, -1, -1), [False, True]
        twice = dataclasses.replace(
            batch,
            context=batch.context.expand(2, -1, -1, -1, -1),
            words=words,
            shots=batch.shots * 2,
            context_shots=batch.context_shots.expand(2, -1),
        )
        captions = self._teacher.text.captions(words, dropped)
        return condition(twice, captions, dropped=dropped, quirks=self._teacher.quirks)


def teacher_stream(folder: Path) -> StreamConfig:
    """Return the shapes and schedule of the student folder whose films are compared.

    Raises:
        ManifestError: it has no readable ``student.json``.
        ConfigError: its films are not those of the drawn world.
    """
    stream = StudentManifest.read(folder / "student.json").stream
    size = (stream.model.latent_height * 8, stream.model.latent_width * 8)
    pictures = 1 + NanoCodec.temporal_stride * (stream.shot.shot_frames - 1)
    if (pictures, *size) != (SHOT_FRAMES, HEIGHT, WIDTH):
        raise ConfigError(
            f"model {folder}: got shots of {pictures} frames of {size}, wanted {SHOT_FRAMES} of "
            f"{(HEIGHT, WIDTH)}; only models of the drawn world can be evaluated"
        )
    return stream


def stream_fingerprint(folder: Path) -> str:
    """Return a short digest of a student folder's shapes and schedule, as written there.

    Raises:
        ManifestError: see ``teacher_stream``.
        ConfigError: see ``teacher_stream``.
    """
    teacher_stream(folder)
    # As written, not as parsed: a field added to the configuration later changes no number here.
    written = json.loads((folder / "student.json").read_text("utf-8"))["stream"]
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:16]


def teacher_films(
    config: TeacherConfig, folder: Path, *, dtype: torch.dtype = torch.bfloat16,
    captions: str = "story",
) -> FilmSource:  # fmt: skip
    """Return the source of a teacher's films.

    Args:
        config: the teacher.
        folder: student folder; its codec, shapes and schedule are used.
        dtype: of the network's arithmetic.
        captions: how stories are told (``film.CAPTIONS``).

    Raises:
        WeightsError: the checkpoint is missing, broken or of another shape.
    """
    stream = teacher_stream(folder)
    teacher = Examinee.load(
        config.checkpoint, stream, bidirectional=config.form == "bidirectional",
        quirks=Quirks(single_caption=not stream.shot.multi_caption),
    )  # fmt: skip
    teacher.net.to(dtype)
    films = TeacherFilms(
        teacher, NanoCodec.load(folder / "codec.safetensors"), steps=config.steps,
        guidance=config.guidance,
    )  # fmt: skip

    def make(story: WorldStory, number: int) -> Tensor:
        return to_bytes(films.make(told(story, captions).captions, number) / 2 + 0.5)

    return make
