"""The one-command GPU check: what it is told, and the exit codes it ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import gpu_check
import pytest
import torch
from device_check import gpu
from device_check.part import Part
from device_check.report import FILES

from .gpu_parts import DEVICE, FIGURE, FOREVER, ROOT, UNCHECKED, part_of, verdicts


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Calls the command line with fake parts on a fake device, into ``tmp_path/out``."""

    def run(
        chosen: Sequence[Part], *arguments: str, device: object = DEVICE, gpu_works: bool = True
    ) -> int:
        monkeypatch.setattr(gpu_check, "parts", lambda: list(chosen))
        monkeypatch.setattr(gpu_check, "discover", lambda: device)
        monkeypatch.setattr(gpu_check, "answers", lambda _: gpu_works)
        monkeypatch.setattr(gpu_check, "source_digest", lambda: "0123")
        return gpu_check.main([str(tmp_path / "out"), *arguments])

    return run


def test_two_calls_do_everything_once(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    ran = tmp_path / "ran"
    chosen = [
        part_of("build", count, str(ran), "b", vital=True),
        part_of("film", count + "\n" + FIGURE.replace("argv[1]", "argv[3]"), str(ran), "f",
              "{records}"),
        part_of("large", count, str(ran), "l", limit_s=400),
    ]  # fmt: skip
    assert call(chosen, "--seconds", "190") == gpu_check.LEFT
    assert verdicts(tmp_path / "out") == {"build": "passed", "film": "passed", "large": "left"}
    text = capsys.readouterr().out
    assert text.count("e2e_fps=21.5 e2e_fps.ratio=2") == 2  # when it came, and at the end
    assert "---- left: large" in text and "--resume" in text
    assert ran.read_text() == "bf"

    # The folder is carried to a fresh machine, and the results go elsewhere.
    carried = tmp_path / "carried"
    (tmp_path / "out").rename(carried)
    assert call(chosen, "--resume", str(carried), "--seconds", "500") == gpu_check.PASSED
    assert ran.read_text() == "bfbl"
    assert set(verdicts(tmp_path / "out").values()) == {"passed"}
    assert set(json.loads((tmp_path / "out" / "records.json").read_text())) == {"film/film"}
    assert "===== film: passed" in (tmp_path / "out" / "log.txt").read_text()
    assert "e2e_fps=21.5" in capsys.readouterr().out
    # In place, and nothing is open.
    assert call(chosen, "--resume", "--seconds", "500") == gpu_check.PASSED
    assert ran.read_text() == "bfblb"


def test_a_report_of_another_tree_is_refused(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [part_of("one", "")]
    assert call(chosen) == gpu_check.PASSED
    path = tmp_path / "out" / "report.json"
    path.write_text(path.read_text().replace('"0123"', '"beef"'))
    with pytest.raises(SystemExit) as stop:
        call(chosen, "--resume")
    assert stop.value.code == gpu_check.MISTAKE
    assert "got beef, wanted 0123" in capsys.readouterr().err


def test_a_report_of_another_gpu_is_refused(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [part_of("one", "")]
    assert call(chosen) == gpu_check.PASSED
    with pytest.raises(SystemExit) as stop:
        call(chosen, "--resume", device={**DEVICE, "name": "Other GPU"})
    assert stop.value.code == gpu_check.MISTAKE
    assert "Other GPU" in capsys.readouterr().err


def test_an_earlier_report_is_not_overwritten(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([part_of("one", "")]) == gpu_check.PASSED
    before = (tmp_path / "out" / "report.json").read_text()
    with pytest.raises(SystemExit) as stop:
        call([part_of("one", "")])
    assert stop.value.code == gpu_check.MISTAKE
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.json").read_text() == before


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("", "PASSED"),
        ("raise SystemExit(1)", "NOT_PASSED"),
        ("import os; os.abort()", "NOT_PASSED"),
    ],
    ids=["passes", "fails", "crashes"],
)
def test_the_exit_code_tells_what_became_of_it(
    call: Callable[..., int], code: str, wanted: str
) -> None:
    assert call([part_of("one", code)]) == getattr(gpu_check, wanted)


def test_a_failed_build_has_an_exit_code_of_its_own(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [
        part_of("build", "print('g++: no'); raise SystemExit(1)", vital=True),
        part_of("a", ""),
    ]
    assert call(chosen) == gpu_check.STOPPED
    text = capsys.readouterr().out
    assert "g++: no" in text and "---- left: a" in text
    assert "build" in json.loads((tmp_path / "out" / "report.json").read_text())["stopped"]


def test_a_lost_gpu_has_that_exit_code_too(call: Callable[..., int]) -> None:
    chosen = [part_of("a", "import os; os.abort()"), part_of("b", "")]
    assert call(chosen, gpu_works=False) == gpu_check.STOPPED


def test_told_to_stop_it_keeps_what_there_is() -> None:
    # The signal meets a whole process, so it must not be that of all tests.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-o", "timeout=0", "-o", "python_functions=told_to_stop", __file__],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def told_to_stop(call: Callable[..., int], tmp_path: Path) -> None:
    stop = "import os, signal, sys; os.kill(int(sys.argv[2]), signal.SIGTERM)\n" + FOREVER
    chosen = [
        part_of("good", ""),
        part_of("stops", UNCHECKED + stop, "{records}", str(os.getpid()), limit_s=300),
        part_of("next", ""),
    ]
    assert call(chosen) == gpu_check.LEFT
    out = tmp_path / "out"
    assert verdicts(out) == {"good": "passed", "stops": "cut short"}
    assert set(json.loads((out / "records.json").read_text())) == {"stops/film.unchecked"}
    assert json.loads((out / "report.json").read_text())["stopped"] == "told to stop"


@pytest.mark.parametrize("option", ["--only", "--skip"])
def test_an_unknown_part_is_a_mistake(
    call: Callable[..., int], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call([part_of("one", "")], option, "one,nope")
    assert stop.value.code == gpu_check.MISTAKE
    assert "no part nope; there are one" in capsys.readouterr().err


def test_some_parts_alone(call: Callable[..., int], tmp_path: Path) -> None:
    chosen = [part_of(name, "") for name in "abc"]
    assert call(chosen, "--only", "a,b", "--skip", "b") == gpu_check.PASSED
    assert verdicts(tmp_path / "out") == {"a": "passed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_make_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "gpu-check", f"GPU_PYTHON={sys.executable}", f"OUT={tmp_path}", "SECONDS=330"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "no GPU: torch sees no CUDA device" in done.stdout
    assert f"Error {gpu_check.NO_DEVICE}" in done.stderr
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["parts"] == [] and "CUDA" in data["device"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_torch_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DISCOVER_S", 0.3)
    monkeypatch.setattr(gpu, "_DISCOVER", FOREVER)
    assert gpu.discover() == "torch did not start within 0 s"
    monkeypatch.setattr(gpu, "_MULTIPLY", FOREVER)
    assert not gpu.answers(0.3)
