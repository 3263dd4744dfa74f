"""Fetching from a stand-in server: whole and right, or an error and nothing under its name."""

from __future__ import annotations

import fcntl
import json
import random
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt import ConfigError, FetchError, Model, WeightsError
from shotstream_rt.cli import main
from shotstream_rt.cli.info import collect
from shotstream_rt.loading import hub as hub_module
from shotstream_rt.loading.fetch import BASE, BASE_REPOSITORY, fetch, fetched_bases
from shotstream_rt.loading.hub_listing import listing

from ..patience import PATIENCE_S, wait_for
from .hub_server import Hub

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")

SF = "gdhe17/Self-Forcing"
SF_FILE = "checkpoints/self_forcing_dmd.pt"
BASE_FILES = {
    "Wan2.1_VAE.pth": b"v" * 3000, "models_t5_umt5-xxl-enc-bf16.pth": b"t" * 5000,
    "google/umt5-xxl/tokenizer.json": b"{}", "google/umt5-xxl/spiece.model": b"s" * 2000,
    "config.json": b"{}", "README.md": b"words", "diffusion_pytorch_model.safetensors": b"w" * 9000,
}  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOTSTREAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return tmp_path / "cache" / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.add(BASE_REPOSITORY, BASE_FILES)
        server.add(SF, {SF_FILE: b"weights" * 1000, "checkpoints/ode_init.pt": b"o" * 4000})
        yield server


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


def test_a_wrong_checksum_leaves_nothing(hub: Hub, cache: Path) -> None:
    for path, data in ((SF_FILE, b"tampered" * 875), ("config.json", b"[]")):
        hub.served[path] = data
        with pytest.raises(FetchError, match=rf"{path}: got .* bytes with digest .*deleted"):
            fetch("self-forcing")
        assert not [p for p in cache.rglob(f"{Path(path).name}*") if p.is_file()]
        del hub.served[path]
    assert fetch("self-forcing").path.read_bytes() == b"weights" * 1000


def test_a_server_that_breaks_off_is_gone_on_with(hub: Hub) -> None:
    hub.break_after[SF_FILE] = (3000, 1)
    assert fetch("self-forcing").path.read_bytes() == b"weights" * 1000
    assert len(hub.ranges(SF_FILE)) == 2


def test_a_file_that_ends_too_early_is_not_taken(hub: Hub, cache: Path) -> None:
    hub.served[SF_FILE] = b"weights" * 500
    with pytest.raises(FetchError, match=rf"{SF_FILE}: "):
        fetch("self-forcing")
    assert not list(cache.rglob("self_forcing_dmd.pt"))
    del hub.served[SF_FILE]
    assert fetch("self-forcing").path.read_bytes() == b"weights" * 1000
    assert hub.ranges(SF_FILE)[-1] == "bytes=3500-"


def test_a_callers_error_stops_it_and_the_next_goes_on(hub: Hub) -> None:
    class StopError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done:
            raise StopError

    with pytest.raises(StopError):
        fetch("self-forcing", tell=stop)
    seen = len(hub.requests)
    assert fetch("self-forcing").path.is_file()
    assert len(hub.requests) > seen


def test_a_disk_without_room_is_told_before_the_first_byte(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = hub_module.shutil.disk_usage("/")._replace(free=10_000_000)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FetchError, match=r"0\.01 GB of free disk, wanted 0\.07 GB .*CACHE_DIR"):
        fetch("self-forcing")
    assert not [r for r in hub.requests if "/resolve/" in r[1]]


def run(*words: str, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shotstream_rt", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )


BIG = random.Random(1).randbytes(26 << 20)
"""The library writes ten megabytes at a time: of less, nothing would be there half-way."""


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle(hub: Hub, cache: Path) -> None:
    hub.add(SF, {SF_FILE: BIG})

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (15 << 20, 15 << 20))

    process = run("fetch", "self-forcing", "--json", preexec_fn=limit)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    told = json.loads(out.splitlines()[-1])
    assert told["kind"] == "FetchError"
    assert "disk is full" in told["error"]
    assert SF_FILE in told["error"]
    assert not list(cache.rglob("self_forcing_dmd.pt"))
    assert fetch("self-forcing").path.read_bytes() == BIG
    assert str(hub.ranges(SF_FILE)[-1]).startswith("bytes=1")  # it went on


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(hub: Hub, cache: Path) -> None:
    hub.add(SF, {SF_FILE: BIG})
    hub.stall_after[SF_FILE] = 22 << 20
    process = run("fetch", "self-forcing")
    parts: list[Path] = []

    def come_in() -> bool:
        parts[:] = [p for p in cache.rglob("*.part") if p.stat().st_size >= 10 << 20]
        return bool(parts) or process.poll() is not None

    wait_for(come_in)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert parts, "nothing came in"
    have = parts[0].stat().st_size
    assert 0 < have < len(BIG)
    assert not list(cache.rglob("self_forcing_dmd.pt"))
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        fetch("self-forcing")
    hub.go_on.set()
    assert fetch("self-forcing").path.read_bytes() == BIG
    assert hub.ranges(SF_FILE) == [None, f"bytes={have}-"]
    assert not list(cache.rglob("*.part"))


