"""Measures the nano model on held-out stories, through the runtime's own session.

Called by ``python -m shotstream_distill evaluate``. Drives ``shotstream_rt.Session`` as a user
would, reads the frames with the detectors and compares with what the captions asked for. The use of
the context is measured separately: a shot is made with the context of another story of the same
place, whose scene tint no caption tells.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import shotstream_rt
from shotstream_rt.story import Story

from .detectors import Detector, Reading, majority
from .world.captions import story_captions
from .world.render import SHOT_FRAMES, render_shot
from .world.story import WorldStory, make_story

FIRST_HELD_OUT_SEED = 900_000_000
"""Seeds from here on are never trained on."""

READ_FRAMES = (0, 24, 48, 72)
_Z95 = 1.959964


@dataclass(slots=True, kw_only=True)
class Share:
    """Hits out of trials, with a 95 % Wilson interval."""

    hits: int = 0
    trials: int = 0

    def add(self, hit: bool) -> None:
        """Count one trial."""
        self.hits += hit
        self.trials += 1

    @property
    def value(self) -> float:
        """The share, 0 without trials."""
        return self.hits / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound. Source: Wilson (1927)."""
        if not self.trials:
            return 0.0, 1.0
        n, p, z2 = self.trials, self.value, _Z95**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(slots=True, kw_only=True)
class Scores:
    """What was asked for and what was seen.

    ``species`` and ``color`` count visible characters, ``accessory`` those whose species was seen,
    the others shots; ``motion`` is frame change relative to the drawn shot's, per shot.
    """

    place: Share = field(default_factory=Share)
    framing: Share = field(default_factory=Share)
    color: Share = field(default_factory=Share)
    species: Share = field(default_factory=Share)
    accessory: Share = field(default_factory=Share)
    motion: list[float] = field(default_factory=list)

    def add(self, story: WorldStory, shot_index: int, readings: Sequence[Reading]) -> None:
        """Score one shot from the readings of some of its frames."""
        shot = story.shots[shot_index]
        cast = [story.characters[i] for i in shot.cast]
        wanted = {character.species for character in cast}
        self.place.add(majority([r.place for r in readings]) == story.setting.place)
        self.framing.add(majority([r.framing for r in readings]) == shot.framing)
        for character in cast:
            seen, colors, worn = 0, [], []
            for reading in readings:
                largest = reading.subjects[: len(cast)]
                match = next((s for s in largest if s.species == character.species), None)
                if match is not None:
                    seen += 1
                    worn.append(str(match.accessory))
                else:
                    # A character of another shape still has a colour.
                    match = next((s for s in largest if s.species not in wanted), None)
                colors.append(match.color if match else "none")
            found = 2 * seen > len(readings)
            self.species.add(found)
            self.color.add(majority(colors) == character.color)
            if found:
                self.accessory.add(majority(worn) == str(character.accessory))

    def table(self) -> dict[str, dict[str, float]]:
        """Return value, interval and trials of every share."""
        rows = {}
        for name in ("place", "framing", "color", "species", "accessory"):
            share: Share = getattr(self, name)
            low, high = share.interval
            rows[name] = {"value": share.value, "low": low, "high": high, "n": share.trials}
        if self.motion:
            rows["motion"] = {"value": sum(self.motion) / len(self.motion), "n": len(self.motion)}
        return rows


def held_out_stories(count: int, seed: int, shots: int) -> list[WorldStory]:
    """Return the stories of an evaluation; different seeds do not overlap."""
    first = FIRST_HELD_OUT_SEED + seed * 100_000
    return [make_story(first + index, shots) for index in range(count)]


def frame_change(frames: Tensor) -> float:
    """Mean absolute change between consecutive frames ``[T, 3, H, W]`` in [0, 1]."""
    return float((frames[1:] - frames[:-1]).abs().mean())


def as_floats(frames: Sequence[shotstream_rt.Frame]) -> Tensor:
    """Stack frames to float ``[T, 3, H, W]`` in [0, 1]."""
    stacked = torch.stack([torch.from_numpy(f.pixels.copy()) for f in frames])
    return stacked.permute(0, 3, 1, 2).float() / 255


def score_sessions(
    model: str | Path, stories: Sequence[WorldStory], detector: Detector, *, threads: int
) -> tuple[Scores, list[Tensor]]:
    """Let a session make every story and score it.

    Returns:
        The scores, and per story the frames that were read, ``[shots * 4, 3, H, W]``.
    """
    scores, pictures = Scores(), []
    for number, story in enumerate(stories):
        global_caption, texts = story_captions(story)
        asked = Story(global_caption=global_caption, shots=tuple(texts))
        with shotstream_rt.Session.open(model, seed=number, threads=threads) as session:
            made = list(session.story(asked))
        kept = []
        for index in range(len(texts)):
            frames = as_floats([frame for frame in made if frame.shot == index])
            read = frames[list(READ_FRAMES)]
            scores.add(story, index, detector.read(read))
            drawn, _ = render_shot(story, index, range(0, SHOT_FRAMES, 2))
            scores.motion.append(frame_change(frames[::2]) / max(frame_change(drawn), 1e-4))
            kept.append(read)
        pictures.append(torch.cat(kept))
    return scores, pictures


