"""A store in a folder: whole or not there, one process at a time, and nothing taken on trust."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shotstream_rt.errors import ConfigError
from shotstream_rt.serve.problems import HeldError, StoreError
from shotstream_rt.serve.store import FolderStore

from ..patience import PATIENCE_S

OWNER = """
import sys, time
from shotstream_rt.serve.store import FolderStore

store = FolderStore(sys.argv[1])
store.claim("film")
if sys.argv[2] == "hold":
    print("held", flush=True)
    time.sleep(3600)
number = 0
while True:
    store.put("film", "state", b"%d " % number * 20_000)
    if number == 0:
        print("put", flush=True)
    number += 1
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "films")


def owner(folder: Path, what: str) -> subprocess.Popen[str]:
    """Start a process that holds a film, and wait until it does."""
    words = [sys.executable, "-c", OWNER, str(folder), what]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_values_are_what_was_put_last(store: FolderStore) -> None:
    assert store.films() == () == store.list("one")
    assert store.get("one", "state") is None
    lease = store.claim("one")
    store.put("one", "film.json", b"{}")
    assert store.films() == (), "a film is there once it has a state"
    store.put("one", "state", b"first")
    store.put("one", "state", b"second")
    assert store.get("one", "state") == b"second"
    assert store.films() == ("one",)
    assert store.list("one") == ("film.json", "state")
    store.delete("one")
    store.delete("one")
    lease.release()
    lease.release()
    assert store.films() == () == store.list("one")
    assert store.get("one", "state") is None


def test_what_was_appended_counts_up_to_where_the_next_begins(store: FolderStore) -> None:
    store.claim("one")
    store.append("one", "recording", b"abcdef", at=0)
    store.append("one", "recording", b"XY", at=3)
    assert store.read("one", "recording", 0, 5) == b"abcXY"
    assert store.read("one", "recording", 2, 2) == b"cX"
    with pytest.raises(StoreError, match="ends at byte 5, wanted 6"):
        store.read("one", "recording", 2, 4)
    with pytest.raises(StoreError, match="has 5 bytes, wanted 9"):
        store.append("one", "recording", b"Z", at=9)
    with pytest.raises(StoreError):
        store.read("one", "nothing", 0, 1)


def test_one_at_a_time(store: FolderStore, tmp_path: Path) -> None:
    lease = store.claim("film")
    with pytest.raises(HeldError, match="another process"):
        store.claim("film")
    lease.release()
    process = owner(tmp_path / "films", "hold")
    with pytest.raises(HeldError, match="another process"):
        store.claim("film")
    store.claim("other").release()
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)
    store.claim("film").release()


def test_a_full_disk_keeps_no_film_from_its_process_and_is_left_no_folder(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", refuse)
        store.claim("film").release()
    with monkeypatch.context() as full:
        full.setattr(os, "open", refuse)
        for film in ("film", "other"):
            with pytest.raises(StoreError, match="No space left"):
                store.claim(film)
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["film"]


def test_nothing_half_written_after_a_kill(store: FolderStore, tmp_path: Path) -> None:
    for n in range(5):
        process = owner(tmp_path / "films", "put")
        time.sleep(0.02 + 0.011 * n)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        lease = store.claim("film")
        state = store.get("film", "state")
        assert state is not None
        assert len({*state.split()}) == 1
        assert len(state.split()) == 20_000
        left = {path.name for path in (tmp_path / "films" / "film").iterdir()}
        assert left == {"state", "lease"}
        lease.release()


@pytest.mark.parametrize(
    "film", ["", ".", "..", "a/b", "../x", "a\0b", "ä", "x" * 65, "a.b", "a\n"]
)
def test_no_name_leads_out_of_the_folder(store: FolderStore, film: str) -> None:
    calls = [
        lambda: store.claim(film),
        lambda: store.get(film, "state"),
        lambda: store.put(film, "state", b""),
        lambda: store.read(film, "recording", 0, 1),
        lambda: store.append(film, "recording", b"", at=0),
        lambda: store.delete(film),
        lambda: store.list(film),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="film"):
            call()


@pytest.mark.parametrize("name", ["", "..", "a/b", "lease", "A", "x" * 60, ".hidden", "a\n"])
def test_no_value_is_called_anything(store: FolderStore, name: str) -> None:
    for call in (lambda: store.get("film", name), lambda: store.put("film", name, b"")):
        with pytest.raises(ConfigError, match="value"):
            call()


def test_what_others_put_into_the_folder(store: FolderStore, tmp_path: Path) -> None:
    folder, secret = tmp_path / "films", tmp_path / "secret"
    secret.write_bytes(b"not for viewers")
    (folder / "film").mkdir()
    (folder / "film" / "state").symlink_to(secret)
    (folder / "film" / "recording").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipes" / "state")
    os.mkfifo(folder / "pipes" / "lease")
    (folder / "folders" / "state").mkdir(parents=True)
    (folder / "a file").write_text("")
    (folder / "file").write_text("")
    for call in (
        lambda: store.get("film", "state"),
        lambda: store.put("film", "state", b""),
        lambda: store.read("film", "recording", 0, 1),
        lambda: store.append("film", "recording", b"x", at=0),
        lambda: store.get("linked", "state"),
        lambda: store.claim("linked"),
        lambda: store.get("pipes", "state"),
        lambda: store.put("pipes", "state", b""),
        lambda: store.get("folders", "state"),
        lambda: store.put("folders", "state", b""),
        lambda: store.claim("file"),
        lambda: store.put("file", "state", b""),
    ):
        with pytest.raises(StoreError) as told:
            call()
        assert str(tmp_path) not in str(told.value)
    assert secret.read_bytes() == b"not for viewers"
    assert store.films() == ()


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "a\0b"):
        with pytest.raises(ConfigError, match="store"):
            FolderStore(path)
