"""Outputs of commands: looked at before a model is loaded, each completed by itself."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shotstream_rt.cli import main
from shotstream_rt.cli.film_outputs import FilmOutputs
from shotstream_rt.errors import OutputError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.media.sheet import ContactSheet

from .commands import SHOT_FRAMES, last_object, needs_nano, refused, write_story


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--out", "film.avi"], "ends in .avi"),
        (["--out", "film"], "ends in nothing"),
        (["--out", "-"], "wanted a name that ends in .mp4"),
        (["--out", ""], "empty name"),
        (["--sheet", "sheet.jpg"], "wanted a name that ends in .png"),
        (["--frames-dir", ""], "empty name"),
        (["--out", "x" * 300 + ".mp4"], "choose a shorter name"),
        (["--out", "story.mp4/film.mp4"], "Not a directory"),
        (["--out", "folder.mp4"], "is a folder"),
        (["--out", "pipe.mp4"], "is a pipe"),
        (["--sheet", "pipe.png"], "is a pipe"),
        (["--frames-dir", "pipe.mp4"], "is a pipe"),
        (["--frames-dir", "full"], "holds other files"),
        (["--frames-dir", "story.mp4"], "is a regular file"),
        (["--out", "a.mp4", "--frames-dir", "a.mp4"], "one lies in the other"),
        (["--out", "new/a.mp4", "--frames-dir", "new"], "one lies in the other"),
        (["--sheet", "a.png", "--frames-dir", "a.png/b"], "one lies in the other"),
        (["story.mp4", "--out", "story.mp4"], "is the story that is read"),
        (["story.mp4", "--out", "link.mp4"], "is the story that is read"),
        (["set.csv", "--out", "/dev/null"], "ends in nothing"),
        (["--model", "model", "--out", "weights.mp4"], "leads to a file of the model"),
        (["--lora", "model/lora", "--sheet", "lora.png"], "leads to a file of the model"),
        (["--kernels", "magic"], "--kernels"),
        (["--kernels", "torch+magic"], "--kernels"),
        (["-p", "a" * 10_001], "at most 10000"),
        (["--seed", "9" * 5000], "--seed"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(
    fake_model: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_story(tmp_path / "story.mp4", 1)
    (tmp_path / "set.csv").write_text('json_path,frame_number\nstory.mp4,"[[0, 81]]"\n', "utf-8")
    (tmp_path / "link.mp4").symlink_to("story.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine", "utf-8")
    (tmp_path / "model").mkdir()
    for link, file in (("weights.mp4", "student.safetensors"), ("lora.png", "lora")):
        (tmp_path / "model" / file).write_bytes(b"weights")
        (tmp_path / link).symlink_to(tmp_path / "model" / file)
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.png")
    told, report = refused(words, tmp_path, capsys)
    assert named in told
    assert len(told) < 700
    assert report.keys() == {"error", "kind"}
    assert not fake_model


def test_a_private_device_stays_a_device(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = tmp_path / "null.mp4"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    assert main(["generate", "--out", str(node)]) == 2
    assert "is a device" in capsys.readouterr().err
    assert stat.S_ISCHR(node.stat().st_mode)
    assert not fake_model


def test_equal_names_are_refused_in_whatever_way_they_are_written(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/film.mp4").symlink_to("both.png")
    out, sheet = str(tmp_path / "real/film.mp4"), str(tmp_path / "link/both.png")
    assert main(["generate", "--out", out, "--sheet", sheet]) == 2
    assert "are one file" in capsys.readouterr().err
    assert not fake_model


def test_a_failing_sheet_leaves_the_film(
    fake_model: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(self: ContactSheet, path: Path) -> None:
        raise OutputError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(ContactSheet, "save", fail)
    words = ["generate", "--shots", "1", "--out", str(tmp_path / "film.mp4")]
    frames, sheet = str(tmp_path / "frames"), str(tmp_path / "sheet.png")
    assert main([*words, "--frames-dir", frames, "--sheet", sheet, "--json"]) == 2
    captured = capsys.readouterr()
    assert last_object(captured.out)["kind"] == "OutputError"
    assert f"wrote {tmp_path / 'film.mp4'}" in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "frames"]
    assert len(list((tmp_path / "frames").iterdir())) == SHOT_FRAMES


def test_a_fault_while_completing_leaves_no_half_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ContactSheet, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ContactSheet, "save", broken)
    outputs = FilmOutputs(
        None, tmp_path / "frames", tmp_path / "s.png", title="film", size=(32, 48),
        frame_rate_hz=16, on_written=lambda path: None,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt), outputs:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_an_interrupted_film_keeps_the_earlier_one(
    fake_model: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", "--shots", "1", "-q", "--out", str(tmp_path / "film.mp4")]
    words += ["--frames-dir", str(tmp_path / "frames")]
    assert main(words) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shotstream_rt.cli.progress.Progress.frame", interrupt)
    assert main([*words, "--seed", "5"]) == 130
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def _heed_signals() -> None:
    """What runs in the background of a shell inherits that it ignores some."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@needs_nano
@pytest.mark.parametrize(
    ("number", "left"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGKILL, 2)],
)
def test_a_killed_run_leaves_the_old_film_and_names_that_are_known(
    tmp_path: Path, number: int, left: int
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"the film of yesterday")
    words = [sys.executable, "-m", "shotstream_rt", "generate", "--threads", "1"]
    words += ["--out", "film.mp4", "--frames-dir", "frames"]
    with subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_signals
    ) as process:
        assert process.stderr is not None
        while "chunk" not in process.stderr.readline():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.stderr.read()
    assert (tmp_path / "film.mp4").read_bytes() == b"the film of yesterday"
    others = [path.name for path in tmp_path.iterdir() if path.name != "film.mp4"]
    assert len(others) == left
    assert all(name.startswith(".") and name.endswith(".part") for name in others)


def test_calibrate_looks_at_its_output_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Model, "open", load)
    story = write_story(tmp_path / "s.json", 1)
    (tmp_path / "student.json").write_text("{}", "utf-8")
    os.mkfifo(tmp_path / "pipe.json")
    for words in (
        [str(tmp_path), "--shots", "1", "--story", str(story), "--out", str(story)],
        [str(tmp_path), "--out", str(tmp_path / "student.json")],
        [str(tmp_path), "--out", str(tmp_path / "history.txt")],
        [str(tmp_path), "--out", str(tmp_path / "pipe.json")],
        [str(tmp_path), "--films", "0"],
        [str(tmp_path), "--shots", "99"],
        [str(tmp_path), "--seed", "-1"],
    ):
        assert main(["calibrate", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
