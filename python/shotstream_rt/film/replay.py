"""Playing a film's directions once more, frame by frame the same.

``Session.directions`` returns them and a file ``film.json`` holds them, with the model that they
were given to and a checksum. Nothing in the file is taken on trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checks import check_range, check_text
from ..errors import ConfigError, ManifestError
from ..inputs import read_text
from ..printable import listed, printable, shown
from .reference import by_digest, check_room, picture_of
from .request_data import read_request, request_data
from .shots import CaptionChange, ResumePoint, ShotRequest
from .snapshot_model import SnapshotModel
from .start import read_start

VERSION = 2

_KEYS = frozenset(
    ("version", "model", "profile", "weights_digest", "fingerprint", "seed", "options", "frames",
     "directions", "undone", "pictures", "checksum")
)  # fmt: skip
_MAX_DIRECTIONS = 1 << 20
_MAX_FILE_BYTES = 1 << 30


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return directions with their checksum."""
    return {**data, "checksum": _checksum(data)}


def film_of(data: object, model: SnapshotModel) -> ResumePoint:
    """Return a film that is to be made from its beginning.

    Args:
        data: what ``Session.directions`` returned, also after a way through JSON.
        model: what is to make it.

    Raises:
        ConfigError: these are no directions, or they are damaged.
        ManifestError: directions of another version, or given to another model.
    """
    data = check_directions(data)
    _check_model(data, model)
    try:
        requests = _requests(data, model)
    except ConfigError as error:
        raise ConfigError(f"film.json: damaged ({printable(error)})") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = printable(f"{type(error).__name__}: {error}")
        raise ConfigError(f"film.json: damaged ({why})") from error
    return ResumePoint(requests=tuple(requests), past=(), next_shot=0, next_index=0)


def read_directions(path: str | Path) -> dict[str, Any] | None:
    """Read a file of directions; None if it is another kind of file, such as a story.

    Args:
        path: the file.

    Raises:
        ConfigError: directions that are damaged, or no regular file.
    """
    if not Path(path).exists():
        return None
    try:
        data = json.loads(read_text(Path(path), limit_bytes=_MAX_FILE_BYTES, what="story"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or "directions" not in data or "shot1" in data:
        return None
    check_directions(data)
    return data


def shot_texts(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of a film's shots, by number of the shot."""
    begun = {one["shot"]: one["text"] for one in data["directions"] if one["kind"] != "prompt"}
    return tuple(begun[shot] for shot in sorted(begun))


def check_directions(data: object) -> Mapping[str, Any]:
    """Return directions whose form, version and checksum are right; raises as ``film_of``."""
    if not isinstance(data, Mapping) or not {"version", "directions"} <= data.keys():
        raise ConfigError(f"film.json: got {shown(data)}, wanted what directions() returned")
    if data["version"] != VERSION:
        raise ManifestError(
            f"film.json: version {shown(data['version'])}, this program reads {VERSION}; play it "
            "with the program that wrote it"
        )
    if set(data) != _KEYS:
        raise ConfigError(f"film.json: missing or unknown: {listed(sorted(set(data) ^ _KEYS))}")
    if data["checksum"] != _checksum(data):
        raise ConfigError("film.json: damaged, its checksum does not fit")
    return data


def _checksum(data: Mapping[str, Any]) -> str:
    content = {key: value for key, value in data.items() if key != "checksum"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check_model(data: Mapping[str, Any], model: SnapshotModel) -> None:
    if data["profile"] != model.profile:
        raise ManifestError(
            f"film.json: made with profile {printable(str(data['profile'])[:40])}, this session "
            f"has {model.profile}; open it with the same profile"
        )
    if data["fingerprint"] != model.fingerprint:
        raise ManifestError(
            f"film.json: made with another model configuration (model "
            f"{printable(str(data['model'])[:80])}); open the session with the same model and size"
        )
    made_with, here = data["weights_digest"], model.weights_digest
    if made_with != here and None not in (made_with, here):
        raise ManifestError(
            f"film.json: made with other weights (digest {shown(made_with)[:12]}, this session "
            f"has {str(here)[:12]}); open the session with the same checkpoint"
        )


def _requests(data: Mapping[str, Any], model: SnapshotModel) -> list[ShotRequest]:
    """Return the shots of a film, each as long as it was shown."""
    entries, end = data["directions"], check_range("frames", data["frames"], 0, 2**53)
    check_room(data["pictures"], model.picture_size)
    pictures = {
        digest: picture_of(digest, text, model.picture_size)
        for digest, text in data["pictures"].items()
    }
    if not isinstance(entries, list) or len(entries) > _MAX_DIRECTIONS:
        raise ConfigError(f"directions: got {shown(entries)}, wanted a list")
    begins = [n for n, entry in enumerate(entries) if entry["kind"] != "prompt"]
    if not entries:
        return []  # nothing of the film was read
    if not begins or begins[0] != 0:
        raise ConfigError("directions: the first is not a cut")
    ends = [entries[n]["frame"] for n in begins[1:]] + [end]
    found = []
    for first, behind, stop in zip(begins, [*begins[1:], len(entries)], ends, strict=True):
        begin, prompts = entries[first], entries[first + 1 : behind]
        length = check_range("frame", stop, begin["frame"] + 1, 2**53) - begin["frame"]
        asked = ShotRequest(
            text=begin["text"],
            prefix=begin["prefix"],
            seed=begin["seed"],
            take=begin["take"],
            chunks=begin["chunks"],
            retake=begin["kind"] == "retake",
            looped=begin["kind"] == "loop",
            frames=length,
            context=begin["context"],
            images=by_digest(begin["images"], pictures),
            prompts=tuple(
                CaptionChange(
                    entry["frame"] - begin["frame"],
                    begin["prefix"] + check_text(entry["text"]),
                    entry["reread"],
                )
                for entry in prompts
            ),
        )
        request = read_request(request_data(asked), model, pictures)
        if (start := begin.get("start")) is not None:
            start = read_start(start, model.config, model.latent_shape[0])
        found.append(replace(request, start=start))
    return found
