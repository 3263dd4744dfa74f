"""The picture as fragments, and the recording that is made of them."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from shotstream_rt.errors import ConfigError
from shotstream_rt.serve.fragments import (
    KEY_FRAME_S,
    FragmentDecoder,
    FragmentEncoder,
    fragment,
    read_fragment,
)
from shotstream_rt.serve.recording import Recording
from shotstream_rt.serve.samples import TemporarySamples
from shotstream_rt.types import Frame

RATE_HZ = 16


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Moving stripes."""
    x = np.arange(64)
    return [
        np.broadcast_to(((x + 5 * i) % 32 * 8).astype(np.uint8)[None, :, None], (48, 64, 3)).copy()
        for i in range(count)
    ]


def decoded(file: bytes) -> list[tuple[int, bytes]]:
    """Time in frames and picture of every frame of a file."""
    with av.open(io.BytesIO(file)) as container:
        return [
            (
                round(float(frame.pts * frame.time_base * RATE_HZ)),
                frame.to_ndarray(format="rgb24").tobytes(),
            )
            for frame in container.decode(video=0)
        ]


def encoder() -> FragmentEncoder:
    return FragmentEncoder(height=48, width=64, frame_rate_hz=RATE_HZ)


def test_every_frame_is_a_fragment_of_its_own_and_comes_out_at_once() -> None:
    coder = encoder()
    decoder = FragmentDecoder(coder.head.data, RATE_HZ)
    file, keys = [coder.head.data], []
    for number, pixels in enumerate(pictures(60)):
        sample = coder.encode(pixels, key=number == 10)
        data = fragment(coder.head, number, number, sample)
        assert read_fragment(data) == (number * coder.head.ticks, sample)
        ((time, seen),) = decoder.decode(data)
        assert time == number
        assert np.abs(seen.astype(int) - pixels).mean() < 6
        file.append(data)
        keys += [number] if sample.key else []
    assert keys == [0, 10, 10 + KEY_FRAME_S * RATE_HZ]
    assert [time for time, _ in decoded(b"".join(file))] == list(range(60))
    assert coder.head.codec.startswith("avc1.42")  # baseline


def test_a_stream_can_be_joined_at_any_key_frame() -> None:
    coder = encoder()
    parts = [
        fragment(coder.head, n, n, coder.encode(pixels, key=n == 10))
        for n, pixels in enumerate(pictures(20))
    ]
    whole = decoded(coder.head.data + b"".join(parts))
    assert decoded(coder.head.data + b"".join(parts[10:])) == whole[10:]


def test_odd_sizes_and_other_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match="even"):
        FragmentEncoder(height=47, width=64, frame_rate_hz=RATE_HZ)
    with pytest.raises(ConfigError, match="wanted one frame"):
        read_fragment(b"moof" * 100)


class Film:
    """Plays frames into a recording, and knows what every one of them looks like decoded."""

    def __init__(self, recording: Recording | None = None, **limits: Any) -> None:
        self.coder = encoder()
        samples = TemporarySamples(limits.get("limit_bytes", 2**24))
        self.recording = recording or Recording(samples)
        self.decoder = FragmentDecoder(self.coder.head.data, RATE_HZ)
        self.pictures = iter(pictures(500))
        self.number = 0
        self.seen: list[tuple[int, int, int, bytes]] = []

    def play(self, shot: int, take: int, indices: range) -> list[bytes]:
        """Play some frames of a take; returns how they look."""
        looks = []
        for index in indices:
            pixels = next(self.pictures)
            frame = Frame(pixels, index, shot, index // 12, index / RATE_HZ, take)
            change = self.recording.place(frame)
            sample = self.coder.encode(pixels, key=not change.follows)
            self.recording.add(frame, sample, self.number)
            data = fragment(self.coder.head, self.number, self.number, sample)
            looks.append(self.decoder.decode(data)[0][1].tobytes())
            self.number += 1
        return looks

    def file(self) -> list[tuple[int, bytes]]:
        size, contents = self.recording.file(self.coder.head)
        data = b"".join(contents)
        assert len(data) == size
        return decoded(data)


def test_the_recording_is_the_kept_takes_without_a_gap() -> None:
    film = Film()
    first = film.play(0, 0, range(20))
    film.play(1, 0, range(20, 50))  # is retaken below
    second = film.play(1, 1, range(50, 62))
    third = film.play(2, 0, range(62, 80))
    undone = film.play(2, 0, range(68, 75))  # back to frame 68
    expected = first + second + third[:6] + undone
    assert film.file() == list(enumerate(expected))
    assert [(t.shot, t.take, t.index, t.frames) for t in film.recording.takes()] == [
        (0, 0, 0, 20), (1, 1, 50, 12), (2, 0, 62, 13),
    ]  # fmt: skip


def test_an_undo_to_an_earlier_shot_takes_the_later_ones_out() -> None:
    film = Film()
    first = film.play(0, 0, range(20))
    film.play(1, 0, range(20, 40))
    film.play(2, 0, range(40, 60))
    again = film.play(1, 0, range(30, 35))
    assert [look for _, look in film.file()][:20] == first
    assert [look for _, look in film.file()][30:] == again
    assert [(t.shot, t.frames) for t in film.recording.takes()] == [(0, 20), (1, 15)]


def test_a_branch_shares_the_past_and_not_the_future() -> None:
    film = Film()
    past = film.play(0, 0, range(20))
    other = Film(film.recording.branch())
    theirs = other.play(0, 0, range(20, 30))
    ours = film.play(0, 0, range(20, 25))
    assert [look for _, look in film.file()] == past + ours
    assert [look for _, look in other.file()] == past + theirs


def test_a_full_recording_keeps_what_it_has_and_says_so() -> None:
    film = Film(limit_bytes=10_000)
    looks = film.play(0, 0, range(200))
    assert film.recording.full
    count = len(film.recording)
    assert 0 < count < 200
    assert film.file() == list(enumerate(looks[:count]))