def test_no_network_is_told(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as silent:  # which nobody else can listen on meanwhile
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(FetchError, match=rf"{SF}@main: the server cannot be reached"):
            Model.open("self-forcing", device="cpu")
        assert main(["fetch", "self-forcing", "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["kind"] == "FetchError"
    assert not list(cache.rglob("*.pt*"))


def test_offline_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FetchError, match=rf"{SF}@main: HF_HUB_OFFLINE is set"):
        fetch("self-forcing")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "does not let you have it"), (403, "does not let you have it"),
     (404, "no such repository"), (500, "answered 500")],
)  # fmt: skip
def test_what_the_server_answers_is_told(status: int, told: str, hub: Hub) -> None:
    hub.status["/api/"] = status
    with pytest.raises(FetchError, match=told):
        fetch("self-forcing")
    hub.status.clear()
    at = listing(SF)
    hub.status[f"/{SF}/resolve/"] = status
    with pytest.raises(FetchError, match=told):
        hub_module.fetch_files([(at, SF_FILE)])


def test_unknown_repositories_and_revisions(hub: Hub) -> None:
    for name in ("hf:me/nothing", f"hf:{SF}@v9"):
        with pytest.raises(FetchError, match="no such repository, revision or file"):
            fetch(name)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"rfilename": "../../x.pt", "size": 3, "blobId": "0" * 40}, "wanted one inside it"),
        ({"rfilename": "/etc/x.pt", "size": 3, "blobId": "0" * 40}, "wanted one inside it"),
        ({"rfilename": "x.pt", "size": 3, "blobId": "zz"}, "size 3 and digest 'zz'"),
        ({"rfilename": "x.pt", "size": None, "blobId": "0" * 40}, "got size None"),
        ({"rfilename": "x.pt", "size": -1, "blobId": "0" * 40}, "got size -1"),
    ],
)
def test_a_listing_that_cannot_be_relied_on(entry: dict[str, Any], told: str, hub: Hub) -> None:
    hub.listed[SF] = [entry]
    with pytest.raises(FetchError, match=told):
        fetch("self-forcing")
    assert not [r for r in hub.requests if "/resolve/" in r[1]]


def test_two_at_one_file_are_told(hub: Hub) -> None:
    at = listing(SF)
    part = at.folder / f"{SF_FILE}.part"
    part.parent.mkdir(parents=True)
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="another process is fetching it"):
            fetch("self-forcing")
    assert fetch("self-forcing").path.is_file()


def test_a_damaged_listing_is_told(hub: Hub, cache: Path) -> None:
    fetch("self-forcing")
    file = next(cache.glob("gdhe17--Self-Forcing/revisions/main.json"))
    for text in ("", "[]", '{"commit": 3, "files": []}', '{"commit": "x"}', "{"):
        file.write_text(text, "utf-8")
        with pytest.raises(FetchError):
            fetch("self-forcing")
    assert fetch("self-forcing", renew=True).path.is_file()


def test_a_library_that_is_not_there_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"shotstream_rt\[hub\]"):
        fetch("self-forcing")


def test_the_command(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", BASE, "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out.splitlines()[-1])
    assert told["bytes"] == sum(
        len(data) for path, data in BASE_FILES.items() if path not in (
            "README.md", "diffusion_pytorch_model.safetensors",
        )
    )  # fmt: skip
    assert Path(told["path"]).is_dir()
    assert hub.revisions[BASE_REPOSITORY]["main"] in err
    assert main(["fetch", "self-forcing", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["fetch", "self-forcing", "--student", "dall-e"]) == 2
    with pytest.raises(ConfigError, match="no student itself"):
        Model.open(BASE, device="cpu")


def test_an_interrupted_command_keeps_what_came_in(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: object, stage: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr("shotstream_rt.cli.load_progress.LoadLine.__call__", interrupt)
    assert main(["fetch", "self-forcing", "--json"]) == 130
    out, err = capsys.readouterr()
    assert "what came in is kept" in err
    assert json.loads(out.splitlines()[-1])["kind"] == "KeyboardInterrupt"
    assert list(cache.rglob("*.part"))
