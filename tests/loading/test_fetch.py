"""Fetching from a stand-in server: what belongs to a model, and no more, and only once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt import ConfigError, FetchError, Model, WeightsError
from shotstream_rt.cli.info import collect
from shotstream_rt.loading.fetch import BASE_REPOSITORY, fetch, fetched_bases

from .hub_models import SF, SF_FILE
from .hub_server import Hub

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_name_is_its_file_and_the_base_model(hub: Hub, cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = fetch("self-forcing", tell=lambda *how: told.append(how))
    assert found.path.read_bytes() == b"weights" * 1000
    assert found.student == "self-forcing"
    (base,) = found.roots
    assert files_below(base) == {
        "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/tokenizer.json",
        "google/umt5-xxl/spiece.model", "config.json",
    }  # fmt: skip
    assert found.revisions == {
        SF: hub.revisions[SF]["main"], BASE_REPOSITORY: hub.revisions[BASE_REPOSITORY]["main"],
    }  # fmt: skip
    assert found.revisions[SF] in found.path.parts
    done = [how[1] for how in told]
    assert done[0] == 0
    assert done == sorted(done)
    assert told[-1] == ("fetch", found.nbytes, found.nbytes)
    assert not list(cache.rglob("*.part"))


def test_what_is_here_needs_no_server(hub: Hub) -> None:
    first = fetch("self-forcing")
    hub.requests.clear()
    assert fetch("self-forcing") == first
    assert hub.requests == []
    assert fetched_bases() == first.roots


def test_nothing_is_fetched_unless_asked(
    hub: Hub, cache: Path, tmp_path: Path, save_student: Callable[..., Path]
) -> None:
    collect()
    with pytest.raises(WeightsError, match="fetch wan2"):
        Model.open(save_student(tmp_path / "self_forcing_dmd.pt", generator_ema=1.0), device="cpu")
    with pytest.raises(WeightsError):
        Model.open(tmp_path / "nowhere", device="cpu")
    assert hub.requests == []
    assert not cache.exists()


def test_a_model_is_opened_by_name(
    hub: Hub, layouts: Any, save_student: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    wan = layouts.wan(tmp_path / "made")
    hub.add(
        BASE_REPOSITORY,
        {p.relative_to(wan).as_posix(): p.read_bytes() for p in wan.rglob("*") if p.is_file()},
    )
    student = save_student(tmp_path / "made/student.pt", generator_ema=1.0)
    hub.add(SF, {SF_FILE: student.read_bytes()})
    stages: list[str] = []
    settings: dict[str, Any] = {
        "device": "cpu", "size": "16x32", "kernels": "reference", "threads": 1,
    }  # fmt: skip
    with Model.open(
        "self-forcing", progress=lambda stage, *_: stages.append(stage), **settings
    ) as model:
        assert model.info["student"] == "self-forcing"
        with model.session() as session:
            session.cut("a red cat")
            assert next(session.chunks()).pixels.shape[1:] == (16, 32, 3)
    assert list(dict.fromkeys(stages)) == ["fetch", "student", "codec", "text"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    Model.open("self-forcing", **settings).close()
    # A student from elsewhere takes the base model that was fetched.
    Model.open(student, student="self-forcing", **settings).close()
    told = collect()
    assert told["students"]["self-forcing"]["file"].endswith(SF_FILE)
    assert told["students"]["longlive"]["file"] is None
    assert told["base_model"] is not None
    assert hub.requests == []


def test_a_folder_of_that_name_goes_before(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "self-forcing").mkdir()
    with pytest.raises(WeightsError, match="missing a student"):
        Model.open("self-forcing", device="cpu")
    assert hub.requests == []


def test_longlive_brings_its_lora(hub: Hub) -> None:
    repository = "Efficient-Large-Model/LongLive-1.3B"
    hub.add(repository, {"models/longlive_base.pt": b"b" * 2000, "models/lora.pt": b"l" * 2000})
    found = fetch("longlive")
    assert found.path.with_name("lora.pt").read_bytes() == b"l" * 2000
    hub.add(repository, {"models/longlive_base.pt": b"b" * 2000})
    with pytest.raises(FetchError, match=r"no file models/lora\.pt, wanted it beside"):
        fetch("longlive", renew=True)


def test_revisions_stay_what_they_were(hub: Hub) -> None:
    first = fetch("self-forcing")
    newer = hub.add(SF, {SF_FILE: b"better!" * 1000})
    hub.add(SF, {SF_FILE: b"a tag's" * 1000}, revision="v2")
    assert fetch("self-forcing") == first
    assert fetch(f"hf:{SF}@v2").path.read_bytes() == b"a tag's" * 1000
    renewed = fetch("self-forcing", renew=True)
    assert renewed.path.read_bytes() == b"better!" * 1000
    assert renewed.revisions[SF] == newer
    assert fetch("self-forcing").path == renewed.path
    assert first.path.read_bytes() == b"weights" * 1000  # and the older one is still there
    assert fetch(f"hf:{SF}@{first.revisions[SF]}").path == first.path


def test_repositories_of_the_projects_own_layout_and_of_diffusers(hub: Hub) -> None:
    own = {
        "student.json": b"{}",
        "student.safetensors": b"s" * 2000,
        "vae.safetensors": b"v" * 2000,
    }
    hub.add("me/mine", {**own, "README.md": b"words", "old/student.safetensors": b"o"})
    found = fetch("hf:me/mine")
    assert files_below(found.path) == set(own)
    parts = {
        "vae/config.json": b"{}", "vae/diffusion_pytorch_model.safetensors": b"v" * 2000,
        "text_encoder/model.safetensors.index.json": b"{}", "tokenizer/spiece.model": b"p" * 2000,
        "transformer/diffusion_pytorch_model.safetensors": b"t" * 2000,
    }  # fmt: skip
    rest = {"model_index.json": b"{}", "assets/film.mp4": b"f", "vae/weights.bin": b"w" * 2000}
    hub.add("me/theirs", {**parts, **rest})
    assert files_below(fetch("hf:me/theirs").path) == set(parts)


def test_a_repository_that_does_not_tell_its_student(hub: Hub) -> None:
    hub.add("me/one", {"model.pt": b"m" * 2000, "lora.pt": b"l" * 2000})
    with pytest.raises(FetchError, match=r"nothing tells which student model\.pt is.*longlive"):
        fetch("hf:me/one")
    found = fetch("hf:me/one", student="self-forcing")
    assert (found.path.name, found.student) == ("model.pt", "self-forcing")
    hub.add("me/two", {"a.pt": b"m" * 2000, "b.pt": b"m" * 2000})
    with pytest.raises(FetchError, match=r"2 files that may be a student \(a\.pt, b\.pt\)"):
        fetch("hf:me/two", student="self-forcing")
    hub.add("me/none", {"README.md": b"words"})
    with pytest.raises(FetchError, match=r"0 files that may be a student \(none\)"):
        fetch("hf:me/none")


@pytest.mark.parametrize(
    "name", ["dall-e", "hf:", "hf:one", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b@", "hf:a/b@../c",
             "hf:a/b@x y", "hf:a/b\n"]
)  # fmt: skip
def test_names_that_are_none(name: str, hub: Hub) -> None:
    with pytest.raises(ConfigError):
        fetch(name)
    assert hub.requests == []
