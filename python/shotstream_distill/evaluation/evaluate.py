"""Measures a model of the drawn world on held-out stories, through the runtime's own session.

Called by ``python -m shotstream_distill evaluate``. Each story is one task: make the film as a user
would, measure it, swap its context. Tasks run in any number of processes and are kept on disk as
they finish; the figures are made of the records at the end (``report``).
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError

from ..world.story import make_story
from .against import compare_records
from .context_swap import ContextSwap
from .detectors import DETECTOR_FILE
from .facts import KEY_FRAMES
from .film import CAPTIONS, FilmSource, film_source, held_out_seeds, model_folder, told
from .identity import IDENTITY_FILE
from .judge import Judge
from .records import FilmRecord, RecordBook, fingerprint
from .report import film_figures, swap_figures
from .sheet import StoryRow, story_sheet
from .teacher_film import TeacherConfig, stream_fingerprint, teacher_films

_log = logging.getLogger("shotstream_distill.evaluation.evaluate")

CEILINGS = ("drawn", "codec")
"""True pictures: as drawn, and through the codec."""
_SHEET_STORIES = 6
_REPORT_S = 15.0
_CODEC = "codec.safetensors"
_MODEL_FILES = ("student.json", "student.safetensors", "text.safetensors", _CODEC)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What to measure.

    Attributes:
        model: as for ``Session.open``.
        profile: of the session that makes the films.
        dtype: likewise; ``None`` for its default.
        captions: how the stories are told: ``story``, with everyone described before every shot,
            or ``spare``, with everyone described once; later shots must recall it.
        stories: held-out stories.
        shots: shots of each.
        seed: which held-out stories; different seeds do not overlap.
        threads: CPU threads of the student, in each process.
        jobs: processes.
        ceilings: measure drawn films and codec reconstructions of the same stories too.
        records: file that keeps finished stories, so that a stopped evaluation goes on.
        sheet: PNG to write, the first stories with their captions.
        teacher: makes the films instead of the model, of which only codec, shapes and schedule are
            used; the context swaps, which drive a session, are left out.
        against: records of another evaluation to divide the adherence figures by.
    """

    model: str = "nano"
    profile: str = "exact"
    dtype: str | None = None
    captions: str = "story"
    stories: int = 100
    shots: int = 5
    seed: int = 0
    threads: int = 1
    jobs: int = 1
    ceilings: bool = False
    records: Path | None = None
    sheet: Path | None = None
    teacher: TeacherConfig | None = None
    against: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low in (("stories", 1), ("shots", 1), ("seed", 0), ("threads", 1), ("jobs", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: got {getattr(self, name)}, wanted at least {low}")
        if self.captions not in CAPTIONS:
            raise ConfigError(f"captions: got {self.captions!r}, wanted one of {[*CAPTIONS]}")
        if self.teacher is not None and (self.threads != 1 or self.profile != "exact"):
            raise ConfigError(
                f"teacher: got threads {self.threads} and profile {self.profile!r}, wanted 1 and "
                "'exact': it runs in no session; use more processes (jobs)"
            )

    @property
    def name(self) -> str:
        """What the films are of, in words."""
        made = self.teacher
        if made is None:
            return self.model
        return f"{made.checkpoint} ({made.form}, {made.steps} steps, guidance {made.guidance:g})"


def _films(config: EvaluationConfig, source: str) -> FilmSource:
    if source == "model" and config.teacher is not None:
        folder = model_folder(config.model)
        return teacher_films(config.teacher, folder, captions=config.captions)
    return film_source(
        source, config.model, config.threads, config.profile, config.captions, config.dtype
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    source: str
    seed: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Result:
    """A task's record, and the film's key frames where the sheet shows them."""

    task: _Task
    record: FilmRecord
    pictures: Tensor | None


class _Worker:
    """One process's models and detectors, loaded when first needed."""

    def __init__(self, config: EvaluationConfig) -> None:
        # Small tensors on a busy machine: more threads only wait for each other.
        torch.set_num_threads(1)
        self._config = config
        self._sources: dict[str, Any] = {}
        self._judge = Judge(model_folder(config.model) / _CODEC)
        self._swap: ContextSwap | None = None

    def run(self, task: _Task) -> _Result:
        config = self._config
        story = make_story(task.seed, config.shots)
        if task.source not in self._sources:
            self._sources[task.source] = _films(config, task.source)
        begun = time.perf_counter()
        film = self._sources[task.source](story, task.number)
        made_s = time.perf_counter() - begun
        record = self._judge.judge(story, film, made_s, true_pictures=task.source in CEILINGS)
        if task.source == "model" and config.shots > 1 and config.teacher is None:
            self._swap = self._swap or ContextSwap(
                config.model, self._judge.detector, config.profile, config.dtype
            )
            swap = self._swap.measure(story, task.number)
            record = dataclasses.replace(record, swap=swap)
        shown = config.sheet is not None and task.source == "model" and task.number < _SHEET_STORIES
        return _Result(task=task, record=record, pictures=_key_frames(film) if shown else None)


def _key_frames(film: Tensor) -> Tensor:
    return film[:, list(KEY_FRAMES[::2])].clone()


_worker: list[_Worker] = []
"""The worker of a child process; empty in the parent."""


def _start(config: EvaluationConfig) -> None:
    logging.getLogger("shotstream_rt").setLevel(logging.WARNING)
    _worker.append(_Worker(config))


def _run(task: _Task) -> _Result:
    return _worker[0].run(task)


def _results(config: EvaluationConfig, tasks: Sequence[_Task]) -> Iterator[_Result]:
    if config.jobs == 1 or len(tasks) < 2:
        worker = _Worker(config)
        for task in tasks:
            yield worker.run(task)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(config.jobs, len(tasks)), _start, (config,)) as pool:
        yield from pool.imap_unordered(_run, tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What ``measure`` found.

    Attributes:
        records: by source, in story order.
        pictures: key frames ``[shots, 2, 3, H, W]`` of the first stories by number, as far as
            they were made now and a sheet is wanted.
    """

    records: dict[str, list[FilmRecord]]
    pictures: dict[int, Tensor]


def _identity(config: EvaluationConfig) -> dict[str, Any]:
    folder = model_folder(config.model)
    teacher = config.teacher
    needed = _MODEL_FILES if teacher is None else ("student.json", _CODEC)
    files = [folder / name for name in needed]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"model {config.model}: {folder} lacks {missing}; wanted a nano student")
    if teacher is None:
        made: dict[str, Any] = {"model": fingerprint(*files), "profile": config.profile}
    else:
        made = {
            "teacher": {**teacher.identity(), "stream": stream_fingerprint(folder)},
            "codec": fingerprint(folder / _CODEC),
        }
    return {
        **made,
        # Without it where it is the default, so that older records are known.
        **({} if config.dtype is None else {"dtype": config.dtype}),
        "detector": fingerprint(DETECTOR_FILE, IDENTITY_FILE),
        "shots": config.shots,
        "captions": config.captions,
    }


def measure(config: EvaluationConfig, sources: Sequence[str]) -> Measured:
    """Measure every story that is not on record.

    Args:
        config: what to measure.
        sources: of ``model``, ``drawn`` and ``codec``.
    """
    seeds = held_out_seeds(config.stories, config.seed)
    book = RecordBook(config.records, _identity(config))
    tasks = [
        _Task(source=source, seed=seed, number=number)
        for source in sources
        for number, seed in enumerate(seeds)
        if book.get(source, seed) is None
    ]
    pictures: dict[int, Tensor] = {}
    begun = reported = time.monotonic()
    for done, result in enumerate(_results(config, tasks), start=1):
        book.add(result.task.source, result.record)
        if result.pictures is not None:
            pictures[result.task.number] = result.pictures
        now = time.monotonic()
        if now - reported > _REPORT_S or done == len(tasks):
            reported = now
            left = (now - begun) / done * (len(tasks) - done)
            _log.info("%d of %d films, about %.0f s left", done, len(tasks), left)
    found = {source: [book.get(source, seed) for seed in seeds] for source in sources}
    return Measured(
        records={name: [r for r in records if r is not None] for name, records in found.items()},
        pictures=pictures,
    )


def evaluate(config: EvaluationConfig) -> dict[str, Any]:
    """Run the whole evaluation.

    Returns:
        Plain JSON types: the model's figures (``report.film_figures``), ``tint`` and
        ``hue`` (context swaps), ``ceilings`` by source, ``against``, and what was asked for.

    Raises:
        ConfigError: the model is not one of the drawn world, or a number is out of range.

    Cost:
        On one CPU core about 10 s a story of five shots; with ceilings 7 s more. A teacher of 50
        steps takes about 20 s a shot.
    """
    torch.set_num_threads(1)
    measured = measure(config, ("model", *CEILINGS) if config.ceilings else ("model",))
    records = measured.records
    report: dict[str, Any] = {
        "model": config.name,
        "profile": config.profile,
        "dtype": config.dtype,
        "captions": config.captions,
        "stories": config.stories,
        "shots": config.shots,
        "seed": config.seed,
        **film_figures(records["model"]),
        **swap_figures(records["model"]),
    }
    if config.ceilings:
        report["ceilings"] = {name: film_figures(records[name]) for name in CEILINGS}
    if config.teacher is not None:
        report["teacher"] = config.teacher.identity()
    if config.against is not None:
        compared = compare_records(records["model"], config.against, _identity(config))
        report["against"] = compared
    if config.sheet is not None:
        write_sheet(config, measured.pictures)
    return report


def measure_ceilings(config: EvaluationConfig) -> dict[str, Any]:
    """Measure what the detectors read on true pictures, drawn and through the model's codec.

    Returns:
        Plain JSON types: the figures by source, ``stories``, ``shots``, ``seed``, ``detector``.
    """
    torch.set_num_threads(1)
    records = measure(config, CEILINGS).records
    return {
        "stories": config.stories,
        "shots": config.shots,
        "seed": config.seed,
        "detector": fingerprint(DETECTOR_FILE, IDENTITY_FILE),
        "codec": fingerprint(model_folder(config.model) / _CODEC),
        **{name: film_figures(records[name]) for name in CEILINGS},
    }


def write_sheet(config: EvaluationConfig, pictures: dict[int, Tensor]) -> None:
    """Write the contact sheet of ``config``; films that are not at hand are made again."""
    assert config.sheet is not None
    rows = []
    for number, seed in enumerate(held_out_seeds(config.stories, config.seed)[:_SHEET_STORIES]):
        story = make_story(seed, config.shots)
        shown = pictures.get(number)
        if shown is None:
            shown = _key_frames(_films(config, "model")(story, number))
        asked = told(story, config.captions)
        title, shots = asked.global_caption.strip(), list(shown.unbind(0))
        rows.append(StoryRow(title=title, captions=asked.shots, pictures=shots))
    story_sheet(rows, config.sheet)
