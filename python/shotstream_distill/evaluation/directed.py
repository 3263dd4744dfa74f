"""Measures what a director's means do: pins over recurrence gaps, re-reading after a prompt.

Called by ``python -m shotstream_distill directed``. Films are made by a session of the runtime and
told as one who directs says it: everyone is described once, so a later shot has to remember.

* Pins: a character is seen, then ``gap`` shots of the other one, then it again, named by its
  species alone. Its coat is kept if the last shot shows the colour that the first one showed.
* Re-read: a shot runs for three chunks, then its text names another coat. Each chunk behind the
  prompt is asked whether it shows that coat; beside it, a plain cut with the new text.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt import Model, Session
from shotstream_rt.errors import ConfigError
from shotstream_rt.model.nano.vocabulary import COLORS

from ..world.story import WorldStory, make_story
from .detectors import DETECTOR_FILE, Detector
from .facts import CharacterFacts, read_facts
from .film import floats, held_out_seeds, model_folder, told
from .intervals import Share
from .records import fingerprint

_log = logging.getLogger("shotstream_distill.evaluation.directed")

GAPS = (2, 4, 8)
"""Shots between the two of a character."""

REREADS: tuple[int | str, ...] = ("none", 1, "shot")
"""What a prompt computes anew."""

_VERSION = 2
_FRAMES = 4  # read of each piece of film
_BEFORE = 33  # frames of three chunks, before the prompt
_CHUNK = 12
_BEHIND = 4  # chunks behind the prompt, up to the shot's end
_MODEL_FILES = ("student.json", "student.safetensors", "text.safetensors", "codec.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectedConfig:
    """What to measure.

    Attributes:
        model: ``nano`` or a student folder.
        stories: held-out stories.
        seed: which ones; different seeds do not overlap.
        chunks: length of each shot of the films with pins, 1 to 7.
        dtype: of the sessions; ``None`` for the model's own.
        jobs: processes.
        records: file that keeps finished stories, so that a stopped run goes on.
    """

    model: str = "nano"
    stories: int = 100
    seed: int = 0
    chunks: int = 3
    dtype: str | None = None
    jobs: int = 1
    records: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low, high in (("stories", 1, 100_000), ("chunks", 1, 7), ("jobs", 1, 256)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)}, wanted {low} to {high}"
                )  # fmt: skip


def recurring(story: WorldStory, gap: int) -> WorldStory:
    """Return a story in which the first character comes back after ``gap`` shots of the other.

    Args:
        story: of at least ``gap + 2`` shots.
        gap: shots in between, at least 1.
    """
    shots = [
        dataclasses.replace(shot, who=int(0 < number <= gap), framing="medium-shot")
        for number, shot in enumerate(story.shots[: gap + 2])
    ]
    return dataclasses.replace(story, shots=tuple(shots))


def recolored(story: WorldStory) -> WorldStory:
    """Return a story of one shot whose character has another coat."""
    first, second = story.characters
    colors = [color for color in COLORS if color not in (first.color, second.color)]
    other = dataclasses.replace(first, color=colors[story.seed % len(colors)])
    shot = dataclasses.replace(story.shots[0], who=0, framing="medium-shot")
    return dataclasses.replace(story, characters=(other, second), shots=(shot,))


class DirectedFilms:
    """Makes and reads the films of one model.

    Args:
        model: as for ``Session.open``.
        chunks: length of a shot of the films with pins.
        dtype: as for ``Session.open``.
    """

    def __init__(self, model: str | Path, chunks: int, dtype: str | None = None) -> None:
        self._model = Model.open(model, device="cpu", threads=1, dtype=dtype)
        self._detector, self._chunks = Detector.load(), chunks

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def measure(self, story: WorldStory, number: int) -> dict[str, Any]:
        """Return what one story's films show, as plain JSON types.

        Args:
            story: of at least ten shots.
            number: noise seed.

        Cost:
            About 150 chunks with three chunks a shot, 45 s of CPU time.
        """
        pins = {
            f"{gap}.{'pinned' if pinned else 'plain'}": self._recurrence(
                recurring(story, gap), number, pinned
            )
            for gap in GAPS
            for pinned in (False, True)
        }
        return {"seed": story.seed, "pins": pins, "rereads": self._rereads(story, number)}

    def _recurrence(self, story: WorldStory, number: int, pinned: bool) -> dict[str, bool | None]:
        texts = told(story, "spare").shots
        with self._model.session(seed=number, threads=1) as session:
            for shot, text in enumerate(texts):
                session.cut(text, global_caption="", chunks=self._chunks)
                frames = _pictures(session, 81)
                if shot == 0:
                    first = self._facts(story, 0, frames)
                    if pinned:
                        session.pin(len(frames) // 2)
        last = self._facts(story, len(texts) - 1, frames)
        there = first.seen_species != "none"
        return {
            "species": last.species,
            "coat": last.seen_color == first.seen_color if there else None,
            "told": last.color,
        }

    def _rereads(self, story: WorldStory, number: int) -> dict[str, list[bool]]:
        new = recolored(story)
        old = dataclasses.replace(new, characters=story.characters)
        text, new_text = told(old, "spare").shots[0], told(new, "spare").shots[0]
        found = {}
        for reread in REREADS:
            with self._model.session(seed=number, threads=1, queue_chunks=1) as session:
                session.cut(text, global_caption="")
                _pictures(session, _BEFORE)
                session.prompt(new_text, flush=True, reread=reread)  # type: ignore[arg-type]
                found[str(reread)] = self._coats(new, _pictures(session, _BEHIND * _CHUNK))
        with self._model.session(seed=number, threads=1, queue_chunks=1) as session:
            session.cut(text, global_caption="")
            _pictures(session, _BEFORE)
            session.cut(new_text, global_caption="", flush=True)
            found["cut"] = self._coats(new, _pictures(session, _BEHIND * _CHUNK))
        return found

    def _coats(self, story: WorldStory, frames: Tensor) -> list[bool]:
        """Tell of each chunk whether it shows the coat that was asked for."""
        return [self._facts(story, 0, part).color for part in frames.split(_CHUNK)]

    def _facts(self, story: WorldStory, shot: int, frames: Tensor) -> CharacterFacts:
        step = max(1, (len(frames) - 1) // (_FRAMES - 1))
        sight = self._detector.see(frames[::step][:_FRAMES])
        readings = self._detector.readings(sight, range(len(sight.classes)))
        return read_facts(story, shot, readings).characters[0]


def _pictures(session: Session, count: int) -> Tensor:
    """Return the next frames as far as they come, ``[T, 3, H, W]`` in [0, 1]."""
    pixels = [torch.from_numpy(f.pixels.copy()) for f in islice(session.stream(), count)]
    return floats(torch.stack(pixels).permute(0, 3, 1, 2))


def directed(config: DirectedConfig) -> dict[str, Any]:
    """Measure every story that is not on record, and return both tables as plain JSON types.

    Raises:
        ConfigError: the model is not one of the drawn world, or the records are another's.
    """
    torch.set_num_threads(1)
    folder = model_folder(config.model)
    files = [folder / name for name in _MODEL_FILES]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"model {config.model}: {folder} lacks {missing}; wanted a nano student")
    header = {
        "version": _VERSION, "model": fingerprint(*files), "detector": fingerprint(DETECTOR_FILE),
        "chunks": config.chunks, "dtype": config.dtype,
    }  # fmt: skip
    seeds = held_out_seeds(config.stories, config.seed)
    records = {record["seed"]: record for record in _read(config.records, header)}
    left = [(number, seed) for number, seed in enumerate(seeds) if seed not in records]
    for done, record in enumerate(_measured(config, left), start=1):
        records[record["seed"]] = record
        if config.records is not None:
            with config.records.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(record))  # also behind half a line
        _log.info("%d of %d stories", done, len(left))
    return {
        "model": config.model,
        "stories": config.stories,
        "seed": config.seed,
        "chunks": config.chunks,
        "dtype": config.dtype,
        **tables([records[seed] for seed in seeds]),
    }


def tables(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the tables of some stories' records: shares with 95 % intervals.

    Args:
        records: of ``DirectedFilms.measure``.
    """
    pins = [
        {
            "gap": gap,
            "pinned": pinned,
            **{
                fact: Share.of(r["pins"][f"{gap}.{kind}"][fact] for r in records)
                .estimate()
                .as_dict()
                for fact in ("species", "coat", "told")
            },
        }
        for gap in GAPS
        for pinned, kind in ((False, "plain"), (True, "pinned"))
    ]
    rereads = [
        {
            "reread": name,
            "chunks": [
                Share.of(r["rereads"][name][chunk] for r in records).estimate().as_dict()
                for chunk in range(_BEHIND)
            ],
        }
        for name in (*map(str, REREADS), "cut")
    ]
    return {"pins": pins, "rereads": rereads}


