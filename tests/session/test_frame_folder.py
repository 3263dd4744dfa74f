"""A film as a folder of pictures: whole or not there, and nothing else is touched."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shotstream_rt import OutputError
from shotstream_rt.media.video import FrameFolder

from .pictures import everything_under, picture


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
