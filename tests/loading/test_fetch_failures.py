"""Fetching that fails: an error that says why, nothing under its name, and it can go on."""

from __future__ import annotations

import fcntl
import json
import random
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt import ConfigError, FetchError, Model
from shotstream_rt.cli import main
from shotstream_rt.loading import hub as hub_module
from shotstream_rt.loading.fetch import fetch
from shotstream_rt.loading.hub_listing import listing

from ..patience import PATIENCE_S, wait_for
from .hub_models import SF, SF_FILE
from .hub_server import Hub

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")


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
