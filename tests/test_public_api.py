"""The names that callers rely on; a change here is a change for them."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import shotstream_rt
from shotstream_rt.types import DEFAULT_FRAME_RATE_HZ

NAMES = {
    "BackendUnavailableError", "Chunk", "ConfigError", "DeviceError", "Event", "FetchError",
    "Frame", "FrameTimeoutError", "KernelUnavailableError", "ManifestError", "MemoryFrame",
    "Model", "ModelClosedError", "OutputError", "Place", "Receipt", "Session", "SessionClosedError",
    "SessionState", "ShotStreamError", "Story", "WeightsError", "__version__", "build_info",
}  # fmt: skip


def test_names() -> None:
    assert set(shotstream_rt.__all__) == NAMES
    for name in NAMES:
        assert getattr(shotstream_rt, name) is not None
    assert set(dir(shotstream_rt)) >= NAMES


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Movie'"):
        _ = shotstream_rt.Movie


def test_session_methods() -> None:
    methods = {
        name for name, _ in inspect.getmembers(shotstream_rt.Session) if not name.startswith("_")
    }
    assert methods == {
        "achunks", "aclose", "aopen", "astream", "branch", "cancel", "check", "chunks", "clear",
        "close", "closed", "context_frames", "cut", "directions", "failed", "forget",
        "frame_rate_hz", "memory", "on_event", "open", "pause", "pin", "prompt", "replay",
        "restore", "resume", "retake", "shot_frames", "size", "snapshot", "standing",
        "start_lengths", "state", "stats", "story", "stream", "undo", "unpin",
    }  # fmt: skip


@pytest.mark.parametrize(
    "method,arguments",
    [
        ("open", ["model", "seed", "device", "backend", "kernels", "profile", "size", "dtype",
                  "lora", "ema", "engines", "at_end", "queue_chunks", "queue_policy", "threads",
                  "keep_on_device", "choose", "stats_path", "student", "progress"]),
        ("cut", ["self", "text", "global_caption", "seed", "take", "now", "chunks", "flush",
                 "start", "strength", "images"]),
        ("prompt", ["self", "text", "shot", "flush", "reread"]),
        ("stream", ["self", "follow", "timeout_s"]),
        ("chunks", ["self", "follow", "timeout_s"]),
        ("astream", ["self", "follow", "timeout_s"]),
        ("achunks", ["self", "follow", "timeout_s"]),
        ("retake", ["self", "shot", "flush", "keep_following"]),
        ("undo", ["self", "chunks", "frame", "shot"]),
        ("snapshot", ["self", "within_chunk"]),
        ("restore", ["self", "data"]),
    ],
)  # fmt: skip
def test_session_arguments(method: str, arguments: list[str]) -> None:
    assert list(inspect.signature(getattr(shotstream_rt.Session, method)).parameters) == arguments


def test_frame_and_chunk_fields() -> None:
    fields = ["pixels", "index", "shot", "chunk", "pts_s", "take", "caption", "made_s"]
    for kind in (shotstream_rt.Frame, shotstream_rt.Chunk):
        assert [field.name for field in dataclasses.fields(kind)] == fields
    with pytest.raises(dataclasses.FrozenInstanceError):
        shotstream_rt.Frame(None, 0, 0, 0, 0.0).index = 1  # type: ignore[misc, arg-type]
    assert DEFAULT_FRAME_RATE_HZ == 16


def test_every_error_is_one_of_ours() -> None:
    errors = [getattr(shotstream_rt, name) for name in NAMES if name.endswith("Error")]
    assert len(errors) == 12
    for error in errors:
        assert issubclass(error, shotstream_rt.ShotStreamError)
    assert issubclass(shotstream_rt.ConfigError, ValueError)
    assert issubclass(shotstream_rt.FrameTimeoutError, TimeoutError)
    assert issubclass(shotstream_rt.OutputError, OSError)
