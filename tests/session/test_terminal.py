"""What commands tell: clean text on any stream, and JSON that every reader takes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from shotstream_rt.cli import main
from shotstream_rt.errors import OutputError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.terminal import log_handler, tell, tell_json

from .commands import last_object, needs_nano

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil\nERROR root: forged\r"


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


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
