"""A film as a file: its frames, rate and colours; whole, or not there."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from shotstream_rt import ConfigError, OutputError
from shotstream_rt.media.video import VideoWriter, save_png

from .pictures import everything_under, picture


def test_film_has_every_frame_at_16_fps_in_close_colours(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "film.mp4"
    with VideoWriter(path, height=32, width=48, crf=1) as film:
        for number in range(20):
            film.write(picture(number))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 16
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 20
    error = np.abs(frames[19][8:24, 4:20].astype(int) - picture(19)[8:24, 4:20]).mean()
    assert error < 4
    assert everything_under(path.parent) == [path]


@pytest.mark.parametrize("rate", [8, 24])
def test_film_has_the_frame_rate_it_is_given(tmp_path: Path, rate: int) -> None:
    with VideoWriter(tmp_path / "film.mp4", height=32, width=48, frame_rate_hz=rate) as film:
        for number in range(2 * rate + 1):
            film.write(picture(number))
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate
        assert [float(frame.time) for frame in container.decode(stream)][-1] == pytest.approx(2.0)


@pytest.mark.parametrize("rate", [0, -3, 24.5, "16", True])
def test_unusable_frame_rates_are_config_errors(tmp_path: Path, rate: Any) -> None:
    with pytest.raises(ConfigError, match="frame_rate_hz"):
        VideoWriter(tmp_path / "film.mp4", height=32, width=48, frame_rate_hz=rate)


@pytest.mark.parametrize("size", [(31, 48), (32, 47), (0, 0)])
def test_odd_sizes_are_refused_before_anything_is_written(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    with pytest.raises(ConfigError, match="even height and width"):
        VideoWriter(tmp_path / "film.mp4", height=size[0], width=size[1])
    assert everything_under(tmp_path) == []


def test_wrong_frames_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    for wrong in (picture(0, 16), picture(0).astype(np.float32)):
        with (
            pytest.raises(ConfigError, match="wanted uint8"),
            VideoWriter(tmp_path / "film.mp4", height=32, width=48) as film,
        ):
            film.write(wrong)
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_film_leaves_nothing_and_keeps_the_old_one(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"the film of yesterday")
    with pytest.raises(error), VideoWriter(path, height=32, width=48) as film:
        film.write(picture(0))
        raise error
    assert path.read_bytes() == b"the film of yesterday"
    assert everything_under(tmp_path) == [path]


def test_film_without_frames_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="no frame"),
        VideoWriter(tmp_path / "film.mp4", height=32, width=48),
    ):
        pass
    assert everything_under(tmp_path) == []


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "file" / "film.mp4", tmp_path / "folder.mp4"):
        with (
            pytest.raises(OutputError, match=path.name),
            VideoWriter(path, height=32, width=48) as film,
        ):
            film.write(picture(0))


FULL_DISK = """
import resource, sys
import numpy as np
from shotstream_rt.errors import OutputError
from shotstream_rt.media.video import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
random = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], height=96, width=160, crf=1) as film:
        for _ in range(60):
            film.write(random.integers(0, 256, (96, 160, 3), dtype=np.uint8))
except OutputError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_storage_that_ends_gives_an_error_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"refused: {path}: cannot be written")
    assert everything_under(tmp_path) == []


class FullDisk:
    """A container on a disk that is full."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def mux(self, packets: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with (
        pytest.raises(OutputError, match="No space left on device; free some space"),
        VideoWriter(path, height=32, width=48) as film,
    ):
        film._container = FullDisk(film._container)  # type: ignore[assignment]
        film.write(picture(0))
    assert everything_under(tmp_path) == []


def test_errors_of_libav_are_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(FullDisk):
        def mux(self, packets: Any) -> None:
            raise av.error.ExternalError(542398533, "Generic error in an external library")

    with (
        pytest.raises(OutputError, match=r"film\.mp4: cannot be written: Generic error"),
        VideoWriter(tmp_path / "film.mp4", height=32, width=48) as film,
    ):
        film._container = Failing(film._container)  # type: ignore[assignment]
        film.write(picture(0))

    def unknown(*_: object, **__: object) -> None:
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr(av, "open", lambda *_, **__: SimpleNamespace(add_stream=unknown))
    with (
        pytest.raises(OutputError, match="no libx264"),
        VideoWriter(tmp_path / "film.mp4", height=32, width=48),
    ):
        pass
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize("name", ["film.avi", "film", "film.mp4.txt", "-", ".mp4"])
def test_films_are_written_under_their_own_ending_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"wanted a name that ends in \.mp4"):
        VideoWriter(tmp_path / name, height=32, width=48)
    with pytest.raises(OutputError, match=r"wanted a name that ends in \.png"):
        save_png(tmp_path / name, picture(0))
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["2026-11-29T10:15:00.mp4", "http:x.mp4", "a%05d?b#c.MP4", "猫 \n.mp4", "a" * 251 + ".mp4"],
)
def test_films_of_any_name_are_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "pipe:1"
    with VideoWriter(folder / name, height=32, width=48) as film:
        film.write(picture(0))
    assert [path.name for path in folder.iterdir()] == [name]


def test_film_says_its_colours_and_has_its_index_in_front(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    colours = [(0, 200, 0), (255, 0, 0), (30, 90, 200), (255, 255, 255), (0, 0, 0)]
    with VideoWriter(path, height=32, width=48, crf=1) as film:
        for colour in colours:
            film.write(np.full((32, 48, 3), colour, np.uint8))
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        planes = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert tuple(map(int, tags)) == (1, 1, 1, 1)
    for colour, plane in zip(colours, planes, strict=True):
        red, green, blue = (value / 255 for value in colour)
        # ITU-R BT.709, limited range.
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        wanted = (
            16 + 219 * luma,
            128 + 224 * (blue - luma) / 1.8556,
            128 + 224 * (red - luma) / 1.5748,
        )
        got = (plane[0, 0], plane[32, 0], plane[40, 0])
        assert got == pytest.approx(wanted, abs=1.5)


def test_png_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"a\.png.*free some space"):
        save_png(tmp_path / "a.png", picture(0))
    assert everything_under(tmp_path) == []
