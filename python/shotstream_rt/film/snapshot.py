"""Snapshots: where a film stands, as bytes.

A mark, the format's version, a SHA-256 over everything, and a safetensors container with the
latents of the context frames, the reference pictures, and one JSON object with everything else.
Small, because noise is computed from the seed and never stored. Reading one executes nothing, and
takes nothing on trust: every value and shape is checked before a session sees any of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..checks import check_range, check_text
from ..errors import ConfigError, ManifestError
from ..printable import listed, printable, shown
from .picks import frames_wanted
from .reference import ReferencePicture, check_room, checked
from .request_data import read_request, request_data
from .shot_memory import ShotMemory
from .shots import ResumePoint, ShotRequest
from .snapshot_model import SnapshotModel
from .start import Start, read_start

MARK = b"SHOTSTREAM-SNAP\n"
SCHEMA_VERSION = 4

_HASH_BYTES = hashlib.sha256().digest_size
_START = len(MARK) + 4 + _HASH_BYTES
_MAX_BYTES = 1 << 30
_MAX_SHOT = 2**31 - 1
_MAX_REQUESTS = 1 << 20

_PICTURE = "picture."
"""In front of a reference picture's digest, names it in the container."""


def pack(point: ResumePoint, past: Sequence[ShotMemory], model: SnapshotModel) -> bytes:
    """Return the place that a film goes on from as bytes.

    Args:
        point: where the film stands.
        past: ``point.past`` with every frame encoded.
        model: what it was made with.
    """
    shots = (*(request for _, request in point.history), *point.requests)
    starts = {n: shot.start for n, shot in enumerate(shots) if shot.start is not None}
    data = {
        "fingerprint": model.fingerprint,
        "profile": model.profile,
        "weights_digest": model.weights_digest,
        "next_shot": point.next_shot,
        "next_index": point.next_index,
        "history": [[shot, request_data(request)] for shot, request in point.history],
        "requests": [request_data(request) for request in point.requests],
        "starts": {str(n): start.strength for n, start in starts.items()},
        "past": [
            {
                "shot": m.shot,
                "caption": m.caption,
                "frame_count": m.frame_count,
                "first_index": m.first_index,
                "frames": m.kept,
            }
            for m in past
        ],
        "pins": list(point.pins),
        "forgotten": list(point.forgotten),
    }
    tensors = {
        f"{memory.shot}.{frame}": latent.cpu().contiguous()
        for memory in past
        for frame, latent in memory.latents.items()
    }
    # Takes of a shot share their start, which the container does not allow.
    tensors |= {f"start.{n}": start.latents.clone() for n, start in starts.items()}
    for request in (*(request for _, request in point.history), *point.requests):
        for image in request.images:
            tensors[_PICTURE + image.digest] = torch.from_numpy(image.pixels.copy())
    # A container without tensors is not a valid file, so there is always this one.
    tensors["version"] = torch.tensor([SCHEMA_VERSION], dtype=torch.int32)
    payload = save(tensors, metadata={"snapshot": json.dumps(data)})
    version = SCHEMA_VERSION.to_bytes(4, "little")
    return MARK + version + _checksum(version, payload) + payload


def tensors_at(data: bytes) -> int:
    """Return where the tensors of a snapshot begin.

    Before them stands what changes with every frame; they change when a shot begins.
    """
    return _START + 8 + int.from_bytes(data[_START : _START + 8], "little")


