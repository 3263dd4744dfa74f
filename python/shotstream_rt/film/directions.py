"""What was asked of a film, and where it took effect: enough to make the same film again.

Noise is computed from the seed, so the directions, the model and the options decide every frame.
``film.json`` holds them; ``replay.py`` plays it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .shots import CaptionChange, ShotRun


def directions_of(runs: Sequence[ShotRun], *, starts: bool = True) -> list[dict[str, Any]]:
    """Return what made some shots, in order, as plain JSON values.

    Args:
        runs: the shots, from the film's first on.
        starts: with the latents of given starts, of which one is as large as a picture.
    """
    before, found = -1, []
    for run in runs:
        kind = "retake" if run.shot == before else "loop" if run.request.looped else "cut"
        found += _of_run(run, kind, starts)
        before = run.shot
    return found


def pictures_of(runs: Sequence[ShotRun]) -> dict[str, str]:
    """Return the reference pictures that some shots saw, by digest, as JSON values."""
    images = {image.digest: image for run in runs for image in run.request.images}
    return {digest: images[digest].to_text() for digest in sorted(images)}


def _of_run(run: ShotRun, kind: str, starts: bool) -> list[dict[str, Any]]:
    request = run.request
    begins: dict[str, Any] = {
        "kind": kind,
        "text": request.text,
        "prefix": request.prefix,
        "seed": request.seed,
        "take": request.take,
        "chunks": request.chunks,
        "context": list(request.context or ()),
        "images": [image.digest for image in request.images],
        "shot": run.shot,
        "chunk": 0,
        "frame": run.first_index,
    }
    if starts and request.start is not None:
        begins["start"] = request.start.data
    return [begins, *(_of_prompt(run, change) for change in run.prompts)]


def _of_prompt(run: ShotRun, change: CaptionChange) -> dict[str, Any]:
    return {
        "kind": "prompt",
        "text": change.caption.removeprefix(run.request.prefix),
        "reread": change.reread,
        "take": run.request.take,
        "shot": run.shot,
        "chunk": run.chunk_at(change.frame),
        "frame": run.first_index + change.frame,
    }
