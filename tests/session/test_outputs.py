"""Outputs get their names when they are whole, and take the place of regular files only."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shotstream_rt import OutputError
from shotstream_rt.media.video import FrameFolder, VideoWriter
from shotstream_rt.outputs import atomic_file, check_file_target, check_folder_target

from .pictures import everything_under, picture


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
