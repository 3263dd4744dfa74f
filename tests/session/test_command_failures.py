"""How commands end when something is wrong: their words, their outputs, their streams."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.bench.__main__ import main as run_bench
from shotstream_rt.cli import main
from shotstream_rt.cli.film_outputs import FilmOutputs
from shotstream_rt.errors import ConfigError, OutputError
from shotstream_rt.film.stats import SessionStats
from shotstream_rt.loading.layouts import available_models
from shotstream_rt.loading.load_model import Model
from shotstream_rt.media.sheet import ContactSheet
from shotstream_rt.terminal import log_handler, run_command, tell, tell_json

from .commands import SHOT_FRAMES, last_object, write_story

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil\nERROR root: forged\r"

needs_nano = pytest.mark.skipif(
    "nano" not in available_models(), reason="this checkout carries no nano weights"
)


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


# Outputs are looked at before a model is loaded.


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
    before = sorted(tmp_path.rglob("*"))
    kinds = [path.lstat().st_mode for path in before]
    assert main(["generate", *words, "--json"]) == 2
    captured = capsys.readouterr()
    assert named in captured.err
    assert len(captured.err) < 700
    assert last_object(captured.out).keys() == {"error", "kind"}
    assert sorted(tmp_path.rglob("*")) == before
    assert [path.lstat().st_mode for path in before] == kinds
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


# Each output is completed by itself.


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


# Batches.


def test_a_table_of_more_shots_than_the_session_keeps_has_all_its_figures(
    fake_model: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = SessionStats.to_dict
    # The session keeps 256 shots; a film of that many takes too long here.
    monkeypatch.setattr(
        SessionStats, "to_dict", lambda self: {**real(self), "shots": real(self)["shots"][-4:]}
    )
    write_story(tmp_path / "s.json", 7)
    ranges = json.dumps([[0, 81]] * 7)
    (tmp_path / "t.csv").write_text(
        "json_path,frame_number\n" + f's.json,"{ranges}"\n' * 2, "utf-8"
    )
    out = tmp_path / "f.mp4"
    assert main(["generate", str(tmp_path / "t.csv"), "--out", str(out), "--json", "-q"]) == 0
    films = last_object(capsys.readouterr().out)["films"]
    for film in films:
        assert [shot["shot"] for shot in film["shots"]] == list(range(7))
        assert [shot["frames"] for shot in film["shots"]] == [SHOT_FRAMES] * 7
        assert film["frames"] == 7 * SHOT_FRAMES
        seconds = film["shots"][-1]["end_s"] - film["shots"][0]["begin_s"]
        assert film["fps"] == pytest.approx(film["frames"] / seconds, abs=0.02)
    assert films[0]["shots"][-1]["end_s"] <= films[1]["shots"][0]["begin_s"]


# Text that reaches a terminal.


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "{bad}.json"],
        ["generate", "{file}"],
        ["generate", "{csv}"],
        ["generate", "--model", "{bad}"],
        ["generate", "--device", "{bad}"],
        ["generate", "--kernels", "{bad}"],
        ["generate", "--profile", "{bad}"],
        ["generate", "--out", "{bad}"],
        ["generate", "--sheet", "{bad}/x.png/y.png", "--seed", "{bad}"],
        ["generate", "{bad}", "{bad}"],
        ["generate", "--threads", "{bad}"],
        ["{bad}"],
        ["verify", "{bad}"],
        ["verify", "tests", "--dtype", "{bad}"],
        ["calibrate", "{bad}"],
        ["calibrate", "nano", "--out", "{bad}"],
    ],
)
def test_nothing_that_a_terminal_obeys_gets_through(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    file, table = tmp_path / "bad.json", tmp_path / "bad.csv"
    file.write_text(json.dumps({"global_caption": "g", "shot1": "a", f"Shot{HOSTILE}": "b"}))
    table.write_text(f"json_path,frame_number\n\x1b[31m.json,{HOSTILE[:4]}\n")
    filled = [
        word.replace("{bad}", HOSTILE).replace("{file}", str(file)).replace("{csv}", str(table))
        for word in [*words, "--json"]
    ]
    try:
        code = main(filled)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == 2
    assert is_clean(captured.err) and is_clean(captured.out)
    assert not any(line.startswith("ERROR root") for line in captured.err.splitlines())
    assert last_object(captured.out).keys() == {"error", "kind"}


def test_captions_and_keys_are_escaped_on_the_way_to_a_film(
    fake_model: list[Model],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = log_handler("%(levelname)s %(name)s: %(message)s")
    logging.getLogger().addHandler(handler)
    logging.getLogger("shotstream_rt").setLevel(logging.INFO)
    try:
        story = tmp_path / "s.json"
        story.write_text(json.dumps({"global_caption": "", "shot1": f"cat {HOSTILE}", HOSTILE: 1}))
        sheet = str(tmp_path / "s.png")
        assert main(["generate", str(story), "--sheet", sheet]) == 0
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("shotstream_rt").setLevel(logging.NOTSET)
    told = capsys.readouterr().err
    assert "INFO shotstream_rt.film.shot_maker: shot 0" in told
    assert "ignored key(s)" in told
    assert is_clean(told)


def test_a_traceback_in_the_log_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    handler = log_handler("%(levelname)s %(message)s")
    try:
        raise ValueError(f"x\nERROR forged {HOSTILE}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, HOSTILE, (), sys.exc_info())
    handler.emit(record)
    told = capsys.readouterr().err
    assert is_clean(told)
    assert [line.startswith("ERROR") for line in told.splitlines()].count(True) == 1


# Every end has its exit code, and JSON where it was asked for.


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (ConfigError("x"), 2, "ConfigError"),
        (KeyError("x"), 1, "KeyError"),
        (RecursionError("x"), 1, "RecursionError"),
        (MemoryError(), 1, "MemoryError"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
        (ExceptionGroup("x", [OSError()]) if sys.version_info >= (3, 11) else OSError(), 1, None),
    ],
)
def test_every_error_ends_in_one_line_and_one_object(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, kind: str | None
) -> None:
    def fail() -> int:
        raise error

    assert run_command(["--json"], fail) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert last_object(captured.out)["kind"] == (kind or type(error).__name__)
    assert run_command([], fail) == code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["generate", "--fly"], ["generate", "--threads", "x"], ["verify"], ["info", "x"],
     ["generate", "--shots"], ["verify", "x", "--dtype", "int8"]],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--json", "--js"])
def test_unknown_words_have_their_json_too(
    capsys: pytest.CaptureFixture[str], words: list[str], flag: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, flag])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert last_object(captured.out)["kind"] == "UsageError"
    assert captured.err.startswith("usage: python -m shotstream_rt")
    assert captured.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--fly"],
        ["compare", "x"],
        ["compare", "/no", "/no"],
        ["--workload", "none"],
        ["profile", "--shots", "0"],
    ],
)
def test_the_bench_ends_in_the_same_way(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    try:
        code = run_bench([*words, "--json"] if words[0] != "profile" else words)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in captured.err
    if words[0] != "profile":
        assert last_object(captured.out).keys() == {"error", "kind"}


def test_numbers_without_a_json_form_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    tell_json({"a": [float("nan"), float("inf"), 1.5], "b": "猫"})
    assert capsys.readouterr().out == '{"a": [null, null, 1.5], "b": "\\u732b"}\n'


class Broken:
    """A stream that fails."""

    encoding = "ascii"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.text = ""

    def write(self, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.text += text

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise OSError("no number")


def test_standard_output_may_be_full_gone_or_of_another_alphabet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="standard output: cannot be written: No space"):
        tell("x")
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    tell("x")
    monkeypatch.setattr(sys, "stdout", None)
    tell("x")
    ascii_only = Broken()
    monkeypatch.setattr(sys, "stdout", ascii_only)
    tell("猫")
    assert ascii_only.text == "\\u732b\n"


@needs_nano
@pytest.mark.parametrize(
    ("redirect", "code"),
    [
        ("2>&-", 0),
        ("<&- >&- 2>&-", 0),
        ("2>/dev/full", 0),
        (">/dev/full", 2),
        ("| true", 0),
    ],
)
def test_closed_and_full_streams_do_not_cost_the_film(
    tmp_path: Path, redirect: str, code: int
) -> None:
    words = f"'{sys.executable}' -m shotstream_rt generate -p 'a red cat' --size 16x16"
    script = f"{words} --threads 1 --json --out film.mp4 {redirect}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp", "no library wrote into it"


@needs_nano
@pytest.mark.parametrize("words", ["generate --help", "info"])
def test_a_reader_that_leaves_early_is_no_error(words: str) -> None:
    for target in ("| true", ">&-"):
        script = f"'{sys.executable}' -m shotstream_rt {words} {target}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")


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


# Other commands.


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


def damage(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, dict[str, Any]], None]:
    def apply(folder: Path, meta: dict[str, Any]) -> None:
        change(meta)
        (folder / "g_teacher.json").write_text(json.dumps(meta), "utf-8")

    return apply


@pytest.mark.parametrize(
    "change",
    [
        damage(dict.clear),
        damage(lambda meta: meta.update(guidance=[])),
        damage(lambda meta: meta.update(config={"dim": "x"})),
        damage(lambda meta: meta.update(latent_hw=5)),
        damage(lambda meta: meta.update(weights="none")),
        lambda folder, _: (folder / "g_teacher.json").write_text("[]", "utf-8"),
        lambda folder, _: (folder / "g_teacher.json").write_text("[" * 10**5, "utf-8"),
        lambda folder, _: (folder / "g_teacher.json").unlink(),
        lambda folder, _: save_file({"x": torch.zeros(1)}, folder / "g_teacher.safetensors"),
    ],
)
def test_broken_golden_files_are_mistakes_of_the_user(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path, dict[str, Any]], None],
) -> None:
    golden = Path(__file__).parents[1] / "golden"
    for name in ("g_teacher.json", "g_teacher.safetensors", "weights_m64.json",
                 "weights_m64.safetensors"):  # fmt: skip
        (tmp_path / name).write_bytes((golden / name).read_bytes())
    change(tmp_path, json.loads((golden / "g_teacher.json").read_text("utf-8")))
    assert main(["verify", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert "g_teacher" in captured.err
    assert captured.err.count("\n") == 1
    assert last_object(captured.out)["kind"] in ("ConfigError", "WeightsError")


def test_verify_leaves_the_thread_count_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    golden = str(Path(__file__).parents[1] / "golden")
    before = torch.get_num_threads()
    assert main(["verify", golden, "--case", "a_", "--threads", str(before + 1)]) == 0
    assert torch.get_num_threads() == before
    assert main(["verify", golden, "--threads", "0"]) == 2
