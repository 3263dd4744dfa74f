"""A picture or a clip that ``generate`` begins with."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shotstream_rt import Session
from shotstream_rt.cli import main

from .given_frames import clip, write_clip

Films = Callable[..., Session]


@pytest.fixture
def student_model(open_student: Films, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the next ``Session.open`` give a session of a student."""

    def choose(name: str) -> None:
        monkeypatch.setattr(Session, "open", lambda *_, **__: open_student(name))

    return choose


def generated(arguments: list[str], tmp_path: Path) -> list[NDArray[np.uint8]]:
    """Run the command, and return the frames of its film."""
    folder = tmp_path / "frames"
    assert main(["generate", "-q", "--frames-dir", str(folder), *arguments]) == 0
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_a_clip_on_the_command_line(student_model: Callable[[str], None], tmp_path: Path) -> None:
    student_model("self-forcing")
    given = clip(30)  # nine frames too many
    path = write_clip(tmp_path / "clip.mp4", given, 16)
    made = generated(["-p", "a", "--video", str(path)], tmp_path)
    assert len(made) == 69
    away = np.abs(np.stack(made[:21]).astype(int) - given[:21])
    assert np.median(away) <= 6  # grey to the luma of a film and back
    story = tmp_path / "story.json"
    story.write_text(json.dumps({"global_caption": "all", "shot1": "a", "shot2": "b"}))
    student_model("self-forcing")
    both = generated([str(story), "--video", str(path)], tmp_path)
    assert len(both) == 2 * 69
    assert np.array_equal(both[0], made[0])


def test_a_picture_on_the_command_line_and_a_strength(
    student_model: Callable[[str], None], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(clip(1)[0]).resize((96, 48), Image.Resampling.NEAREST).save(photo)
    student_model("causal-forcing-framewise")
    made = generated(["-p", "a", "--image", str(photo)], tmp_path)
    assert np.abs(made[0].astype(int) - clip(1)[0]).mean() < 12  # scaled down again
    student_model("shotstream")
    seen = generated(["-p", "a", "--image", str(photo)], tmp_path)
    student_model("shotstream")
    assert not np.array_equal(seen[0], generated(["-p", "a"], tmp_path)[0])
    student_model("shotstream")
    path = write_clip(tmp_path / "clip.mp4", clip(20), 16)
    late = generated(["-p", "a", "--video", str(path), "--strength", "0.25"], tmp_path)
    student_model("shotstream")
    assert not np.array_equal(late[0], generated(["-p", "a"], tmp_path)[0])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--image", "IMAGE", "--video", "CLIP"], "one of them"),
        (["--strength", "0.5"], "with it"),
        (["--video", "CLIP", "--strength", "1.5"], "above 0"),
        (["--image", "nowhere.png"], "no such file"),
        (["--image", "CLIP"], "not a JPEG, PNG or WebP"),
        (["--video", "TEXT"], "cannot be read as a clip"),
        (["--video", "FOLDER"], "is a folder"),
        (["--video", "SHORT"], r"got 4 frame(s) at 16 per second, wanted 9 or more"),
        (["--image", "IMAGE"], "got 1 frame(s), wanted whole chunks: 9, 21, 33"),
        (["--video", "SOUND"], "no video in it"),
        (["--image", "WIDE"], "16384 on a side"),
        (["--image", "TEXT"], "not a JPEG, PNG or WebP picture"),
    ],
)
def test_a_start_on_the_command_line_that_cannot_be_used(
    arguments: list[str], message: str, student_model: Callable[[str], None], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files = {name: tmp_path / name for name in ("IMAGE", "CLIP", "SHORT", "TEXT", "SOUND", "WIDE")}
    files["FOLDER"] = tmp_path
    Image.fromarray(clip(1)[0]).save(files["IMAGE"], "PNG")
    Image.new("1", (16385, 1)).save(files["WIDE"], "PNG")
    files["TEXT"].write_text("no clip")
    for name, frames in (("CLIP", 20), ("SHORT", 4)):
        write_clip(tmp_path / f"{name}.mp4", clip(frames), 16).rename(files[name])
    with wave.open(str(files["SOUND"]), "wb") as sound:
        sound.setparams((1, 2, 8000, 80, "NONE", ""))
        sound.writeframes(bytes(160))
    student_model("self-forcing")
    words = [str(files.get(word, word)) for word in arguments]
    out = tmp_path / "film.mp4"
    assert main(["generate", "-q", "-p", "a", "--out", str(out), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("option,name", [("--video", "a.mp4"), ("--image", "a.png")])
def test_a_start_is_not_written_over(
    option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "a.mp4", clip(20), 16)
    Image.fromarray(clip(1)[0]).save(tmp_path / "a.png")
    file = tmp_path / name
    before = file.read_bytes()
    target = "--out" if name.endswith("mp4") else "--sheet"
    assert main(["generate", "-q", "-p", "a", option, str(file), target, str(file)]) == 2
    assert "that is read; choose another name" in capsys.readouterr().err
    assert file.read_bytes() == before
