"""Snapshots: a film's state as bytes, small because noise is addressed instead of stored.

A safetensors container: the latents of the context frames, and one JSON object with everything
else. Nothing is executed when one is read.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .config import StreamConfig
from .context import ShotMemory
from .errors import ConfigError, ManifestError
from .shots import FilmState, ShotRequest

FORMAT = "shotstream-snapshot"
SCHEMA_VERSION = 1


def fingerprint(config: StreamConfig) -> str:
    """Return a digest of everything that decides the numbers, weights aside."""
    text = json.dumps(config.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def pack(
    state: FilmState, past: Sequence[ShotMemory], config: StreamConfig, profile: str = "exact"
) -> bytes:
    """Return a state as bytes.

    Args:
        state: the film.
        past: ``state.past`` with every frame encoded.
        config: the model's, of which a fingerprint is stored.
        profile: whose frames the context frames are.
    """
    data = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint(config),
        "profile": profile,
        "next_shot": state.next_shot,
        "next_index": state.next_index,
        "requests": [asdict(request) for request in state.requests],
        "past": [
            {"shot": m.shot, "caption": m.caption, "frame_count": m.frame_count} for m in past
        ],
    }
    tensors = {
        f"{memory.shot}.{frame}": latent.cpu().contiguous()
        for memory in past
        for frame, latent in memory.latents.items()
    }
    # An empty container is not a valid file, hence a tensor that is always there.
    tensors["version"] = torch.tensor([SCHEMA_VERSION], dtype=torch.int32)
    return save(tensors, metadata={"snapshot": json.dumps(data)})


def unpack(data: bytes, config: StreamConfig, profile: str = "exact") -> FilmState:
    """Return the state held by ``data``.

    Raises:
        ConfigError: not a snapshot, or a damaged one.
        ManifestError: a snapshot of another format version, model configuration or profile.
    """
    try:
        tensors = load(data)
        header = _header(data)
        if header.get("format") != FORMAT:
            raise ConfigError("snapshot: these bytes hold something else")
        _check_versions(header, config)
        made_with = header.get("profile", "exact")
        if made_with != profile:
            raise ManifestError(
                f"snapshot: made with profile {made_with}, this session has {profile}; open it "
                "with the same profile"
            )
        past = tuple(_memory(entry, tensors) for entry in header["past"])
        requests = tuple(_request(entry) for entry in header["requests"])
        return FilmState(
            requests=requests,
            past=past,
            next_shot=int(header["next_shot"]),
            next_index=int(header["next_index"]),
        )
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"snapshot: not a snapshot, or a damaged one ({error})") from error


def _header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    header: dict[str, Any] = json.loads(metadata["snapshot"])
    return header


def _check_versions(header: Mapping[str, Any], config: StreamConfig) -> None:
    if header["schema_version"] != SCHEMA_VERSION:
        raise ManifestError(
            f"snapshot: version {header['schema_version']}, this program reads {SCHEMA_VERSION}"
        )
    if header["fingerprint"] != fingerprint(config):
        raise ManifestError(
            "snapshot: made with another model configuration; open the session with the same model "
            "and size"
        )


def _memory(entry: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> ShotMemory:
    mark = f"{entry['shot']}."
    return ShotMemory(
        shot=int(entry["shot"]),
        caption=str(entry["caption"]),
        frame_count=int(entry["frame_count"]),
        latents={
            int(name.removeprefix(mark)): latent
            for name, latent in tensors.items()
            if name.startswith(mark)
        },
    )


def _request(entry: Mapping[str, Any]) -> ShotRequest:
    known = {f.name for f in fields(ShotRequest)}
    values = {key: value for key, value in entry.items() if key in known}
    values["requested_ns"] = time.perf_counter_ns()  # another process had another clock
    values["prompts"] = tuple((int(chunk), str(text)) for chunk, text in values["prompts"])
    return ShotRequest(**values)