def table_lines(report: Mapping[str, Any]) -> list[str]:
    """Return both tables as Markdown."""
    lines = ["| gap | pinned | species | coat kept | coat as told |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['gap']} | {'yes' if row['pinned'] else 'no'} | {_words(row['species'])} | "
        f"{_words(row['coat'])} | {_words(row['told'])} |"
        for row in report["pins"]
    ]
    behind = " | ".join(f"chunk {chunk}" for chunk in range(1, _BEHIND + 1))
    lines += ["", f"| re-read | {behind} |", "|---" * (_BEHIND + 1) + "|"]
    lines += [
        f"| {row['reread']} | {' | '.join(map(_words, row['chunks']))} |"
        for row in report["rereads"]
    ]
    return lines


def _words(part: Mapping[str, float]) -> str:
    return f"{part['value']:.2f} ({part['low']:.2f} to {part['high']:.2f})"


def _read(path: Path | None, header: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a file, which is made if there is none."""
    if path is None:
        return []
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header), "utf-8")
        return []
    lines = path.read_text("utf-8").splitlines()
    if not lines or lines[0] != json.dumps(header):
        raise ConfigError(f"records: {path} belongs to {lines[:1]}, wanted {dict(header)}")
    records = []
    for line in lines[1:]:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a process that was stopped left half a line
    return records


_films: list[DirectedFilms] = []
"""The films of a child process; empty in the parent."""


def _start(config: DirectedConfig) -> None:
    torch.set_num_threads(1)
    logging.getLogger("shotstream_rt").setLevel(logging.WARNING)
    _films.append(DirectedFilms(config.model, config.chunks, config.dtype))


def _measure(task: tuple[int, int]) -> dict[str, Any]:
    number, seed = task
    return _films[0].measure(make_story(seed, max(GAPS) + 2), number)


def _measured(config: DirectedConfig, tasks: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Measure stories in as many processes as there are jobs."""
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(config.jobs, max(1, len(tasks))), _start, (config,)) as pool:
        yield from pool.imap_unordered(_measure, tasks)
