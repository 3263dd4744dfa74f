from __future__ import annotations

import errno
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shotstream_rt import ConfigError, Frame, OutputError
from shotstream_rt.media.fonts import Typeface
from shotstream_rt.media.sheet import ContactSheet
from shotstream_rt.media.video import FrameFolder, VideoWriter, save_png
from shotstream_rt.outputs import atomic_file, check_file_target, check_folder_target


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


def test_frame_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    (tmp_path / "00000.png").write_text("mine too", "utf-8")
    with pytest.raises(OutputError, match=r"holds other files \('notes\.txt'\)"):
        FrameFolder(tmp_path)
    assert [path.name for path in everything_under(tmp_path)] == ["00000.png", "notes.txt"]


@pytest.mark.parametrize("through_a_link", [False, True])
def test_frame_folder_takes_the_place_of_a_longer_film(
    tmp_path: Path, through_a_link: bool
) -> None:
    name = real = tmp_path / "frames"
    if through_a_link:
        name = tmp_path / "link"
        name.symlink_to(real)
    for count in (5, 2):
        with FrameFolder(name) as folder:
            for number in range(count):
                folder.write(picture(number))
        assert len(list(real.iterdir())) == count
        real.chmod(0o750)
    assert stat.S_IMODE(real.stat().st_mode) == 0o750
    assert name.is_symlink() == through_a_link
    with pytest.raises(KeyboardInterrupt), FrameFolder(name) as folder:
        folder.write(picture(9))
        raise KeyboardInterrupt
    assert np.array_equal(np.asarray(Image.open(real / "00000.png")), picture(0))
    assert {path.name for path in tmp_path.iterdir()} <= {"frames", "link"}


def test_frame_folder_stays_when_the_swap_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FrameFolder(tmp_path / "frames") as folder:
        folder.write(picture(1))
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".part") and target.name == "frames" and fail.pop():
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    fail = [False, True]
    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(OutputError, match="Input/output"),
        FrameFolder(tmp_path / "frames") as other,
    ):
        other.write(picture(2))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "frames/00000.png")), picture(1))
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_working_folder_is_no_frame_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="is the working folder; name a new folder inside it"):
        FrameFolder(".")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def make_device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes device nodes")


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_never_replaced(
    tmp_path: Path, make: Callable[[Path], None], linked: bool
) -> None:
    node = target = tmp_path / "node.mp4"
    make(node)
    before = node.stat()
    if linked:
        target = tmp_path / "link.mp4"
        target.symlink_to(node)
    for write in (
        lambda: VideoWriter(target, height=32, width=48),
        lambda: atomic_file(target).__enter__(),
        lambda: FrameFolder(target),
        lambda: check_file_target(target),
    ):
        with pytest.raises(OutputError):
            write()
    after = node.stat()
    assert (after.st_ino, after.st_mode, after.st_rdev) == (
        before.st_ino,
        before.st_mode,
        before.st_rdev,
    )
    assert len(everything_under(tmp_path)) == 1 + linked


def test_links_are_followed_and_modes_kept(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store/real.txt", tmp_path / "link.txt"
    real.write_text("old", "utf-8")
    real.chmod(0o640)
    link.symlink_to(real)
    with atomic_file(link) as part:
        assert part.parent == real.parent, "beside the file, so that renaming it is one step"
        part.write_text("new", "utf-8")
    assert link.is_symlink()
    assert real.read_text("utf-8") == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    dangling = tmp_path / "dangling.txt"
    dangling.symlink_to(tmp_path / "store/later.txt")
    with atomic_file(dangling) as part:
        part.write_text("new", "utf-8")
    assert (tmp_path / "store/later.txt").read_text("utf-8") == "new"
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    with pytest.raises(OutputError, match="symbolic links"), atomic_file(loop):
        pass


def test_new_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a.txt") as part:
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
        with FrameFolder(tmp_path / "frames") as folder:
            folder.write(picture(0))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "frames").stat().st_mode) == 0o750


def test_temporary_names_are_known_and_cannot_be_foretold(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with atomic_file(tmp_path / "a.txt") as part:
            assert re.fullmatch(r"\.a\.txt\.[0-9a-f]{8}\.part", part.name)
            names.add(part.name)
    assert len(names) == 3


def test_a_link_planted_at_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", "utf-8")
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".a.txt.guessed.part").symlink_to(victim)
    with pytest.raises(OutputError, match="exists"), atomic_file(tmp_path / "a.txt") as part:
        part.write_text("film", "utf-8")
    assert victim.read_text("utf-8") == "precious"


def test_a_file_put_in_the_place_of_the_temporary_one_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="another process"), atomic_file(tmp_path / "a") as part:
        part.unlink()
        part.write_text("theirs", "utf-8")
    assert not (tmp_path / "a").exists()


