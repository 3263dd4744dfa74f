"""Nano's bundled film through exported engines, beside ``eager``: how far its latents are away.

Five shots with cuts, a prompt change inside the second one, and a last shot that is left to extend
past the trained length, where the ring of slots rolls. ``eager`` in float32 makes the film once;
every call of its passes is kept and played again on the engines, so that each shot begins with the
same context frames (``shots``: the worst chunk). With ``--films`` engines in float32 make the film
from its directions too, and see the frames that they made themselves (``film``).

Roundings to bfloat16 add up along a shot, and how far apart two films drift is chance: of torch's
own two kernel sets one is up to four times nearer than the other in one film, and further away in
the next. What is judged there is each chunk by itself, behind the very chunks that ``eager`` made
(``alone``: the geometric mean of all chunks).

The exit code is 1 if something is further away than its limit.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.abandonment import never
from shotstream_rt.export.exporter import export_graphs
from shotstream_rt.loading.backend_request import open_nano_codec, stream_config
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import NoiseSource
from shotstream_rt.session import Session
from shotstream_rt.shot_inputs import ShotInputs
from shotstream_rt.story import Story

SEED = 7
LIMIT, OWN_RATIO = 1e-4, 1.3
"""Of float32; and of chunks in bfloat16, times what torch's own are away."""

