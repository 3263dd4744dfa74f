"""The commands as a user meets them."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

from shotstream_rt.cli import main
from shotstream_rt.cli.progress import Progress
from shotstream_rt.loading.layouts import available_models
from shotstream_rt.loading.load_model import Model
from shotstream_rt.profiles import PROFILES
from shotstream_rt.session import Session

from .commands import SHOT_FRAMES, last_object, refused, write_story


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_bundled_story_becomes_a_film_of_405_frames(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "story.mp4", tmp_path / "story.png"
    assert main(["generate", "--out", str(out), "--sheet", str(sheet), "--json"]) == 0
    captured = capsys.readouterr()
    report = last_object(captured.out)
    assert report["frames"] == 5 * SHOT_FRAMES
    assert report["frame_rate_hz"] == 16
    assert [shot["frames"] for shot in report["shots"]] == [SHOT_FRAMES] * 5
    assert all(shot["first_frame_ms"] > 0 and shot["cut_ms"] > 0 for shot in report["shots"])
    assert report["first_frame_before_second_chunk"] is True
    assert report["seed"] == 0
    assert report["model"] == "fake"
    assert count_frames(out) == 405
    assert sheet.stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["story.mp4", "story.png"]
    assert "frame 405/405" in captured.err


def test_film_has_the_models_frame_rate(
    bundle: Model,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle.frame_rate_hz = 24
    monkeypatch.setattr(Model, "open", lambda *_, **__: bundle)
    out = tmp_path / "film.mp4"
    assert main(["generate", "-p", "a", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert last_object(captured.out)["frame_rate_hz"] == 24
    assert "at 24 fps" in captured.err
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == 24


def test_default_output_is_a_film_in_the_working_folder(
    fake_model: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--shots", "1", "-q"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["story.mp4"]


def test_same_seed_same_digest(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = []
    for seed in ("7", "7", "8"):
        words = ["generate", "--shots", "2", "--seed", seed, "--json", "-q"]
        assert main([*words, "--frames-dir", str(tmp_path / "frames")]) == 0
        digests.append(last_object(capsys.readouterr().out)["sha256"])
    assert digests[0] == digests[1] != digests[2]
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2 * SHOT_FRAMES


def test_directions_are_played_again(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Session.open("fake", seed=4) as session:
        session.cut("a")
        frames = list(itertools.islice(session.stream(), 30))
        session.prompt("b", flush=True)
        frames += itertools.islice(session.stream(), 20)
        film = tmp_path / "film.json"
        film.write_text(json.dumps(session.directions()), "utf-8")
    out = str(tmp_path / "again.mp4")
    assert main(["generate", str(film), "--out", out, "--json"]) == 0
    digest = hashlib.sha256(b"".join(frame.pixels.tobytes() for frame in frames))
    report = last_object(capsys.readouterr().out)
    assert (report["frames"], report["seed"]) == (50, 4)
    assert report["sha256"] == digest.hexdigest()
    film.write_text(film.read_text("utf-8").replace('"frame": 30', '"frame": 31'), "utf-8")
    assert main(["generate", str(film), "--out", out]) == 2
    assert "film.json: damaged" in capsys.readouterr().err


def test_prompts_are_free_cuts(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-p", "a cat", "-p", "a dog xyzzy", "--sheet", str(tmp_path / "s.png"), "--json"]
    assert main(["generate", *words]) == 0
    captured = capsys.readouterr()
    report = last_object(captured.out)
    assert [shot["prompt"] for shot in report["shots"]] == ["a cat", "a dog xyzzy"]
    assert report["notes"] == ["shot 2: unknown word: xyzzy"]
    assert "note: shot 2: unknown word: xyzzy" in captured.err
    assert fake_model[0].fake_text.encoded == ["a cat", "a dog xyzzy"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["none.json"], "none.json"),
        (["broken.json"], "broken.json"),
        (["keys.json"], "global_caption"),
        (["--seed", "nan"], "--seed"),
        (["--seed", "-3"], "--seed"),
        (["--threads", "0"], "--threads"),
        (["--shots", "9"], "9 shots"),
        (["-p", "  "], "--prompt"),
        (["good.json", "-p", "text"], "one of them"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(
    fake_model: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text('{"global_caption": ', "utf-8")
    (tmp_path / "keys.json").write_text('{"shot1": "a"}', "utf-8")
    write_story(tmp_path / "good.json", 2)
    told, report = refused(words, tmp_path, capsys)
    assert named in told
    assert report["kind"] == "ConfigError"
    assert not fake_model, "nothing is loaded before the arguments are read"


@pytest.mark.parametrize(
    ("words", "kind", "named"),
    [
        (["--model", "no/such/folder"], "WeightsError", "no/such/folder"),
        (["--device", "gpu"], "ConfigError", "device"),
        (["--device", "cuda:99"], "BackendUnavailableError", "cuda:99"),
        (["--backend", "magic"], "ConfigError", "backend"),
        (["--profile", "turbo"], "ConfigError", "profile"),
        (["--dtype", "float8"], "ConfigError", "dtype"),
        (["--size", "95x160"], "ConfigError", "multiples of 16"),
        (["--size", "wide"], "ConfigError", "size"),
    ],
)
def test_unusable_model_arguments_end_with_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    kind: str,
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", *words, "--json"]) == 2
    captured = capsys.readouterr()
    assert last_object(captured.out)["kind"] == kind
    assert named in captured.err
    assert list(tmp_path.iterdir()) == []


def test_full_disk_under_one_output_ends_with_code_2_and_keeps_the_others(
    fake_model: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: Any, packets: Any) -> None:
        raise OSError(28, "No space left on device")

    class Full:
        def __init__(self, real: Any) -> None:
            self.real = real

        add_stream = property(lambda self: self.real.add_stream)
        close = property(lambda self: self.real.close)
        mux = full

    real_open = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: Full(real_open(*a, **k)))
    words = ["generate", "--shots", "1", "--out", str(tmp_path / "film.mp4"), "-q"]
    assert main(words) == 2
    assert "No space left on device; free some space" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    others = ["--frames-dir", str(tmp_path / "frames"), "--sheet", str(tmp_path / "sheet.png")]
    assert main([*words, *others]) == 2
    assert "the other outputs go on" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "sheet.png"]
    assert len(list((tmp_path / "frames").iterdir())) == SHOT_FRAMES


def test_interrupt_ends_with_code_130_and_nothing_left(
    fake_model: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(self: Progress, shot: int, chunk: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "frame", interrupt)
    assert main(["generate", "--out", str(tmp_path / "film.mp4")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_terminated_process_leaves_nothing(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "shotstream_rt", "generate", "--out", "film.mp4"]
    if "nano" not in available_models():
        pytest.skip("this checkout carries no nano weights")
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "chunk" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        assert "unfinished files were removed" in process.stderr.read()
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_info_tells_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    found = last_object(capsys.readouterr().out)
    assert found["devices"][0]["name"] == "cpu"
    assert found["devices"][0]["backends"]["eager"] is None
    auto = found["devices"][0]["auto_kernels"]
    assert found["devices"][0]["kernels"][auto["name"]] is None
    assert auto["reason"]
    assert "compiler" in found["native"]
    lossy = {name: profile["lossy"] for name, profile in found["profiles"].items()}
    assert lossy.pop("exact") is False
    assert lossy == dict.fromkeys(PROFILES.keys() - {"exact"}, True)
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    assert "eager: usable" in told
    assert found["engine_libraries"].keys() == {"rtx", "tensorrt"}
    for library in found["engine_libraries"].values():
        assert f"  for      {library['serves']}" in told
    assert f"auto takes {auto['name']}: " in told
    assert "taew2_1.safetensors" in told


def test_lossy_profile_is_told_before_the_film(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--shots", "1", "--sheet", str(tmp_path / "s.png")]
    assert main([*words, "--profile", "tiny"]) == 0
    assert "profile tiny is lossy" in capsys.readouterr().err
    assert main(words) == 0
    assert "is lossy" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["info", "--help"]])
def test_help_teaches_with_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert "python -m shotstream_rt" in capsys.readouterr().out


def test_unknown_command_ends_with_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2


def test_log_level_that_does_not_exist_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOTSTREAM_LOG", "loud")
    assert main(["info"]) == 2
    assert "SHOTSTREAM_LOG" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_live_line_on_a_terminal() -> None:
    out = Terminal()
    progress = Progress(shots=1, frames=2, out=out)
    progress.frame(0, 0)
    progress.frame(0, 0)
    progress.end()
    assert out.getvalue().count("\n") == 1
    assert "\rshot 1/1" in out.getvalue()


def test_import_stays_light() -> None:
    code = (
        "import sys, shotstream_rt; from shotstream_rt import ConfigError, Frame;"
        "heavy = {'torch', 'numpy', 'av', 'PIL', 'triton', 'onnx', 'tensorrt', 'transformers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env=os.environ.copy(),
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
