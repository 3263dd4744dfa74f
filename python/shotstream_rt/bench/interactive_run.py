"""Measures how soon the picture follows a person: ``python -m shotstream_rt.bench --interactive``.

Cuts, prompts, retakes and undos are asked for at random moments while a reader shows the film, once
at a quarter of the rate at which it is made, so that the queue is always full, and once at all of
it. Of every ask: the time until the first frame that it changed was made and was shown, and the
*stale frames*, those shown after the ask and before that frame. Times are told in milliseconds and
in *chunk-times*, of which one is the median time of a chunk in the same run.

Asks use ``flush=True`` where the session has it.
"""

from __future__ import annotations

import inspect
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from shotstream_rt.errors import ConfigError, ShotStreamError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.profiles import find_profile
from shotstream_rt.session import Session
from shotstream_rt.types import Chunk, Receipt

from .film_run import find_story, first_shot
from .measurement import Measurement, SaveUnchecked
from .options import DTYPES, BenchOptions
from .oracle import checked_chunks, compare_latents, reference_pipeline
from .oracle_precision import oracle_products
from .paced_reader import PacedReader, Shown
from .random_checkpoint import resolve_model
from .shot_inputs import run_shot
from .stopwatch import Stopwatch, peak_memory_mib
from .workloads import Workload

_log = logging.getLogger("shotstream_rt.bench")

