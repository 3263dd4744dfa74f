"""Every student of the family plays from its released file: full names, small sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream_rt import Model, WeightsError
from shotstream_rt.bench.__main__ import main as bench
from shotstream_rt.cli import main
from shotstream_rt.export.manifest import EngineManifest
from shotstream_rt.plan.students import STUDENTS

from .test_student_files import CASES, save_lora

FILES = {student: name for student, name in CASES if name.endswith(".pt")}


@pytest.mark.parametrize("student", STUDENTS)
def test_a_released_file_plays_with_its_own_settings(
    student: str, layouts: Any, save_student: Callable[..., Path],
    student_state: dict[str, torch.Tensor], tmp_path: Path,
) -> None:  # fmt: skip
    layouts.wan(tmp_path)
    path = save_student(tmp_path / FILES[student], fragments=True, generator=1.0, generator_ema=1.0)
    if student == "longlive":
        save_lora(path.with_name("lora.pt"), student_state)
    with (
        Model.open(path, device="cpu", size="16x32", kernels="reference") as model,
        model.session(threads=1) as session,
    ):
        assert model.info["student"] == student
        session.cut("a red cat walks on the beach")
        chunks = session.chunks()
        frames = STUDENTS[student].shot.chunk_frames
        # The first latent frame is one picture, every other is four.
        assert [len(next(chunks).pixels) for _ in range(2)] == [4 * frames - 3, 4 * frames]


def test_export_runs_a_renamed_file_with_the_settings_that_are_named(
    layouts: Any, save_student: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("onnxscript", reason="exports need onnxscript")
    layouts.wan(tmp_path)
    path, out = save_student(tmp_path / "mine.pt", generator_ema=1.0), tmp_path / "engines"
    words = ["export", str(path), "--out", str(out), "--size", "16x32", "-q"]
    assert main(words) == 2
    assert "self-forcing" in capsys.readouterr().err
    assert main([*words, "--student", "dall-e"]) == 2
    assert main([*words, "--student", "self-forcing", "--json"]) == 0
    passes = {entry.name for entry in EngineManifest.read(out).passes}
    assert {"denoise_3", "commit"} <= passes
    assert "context" not in passes


@pytest.mark.parametrize(
    "command",
    [
        lambda path: main(["calibrate", path, "--student", "longlive", "--device", "cpu"]),
        lambda path: bench(["--model", path, "--student", "longlive", "--device", "cpu"]),
        lambda path: bench(["--interactive", "--model", path, "--student", "longlive"]),
    ],
    ids=["calibrate", "bench", "bench-interactive"],
)
def test_commands_open_a_file_as_the_student_that_is_named(
    command: Callable[[str], int], layouts: Any, save_student: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    layouts.wan(tmp_path)
    path, opened = save_student(tmp_path / "mine.pt", generator=1.0), []

    def note(model: str, **options: Any) -> Model:
        opened.append((model, options["student"]))
        raise WeightsError("seen")

    monkeypatch.setattr(Model, "open", note)
    assert command(str(path)) in (1, 2)
    assert opened == [(str(path), "longlive")]