def unpack(data: bytes | bytearray | memoryview, model: SnapshotModel) -> ResumePoint:
    """Return the place that a film goes on from, as held by ``data``.

    Args:
        data: what ``pack`` returned.
        model: what is to go on with the film.

    Raises:
        ConfigError: not a snapshot, or a damaged one.
        ManifestError: a snapshot of another format version, model configuration, profile or
            weights.
    """
    payload = _payload(data)
    try:
        tensors = load(payload)
        header = _header(payload)
        _check_model(header, model)
        starts = _starts(header, tensors, model)
        pictures = _pictures(tensors, model)
        past = _past(header, tensors, model)
        next_shot = check_range("next_shot", header["next_shot"], 0, _MAX_SHOT)
        if past and past[-1].shot >= next_shot:
            raise ConfigError(f"next_shot: got {next_shot}, wanted more than {past[-1].shot}")
        entries = header["requests"]
        if len(entries) + len(header["history"]) > _MAX_REQUESTS:
            raise ConfigError(f"got {len(entries)} shots, wanted {_MAX_REQUESTS} at most")
        history = tuple(
            _delivered(shot, entry, model, pictures) for shot, entry in header["history"]
        )
        requests = tuple(read_request(entry, model, pictures) for entry in entries)
        if starts:
            history = tuple(
                (shot, replace(request, start=starts.pop(n, None)))
                for n, (shot, request) in enumerate(history)
            )
            requests = tuple(
                replace(request, start=starts.pop(n, None))
                for n, request in enumerate(requests, len(history))
            )
            if starts:
                raise ConfigError(f"starts: got those of unknown shots {listed(sorted(starts))}")
        index = check_range("next_index", header["next_index"], 0, 2**53)
        delivered = [*(request for _, request in history), *requests]
        if index != sum(request.given for request in delivered):
            raise ConfigError(f"next_index: got {index}, wanted the number of delivered frames")
        return ResumePoint(
            history=history,
            requests=requests,
            past=past,
            next_shot=next_shot,
            next_index=index,
            pins=tuple(check_range("pin", frame, 0, 2**53) for frame in header["pins"]),
            forgotten=tuple(
                check_range("forgotten shot", shot, 0, _MAX_SHOT) for shot in header["forgotten"]
            ),
        )
    except ConfigError as error:
        raise ConfigError(f"snapshot: damaged ({printable(error)}); take another one") from error
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        why = printable(f"{type(e).__name__}: {e}")
        raise ConfigError(f"snapshot: damaged ({why}); take another one") from e


