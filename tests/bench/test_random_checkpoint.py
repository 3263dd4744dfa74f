from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from shotstream_rt import Model
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.random_checkpoint import RANDOM_MODELS, resolve_model
from shotstream_rt.bench.runner import run
from shotstream_rt.bench.workloads import bundled_workloads, find_workload
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError, OutputError
from shotstream_rt.plan.students import STUDENTS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTSTREAM_CACHE_DIR", str(tmp_path))


def test_written_once_and_found_again() -> None:
    folder = Path(resolve_model("random-small"))
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert resolve_model("random-small") == str(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_what_cannot_be_written_is_an_output_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shotstream_rt.bench.random_checkpoint.save_file", full)
        with pytest.raises(OutputError, match="No space left"):
            resolve_model("random-small")
    assert list(tmp_path.rglob("*")) == []
    (tmp_path / "file").write_text("x", "utf-8")
    monkeypatch.setenv("SHOTSTREAM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be written"):
        resolve_model("random-small")


def test_other_names_are_left_alone() -> None:
    assert resolve_model("nano") == "nano"
    with pytest.raises(ConfigError, match="random-small"):
        resolve_model("random-9000b")


def test_every_workload_names_a_model_there_is() -> None:
    for workload in bundled_workloads().values():
        model = workload.recipe.get("model", "nano")
        assert model == "nano" or model in RANDOM_MODELS


def test_comparability_is_self_forcing_s_layout() -> None:
    workload = find_workload("student-1.3b-0-21")
    config = StreamConfig.from_dict(workload.recipe["stream"])
    assert (config.cache.context_frames, config.shot.shot_frames, config.arena_frames) == (
        0,
        21,
        21,
    )
    film = RANDOM_MODELS[find_workload("film-480p-0-21").recipe["model"]].stream
    assert (film.cache.context_frames, film.shot.shot_frames) == (0, 21)


@pytest.mark.parametrize("profile", ["exact", "fp8-tiny", "fast"])
def test_a_wan_film_goes_through_every_part(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shotstream_rt.bench.ceilings._BUDGET_S", 0.0)
    workload = find_workload("film-480p").with_recipe(model="random-small", shots=1)
    options = BenchOptions(
        device="cpu", profile=profile, threads=1, warmup=0, repeats=1, roofline=profile == "exact"
    )
    record, _ = run(workload, options, ["--profile", profile])
    assert record.status == "ok", record.message
    assert (record.fidelity is None) == (profile == "exact")
    if record.roofline is not None:
        timed = {stage["metric"] for stage in record.roofline["stages"]}
        assert timed >= {
            "text_encode_ms", "step_ms.4", "vae_decode_ms.1", "vae_encode_ms", "frame_pack_ms",
        }  # fmt: skip


def test_a_student_of_the_family_at_nanos_size_is_written_with_nanos_codec() -> None:
    folder = resolve_model("random-nano-longlive")
    with Model.open(folder, device="cpu") as model, model.session(threads=1) as session:
        assert model.config == STUDENTS["longlive"].stream(model.config.model)
        assert session.size == (96, 160)
        session.cut("a", chunks=1)
        assert len(list(session.stream())) == 9
