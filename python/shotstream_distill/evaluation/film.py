"""Where the evaluated films come from: a session, the renderer, or a codec.

Called by the evaluation. A film is uint8 ``[shots, 81, 3, 96, 160]``, as the runtime delivers it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import shotstream_rt
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.story import Story

from ..world.captions import spare_captions, story_captions
from ..world.render import HEIGHT, SHOT_FRAMES, WIDTH, render_shot
from ..world.story import WorldStory

FilmSource = Callable[[WorldStory, int], Tensor]
"""Makes the film of a story; the number is the noise seed."""

CAPTIONS = {"story": story_captions, "spare": spare_captions}
"""How an evaluated story is told (``world.captions``)."""

FIRST_HELD_OUT_SEED = 900_000_000
"""Seeds from here on are never trained on."""


def held_out_seeds(count: int, seed: int) -> list[int]:
    """Return the story seeds of an evaluation; different seeds do not overlap.

    Raises:
        ConfigError: more stories than one seed holds.
    """
    if not 0 < count <= 100_000:
        raise shotstream_rt.ConfigError(f"stories: got {count}, wanted 1 to 100000")
    first = FIRST_HELD_OUT_SEED + seed * 100_000
    return list(range(first, first + count))


def model_folder(model: str | Path) -> Path:
    """Return the folder of a model's name."""
    return NANO_FOLDER if str(model) == "nano" else Path(model)


def told(story: WorldStory, captions: str = "story") -> Story:
    """Put a drawn story into words, as a key of ``CAPTIONS`` says."""
    global_caption, texts = CAPTIONS[captions](story)
    return Story(global_caption=global_caption, shots=tuple(texts))


def floats(film: Tensor) -> Tensor:
    """Return float frames in [0, 1] of uint8 ones."""
    return film.float() / 255


def to_bytes(frames: Tensor) -> Tensor:
    """Return uint8 frames of floats in [0, 1], rounded as the runtime does."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def draw_film(story: WorldStory) -> Tensor:
    """Draw all frames of a story."""
    shots = [to_bytes(render_shot(story, index)[0]) for index in range(len(story.shots))]
    return torch.stack(shots)


def drawn_films() -> FilmSource:
    """Return the source of true pictures."""
    return lambda story, _: draw_film(story)


def codec_films(codec_file: Path) -> FilmSource:
    """Return the source of true pictures that went through a codec."""
    from shotstream_rt.model.nano.codec import NanoCodec

    codec = NanoCodec.load(codec_file)

    @torch.inference_mode()
    def recode(story: WorldStory, _: int) -> Tensor:
        made = []
        for frames in draw_film(story):
            clip = floats(frames).transpose(0, 1)[None] * 2 - 1
            made.append(to_bytes(codec.decode_full(codec.encode_clip(clip))[0] / 2 + 0.5))
        return torch.stack(made)

    return recode


def session_films(
    model: str | Path, threads: int, profile: str = "exact", captions: str = "story",
    dtype: str | None = None,
) -> FilmSource:  # fmt: skip
    """Return the source of films that a session makes, driven as a user would.

    Args:
        model: ``nano`` or a student folder.
        threads: CPU threads of the session.
        profile: of the session.
        captions: ``story``, or ``spare``: everyone is described once.
        dtype: of the session; ``None`` for its default.
    """

    def make(story: WorldStory, number: int) -> Tensor:
        asked = told(story, captions)
        made = torch.empty(len(asked.shots), SHOT_FRAMES, 3, HEIGHT, WIDTH, dtype=torch.uint8)
        counts = [0] * len(asked.shots)
        with shotstream_rt.Session.open(
            model, seed=number, device="cpu", threads=threads, profile=profile, dtype=dtype
        ) as film:
            for frame in film.story(asked):
                if frame.pixels.shape != (HEIGHT, WIDTH, 3) or counts[frame.shot] >= SHOT_FRAMES:
                    raise shotstream_rt.ConfigError(
                        f"model {model}: got frame {counts[frame.shot]} of a shot with shape "
                        f"{frame.pixels.shape}, wanted 81 frames of {(HEIGHT, WIDTH, 3)}; only "
                        "models of the drawn world can be evaluated"
                    )
                pixels = torch.from_numpy(frame.pixels.copy())
                made[frame.shot, counts[frame.shot]] = pixels.permute(2, 0, 1)
                counts[frame.shot] += 1
        if set(counts) != {SHOT_FRAMES}:
            raise shotstream_rt.ConfigError(
                f"model {model}: got shots of {counts} frames, wanted {SHOT_FRAMES} each"
            )
        return made

    return make


def film_source(
    name: str, model: str | Path, threads: int = 1, profile: str = "exact",
    captions: str = "story", dtype: str | None = None,
) -> FilmSource:  # fmt: skip
    """Return the source of a name: ``model`` (with a profile, so told), ``drawn`` or ``codec``.

    Args:
        name: of the source.
        model: ``nano`` or a student folder; ``codec`` takes its codec.
        threads: CPU threads of the session.
        profile: of the session.
        captions: ``story``, or ``spare``: everyone is described once.
        dtype: of the session; ``None`` for its default.

    Raises:
        ConfigError: no such source.
    """
    if name == "model":
        return session_films(model, threads, profile, captions, dtype)
    if name == "drawn":
        return drawn_films()
    if name == "codec":
        return codec_films(model_folder(model) / "codec.safetensors")
    raise shotstream_rt.ConfigError(f"film source {name!r}, wanted model, drawn or codec")