def _checksum(version: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(MARK + version + payload).digest()


def _payload(data: object) -> bytes:
    """Return the container of a snapshot whose checksum is right."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ConfigError(f"snapshot: got {type(data).__name__}, wanted bytes")
    held = bytes(data)
    if not held.startswith(MARK) or len(held) < _START:
        raise ConfigError(
            f"snapshot: these {len(held)} bytes are not one; wanted what snapshot() returned"
        )
    if len(held) > _MAX_BYTES:
        raise ConfigError(f"snapshot: got {len(held)} bytes, wanted {_MAX_BYTES} at most")
    version, payload = held[len(MARK) : len(MARK) + 4], held[_START:]
    if held[len(MARK) + 4 : _START] != _checksum(version, payload):
        raise ConfigError("snapshot: damaged, its checksum does not fit; take another one")
    number = int.from_bytes(version, "little")
    if number != SCHEMA_VERSION:
        raise ManifestError(
            f"snapshot: version {number}, this program reads {SCHEMA_VERSION}; restore it with the "
            "program that wrote it"
        )
    return payload


def _header(payload: bytes) -> dict[str, Any]:
    length = int.from_bytes(payload[:8], "little")
    metadata = json.loads(payload[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata["snapshot"])
    if not isinstance(header, dict):
        raise ConfigError(f"got {type(header).__name__}, wanted a JSON object")
    return header


def _check_model(header: Mapping[str, Any], model: SnapshotModel) -> None:
    if header["profile"] != model.profile:
        made_with = printable(str(header["profile"])[:40])
        raise ManifestError(
            f"snapshot: made with profile {made_with}, this session has {model.profile}; "
            "open it with the same profile"
        )
    if header["fingerprint"] != model.fingerprint:
        raise ManifestError(
            "snapshot: made with another model configuration; open the session with the same model "
            "and size"
        )
    made_with, here = header["weights_digest"], model.weights_digest
    if made_with != here and None not in (made_with, here):
        raise ManifestError(
            f"snapshot: made with other weights (digest {shown(made_with)[:12]}, this session has "
            f"{str(here)[:12]}); open the session with the same checkpoint"
        )


def _starts(
    header: Mapping[str, Any], tensors: dict[str, torch.Tensor], model: SnapshotModel
) -> dict[int, Start]:
    """Take the given starts out of the tensors, by number of the shot in history and requests."""
    return {
        int(shot): read_start(
            {"strength": strength, "latents": tensors.pop(f"start.{int(shot)}")},
            model.config, model.latent_shape[0],
        )
        for shot, strength in header.get("starts", {}).items()
    }  # fmt: skip


def _past(
    header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], model: SnapshotModel
) -> tuple[ShotMemory, ...]:
    """Return the past shots, each with exactly the latents that a later shot can pick."""
    cache, entries = model.config.cache, header["past"]
    most = cache.context_frames + len(header["pins"])
    if len(entries) > most:
        raise ConfigError(f"past: got {len(entries)} shots, wanted {most} at most")
    unused = {name for name in tensors if not name.startswith(_PICTURE)} - {"version"}
    past, before = [], -1
    for entry in entries:
        shot = check_range("shot", entry["shot"], before + 1, _MAX_SHOT)
        count = check_range("frame_count", entry["frame_count"], 1, model.shot_limit)
        latents = {}
        needed = frames_wanted(count, cache.context_frames, cache.context_choice)
        frames = [check_range("frame", frame, 0, count - 1) for frame in entry["frames"]]
        if not {*needed} <= {*frames} or len(frames) > len(needed) + most:
            raise ConfigError(
                f"frames of shot {shot}: got {listed(frames)}, wanted {listed(needed)}"
            )
        for frame in frames:
            latent = tensors[f"{shot}.{frame}"]
            unused.discard(f"{shot}.{frame}")
            if tuple(latent.shape) != model.latent_shape or not latent.is_floating_point():
                raise ConfigError(
                    f"latent {shot}.{frame}: got {latent.dtype} {tuple(latent.shape)}, wanted "
                    f"floating point {model.latent_shape}"
                )
            if not bool(torch.isfinite(latent).all()):
                raise ConfigError(f"latent {shot}.{frame}: not finite")
            latents[frame] = latent
        caption = check_text(entry["caption"], "caption")
        index = check_range("first_index", entry["first_index"], 0, 2**53)
        past.append(
            ShotMemory(
                shot=shot, caption=caption, frame_count=count, latents=latents, first_index=index
            )
        )
        before = shot
    if unused:
        raise ConfigError(f"latents that no shot needs: {listed(sorted(unused))}")
    return tuple(past)


def _pictures(
    tensors: Mapping[str, torch.Tensor], model: SnapshotModel
) -> dict[str, ReferencePicture]:
    """Return the reference pictures by digest."""
    digests = [name.removeprefix(_PICTURE) for name in tensors if name.startswith(_PICTURE)]
    check_room(digests, model.picture_size)
    pictures = {}
    for digest in digests:
        pixels = tensors[_PICTURE + digest]
        if pixels.dtype != torch.uint8 or tuple(pixels.shape) != (*model.picture_size, 3):
            raise ConfigError(f"picture: got {pixels.dtype} {tuple(pixels.shape)}")
        pictures[digest] = checked(digest, pixels.numpy())
    return pictures


def _delivered(
    shot: object,
    entry: Mapping[str, Any],
    model: SnapshotModel,
    pictures: Mapping[str, ReferencePicture],
) -> tuple[int, ShotRequest]:
    """Return number and request of a shot that is delivered whole."""
    number, request = check_range("shot", shot, 0, _MAX_SHOT), read_request(entry, model, pictures)
    if request.given == 0 or request.frames != request.given:
        raise ConfigError("history: got a shot that is not delivered whole")
    return number, request
