"""Model folders to bundles, and one real (random) model through the whole session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt import ConfigError, ManifestError, Session, WeightsError
from shotstream_rt.config import ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import BackendUnavailableError, DeviceError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.placement import parse_size, resolve_device
from shotstream_rt.model.nano.text import NanoTextEncoder, NanoTextNet
from shotstream_rt.model.student import Student
from shotstream_rt.model.wan_vae.network import WanVAE

MODEL = ModelConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=128, text_len=64,
    latent_height=2, latent_width=4,
)  # fmt: skip


def random_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn_like(value) * 0.1 if value.dim() > 1 else torch.ones_like(value)
        for name, value in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a random student, a narrow Wan VAE and the nano text encoder."""
    path = tmp_path_factory.mktemp("model")
    save_file(random_state(Student(MODEL)), path / "student.safetensors")
    save_file(random_state(WanVAE(8)), path / "codec.safetensors")
    save_file(random_state(NanoTextNet()), path / "text.safetensors")
    StudentManifest(
        stream=StreamConfig(
            model=MODEL, shot=ShotConfig(shot_frames=6), schedule=ScheduleConfig(shift=3.0)
        ),
        codec={"kind": "wan", "file": "codec.safetensors"},
        text={"kind": "nano", "file": "text.safetensors"},
    ).write(path / "student.json")
    return path


def play(folder: Path, shots: int, **options: Any) -> list[bytes]:
    with Session.open(folder, device="cpu", **options) as session:
        for number in range(shots):
            session.cut(f"a red cat on a beach {number}")
        return [frame.pixels.tobytes() for frame in session.stream()]


def test_project_folder_streams_the_same_film_twice(folder: Path) -> None:
    films = [play(folder, 2, seed=3, threads=1) for _ in range(2)]
    assert len(films[0]) == 2 * 21
    assert films[0] == films[1]
    assert films[0] != play(folder, 2, seed=4, threads=1)


def test_thread_count_changes_rounding_only(folder: Path) -> None:
    one, two = (
        torch.frombuffer(bytearray(b"".join(play(folder, 2, threads=n))), dtype=torch.uint8)
        for n in (1, 2)
    )
    assert (one.int() - two.int()).abs().max() <= 1


def test_snapshot_continues_a_real_model(folder: Path) -> None:
    with Session.open(folder, device="cpu", threads=1) as session:
        session.cut("a red cat")
        session.cut("a blue robot")
        next(session.chunks())
        data = session.snapshot()
        expected = [frame.pixels.tobytes() for frame in session.stream()]
    with Session.open(folder, device="cpu", threads=1) as session:
        session.restore(data)
        assert [frame.pixels.tobytes() for frame in session.stream()] == expected


def test_size_and_dtype_are_taken(folder: Path) -> None:
    bundle = Model.open(folder, device="cpu", size="32x48", dtype="bfloat16")
    assert bundle.info["size"] == [32, 48]
    assert bundle.info["dtype"] == "bfloat16"
    assert bundle.info["backend"] == "eager"
    assert bundle.info["backend_requested"] == "auto"
    assert json.loads(json.dumps(dict(bundle.info)))["device"] == "cpu"
    bundle.close()


def test_kernels_are_taken_by_name_or_refused(folder: Path) -> None:
    bundle = Model.open(folder, device="cpu", kernels="torch")
    assert bundle.info["kernel_set"] == "torch"
    bundle.close()
    with pytest.raises(BackendUnavailableError, match="needs an NVIDIA GPU"):
        Session.open(folder, device="cpu", kernels="torch+flash")
    with pytest.raises(ConfigError, match="kernels"):
        Session.open(folder, device="cpu", kernels="flash")


def test_extended_shot_rolls_on_with_a_real_model(folder: Path) -> None:
    with Session.open(folder, device="cpu", at_end="extend", threads=1) as session:
        session.cut("a red cat")
        chunks = session.chunks()
        assert [next(chunks).chunk for _ in range(6)] == list(range(6))


@pytest.mark.parametrize(
    "size",
    ["31x48", "32", "0x16", "32x48x3", "-16x16", (32, 47), (32,), (16.0, 16), "8192x16", ""],
)
def test_odd_sizes_are_config_errors(size: Any) -> None:
    with pytest.raises(ConfigError, match="multiples of 16"):
        parse_size(size)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "mps", None])
def test_unknown_devices_are_config_errors(name: Any) -> None:
    with pytest.raises(ConfigError, match="device"):
        resolve_device(name)


