"""LoRA files and running averages from every door: session, ``Model.open``, commands, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_rt import ConfigError, Session, WeightsError
from shotstream_rt.bench.__main__ import main as bench
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.random_checkpoint import RANDOM_MODELS, write_random_checkpoint
from shotstream_rt.cli import main
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.student_weights import open_student
from shotstream_rt.model.nano.text import NanoTextEncoder

MODEL = RANDOM_MODELS["random-small"].stream.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder of random weights."""
    path = tmp_path_factory.mktemp("model")
    write_random_checkpoint(RANDOM_MODELS["random-small"], path)
    return path


def adapters(folder: Path, rank: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight": 0.2
        * torch.randn(sizes)
        for name, weight in load_file(folder / "student.safetensors").items()
        if weight.dim() == 2 and name.startswith("blocks.")
        for side, sizes in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank)))
    }


@pytest.fixture(scope="module")
def lora(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as PEFT writes it, with alpha twice the rank."""
    path = tmp_path_factory.mktemp("lora")
    save_file(adapters(folder), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}', "utf-8")
    return path


@pytest.fixture
def released(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The released layout, its student a trainer's checkpoint with a running average."""
    wan = tmp_path / "Wan2.1-T2V-1.3B"
    (wan / "google/umt5-xxl").mkdir(parents=True)
    (wan / "google/umt5-xxl/tokenizer.json").write_text("{}", "utf-8")
    (wan / "config.json").write_text(json.dumps({"num_heads": MODEL.num_heads}), "utf-8")
    torch.save(load_file(folder / "vae.safetensors"), wan / "Wan2.1_VAE.pth")
    torch.save({}, wan / "models_t5_umt5-xxl-enc-bf16.pth")
    state = load_file(folder / "student.safetensors")
    groups: dict[str, Any] = {
        "generator": {f"model.{name}": value for name, value in state.items()},
        "generator_ema": {f"model.{name}": value * 0.5 for name, value in state.items()},
        "step": 50,
    }
    torch.save(groups, tmp_path / "shotstream_merged.pt")
    monkeypatch.setattr(
        "shotstream_rt.model.umt5.text_encoder.UMT5TextEncoder.from_files",
        lambda *_, **__: NanoTextEncoder.load(folder / "text.safetensors"),
    )
    return tmp_path


def first_chunk(model: Path, **options: Any) -> tuple[bytes, dict[str, Any]]:
    with Session.open(model, device="cpu", threads=1, size="32x48", **options) as session:
        session.cut("a red cat")
        return next(session.chunks()).pixels.tobytes(), session.stats


def test_a_project_folder_takes_a_lora(folder: Path, lora: Path, tmp_path: Path) -> None:
    plain, told = first_chunk(folder)
    assert (told["lora"], told["ema"]) == (None, False)
    merged, told = first_chunk(folder, lora=lora)
    assert told["lora"] == str(lora)
    assert merged != plain
    assert first_chunk(folder, lora=str(lora / "adapter_model.safetensors"))[0] == merged
    # The same film as of a folder into which it was merged before.
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = {
        name: value.float() for name, value in load_file(folder / "student.safetensors").items()
    }
    halves = adapters(folder)
    for name in halves:
        if name.endswith(".lora_A.weight"):
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = halves[name.replace("lora_A", "lora_B")]
            state[f"{layer}.weight"].add_(b @ halves[name], alpha=2.0)
    save_file(state, tmp_path / "student.safetensors")
    assert first_chunk(tmp_path)[0] == merged


def test_a_released_container_takes_its_running_average(released: Path, lora: Path) -> None:
    plain, told = first_chunk(released)
    assert told["ema"] is False
    average, told = first_chunk(released, ema=True)
    assert told["ema"] is True
    assert average != plain
    both, told = first_chunk(released, ema=True, lora=lora)
    assert (told["ema"], told["lora"]) == (True, str(lora))
    assert len({plain, average, both}) == 3
    state = open_student(released / "shotstream_merged.pt", num_heads=2, ema=True).tensors
    bundle = Model.open(released, device="cpu", dtype="float32", ema=True)
    assert torch.equal(bundle.weights()["head.head.weight"], state["head.head.weight"])
    bundle.close()


def test_a_file_without_a_running_average_says_what_is_there(folder: Path, released: Path) -> None:
    with pytest.raises(WeightsError, match=r"student\.safetensors: ema: got tensors without gr"):
        Model.open(folder, device="cpu", ema=True)
    path = released / "shotstream_merged.pt"
    torch.save({"generator": {"a": torch.zeros(1)}, "critic": {"b": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"ema: got generator, critic, wanted .*generator_ema"):
        Model.open(released, device="cpu", ema=True)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("model", r"2 of \d+ tensors adapt no layer of this model: .*blocks\.9.*another model"),
        ("width", r"layer 'blocks\.0\.ffn\.0'.*\[out, in\] of \(64, 48\).*another model"),
        ("rank", r"layer 'blocks\.0\.ffn\.0'.*wanted one rank"),
        ("half", r"layer 'blocks\.0\.ffn\.0'.*wanted two matrices"),
        ("type", r"layer 'blocks\.0\.ffn\.0'.*of type torch\.int8, wanted a float type"),
        ("missing", r"lora\.safetensors: is missing"),
        ("folder", r"no adapter_model\.safetensors or adapter_model\.bin in this folder"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(
    fault: str, told: str, folder: Path, tmp_path: Path
) -> None:
    halves = adapters(folder)
    a, b = (f"base_model.model.blocks.0.ffn.0.lora_{side}.weight" for side in "AB")
    if fault == "model":
        for name in (a, b):
            halves[name.replace("blocks.0", "blocks.9")] = halves[name].clone()
    elif fault == "width":
        halves[a] = torch.randn(4, 40)
    elif fault == "rank":
        halves[b] = torch.randn(64, 5)
    elif fault == "half":
        del halves[b]
    elif fault == "type":
        halves[a] = halves[a].to(torch.int8)
    path = tmp_path / "lora.safetensors"
    if fault not in ("missing", "folder"):
        save_file({name: value.contiguous() for name, value in halves.items()}, path)
    with pytest.raises(WeightsError, match=told):
        Model.open(folder, device="cpu", lora=tmp_path if fault == "folder" else path)


def test_pruned_history_is_not_taken_with_a_lora(folder: Path, lora: Path) -> None:
    with pytest.raises(ConfigError, match="measured without a LoRA"):
        Model.open(folder, device="cpu", profile="fast", lora=lora)


def test_generate_takes_both(
    released: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["generate", "-p", "a red cat", "--model", str(released), "--device", "cpu", "--size",
             "32x48", "--threads", "1", "--frames-dir", str(tmp_path / "frames"), "--json", "-q",
             ]  # fmt: skip
    reports = []
    for more in ([], ["--ema"], ["--ema", "--lora", str(lora)]):
        assert main([*asked, *more]) == 0
        reports.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert [report["ema"] for report in reports] == [False, True, True]
    assert [report["lora"] for report in reports] == [None, None, str(lora)]
    assert len({report["sha256"] for report in reports}) == 3


def test_bench_takes_both_and_says_so(
    folder: Path, lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--model", str(folder), "--device", "cpu", "--threads", "1", "--shots", "1",
             "--warmup", "0", "--repeats", "1", "--json"]  # fmt: skip
    assert bench([*asked, "--lora", str(lora)]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["status"] == "ok"
    assert record["backend"]["lora"] == str(lora)
    assert "ema" not in record["backend"]
    assert bench([*asked, "--ema"]) == 2
    assert "ema: got tensors without groups" in capsys.readouterr().err


def test_bench_options_count_only_where_asked_for() -> None:
    plain = BenchOptions(device="cpu").requested()
    assert set(plain) == {"device", "backend", "profile", "dtype", "threads"}
    asked = BenchOptions(device="cpu", lora="a.pt", ema=True).requested()
    assert asked == {**plain, "lora": "a.pt", "ema": True}


@pytest.mark.parametrize("more", [["--ema"], ["--lora", "a.pt"]])
def test_bench_refuses_them_for_random_students(more: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        bench(["--workload", "student-256x4", *more])
    assert left.value.code == 2
    with pytest.raises(SystemExit):
        bench(["--student", str(tmp_path / "none.json"), "--random-weights", *more])
