"""Profiles fp8 and fast through a session, and the file that says which heads are pruned."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_rt import ConfigError, ManifestError, Session, WeightsError
from shotstream_rt.bench.history_calibration import calibrate_history
from shotstream_rt.cli import main
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.loading.history_file import (
    HISTORY_FILE,
    CalibratedHistory,
    fingerprint,
    read_history,
)
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.model.nano.codec import NanoCodecNet
from shotstream_rt.model.nano.text import NanoTextNet
from shotstream_rt.model.student import Student
from shotstream_rt.story import Story

MODEL = ModelConfig(
    dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_dim=128, text_len=64,
    latent_height=2, latent_width=2,
)  # fmt: skip
STREAM = StreamConfig(
    model=MODEL,
    shot=ShotConfig(chunk_frames=1, shot_frames=3),
    schedule=ScheduleConfig(denoising_steps=(1000,), shift=3.0),
)
POLICY = HistoryPolicy(recent_frames=0, pruned_heads=((0, 1), (1,)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    networks = {"student": Student(MODEL), "codec": NanoCodecNet(), "text": NanoTextNet()}
    for name, network in networks.items():
        state = {
            key: torch.randn_like(value) * 0.1 if value.dim() > 1 else torch.ones_like(value)
            for key, value in network.state_dict().items()
        }
        save_file(state, tmp_path / f"{name}.safetensors")
    StudentManifest(
        stream=STREAM,
        codec={"kind": "nano", "file": "codec.safetensors"},
        text={"kind": "nano", "file": "text.safetensors"},
    ).write(tmp_path / "student.json")
    return tmp_path


def student_fingerprint(folder: Path) -> str:
    return fingerprint(load_file(folder / "student.safetensors"))


def write_policy(folder: Path, **changes: object) -> CalibratedHistory:
    made = CalibratedHistory(
        student=student_fingerprint(folder), policy=POLICY, share=0.75, frames_psnr_db=35.0,
        latents_rel_l2=0.1,
    )  # fmt: skip
    made = dataclasses.replace(made, **changes)  # type: ignore[arg-type]
    made.write(folder / HISTORY_FILE)
    return made


def play(folder: Path, profile: str) -> tuple[torch.Tensor, dict[str, object]]:
    with Session.open(folder, device="cpu", threads=1, profile=profile, dtype="float32") as session:
        session.cut("a red cat")
        frames = [torch.from_numpy(frame.pixels.copy()) for frame in session.stream()]
        return torch.stack(frames), session.stats


def test_profiles_tell_what_they_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_policy(folder)
    exact, told = play(folder, "exact")
    assert told["pruned_heads"] is None
    assert "+fp8" not in str(told["kernel_set"])
    with caplog.at_level(logging.INFO, logger="shotstream_rt"):
        fp8, told = play(folder, "fp8")
    assert (told["profile"], told["lossy"], told["pruned_heads"]) == ("fp8", True, None)
    assert str(told["kernel_set"]).endswith("+fp8")
    assert "profile fp8 is lossy" in caplog.text
    fast, told = play(folder, "fast")
    assert (told["profile"], told["pruned_heads"], told["decoder"]) == ("fast", 0.75, "nano")
    assert exact.shape == fp8.shape == fast.shape == (9, 16, 16, 3)
    assert torch.equal(fast, play(folder, "fast")[0])
    # The first chunk has no history to hide.
    assert torch.equal(fp8[0], fast[0])


@pytest.mark.parametrize(
    "profile,parts",
    [
        ("fp8-keys", "fp8-keys"),
        ("fp8-attention", "fp8-attention"),
        ("fp8-all", "fp8+fp8-attention"),
        ("fp8-fused", "fp8+fp8-attention+fp8-out"),
    ],
)
def test_an_arena_in_8_bits_is_played_and_told(
    folder: Path, caplog: pytest.LogCaptureFixture, profile: str, parts: str
) -> None:
    exact, plain = play(folder, "exact")
    with caplog.at_level(logging.INFO, logger="shotstream_rt"):
        frames, told = play(folder, profile)
    assert (told["profile"], told["lossy"]) == (profile, True)
    assert str(told["kernel_set"]).partition("+")[2] == parts
    assert f"profile {profile} is lossy" in caplog.text
    assert frames.shape == exact.shape
    assert not torch.equal(frames, exact)
    assert torch.equal(frames, play(folder, profile)[0])
    # Nine latent frames of one token: 9 rows of 4 bytes, or 16 of one where both are in 8 bits.
    held = 9 * (1 + 4) if profile == "fp8-keys" else 16 * (1 + 1)
    assert plain["cache_bytes"] == MODEL.num_layers * MODEL.dim * 9 * (4 + 4)
    assert told["cache_bytes"] == MODEL.num_layers * MODEL.dim * held


@pytest.mark.parametrize("profile", ["fp8-keys", "fp8-attention"])
@pytest.mark.parametrize(
    "change,words",
    [
        ({"cache": CacheConfig(key_rotation="on_read")}, "rounded twice; use profile fp8"),
        ({"history": POLICY}, "no kernel reads spans of such an arena"),
    ],
    ids=["on-read", "history"],
)
def test_an_arena_in_8_bits_refuses_what_it_cannot_serve(
    folder: Path, profile: str, change: dict[str, Any], words: str
) -> None:
    manifest = StudentManifest.read(folder / "student.json")
    stream = dataclasses.replace(STREAM, **change)
    dataclasses.replace(manifest, stream=stream).write(folder / "student.json")
    with pytest.raises(ConfigError, match=words):
        Model.open(folder, device="cpu", profile=profile)
    # The model itself is fine.
    Model.open(folder, device="cpu", profile="exact").close()


def test_a_policy_is_part_of_what_decides_the_numbers(folder: Path) -> None:
    write_policy(folder)
    bundle = Model.open(folder, device="cpu", profile="fast")
    assert bundle.config.history == POLICY
    assert Model.open(folder, device="cpu", profile="fp8").config.history is None


def test_only_a_profile_takes_a_lossy_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTSTREAM_KERNEL_SET", "torch+fp8")
    with pytest.raises(ConfigError, match=r"got 'torch\+fp8'"):
        Model.open(folder, device="cpu")
    monkeypatch.setenv("SHOTSTREAM_KERNEL_SET", "torch")
    assert Model.open(folder, device="cpu", profile="fp8").info["kernel_set"] == "torch+fp8"


def test_without_a_policy_nothing_is_guessed(folder: Path) -> None:
    with pytest.raises(WeightsError, match="shotstream_rt calibrate MODEL"):
        Model.open(folder, device="cpu", profile="fast")


def test_a_policy_of_other_weights_is_refused(folder: Path) -> None:
    write_policy(folder, student="0" * 16)
    with pytest.raises(ManifestError, match="made for other weights"):
        Model.open(folder, device="cpu", profile="fast")


@pytest.mark.parametrize("figures", [{"frames_psnr_db": 29.9}, {"latents_rel_l2": 0.26}])
def test_a_policy_below_the_gate_is_refused(folder: Path, figures: dict[str, float]) -> None:
    write_policy(folder, **figures)
    with pytest.raises(ConfigError, match="wanted at least"):
        Model.open(folder, device="cpu", profile="fast")


@pytest.mark.parametrize(
    "damage", [{"schema_version": 2}, {"policy": {}}, {"colour": 1}, {"format": "x"}]
)
def test_a_damaged_file_is_named(folder: Path, damage: dict[str, object]) -> None:
    write_policy(folder)
    data = json.loads((folder / HISTORY_FILE).read_text("utf-8"))
    (folder / HISTORY_FILE).write_text(json.dumps({**data, **damage}), "utf-8")
    with pytest.raises((ManifestError, ConfigError), match=r"history\.json|HistoryPolicy"):
        read_history(folder)


def test_calibration_takes_the_cheapest_that_passes_and_repeats(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(shots=("a red cat", "a blue robot"), global_caption="a story")
    module = "shotstream_rt.bench.history_calibration"
    # What an untrained model loses says nothing, so the second candidate is made to pass.
    verdicts = iter([False, True, False, True])
    monkeypatch.setattr(f"{module}.passes_gate", lambda *_: next(verdicts))
    found = [
        calibrate_history(Model.open(folder, device="cpu", backend="eager"), story, seed=0)
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0].student == student_fingerprint(folder)
    assert [tried["share"] for tried in found[0].measured["tried"]] == [1.0, 0.75]
    assert found[0].share == 0.75
    assert found[0].policy.recent_frames == 1
    assert (found[0].measured["films"], found[0].measured["shots"]) == (3, 2)
    # The head that looks back most is the one that keeps its history.
    mass = torch.tensor(found[0].measured["mass"])
    kept = [(n, h) for n in range(2) for h in range(2) if h not in found[0].policy.pruned_heads[n]]
    assert kept == [divmod(int(mass.argmax()), 2)]


def test_calibration_refuses_what_no_candidate_reaches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(shots=("a red cat",), global_caption="a story")
    monkeypatch.setattr("shotstream_rt.bench.history_calibration.SHARES", (1.0,))
    monkeypatch.setattr("shotstream_rt.bench.history_calibration.passes_gate", lambda *_: False)
    bundle = Model.open(folder, device="cpu", backend="eager")
    with pytest.raises(ConfigError, match="none of 2 candidates"):
        calibrate_history(bundle, story, seed=0, films=1)
    with pytest.raises(ConfigError, match="films: got 0"):
        calibrate_history(bundle, story, seed=0, films=0)


def test_the_command_writes_what_fast_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shotstream_rt.bench.history_calibration.passes_gate", lambda *_: True)
    assert main(["calibrate", str(folder), "--device", "cpu", "--shots", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["file"] == str(folder / HISTORY_FILE)
    assert told["policy"] == read_history(folder).policy.to_dict()
    assert main(["calibrate", str(folder / "nothing")]) == 2


@pytest.mark.parametrize("passes", [True, False])
def test_the_command_measures_a_profile_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passes: bool
) -> None:
    monkeypatch.setattr("shotstream_rt.loading.history_file.passes_gate", lambda *_: passes)
    given = ["calibrate", str(folder), "--device", "cpu", "--shots", "1", "--films", "2"]
    assert main([*given, "--json", "--profile", "fp8-attention"]) == (0 if passes else 1)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["profile"], told["passed"], told["shots"]) == ("fp8-attention", passes, 2)
    # What an untrained model loses says nothing, but it loses something.
    assert told["latents_rel_l2"] > 0
    assert not (folder / HISTORY_FILE).exists()


@pytest.mark.parametrize(
    "options,words",
    [
        (["--profile", "fast"], "wanted one of fp8, fp8-keys, fp8-attention, fp8-all"),
        (["--profile", "exact"], "wanted one of fp8, fp8-keys, fp8-attention, fp8-all"),
        (["--profile", "fp8", "--out", "x.json"], "--profile writes no file"),
    ],
)
def test_the_command_refuses_what_it_cannot_measure(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["calibrate", str(folder), "--device", "cpu", *options]) == 2
    assert words in capsys.readouterr().err


def test_the_policy_in_the_package_is_for_the_model_in_the_package() -> None:
    bundle = Model.open("nano", device="cpu", profile="fast")
    assert bundle.config.history == read_history(NANO_FOLDER).policy
    bundle.close()