Call = Callable[[Pipeline], "Tensor | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is asked for.

    Attributes:
        shots: texts.
        chunks: of each shot; the last one is left to extend until it has them.
        prompt: new text of a shot, asked for after its first chunk.
        prompted: number of this shot.
    """

    shots: Sequence[str]
    chunks: Sequence[int]
    prompt: str
    prompted: int = 1


class Tape(Pipeline):
    """A pipeline that keeps what it was asked for, and the latents that it made.

    Args:
        pipeline: the real one.
        chunks: that are kept; an extended shot has no end.
    """

    def __init__(self, pipeline: Pipeline, chunks: int) -> None:
        super().__init__(pipeline.config, pipeline.film, pipeline.policy)
        self.calls: list[Call] = []
        self.latents: list[Tensor] = []
        self._chunks = chunks

    def begin_shot(self, begins: ShotInputs, abandoned: Callable[[], bool] = never) -> None:
        """See ``Pipeline``; a replay gets a copy of the context, and is not asked."""
        super().begin_shot(begins, abandoned)
        kept = replace(begins, context=begins.context.clone())
        self._keep(lambda other: other.begin_shot(kept))

    def change_captions(self, captions: CaptionSet, abandoned: Callable[[], bool] = never) -> None:
        """See ``Pipeline``."""
        super().change_captions(captions, abandoned)
        self._keep(lambda other: other.change_captions(captions))

    def run_chunk(
        self, chunk: int, noise: NoiseSource, abandoned: Callable[[], bool] = never
    ) -> Tensor:
        """See ``Pipeline.run_chunk``.

        Args:
            chunk: number within the shot, from 0.
            noise: the shot's.
            abandoned: asked in front of each step and layer; a replay is not asked.
        """
        x0 = super().run_chunk(chunk, noise, abandoned)
        if self._keep(lambda other: other.run_chunk(chunk, noise)):
            self.latents.append(x0.float().clone())
        return x0

    def commit(self, abandoned: Callable[[], bool] = never) -> None:
        """See ``Pipeline``."""
        super().commit(abandoned)
        self._keep(lambda other: other.commit())

    def _keep(self, call: Call) -> bool:
        if len(self.latents) == self._chunks:
            return False
        self.calls.append(call)
        return True


def whole_script() -> Script:
    """Return the bundled story: five shots, the last one four chunks past the trained length."""
    captions = Story.bundled().captions
    return Script(shots=captions, chunks=(7, 7, 7, 7, 11), prompt=captions[3])


def recorded(model: Model, script: Script) -> tuple[Tape, Mapping[str, Any]]:
    """Make a film; return its passes and its directions.

    Args:
        model: what makes it.
        script: what is asked for.
    """
    wanted = sum(script.chunks)
    tape = Tape(model.new_pipeline(), wanted)
    with Session(_taped(model, tape), seed=SEED, queue_chunks=1, at_end="extend") as session:
        for text, chunks in zip(script.shots[:-1], script.chunks[:-1], strict=True):
            session.cut(text, chunks=chunks)
        session.cut(script.shots[-1])
        for chunk in islice(session.chunks(), wanted):
            if (chunk.shot, chunk.chunk) == (script.prompted, 0):
                session.prompt(script.prompt, shot=script.prompted)
        return tape, session.directions()


def played(model: Model, tape: Tape, *, alone: bool = False) -> list[Tensor]:
    """Play a film's passes once more.

    Args:
        model: what plays them.
        tape: of the film.
        alone: let every chunk see those that the tape has in front of it, not those just played.
    """
    pipeline, made = model.new_pipeline(), list[Tensor]()
    for call in tape.calls:
        latents = call(pipeline)
        if latents is not None:
            made.append(latents.float().clone())
            if alone:  # what the clean pass reads next
                with torch.inference_mode():
                    latents.copy_(tape.latents[len(made) - 1])
    pipeline.close()
    return made


def filmed(model: Model, tape: Tape, directions: Mapping[str, Any]) -> list[Tensor]:
    """Make a film from its directions.

    Args:
        model: what makes it.
        tape: of the film.
        directions: likewise.
    """
    own = Tape(model.new_pipeline(), len(tape.latents))
    with Session(_taped(model, own), seed=SEED, queue_chunks=1, at_end="extend") as session:
        for _ in session.replay(directions):
            if len(own.latents) == len(tape.latents):
                break
    return own.latents


def distances(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[float]:
    """Return the relative l2 distance of every chunk."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True)]


def _taped(model: Model, tape: Tape) -> Model:
    """Let the next film of a model be made by a tape."""
    setattr(model, "new_pipeline", lambda: tape)  # noqa: B010
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What plays the film.

    Attributes:
        backend: its name.
        dtype: of weights, activations and caches.
        form: of its engines; empty for none.
        kernels: of ``eager``; the reference ones are what torch computes in its own way.
    """

    backend: str
    dtype: str
    form: str = "passes"
    kernels: str | None = None

    @property
    def title(self) -> str:
        """Its line in the table."""
        return f"{self.backend} {self.dtype} {self.form}".strip()


ROWS = (
    Row(backend="onnxruntime", dtype="float32"),
    Row(backend="openvino", dtype="float32"),
    Row(backend="onnxruntime", dtype="float32", form="segments"),
    Row(backend="openvino", dtype="float32", form="segments"),
    Row(backend="eager", dtype="bfloat16", form="", kernels="reference"),
    Row(backend="openvino", dtype="bfloat16"),
)
"""Torch's own bfloat16 in front of the engines that are judged by it."""


def main(words: list[str] | None = None) -> int:
    """Play the film on every row and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", action="store_true", help="films in float32 as well")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        report = compared(whole_script(), ROWS, Path(temporary), films=asked.films)
    failed = [row["title"] for row in report if not row["passed"]]
    print(f"FAILED: {', '.join(failed)}" if failed else "all passed")  # noqa: T201
    if asked.json:
        print(json.dumps(report))  # noqa: T201
    return 1 if failed else 0


def compared(
    script: Script, rows: Sequence[Row], folder: Path, *, films: bool = False
) -> list[dict[str, Any]]:
    """Make a film on ``eager`` in float32 and play it on every row; return a report of each.

    Args:
        script: of the film.
        rows: what to play it on.
        folder: for exports.
        films: make the film from its directions as well.
    """
    film, own, report = oracle_film(script), 0.0, []
    for row in rows:
        begun_s = time.monotonic()
        found = judged(row, film, folder, own=own, films=films)
        report.append(found)
        if row.backend == "eager":
            own = found["alone"]
        told = "".join(f"  {what} {found[what]:.1e}" for what in ("shots", "film", "alone")
                       if found[what] is not None)  # fmt: skip
        print(f"{row.title:34}{told}  limit {found['limit']:.1e}  "  # noqa: T201
              f"{time.monotonic() - begun_s:.0f} s", flush=True)  # fmt: skip
    return report


def oracle_film(script: Script) -> tuple[Tape, Mapping[str, Any]]:
    """Make a film on ``eager`` with the reference kernels in float32; see ``recorded``."""
    model = Model.open("nano", device="cpu", kernels="reference", dtype="float32")
    try:
        return recorded(model, script)
    finally:
        model.close()


def judged(
    row: Row, film: tuple[Tape, Mapping[str, Any]], folder: Path, *, own: float = 0.0,
    films: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Play a film on a row; return its report.

    Args:
        row: what to play it on.
        film: from ``oracle_film``.
        folder: for exports.
        own: what chunks of torch in the same type are away, each by itself.
        films: make the film from its directions as well, in float32.
    """
    tape, directions = film
    engines = engines_of(row, folder, decoder=films)  # only films are decoded
    model = Model.open(
        "nano", device="cpu", backend=row.backend, kernels=row.kernels, dtype=row.dtype,
        engines=engines, threads=1,
    )  # fmt: skip
    exact, made, alone = row.dtype == "float32", None, None
    shots = max(distances(played(model, tape), tape.latents))
    if exact and films:
        made = max(distances(filmed(model, tape, directions), tape.latents))
    if not exact:
        found = distances(played(model, tape, alone=True), tape.latents)
        alone = math.exp(math.fsum(map(math.log, found)) / len(found))
    model.close()
    limit = LIMIT if exact else OWN_RATIO * (own or alone or math.nan)
    passed = (max(shots, made or 0.0) if alone is None else alone) <= limit
    return {"title": row.title, "chunks": len(tape.latents), "shots": shots, "film": made,
            "alone": alone, "limit": limit, "passed": passed}  # fmt: skip


def engines_of(row: Row, folder: Path, *, decoder: bool = True) -> Path | None:
    """Export what a row needs, unless it is there; return its folder, or ``None`` for nothing.

    Args:
        row: what plays.
        folder: for exports.
        decoder: of whole passes: nano's decoder beside them.
    """
    if not row.form:
        return None
    made = folder / f"{row.form}-{row.dtype}"
    if not made.is_dir():
        codec = open_nano_codec("nano") if decoder and row.form == "passes" else None
        export_graphs(
            stream_config("nano"), getattr(torch, row.dtype), made, form=row.form,
            codec=None if codec is None else codec.net,
        )  # fmt: skip
    return made


if __name__ == "__main__":
    sys.exit(main())
