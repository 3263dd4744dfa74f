"""Whole runs at the smallest size: all stages, resumed, stopped in time, checked and shipped."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_distill.__main__ import main
from shotstream_distill.common.processes import Processes
from shotstream_distill.common.product import load_product, save_product, start_weights
from shotstream_distill.evaluation import gate_scenes
from shotstream_distill.paper import data_sources as supplies
from shotstream_distill.paper import trainer
from shotstream_distill.paper.data_sources import make_services
from shotstream_distill.paper.ode_pairs import make_pairs, pair_file, read_pairs
from shotstream_distill.paper.run import Run
from shotstream_distill.paper.run_config import PRESETS, RunConfig
from shotstream_distill.paper.stage_gate import GateError, GateReport
from shotstream_distill.paper.trainer import Trainer
from shotstream_rt.errors import ConfigError, WeightsError

TINY = {"dim": 24, "ffn_dim": 32, "num_heads": 2, "num_layers": 1}
STEPS = {"teacher": 3, "ode": 2, "intra-shot": 4, "inter-shot": 6}


def tiny_data(bank: Path, codec: Path) -> dict[str, Any]:
    """The smoke preset with everything smaller."""
    data: dict[str, Any] = json.loads((PRESETS / "nano-smoke.json").read_text("utf-8"))
    data["stream"]["model"].update(TINY)
    data["data"] = {"kind": "bank", "path": str(bank)}
    data.update(codec=str(codec), must_fall=False, gate="warn", log_s=1000)
    for stage in data["stages"]:
        stage["batch"] = 1
        if stage["kind"] == "ode_pairs":
            stage.update(pairs=3, batch=2, sample_steps=4)
        else:
            stage["steps"] = STEPS[stage["name"]]
        if "critic_warmup" in stage:
            stage["critic_warmup"] = 1
    data["stages"][3].update(critic_updates=1, shots=2)
    data["stages"][4].update(critic_updates=2, shots=2, lora_rank=2)
    return data


@pytest.fixture
def data(bank_folder: Path, codec_file: Path) -> dict[str, Any]:
    return tiny_data(bank_folder, codec_file)


def _save(shard: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True)
    torch.save(shard, path)


class PoolCodec:
    """A codec in name: pictures of one colour per cell."""

    dtype = torch.float32
    latent_channels, spatial_stride, temporal_stride = 16, 8, 4

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        return 8 * latent_height, 8 * latent_width

    def encode_frames(self, frames: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(frames, 8)
        return cells.repeat(1, 6, 1, 1)[:, :16]

    def encode_clip(self, clip: Tensor) -> Tensor:
        return self.encode_frames(clip[0].transpose(0, 1)[::4])[None]

    def decode_full(self, latents: Tensor) -> Tensor:
        frames = latents[0, :, :3].float().repeat_interleave(4, 0)[3:]
        return torch.nn.functional.interpolate(frames, scale_factor=8)[None]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supplies, "_codec", lambda config, device: PoolCodec())
        patch.setattr(trainer, "_JUDGED_DRAWS", 2)
        yield


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def finished(
    bank_folder: Path, codec_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, dict[str, Any]]:
    """One uninterrupted run."""
    config = RunConfig.from_dict(tiny_data(bank_folder, codec_file))
    seen: list[str] = []

    def gate(kind: str, product: Path) -> GateReport:
        seen.append(kind)
        return GateReport(passed=kind != "ode", summary="looked", figures={"file": product.name})

    run = Run(config, tmp_path_factory.mktemp("run"), Processes(), gate)
    report = run.go()
    assert report is not None
    assert seen == ["teacher", "ode", "intra_shot", "inter_shot"]
    return run, report


def test_all_stages_run_and_report(finished: tuple[Run, dict[str, Any]]) -> None:
    run, report = finished
    assert list(report) == ["teacher", "pairs", "ode", "intra-shot", "inter-shot"]
    for name, steps in STEPS.items():
        assert report[name]["steps"] == steps
        assert report[name]["loss"]["fell"] == (
            report[name]["loss"]["last"] < report[name]["loss"]["first"]
        )
        assert (run.folder / "sheets" / f"{name}-{steps:06d}.png").is_file()
        assert list((run.folder / "curves" / name).glob("events*"))
    assert report["ode"]["gate"] == {"passed": False, "file": "ode.pt"}


def test_every_stage_moved_the_student(finished: tuple[Run, dict[str, Any]]) -> None:
    run, _ = finished
    products = [load_product(run.product(n)) for n in STEPS]
    name = "blocks.0.self_attn.q.weight"
    for before, after in itertools.pairwise(products):
        assert not torch.equal(before[name], after[name])
    # After the teacher the text encoder stays as it is, and adapters touch blocks only.
    assert torch.equal(products[0]["text.norm.weight"], products[3]["text.norm.weight"])
    assert torch.equal(products[2]["head.head.weight"], products[3]["head.head.weight"])


def test_a_run_in_pieces_is_the_uninterrupted_one(
    finished: tuple[Run, dict[str, Any]], data: dict[str, Any], tmp_path: Path
) -> None:
    whole, _ = finished
    pieces = Run(whole.config, tmp_path, Processes())
    services = make_services(whole.config, tmp_path, Processes())
    for stage in whole.config.stages:
        if stage.kind == "ode_pairs":
            make_pairs(services, stage, load_product(whole.product("teacher")), tmp_path / "pairs")  # type: ignore[arg-type]
            continue
        for stop in range(1, STEPS[stage.name], 2):
            made, optimizers = pieces._stage(services, stage)  # type: ignore[arg-type]
            Trainer(services, stage, optimizers, made, tmp_path).run(stop_at=stop)  # type: ignore[arg-type]
        assert pieces._train(services, stage, float("inf")) is not None  # type: ignore[arg-type]
        ours, theirs = (
            load_product(pieces.product(stage.name)),
            load_product(whole.product(stage.name)),
        )
        assert equal(ours, theirs), stage.name
        first = json.loads((tmp_path / f"{stage.name}.json").read_text())
        assert (
            first["loss"] == json.loads((whole.folder / f"{stage.name}.json").read_text())["loss"]
        )


def test_time_runs_out_and_nothing_is_lost(data: dict[str, Any], tmp_path: Path) -> None:
    config = RunConfig.from_dict(data)
    assert Run(config, tmp_path, Processes()).go(deadline=time.monotonic()) is None
    assert (tmp_path / "teacher.resume.pt").is_file()
    assert not (tmp_path / "teacher.pt").exists()


def test_a_folder_belongs_to_one_configuration(data: dict[str, Any], tmp_path: Path) -> None:
    Run(RunConfig.from_dict(data), tmp_path, Processes())
    changed = dataclasses.replace(RunConfig.from_dict(data), seed=5)
    with pytest.raises(ConfigError, match="another seed"):
        Run(changed, tmp_path, Processes())
    begun = json.loads((tmp_path / "run.json").read_text("utf-8"))
    del begun["stream"]["schedule"]["carry_renoise"]  # as before that setting existed
    (tmp_path / "run.json").write_text(json.dumps(begun), "utf-8")
    Run(RunConfig.from_dict(data), tmp_path, Processes())


def test_a_failed_gate_can_stop_a_run(data: dict[str, Any], tmp_path: Path) -> None:
    data["gate"] = "stop"
    run = Run(
        RunConfig.from_dict(data), tmp_path, Processes(),
        lambda kind, product: GateReport(passed=False, summary="ignores its context"),
    )  # fmt: skip
    with pytest.raises(GateError, match="ignores its context"):
        run.go()


@pytest.mark.parametrize(
    "quirk",
    ["caption_by_flag", "last_caption_only", "attached_caches", "refresh_noise", "rounded_times",
     "history_from_exit"],
)  # fmt: skip
def test_every_quirk_changes_some_loss(
    quirk: str, data: dict[str, Any], finished: tuple[Run, dict[str, Any]], tmp_path: Path
) -> None:
    whole, _ = finished
    names = {"last_caption_only": ["teacher"], "rounded_times": ["teacher"],
             "history_from_exit": ["inter-shot"]}.get(quirk, ["intra-shot"])  # fmt: skip
    changed = copy.deepcopy(data)
    changed["quirks"] = {quirk: True}
    outcomes = []
    for told in (data, changed):
        config = RunConfig.from_dict(told)
        folder = tmp_path / str(len(outcomes))
        run = Run(config, folder, Processes())
        for earlier in ("teacher", "ode", "intra-shot"):
            weights = load_product(whole.product(earlier))
            # A head that answers, or nothing that is told would matter.
            weights["head.head.weight"] = torch.full_like(weights["head.head.weight"], 0.01)
            save_product(run.product(earlier), weights, steps=1, train_s=0.0, stage=earlier)
        services = make_services(config, folder, Processes())
        stage = next(s for s in config.stages if s.name == names[0])
        start = dataclasses.replace(stage, start="teacher", batch=4, steps=6)  # type: ignore[call-arg]
        made, optimizers = run._stage(services, start)  # type: ignore[arg-type]
        Trainer(services, start, optimizers, made, folder).run(stop_at=4)  # type: ignore[arg-type]
        outcomes.append(made.product())
    assert not equal(*outcomes)


def test_pairs_are_made_once_and_broken_ones_are_named(
    finished: tuple[Run, dict[str, Any]],
) -> None:
    run, _ = finished
    folder = run.folder / "pairs"
    assert [pair_file(folder, i).is_file() for i in range(4)] == [True, True, True, False]
    assert not list(folder.glob("*.partial*"))
    pairs = read_pairs(folder, [0, 2], torch.device("cpu"))
    assert pairs.states.shape == (2, 5, 6, 16, 12, 20)
    assert torch.equal(pairs.shots.target, pairs.states[:, -1])
    with pytest.raises(WeightsError, match="is missing"):
        read_pairs(folder, [3], torch.device("cpu"))
    broken = folder / "000009.pt"
    broken.write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="delete it"):
        read_pairs(folder, [9], torch.device("cpu"))
    broken.unlink()


def test_starts_are_checked(data: dict[str, Any], tmp_path: Path) -> None:
    config = RunConfig.from_dict(data)
    model = config.stream.model
    drawn = start_weights("random", model, text=True, seed=0)
    assert equal(drawn, start_weights("random", model, text=True, seed=0))
    with pytest.raises(WeightsError):
        start_weights("nano", model, text=True, seed=0)  # another shape
    with pytest.raises(WeightsError):
        start_weights(str(tmp_path / "none.pt"), model, text=True, seed=0)
    del drawn["head.head.bias"]
    save_product(tmp_path / "short.pt", drawn, steps=0, train_s=0.0, stage="x")
    short = dataclasses.replace(config, start=str(tmp_path / "short.pt"))
    with pytest.raises(WeightsError, match=r"head\.head\.bias"):
        Run(short, tmp_path / "run", Processes()).go()


def test_the_command_runs_ships_and_streams(
    data: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tint_shard: Callable[..., dict[str, Tensor]],
) -> None:  # fmt: skip
    # The gate draws 160 stories, a minute's work that other tests do.
    monkeypatch.setattr(
        gate_scenes, "make_bank", lambda folder, *_, **__: _save(tint_shard(), folder / "S_0.pt")
    )
    data["stages"] = [{**data["stages"][0], "steps": 1}]
    preset = tmp_path / "one.json"
    preset.write_text(json.dumps(data), encoding="utf-8")
    folder = tmp_path / "run"
    arguments = ["run", "--preset", str(preset), "--folder", str(folder), "--json"]
    assert main([*arguments, "--minutes", "0"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["finished"] is False
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["finished"] is True
    assert report["streamed_frames"] == 9
    manifest = json.loads((folder / "student" / "student.json").read_text("utf-8"))
    assert manifest["stream"]["shot"]["shot_frames"] == 6
    assert manifest["lineage"]["run"]["name"] == "nano-smoke"
    data.update(must_fall=True, seed=9)
    data["stages"][0]["optimizer"]["rate"] = 1e-12
    preset.write_text(json.dumps(data), encoding="utf-8")
    assert main(["run", "--preset", str(preset), "--folder", str(tmp_path / "flat")]) == 2
    assert "did not fall in teacher" in capsys.readouterr().err
    assert main(["run", "--preset", "no-such"]) == 2
