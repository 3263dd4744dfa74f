"""``student.json``: what a student folder holds and how its numbers are to be computed.

Written by training, read by the runtime; nothing else is passed between the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import StreamConfig
from .errors import ConfigError, ManifestError

FORMAT = "shotstream-student"
SCHEMA_VERSION = 1
_KEYS = frozenset(
    {"format", "schema_version", "stream", "codec", "text", "frame_rate_hz", "lineage"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentManifest:
    """Contents of ``student.json``.

    Attributes:
        stream: model, cache, shot and schedule.
        codec: ``kind`` (``nano`` or ``wan``) and ``file``, relative to the folder.
        text: ``kind`` (``nano`` or ``umt5``) and ``file`` or ``folder``.
        frame_rate_hz: frames per second the model was trained at.
        lineage: how the weights came to be; free-form, for readers.
    """

    stream: StreamConfig
    codec: Mapping[str, Any]
    text: Mapping[str, Any]
    frame_rate_hz: int = 16
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> StudentManifest:
        """Read and check a manifest.

        Raises:
            ManifestError: not readable, not this format or version, unknown or wrong keys.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ManifestError(f"{path}: cannot be read as JSON ({error})") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ManifestError(f'{path}: got no "format": "{FORMAT}"; not a student manifest')
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ManifestError(
                f"{path}: got schema_version {data.get('schema_version')!r}, wanted "
                f"{SCHEMA_VERSION}; use a matching release of shotstream_rt"
            )
        unknown = sorted(set(data) - _KEYS)
        if unknown:
            raise ManifestError(f"{path}: unknown key(s) {', '.join(unknown)}")
        for key in ("stream", "codec", "text"):
            if not isinstance(data.get(key), dict):
                raise ManifestError(f"{path}: {key}: got {data.get(key)!r}, wanted an object")
        try:
            stream = StreamConfig.from_dict(data["stream"])
        except ConfigError as error:
            raise ManifestError(f"{path}: stream: {error}") from error
        return cls(
            stream=stream,
            codec=data["codec"],
            text=data["text"],
            frame_rate_hz=int(data.get("frame_rate_hz", 16)),
            lineage=data.get("lineage", {}),
        )

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        data = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "stream": self.stream.to_dict(),
            "codec": dict(self.codec),
            "text": dict(self.text),
            "frame_rate_hz": self.frame_rate_hz,
            "lineage": dict(self.lineage),
        }
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