def test_the_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real_fsync(handle)

    def replace(path: Path, target: Path) -> Path:
        done.append("name")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_file(tmp_path / "a.txt") as part:
        part.write_text("new", "utf-8")
    assert done == ["file", "name", "folder"]


@pytest.mark.parametrize("name", ["", "a" * 300, "a\0b", "file/b", "/proc/nowhere/b"])
def test_unusable_names_are_output_errors_and_make_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    target = tmp_path / name if name else ""
    for check in (
        lambda: check_file_target(target),
        lambda: check_folder_target(target, own="x"),
        lambda: atomic_file(target).__enter__(),
    ):
        with pytest.raises(OutputError):
            check()
    assert everything_under(tmp_path) == [tmp_path / "file"]


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


def test_sheet_has_a_row_per_shot_and_a_picture_per_chunk() -> None:
    sheet = ContactSheet("film")
    for index in range(42):
        shot, within = divmod(index, 21)
        chunk = 0 if within < 9 else 1
        frame = Frame(pixels=picture(index), index=index, shot=shot, chunk=chunk, pts_s=index / 16)
        sheet.add(frame, "a caption that is long enough to need more than one line " * 4)
    assert [[kept.size for kept in row.pictures] for row in sheet._rows] == [[(48, 32)] * 2] * 2
    page = sheet.draw()
    assert page.size[0] == 1600
    assert len(page.getcolors(1 << 24) or []) > 10


def test_sheet_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no frame"):
        ContactSheet("film").save(tmp_path / "a.png")


def frame_of(pixels: NDArray[np.uint8], shot: int = 0, chunk: int = 0) -> Frame:
    return Frame(pixels=pixels, index=0, shot=shot, chunk=chunk, pts_s=0.0)


def test_sheet_keeps_small_copies_only() -> None:
    sheet = ContactSheet("film")
    chunk = np.zeros((12, 480, 832, 3), np.uint8)
    sheet.add(frame_of(chunk[0]), "a")
    small = np.zeros((12, 32, 48, 3), np.uint8)
    sheet.add(frame_of(small[0], chunk=1), "a")
    kept = sheet._rows[0].pictures
    assert [picture.size for picture in kept] == [(320, 185), (48, 32)]
    small[:] = 255
    assert kept[1].getpixel((0, 0)) == (0, 0, 0)


def test_sheet_of_a_long_film_says_what_it_leaves_out() -> None:
    sheet = ContactSheet("film")
    for shot in range(207):
        for chunk in range(2):
            sheet.add(frame_of(picture(0, 16, 16), shot, chunk), f"shot {shot}")
    assert len(sheet._rows) == 200
    assert all(len(row.pictures) == 2 for row in sheet._rows)
    assert sheet._left_out == 7
    longer = sheet.draw().size[1]
    sheet._left_out = 0
    assert longer > sheet.draw().size[1]


def caption_pixels(text: str) -> bytes:
    sheet = ContactSheet("film")
    sheet.add(frame_of(picture(0)), text)
    return np.asarray(sheet.draw()).tobytes()


@pytest.mark.parametrize(
    "pair",
    [
        ("一只红猫", "海滩行走"),
        ("кот", "пёс"),
        ("قطة", "كلب"),
        ("🐈", "🐕"),
        ("कि", "कु"),
        ("ネコ", "イヌ"),
    ],
)
def test_captions_of_any_script_differ_on_the_sheet(pair: tuple[str, str]) -> None:
    assert caption_pixels(pair[0]) != caption_pixels(pair[1])


def test_words_that_no_font_has_are_written_by_number() -> None:
    face = Typeface(19, folders=[])
    assert "".join(piece.text for piece in face.pieces("a 猫\x1b b")) == r"a \u732b\x1b b"
    assert len(face.pieces("a red cat")) == 1


def test_a_font_with_the_script_is_found(tmp_path: Path) -> None:
    from PIL import ImageFont

    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "sub").mkdir()
    data = ImageFont.load_default(20).font_bytes  # any real font: here Pillow's own
    (tmp_path / "sub/real.otf").write_bytes(data)
    face = Typeface(19, folders=[tmp_path])
    assert [piece.text for piece in face.pieces("猫")] == [r"\u732b"]
    assert [Path(font.font.path).name for font in face._fonts[1:]] == ["real.otf"]


@pytest.mark.parametrize("caption", ["x" * 2_000_000, "猫" * 5000, "a\nb\t" * 3000, " " * 9000])
def test_captions_of_any_length_fit_on_the_page(caption: str) -> None:
    sheet = ContactSheet("t" * 100_000)
    sheet.add(frame_of(picture(0)), caption)
    page = np.asarray(sheet.draw())
    assert page.shape[1] == 1600
    assert (page[:, -28:] == page[0, 0]).all(), "nothing is written in the margin"
