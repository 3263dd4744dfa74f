"""``student.json``: what a student folder holds and how its numbers are to be computed.

Written by training, read by the runtime; nothing else is passed between the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import StreamConfig
from ..errors import ConfigError, ManifestError
from ..inputs import parse_json, read_text
from ..outputs import atomic_file
from ..printable import listed, shown

FORMAT = "shotstream-student"
SCHEMA_VERSION = 1
_MAX_RATE_HZ = 240
_MAX_BYTES = 1 << 20
_MAX_NAME = 1024
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
        text = read_text(path, limit_bytes=_MAX_BYTES, what="manifest", error=ManifestError)
        data = parse_json(text, path, ManifestError)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ManifestError(f'{path}: got no "format": "{FORMAT}"; not a student manifest')
        version = data.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise ManifestError(
                f"{path}: got schema_version {shown(version)}, wanted "
                f"{SCHEMA_VERSION}; use a matching release of shotstream_rt"
            )
        unknown = sorted(set(data) - _KEYS)
        if unknown:
            raise ManifestError(f"{path}: unknown key(s) {listed(unknown)}")
        for key in ("stream", "codec", "text"):
            if not isinstance(data.get(key), dict):
                raise ManifestError(f"{path}: {key}: got {shown(data.get(key))}, wanted an object")
        lineage = data.get("lineage", {})
        if not isinstance(lineage, dict):
            raise ManifestError(f"{path}: lineage: got {shown(lineage)}, wanted an object")
        _check_names(data["codec"], f"{path}: codec", ("file",))
        _check_names(data["text"], f"{path}: text", ("file", "folder", "tokenizer"))
        try:
            stream = StreamConfig.from_dict(data["stream"])
        except ConfigError as error:
            raise ManifestError(f"{path}: stream: {error}") from error
        return cls(
            stream=stream,
            codec=data["codec"],
            text=data["text"],
            frame_rate_hz=_frame_rate(data.get("frame_rate_hz", 16), path),
            lineage=lineage,
        )

    def write(self, path: Path) -> None:
        """Write the manifest atomically.

        Raises:
            OutputError: it cannot be written.
        """
        data = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "stream": self.stream.to_dict(),
            "codec": dict(self.codec),
            "text": dict(self.text),
            "frame_rate_hz": self.frame_rate_hz,
            "lineage": dict(self.lineage),
        }
        with atomic_file(path) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _check_names(part: Mapping[str, Any], where: str, known: tuple[str, ...]) -> None:
    """Check the names of files and folders that a manifest gives.

    Args:
        part: ``kind``, and names inside the model's folder.
        where: for messages.
        known: keys that hold names.

    Raises:
        ManifestError: an unknown key, or a name that leads out of the folder.
    """
    unknown = sorted(set(part) - {"kind", *known})
    if unknown:
        raise ManifestError(f"{where}: unknown key(s) {listed(unknown)}; known: {listed(known)}")
    for key in known:
        if key not in part:
            continue
        name = part[key]
        usable = isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isprintable()
        if not usable or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ManifestError(
                f"{where}: {key}: got {shown(name)}, wanted the name of a file or folder inside "
                "the model's own folder"
            )


def _frame_rate(value: object, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_RATE_HZ:
        raise ManifestError(
            f"{path}: frame_rate_hz: got {shown(value)}, wanted a whole number from 1 to "
            f"{_MAX_RATE_HZ}"
        )
    return value