def score_ceiling(
    stories: Sequence[WorldStory], detector: Detector, codec_path: Path | None
) -> Scores:
    """Score the drawn frames themselves, or their reconstruction by a codec."""
    from shotstream_rt.model.nano_codec import NanoCodec

    codec = NanoCodec.load(codec_path) if codec_path else None
    scores = Scores()
    for story in stories:
        for index in range(len(story.shots)):
            if codec is None:
                frames, _ = render_shot(story, index, READ_FRAMES)
            else:
                # Nine frames are two latents; the last one is read.
                clips = [render_shot(story, index, range(f, f + 9))[0] for f in (0, 24, 48, 72)]
                latents = [codec.encode_clip(c.transpose(0, 1)[None] * 2 - 1) for c in clips]
                frames = torch.cat([codec.decode_full(z)[0, -1:] for z in latents]) / 2 + 0.5
            scores.add(story, index, detector.read(frames))
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class TintUse:
    """Correlation of a shot's tint with its context's and with its own hidden one.

    ``given`` should be high, ``own`` and ``absent`` (zero context) near 0; ``n`` values each.
    """

    given: float
    own: float
    absent: float
    n: int


def correlation_within(first: Tensor, second: Tensor, places: Sequence[str]) -> float:
    """Correlation over stories and colour channels, each place's mean taken out."""
    centred = []
    for values in (first, second):
        rest = values.clone()
        for place in set(places):
            rows = [index for index, name in enumerate(places) if name == place]
            rest[rows] -= values[rows].mean(0)
        centred.append(rest.flatten())
    return float(torch.corrcoef(torch.stack(centred))[0, 1])


def tint_shift(frames: Tensor, plain: Tensor, masks: Tensor) -> Tensor:
    """Median colour shift ``[3]`` against untinted frames, outside the drawn characters."""
    shift = (frames - plain).movedim(1, -1)  # [T, H, W, 3]
    return shift[masks == 0].median(0).values


def measure_tint(model: str | Path, stories: Sequence[WorldStory]) -> TintUse:
    """Make each story's second shot with the context of another story of the same place."""
    from shotstream_rt.model.captions import CaptionSet
    from shotstream_rt.model.loading import load_model
    from shotstream_rt.noise import PhiloxNoise

    bundle = load_model(model)
    pipeline, codec = bundle.pipeline, bundle.codec
    by_place: dict[str, list[WorldStory]] = {}
    for story in stories:
        by_place.setdefault(story.setting.place, []).append(story)
    seen: dict[str, list[Tensor]] = {"given": [], "absent": []}
    own, given, places = [], [], []
    for place, members in by_place.items():
        if len(members) < 2:
            continue
        for index, story in enumerate(members):
            donor = members[(index + 1) % len(members)]
            shown, _ = render_shot(donor, 0, (0, 16, 32, 48, 64, 80))
            context = codec.encode_frames(shown * 2 - 1)[None]
            captions = [f"{story_captions(s)[0]}shot{i}:{story_captions(s)[1][i]}"
                        for i, s in enumerate((donor, story))]  # fmt: skip
            embedded, lengths = bundle.text.encode(captions)
            rows = CaptionSet(embeddings=embedded, lengths=tuple(lengths))
            # The same shot in the donor's scene without its tint: what is left is the tint.
            plain = dataclasses.replace(donor.setting, tint=(0.0, 0.0, 0.0))
            expected = render_shot(dataclasses.replace(story, setting=plain), 1, (0, 4, 8))
            for kind, found in seen.items():
                if kind == "given":
                    pipeline.begin_shot(1, context, [0] * 6, rows, 1)
                else:
                    pipeline.begin_shot(0, context * 0, [0] * 6, rows.select([1]), 1)
                made = codec.decode_full(pipeline.run_chunk(0, PhiloxNoise(index)))
                frames = made[0][[0, 4, 8]] / 2 + 0.5
                found.append(tint_shift(frames, *expected))
            given.append(torch.tensor(donor.setting.tint))
            own.append(torch.tensor(story.setting.tint))
            places.append(place)
    bundle.close()
    made_given, made_absent = torch.stack(seen["given"]), torch.stack(seen["absent"])
    return TintUse(
        given=correlation_within(made_given, torch.stack(given), places),
        own=correlation_within(made_given, torch.stack(own), places),
        absent=correlation_within(made_absent, torch.stack(given), places),
        n=3 * len(given),
    )


def contact_sheet(pictures: Sequence[Tensor], path: Path) -> None:
    """Write the read frames of each story as one row of a PNG."""
    from PIL import Image

    rows = [torch.cat(list(frames.unbind(0)), -1) for frames in pictures]
    sheet = (torch.cat(rows, -2).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(sheet.numpy()).save(path)


def evaluate(
    model: str | Path, *, stories: int, seed: int, shots: int = 2, threads: int = 1,
    ceilings: bool = False, sheet: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """Run the whole evaluation.

    Args:
        model: as for ``Session.open``.
        stories: held-out stories.
        seed: which held-out stories; different seeds do not overlap.
        shots: shots of each story.
        threads: CPU threads of the student.
        ceilings: also score drawn frames and codec reconstructions.
        sheet: PNG to write, eight stories of it.

    Returns:
        Plain JSON types: ``scores``, ``tint`` and optionally ``ceilings``.
    """
    # Small tensors on a busy machine: more threads only wait for each other.
    torch.set_num_threads(1)
    detector = Detector.load()
    chosen = held_out_stories(stories, seed, shots)
    scores, pictures = score_sessions(model, chosen, detector, threads=threads)
    report: dict[str, object] = {
        "model": str(model),
        "stories": stories,
        "seed": seed,
        "scores": scores.table(),
        "tint": dataclasses.asdict(measure_tint(model, chosen)),
    }
    if ceilings:
        from shotstream_rt.model.loading import NANO_FOLDER

        folder = NANO_FOLDER if model == "nano" else Path(model)
        report["ceilings"] = {
            "drawn": score_ceiling(chosen, detector, None).table(),
            "codec": score_ceiling(chosen, detector, folder / "codec.safetensors").table(),
        }
    if sheet is not None:
        contact_sheet(pictures[:8], sheet)
    return report
