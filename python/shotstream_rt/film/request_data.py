"""A shot that was asked for as JSON values, in snapshots and films to play again.

Reading one takes nothing on trust: every value is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..checks import check_range, check_seed, check_text
from ..errors import ConfigError
from ..plan.planner import planner_of
from ..printable import listed, shown
from .reference import ReferencePicture, by_digest
from .shots import CaptionChange, ShotRequest
from .snapshot_model import SnapshotModel

_MAX_CHUNKS = 1 << 20

_FLAGS = ("now", "retake", "looped")
_REQUEST_FIELDS = frozenset(
    ("text", "prefix", "global_caption", "seed", "take", *_FLAGS, "prompts", "given", "frames",
     "context", "images", "chunks")
)  # fmt: skip


def request_data(request: ShotRequest) -> dict[str, Any]:
    """Return a shot as plain JSON values."""
    data = {name: getattr(request, name) for name in sorted(_REQUEST_FIELDS)}
    return {**data, "images": [image.digest for image in request.images]}


def read_request(
    entry: Mapping[str, Any], model: SnapshotModel, pictures: Mapping[str, ReferencePicture]
) -> ShotRequest:
    """Return one shot to make, after looking at each of its values.

    Args:
        entry: what ``request_data`` returned.
        model: what is to make it.
        pictures: reference pictures by digest.

    Raises:
        ConfigError: a value is missing, unknown or not usable.
    """
    if set(entry) != _REQUEST_FIELDS:
        odd = listed(sorted(set(entry) ^ _REQUEST_FIELDS))
        raise ConfigError(f"a shot's fields: missing or unknown: {odd}")
    longest = planner_of(model.config).longest_shot_chunks or _MAX_CHUNKS
    most_frames = longest * model.shot_limit
    values = dict(entry)
    values["text"] = check_text(entry["text"], "text")
    for name in ("prefix", "global_caption"):
        optional = name == "global_caption" and entry[name] is None
        if not optional and not isinstance(entry[name], str):
            raise ConfigError(f"{name}: got {type(entry[name]).__name__}, wanted a text")
    for name in _FLAGS:
        if not isinstance(entry[name], bool):
            raise ConfigError(f"{name}: got {shown(entry[name])}, wanted true or false")
    check_seed(entry["seed"])
    check_range("take", entry["take"], 0, 2**31 - 1)
    if entry["chunks"] is not None:
        check_range("chunks", entry["chunks"], 1, longest)
    if entry["frames"] is not None:
        check_range("frames", entry["frames"], max(1, entry["given"]), most_frames)
    check_range("given", entry["given"], 0, most_frames)
    values["prompts"] = tuple(
        CaptionChange(
            check_range("prompt's frame", frame, 0, most_frames),
            check_text(text),
            check_range("reread", reread, 0, longest),
        )
        for frame, text, reread in entry["prompts"]
    )
    if entry["context"] is not None:
        values["context"] = tuple(
            check_range("context", frame, 0, 2**53) for frame in entry["context"]
        )
    values["images"] = by_digest(entry["images"], pictures)
    if len(values["images"]) > model.config.cache.context_frames:
        raise ConfigError(f"images: got {len(values['images'])}, more than a shot sees")
    values["requested_ns"] = time.perf_counter_ns()  # the clock of another process does not compare
    return ShotRequest(**values, again=entry["given"] > 0)