def test_missing_device_is_told() -> None:
    with pytest.raises(BackendUnavailableError, match="cuda:77"):
        resolve_device("cuda:77")


@pytest.mark.parametrize("model", ["", None, 7])
def test_unusable_model_names_are_config_errors(model: Any) -> None:
    with pytest.raises(ConfigError, match="model"):
        Model.open(model)


@pytest.mark.parametrize("name", ["~nobody_here/model", "x" * 5000, "a\0b", "\x1b[31m"])
def test_names_that_are_no_folders_are_told(name: str) -> None:
    for open_it in (lambda: Model.open(name), lambda: Model.open("nano", lora=name)):
        with pytest.raises(WeightsError) as caught:
            open_it()
        assert len(str(caught.value)) < 1000
        assert "\x1b" not in str(caught.value)


def test_empty_folder_lists_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"shotstream_merged\.pt"):
        Model.open(tmp_path)


def broken(folder: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    data = json.loads((target / "student.json").read_text("utf-8"))
    change(data)
    (target / "student.json").write_text(json.dumps(data), "utf-8")
    return target


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        (lambda d: d["codec"].update(kind="magic"), WeightsError, "magic"),
        (lambda d: d["text"].update(kind="magic"), WeightsError, "magic"),
        (lambda d: d["codec"].update(file="none.safetensors"), WeightsError, "none.safetensors"),
        (lambda d: d["text"].update(file="none.safetensors"), WeightsError, "none.safetensors"),
        (lambda d: d["stream"]["model"].update(dim=48), WeightsError, "student.safetensors"),
        (lambda d: d.update(schema_version=99), ManifestError, "99"),
    ],
)
def test_broken_folders_are_named(
    folder: Path, tmp_path: Path, change: Any, kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        Model.open(broken(folder, tmp_path, change), device="cpu")


def test_frames_are_stamped_by_the_models_frame_rate(folder: Path, tmp_path: Path) -> None:
    model = broken(folder, tmp_path, lambda d: d.update(frame_rate_hz=24))
    with Session.open(model, device="cpu", threads=1) as session:
        assert session.frame_rate_hz == 24
        session.cut("a red cat")
        chunk = next(session.chunks())
        frames = list(session.stream())
    assert chunk.pts_s == 0.0
    assert [frame.pts_s for frame in frames] == [frame.index / 24 for frame in frames]
    assert frames[0].index == len(chunk.pixels)
    with Session.open(folder, device="cpu", threads=1) as session:
        assert session.frame_rate_hz == 16


def test_released_layout_is_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wan = tmp_path / "Wan2.1-T2V-1.3B"
    (wan / "google/umt5-xxl").mkdir(parents=True)
    (wan / "google/umt5-xxl/tokenizer.json").write_text("{}", "utf-8")
    (wan / "config.json").write_text('{"num_heads": 2}', "utf-8")
    torch.save(random_state(WanVAE(8)), wan / "Wan2.1_VAE.pth")
    torch.save({}, wan / "models_t5_umt5-xxl-enc-bf16.pth")
    student = {f"model.{name}": value for name, value in random_state(Student(MODEL)).items()}
    (tmp_path / "ckpts").mkdir()
    torch.save({"generator": student}, tmp_path / "ckpts/shotstream_merged.pt")
    opened: list[tuple[Any, ...]] = []

    def from_files(*places: Any, **_: Any) -> NanoTextEncoder:
        opened.append(places)
        return NanoTextEncoder.load(folder / "text.safetensors")

    monkeypatch.setattr(
        "shotstream_rt.model.umt5.text_encoder.UMT5TextEncoder.from_files", from_files
    )
    bundle = Model.open(tmp_path, device="cpu", size="16x32")
    assert bundle.config.model.num_heads == 2
    assert bundle.config.schedule == ScheduleConfig()
    assert opened == [(wan / "models_t5_umt5-xxl-enc-bf16.pth", wan / "google/umt5-xxl")]
    bundle.close()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
    ],
    ids=str,
)
def test_a_shortage_while_opening_is_a_device_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr("shotstream_rt.backends.registry.resolve", load)
    with pytest.raises(DeviceError, match=r"opening the model: .*use a smaller size"):
        Session.open("nano")


def test_other_errors_while_opening_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("shotstream_rt.backends.registry.resolve", load)
    with pytest.raises(RuntimeError, match="a fault"):
        Session.open("nano")
