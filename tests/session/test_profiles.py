"""Profiles through a session: a small random model with a Wan VAE and a tiny decoder beside it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt import ConfigError, ManifestError, Session, WeightsError
from shotstream_rt.config import ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.model.nano.text import NanoTextNet
from shotstream_rt.model.student import Student
from shotstream_rt.model.tiny.codec import TinyCodec
from shotstream_rt.model.tiny.network import TinyDecoder
from shotstream_rt.model.wan_vae.network import WanVAE
from shotstream_rt.profiles import EXACT, PROFILES, find_profile

MODEL = ModelConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=128, text_len=64,
    latent_height=2, latent_width=4,
)  # fmt: skip
STREAM = StreamConfig(
    model=MODEL, shot=ShotConfig(shot_frames=6), schedule=ScheduleConfig(shift=3.0)
)
TINY_FILE = "taew2_1.pth"


def write_manifest(folder: Path, codec: str = "wan") -> None:
    StudentManifest(
        stream=STREAM,
        codec={"kind": codec, "file": "codec.safetensors"},
        text={"kind": "nano", "file": "text.safetensors"},
    ).write(folder / "student.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    networks = {"student": Student(MODEL), "codec": WanVAE(8), "text": NanoTextNet()}
    for name, network in networks.items():
        state = {
            key: torch.randn_like(value) * 0.1 if value.dim() > 1 else torch.ones_like(value)
            for key, value in network.state_dict().items()
        }
        save_file(state, path / f"{name}.safetensors")
    tiny = TinyDecoder()
    torch.nn.init.constant_(tiny.decoder[-1].bias, 0.5)
    torch.save(tiny.half().state_dict(), path / TINY_FILE)
    write_manifest(path)
    return path


@pytest.fixture
def without_tiny(folder: Path, tmp_path: Path) -> Path:
    for path in folder.iterdir():
        if path.name != TINY_FILE:
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def play(folder: Path, profile: str) -> tuple[torch.Tensor, dict[str, object]]:
    with Session.open(folder, device="cpu", threads=1, profile=profile) as session:
        session.cut("a red cat")
        session.cut("a blue robot")
        frames = [torch.from_numpy(frame.pixels.copy()) for frame in session.stream()]
        return torch.stack(frames), session.stats


def test_table_says_what_is_lossy() -> None:
    fp8 = ["fp8", "fp8-tiny", "fp8-keys", "fp8-attention", "fp8-all", "fp8-fused"]
    assert list(PROFILES) == ["exact", "tiny", *fp8, "fast", "two-step"]
    assert find_profile("exact") is EXACT
    assert not EXACT.lossy
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.summary
        assert profile.lossy == (name != "exact") == bool(profile.changes)
        assert json.loads(json.dumps(profile.describe()))["lossy"] == profile.lossy
    with pytest.raises(ConfigError, match="profile: got 'Exact', wanted one of exact, tiny, fp8"):
        find_profile("Exact")


def test_stats_tell_profile_and_decoder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="shotstream_rt"):
        exact, told = play(folder, "exact")
        assert (told["profile"], told["lossy"], told["decoder"]) == ("exact", False, "wan")
        assert "lossy:" not in caplog.text
        tiny, told = play(folder, "tiny")
    assert (told["profile"], told["lossy"], told["decoder"]) == ("tiny", True, TINY_FILE)
    assert "profile tiny is lossy" in caplog.text
    assert exact.shape == tiny.shape == (2 * 21, 16, 32, 3)
    assert not torch.equal(exact, tiny)
    assert torch.equal(tiny, play(folder, "tiny")[0])


def test_context_is_what_the_wan_vae_makes_of_the_tiny_decoders_frames(folder: Path) -> None:
    bundle = Model.open(folder, device="cpu", profile="tiny")
    codec = bundle.codec
    assert isinstance(codec, TinyCodec)
    frames = codec.decode_full(torch.randn(1, 2, 16, 2, 4))[0]
    exact = Model.open(folder, device="cpu").codec
    assert torch.equal(codec.encode_frames(frames), exact.encode_frames(frames))
    bundle.close()


def test_snapshot_stays_with_its_profile(folder: Path) -> None:
    with Session.open(folder, device="cpu", threads=1, profile="tiny") as session:
        session.cut("a red cat")
        next(session.chunks())
        data = session.snapshot()
        wanted = [frame.pixels.tobytes() for frame in session.stream()]
    with Session.open(folder, device="cpu", threads=1, profile="tiny") as session:
        session.restore(data)
        assert [frame.pixels.tobytes() for frame in session.stream()] == wanted
    with (
        Session.open(folder, device="cpu", threads=1) as session,
        pytest.raises(ManifestError, match="made with profile tiny, this session has exact"),
    ):
        session.restore(data)


def test_missing_file_is_named_and_nothing_else_is_taken(without_tiny: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing taew2_1\.safetensors or taew2_1\.pth"):
        Session.open(without_tiny, device="cpu", profile="tiny")
    Model.open(without_tiny, device="cpu").close()


def test_wrong_file_is_named(without_tiny: Path) -> None:
    torch.save({"decoder.1.weight": torch.zeros(256, 48, 3, 3)}, without_tiny / TINY_FILE)
    with pytest.raises(WeightsError, match=TINY_FILE):
        Session.open(without_tiny, device="cpu", profile="tiny")


def test_model_with_another_codec_has_only_exact(without_tiny: Path) -> None:
    (without_tiny / "student.json").unlink()
    write_manifest(without_tiny, codec="nano")
    with pytest.raises(ConfigError, match="has latents of kind nano"):
        Session.open(without_tiny, device="cpu", profile="tiny")
