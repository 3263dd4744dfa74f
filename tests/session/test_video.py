from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shotstream_rt import ConfigError, Frame, OutputError
from shotstream_rt.outputs import atomic_file
from shotstream_rt.sheet import ContactSheet
from shotstream_rt.video import FrameFolder, VideoWriter, save_png


def picture(number: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (min(8 * number, 255), 90, 200)
    return pixels


def everything_under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


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
from shotstream_rt.video import VideoWriter
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


def test_atomic_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as part:
        part.write_text("half", "utf-8")
        assert not path.exists()
    assert path.read_text("utf-8") == "half"
    with pytest.raises(ZeroDivisionError), atomic_file(path) as part:
        part.write_text("other", "utf-8")
        raise ZeroDivisionError
    assert path.read_text("utf-8") == "half"
    assert everything_under(tmp_path) == [path]


def test_frame_folder_is_complete_or_gone(tmp_path: Path) -> None:
    with FrameFolder(tmp_path / "good") as folder:
        for number in range(3):
            folder.write(picture(number))
    names = [path.name for path in everything_under(tmp_path / "good")]
    assert names == ["00000.png", "00001.png", "00002.png"]
    read = np.asarray(Image.open(tmp_path / "good/00002.png"))
    assert np.array_equal(read, picture(2))
    with pytest.raises(KeyboardInterrupt), FrameFolder(tmp_path / "bad") as folder:
        folder.write(picture(0))
        raise KeyboardInterrupt
    assert not (tmp_path / "bad").exists()


def test_frame_folder_leaves_strangers_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(ValueError, match="stop"), FrameFolder(tmp_path) as folder:
        folder.write(picture(0))
        raise ValueError("stop")
    assert everything_under(tmp_path) == [tmp_path / "notes.txt"]


def test_png_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"a\.png.*free some space"):
        save_png(tmp_path / "a.png", picture(0))
    assert everything_under(tmp_path) == []


def test_sheet_has_a_row_per_shot_and_a_picture_per_chunk() -> None:
    sheet = ContactSheet("film")
    for index in range(42):
        shot, within = divmod(index, 21)
        chunk = 0 if within < 9 else 1
        frame = Frame(pixels=picture(index), index=index, shot=shot, chunk=chunk, pts_s=index / 16)
        sheet.add(frame, "a caption that is long enough to need more than one line " * 4)
    assert [len(row.pictures) for row in sheet._rows] == [2, 2]
    page = sheet.draw()
    assert page.size[0] == 1600
    assert len(page.getcolors(1 << 24) or []) > 10


def test_sheet_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no frame"):
        ContactSheet("film").save(tmp_path / "a.png")
