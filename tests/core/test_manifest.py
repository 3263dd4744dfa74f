"""``student.json``: round trip and refusal of what it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ManifestError
from shotstream_rt.loading.manifest import StudentManifest


def manifest() -> StudentManifest:
    return StudentManifest(
        stream=StreamConfig(), codec={"kind": "wan", "file": "vae.pth"}, text={"kind": "umt5"}
    )


def test_round_trip(tmp_path: Path) -> None:
    manifest().write(tmp_path / "student.json")
    assert StudentManifest.read(tmp_path / "student.json") == manifest()
    assert [path.name for path in tmp_path.iterdir()] == ["student.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format"),
        ({"schema_version": 2}, "schema_version"),
        ({"colour": 1}, "colour"),
        ({"codec": "wan"}, "codec"),
        ({"stream": {"model": {"dim": 7}}}, "num_heads"),
        ({"frame_rate_hz": "fast"}, "frame_rate_hz: got 'fast', wanted a whole number from 1"),
        ({"frame_rate_hz": 0}, "frame_rate_hz: got 0"),
        ({"frame_rate_hz": 23.976}, "frame_rate_hz: got 23.976"),
        ({"frame_rate_hz": True}, "frame_rate_hz: got True"),
    ],
    ids=str,
)
def test_wrong_manifests_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "student.json"
    manifest().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ManifestError, match=message):
        StudentManifest.read(path)


def test_not_json(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest file"):
        StudentManifest.read(tmp_path / "missing.json")