READERS = {"slow": 0.25, "full": 1.0}
"""Readers by name, and the part of the measured rate at which each one shows frames."""
_MOST_TRIES = 10
"""Times as many asks as are wanted; some come too late for their shot, and do not count."""
_LONGEST_WAIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one ask.

    Attributes:
        kind: ``cut``, ``prompt``, ``retake`` or ``undo``.
        made_ms: until the first frame that it changed was made; negative if it was made before.
        shown_ms: until that frame was shown.
        stale_frames: frames shown after the ask and before that frame.
    """

    kind: str
    made_ms: float
    shown_ms: float
    stale_frames: int


def flushes() -> bool:
    """Tell whether the session can drop what was made and not shown."""
    return "flush" in inspect.signature(Session.cut).parameters


def ask_kinds() -> tuple[str, ...]:
    """Return the kinds of asks that the session takes."""
    known = ("cut", "prompt", "retake", "undo")
    return tuple(kind for kind in known if hasattr(Session, kind))


def measure_interactive(
    workload: Workload, options: BenchOptions, save_unchecked: SaveUnchecked
) -> Measurement:
    """Run an ``interactive`` workload.

    Args:
        workload: of kind ``interactive``.
        options: how; ``warmup`` and ``repeats`` do not matter.
        save_unchecked: gets the measurement before its correctness check begins.

    Raises:
        ConfigError: the recipe or an option is not usable.
        WeightsError: a checkpoint file is missing or broken.
        BackendUnavailableError: the backend asked for cannot run here.
        ShotStreamError: an ask was not answered, or by another frame than it should have been.
    """
    model = Model.open(
        resolve_model(workload.recipe["model"]), device=options.device, backend=options.backend,
        profile=options.profile, dtype=options.dtype, lora=options.lora, ema=options.ema,
        engines=options.engines, student=options.student,
    )  # fmt: skip
    with model:
        return measure_directed(model, workload, options, save_unchecked)


def measure_directed(
    model: Model, workload: Workload, options: BenchOptions, save_unchecked: SaveUnchecked
) -> Measurement:
    """Measure a loaded model; see ``measure_interactive``.

    Args:
        model: the model.
        workload: of kind ``interactive``.
        options: how.
        save_unchecked: gets the measurement before its correctness check begins.
    """
    recipe, config, profile = workload.recipe, model.config, find_profile(options.profile)
    story = find_story(recipe["story"])
    inputs, noise = first_shot(model, story), PhiloxNoise(recipe["seed"])
    dtype = DTYPES[model.backend.info.dtype]
    checked = checked_chunks(config, full=options.checks_whole_shot)
    pipeline = model.new_pipeline()
    measured = run_shot(pipeline, inputs, noise, chunks=checked)
    pipeline.close()

    rate_fps, chunks_ms = _pace(model, story.shots, recipe, options)
    _log.info("%.1f frames per second, %.1f ms a chunk", rate_fps, median(chunks_ms))
    answers: dict[str, list[Answer]] = {}
    missed = 0
    for number, (reader, part) in enumerate(READERS.items()):
        director = _Director(
            story.shots, chunk_ms=median(chunks_ms), rate=random.Random(recipe["seed"] + number),
            patience=1 / part,
        )  # fmt: skip
        with (
            _session(model, recipe, options) as session,
            PacedReader(session, part * rate_fps) as shown,
        ):
            answers[reader] = director.direct(session, shown, recipe["asks"])
        missed += director.missed
        _log.info("reader %s: %d asks answered", reader, len(answers[reader]))
    # Before and after, as other load on the machine may have changed meanwhile.
    rate_after_fps, after_ms = _pace(model, story.shots, recipe, options)
    chunks_ms += after_ms
    samples: dict[str, list[float]] = {
        "e2e_fps": [rate_fps, rate_after_fps],
        "chunk_time_ms": chunks_ms,
    }
    for reader, found in answers.items():
        for answer in found:
            for name, value in _figures(answer, median(chunks_ms)):
                samples.setdefault(f"{answer.kind}_{name}.{reader}", []).append(value)
    samples["peak_memory_mib"] = [peak_memory_mib(model.device)]
    measurement = Measurement(
        info=model.backend.info,
        samples=samples,
        correctness=None,
        timer=Stopwatch(torch.device("cpu")).timer,
        consumer="paced",
        notes={
            "flush": flushes(),
            "kinds": list(ask_kinds()),
            "queue_chunks": recipe["queue_chunks"],
            "reader_fps": {name: round(part * rate_fps, 2) for name, part in READERS.items()},
            "asks_too_late": missed,
        },
    )
    save_unchecked(measurement)
    _log.info("comparing with the oracle")
    with oracle_products(options, dtype) as reference:
        oracle = reference_pipeline(
            model.weights, config, device=model.device, dtype=dtype, profile=profile
        )
        wanted = run_shot(oracle, inputs, noise, chunks=checked)
    correctness = compare_latents(measured, wanted, dtype, profile)
    return replace(measurement, correctness=replace(correctness, reference=reference))


def _figures(answer: Answer, chunk_ms: float) -> list[tuple[str, float]]:
    return [
        ("made_ms", answer.made_ms),
        ("made_chunks", answer.made_ms / chunk_ms),
        ("shown_ms", answer.shown_ms),
        ("shown_chunks", answer.shown_ms / chunk_ms),
        ("stale_frames", float(answer.stale_frames)),
    ]


def _session(model: Model, recipe: Any, options: BenchOptions) -> Session:
    return Session(
        model, seed=recipe["seed"], threads=options.threads, at_end="loop",
        queue_chunks=recipe["queue_chunks"],
    )  # fmt: skip


def _pace(
    model: Model, shots: Sequence[str], recipe: Any, options: BenchOptions
) -> tuple[float, list[float]]:
    """Return frames per second and the milliseconds of every chunk, as fast as they are made.

    The first shot is not counted: what is compiled or packed at first use is done by then.
    """
    with Session(model, seed=recipe["seed"], threads=options.threads) as session:
        for text in (shots[0], *shots[:2]):
            session.cut(text)
        made: list[Chunk] = [chunk for chunk in session.chunks() if chunk.shot > 0]
    frames = sum(len(chunk.pixels) for chunk in made[1:])
    took_ms = [1e3 * (b.made_s - a.made_s) for a, b in pairwise(made) if a.shot == b.shot]
    return frames / (made[-1].made_s - made[0].made_s), took_ms


class _Director:
    """Asks for changes at random moments, and finds the frames that show them.

    Args:
        texts: what is asked for.
        chunk_ms: time of a chunk.
        rate: source of kinds, texts and moments.
        patience: how many times longer than a chunk it takes the reader to show one.
    """

    def __init__(
        self, texts: Sequence[str], *, chunk_ms: float, rate: random.Random, patience: float
    ) -> None:
        self._texts, self._random = texts, rate
        self._pause_s = patience * chunk_ms / 1e3
        self._flush: dict[str, Any] = {"flush": True} if flushes() else {}
        self.missed = 0

    def direct(self, session: Session, shown: PacedReader, asks: int) -> list[Answer]:
        """Ask for so many changes of each kind, one after the other.

        Args:
            session: open, with nothing asked of it yet.
            shown: reads it.
            asks: of each kind.

        Raises:
            ShotStreamError: an ask is not answered, or too many come too late for their shot.
        """
        session.cut(self._texts[0])
        shown.wait_for(lambda _: True, first=0)
        kinds = [kind for kind in ask_kinds() for _ in range(asks)]
        self._random.shuffle(kinds)
        answers: list[Answer] = []
        for kind in kinds:
            for _ in range(_MOST_TRIES):
                time.sleep(self._pause_s * self._random.uniform(0.5, 2.5))
                answer = self._ask(session, shown, kind)
                if answer is not None:
                    answers.append(answer)
                    break
                self.missed += 1
            else:
                raise ShotStreamError(f"{kind}: {_MOST_TRIES} times in a row too late for its shot")
        return answers

    def _ask(self, session: Session, shown: PacedReader, kind: str) -> Answer | None:
        """Ask once; None if it came too late for the shot it was meant for."""
        text = self._random.choice(self._texts)
        before, asked_ns = shown.count, time.perf_counter_ns()
        try:
            receipt = self._request(session, kind, text)
        except ConfigError:
            return None  # between two shots there is nothing to steer or undo
        limit = time.monotonic() + _LONGEST_WAIT_S

        def over() -> bool:
            if time.monotonic() > limit:
                raise ShotStreamError(
                    f"{kind}: no frame shows it after {_LONGEST_WAIT_S:.0f} s; it is "
                    f"{receipt.state} at {receipt.place}"
                )
            return receipt.state not in ("waiting", "applied")

        found = shown.wait_for(_shows(kind, receipt), first=before, over=over)
        if found is None:
            return None
        position, frame = found
        if kind in ("cut", "prompt") and frame.caption != text:
            raise ShotStreamError(
                f"{kind}: frame {frame.index} has caption {frame.caption!r}, wanted {text!r}"
            )
        return Answer(
            kind=kind,
            made_ms=(frame.made_ns - asked_ns) / 1e6,
            shown_ms=(frame.at_ns - asked_ns) / 1e6,
            stale_frames=position - before,
        )

    def _request(self, session: Session, kind: str, text: str) -> Receipt:
        if kind == "cut":
            return session.cut(text, now=True, **self._flush)
        if kind == "prompt":
            return session.prompt(text, **self._flush)
        if kind == "retake":
            return session.retake(**self._flush)
        undo: Callable[..., Receipt] = getattr(session, "undo")  # noqa: B009 (may not be there)
        return undo(chunks=1)


def _shows(kind: str, receipt: Receipt) -> Callable[[Shown], bool]:
    """Return what tells the first frame that shows an ask, once it is applied."""

    def shows(frame: Shown) -> bool:
        place = receipt.place
        if receipt.state != "applied" or place is None or frame.shot != place.shot:
            return False
        if kind == "undo":  # frames behind that place were shown before, and may be for a while
            return frame.index == place.index
        return frame.take == place.take and frame.index >= place.index

    return shows
