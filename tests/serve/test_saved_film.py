"""What a store has of a film: read back whole, whatever was written last, and never on trust."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shotstream_rt.serve.fragments import Head, Sample
from shotstream_rt.serve.from_server import Accepted, Branched, Take
from shotstream_rt.serve.problems import HeldError, StoreError
from shotstream_rt.serve.recording import Recording
from shotstream_rt.serve.samples import StoredSamples, TemporarySamples
from shotstream_rt.serve.saved_film import SavedFilm, SavedState, _packed
from shotstream_rt.serve.store import FolderStore
from shotstream_rt.types import Frame

from ..patience import PATIENCE_S

LIMIT = 2**24
HEAD = Head(b"head", "avc1", 16384, 1024)
FILM = {"version": 2, "directions": []}


def snapshot(head: bytes, tensors: bytes) -> bytes:
    """What looks like a snapshot: mark, version, checksum, length of the head, head, tensors."""
    return bytes(16 + 4 + 32) + len(head).to_bytes(8, "little") + head + tensors


SNAPSHOT = snapshot(b"head", b"tensors" * 9)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "films")


def play(
    recording: Recording, indices: range, *, shot: int = 0, take: int = 0, first: int = 0
) -> None:
    """Record frames whose samples tell which they are."""
    for number, index in enumerate(indices, first):
        frame = Frame(np.zeros((2, 2, 3), np.uint8), index, shot, index // 12, index / 16, take)
        change = recording.place(frame)
        recording.add(frame, sample(index, take, key=not change.follows), number)


def sample(index: int, take: int, *, key: bool = False) -> Sample:
    return Sample(bytes([index, take]) * 300, key)


def samples_of(saved: SavedFilm) -> list[tuple[int, int]]:
    """Index and take of the frames that a film consists of."""
    data = b"".join(saved.recording.file(HEAD)[1])[len(HEAD.data) :]
    size = 108 + 600
    return [(data[at + 108], data[at + 109]) for at in range(0, len(data), size)]


def write(saved: SavedFilm, state: SavedState, takes: tuple[Take, ...] = ()) -> int:
    return saved.write(state, SNAPSHOT, takes, FILM)


def state_at(saved: SavedFilm, frames: int, index: int) -> SavedState:
    recorded = saved.recording.length_after(frames, 0)
    assert recorded is not None
    return SavedState(seed=3, frames=frames, index=index, recorded=recorded)


def take_at(frame: int) -> Take:
    return Take(shot=0, take=0, frame=frame, index=frame, caption="a cat", picture="data:")


def test_a_film_is_read_back(store: FolderStore) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    assert store.films() == ("film",)
    play(saved.recording, range(20))
    answers = (Accepted(id="a", frame=4, notes=("x",)), Branched(id="b", session="other"))
    state = state_at(saved, 20, 20).model_copy(update={"answers": answers, "paused": True})
    write(saved, state, (take_at(0), take_at(20)))
    with pytest.raises(HeldError):
        SavedFilm.reopen(store, "film", LIMIT)
    saved.end(delete=False)
    again = SavedFilm.reopen(store, "film", LIMIT)
    assert again is not None
    told = {"past": "past-b", "past_digest": again.state.past_digest}
    assert (again.state, again.snapshot) == (state.model_copy(update=told), SNAPSHOT)
    assert again.takes == (take_at(0),), "a take that was not shown when it was saved is none yet"
    assert samples_of(again) == [(n, 0) for n in range(20)]
    assert store.get("film", "film.json") == b'{"version": 2, "directions": []}'
    again.end(delete=True)
    assert SavedFilm.reopen(store, "film", LIMIT) is None
    assert store.films() == ()


def test_the_past_is_written_when_it_changes(store: FolderStore) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    state = state_at(saved, 0, 0)
    large, other = b"x" * 50_000, b"y" * 50_000
    sizes = [
        saved.write(state, snapshot(head, tensors), (), FILM)
        for head, tensors in (
            (b"1", large), (b"2", large), (b"3", other), (b"4", other), (b"5", large),
        )
    ]  # fmt: skip
    assert [size > 50_000 for size in sizes] == [True, False, True, False, True]
    saved.end(delete=False)
    again = SavedFilm.reopen(store, "film", LIMIT)
    assert again is not None
    assert again.snapshot == snapshot(b"5", large)
    # A process that is killed behind the next past and before the next state changes nothing.
    name = "past-a" if again.state.past == "past-b" else "past-b"
    store.put("film", name, b"z")
    again.end(delete=False)
    last = SavedFilm.reopen(store, "film", LIMIT)
    assert last is not None
    assert last.snapshot == snapshot(b"5", large)
    assert last.write(state, snapshot(b"6", large), (), FILM) < 50_000
    last.end(delete=False)
    lease = store.claim("film")
    store.put("film", last.state.past, b"z")
    lease.release()
    with pytest.raises(StoreError, match="past-"):
        SavedFilm.reopen(store, "film", LIMIT)


def test_what_was_not_counted_is_not_there(store: FolderStore) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    play(saved.recording, range(20))
    write(saved, state_at(saved, 12, 12))  # more has been appended than the state tells of
    saved.end(delete=False)
    again = SavedFilm.reopen(store, "film", LIMIT)
    assert again is not None
    assert samples_of(again) == [(n, 0) for n in range(12)]
    play(again.recording, range(12, 15), first=12)
    write(again, state_at(again, 3, 15))
    again.end(delete=False)
    last = SavedFilm.reopen(store, "film", LIMIT)
    assert last is not None
    assert samples_of(last) == [(n, 0) for n in range(15)]
    last.end(delete=False)


def test_what_was_undone_or_replaced_is_not_in_the_film(store: FolderStore) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    play(saved.recording, range(20))
    play(saved.recording, range(8, 11), first=20)
    state = state_at(saved, 23, 9)  # and undone once more, with nothing in its place
    write(saved, state)
    saved.end(delete=False)
    again = SavedFilm.reopen(store, "film", LIMIT)
    assert again is not None
    assert samples_of(again) == [(n, 0) for n in range(9)]
    # Who comes back sees what was shown last, whatever became of it.
    shown = [(number, sample.data[0]) for number, sample in again.recording.last_shown(23)]
    assert shown == [*((n, n) for n in range(20)), (20, 8), (21, 9), (22, 10)]
    play(again.recording, range(9, 12), take=1)
    assert samples_of(again) == [(n, 1) for n in range(9, 12)]
    again.end(delete=False)


def test_where_a_take_is_undone_the_one_that_it_had_replaced_counts_again(
    store: FolderStore,
) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)

    def takes(recording: Recording) -> list[tuple[int, int, int, int]]:
        return [(one.shot, one.take, one.index, one.frames) for one in recording.takes()]

    play(saved.recording, range(17))
    play(saved.recording, range(17, 26), shot=1, first=17)
    play(saved.recording, range(26, 40), shot=1, take=1, first=26)
    assert takes(saved.recording) == [(0, 0, 0, 17), (1, 1, 26, 14)]
    branch = SavedFilm.create(store, "branch", 3, LIMIT, past=saved.recording)
    shared = saved.recording.branch()
    write(saved, state_at(saved, 40, 40))
    saved.end(delete=False)
    again = SavedFilm.reopen(store, "film", LIMIT)
    assert again is not None
    wanted = [(0, 0, 0, 17), (1, 0, 17, 9), (2, 0, 26, 4)]
    for recording in (saved.recording, again.recording, branch.recording, shared):
        play(recording, range(26, 30), shot=2, first=40)
        assert takes(recording) == wanted
    play(again.recording, range(20, 22), shot=1, first=44)
    assert takes(again.recording) == [(0, 0, 0, 17), (1, 0, 17, 5)]
    write(branch, state_at(branch, 4, 30))
    branch.end(delete=False)
    last = SavedFilm.reopen(store, "branch", LIMIT)
    assert last is not None
    assert takes(last.recording) == wanted
    for film in (again, last):
        film.end(delete=False)


def test_a_branch_has_frames_of_its_own(store: FolderStore) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    play(saved.recording, range(20))
    branch = SavedFilm.create(store, "branch", 3, LIMIT, past=saved.recording)
    play(branch.recording, range(20, 22))
    write(branch, state_at(branch, 2, 22))
    saved.end(delete=True)
    branch.end(delete=False)
    again = SavedFilm.reopen(store, "branch", LIMIT)
    assert again is not None
    assert samples_of(again) == [(n, 0) for n in range(22)]
    again.end(delete=False)


def test_what_was_shown_from_the_last_key_frame_but_one_on_is_there_again(
    store: FolderStore,
) -> None:
    """A viewer may have seen nothing of what the process did that has just ended."""
    saved: SavedFilm | None = SavedFilm.create(store, "film", 3, LIMIT)
    for process in range(3):
        assert saved is not None
        play(saved.recording, range(5 * process, 5 * process + 5), first=5 * process)
        write(saved, state_at(saved, 5, 5 * process + 5))
        saved.end(delete=False)
        saved = SavedFilm.reopen(store, "film", LIMIT)
    assert saved is not None
    shown = saved.recording.last_shown(15)
    assert [number for number, _ in shown] == list(range(5, 15))
    assert [number for number, sample in shown if sample.key] == [5, 10]
    saved.end(delete=False)


def test_of_what_a_film_branched_from_its_own_viewers_were_shown_nothing(
    store: FolderStore,
) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    play(saved.recording, range(20))
    SavedFilm.create(store, "branch", 3, LIMIT, past=saved.recording).end(delete=False)
    branch = SavedFilm.reopen(store, "branch", LIMIT)
    assert branch is not None
    assert branch.recording.last_shown(0) == []
    play(branch.recording, range(20, 23))
    write(branch, state_at(branch, 3, 23))
    branch.end(delete=False)
    again = SavedFilm.reopen(store, "branch", LIMIT)
    assert again is not None
    assert [number for number, _ in again.recording.last_shown(3)] == [0, 1, 2]
    for film in (saved, again):
        film.end(delete=False)


def test_a_film_is_let_go_when_nothing_of_it_is_being_written(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, put = SavedFilm.create(store, "film", 3, LIMIT), store.put
    begun, goes_on = threading.Event(), threading.Event()

    def put_slowly(*arguments: Any) -> None:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        put(*arguments)

    monkeypatch.setattr(store, "put", put_slowly)
    writing = threading.Thread(target=write, args=(saved, state_at(saved, 0, 0)))
    writing.start()
    assert begun.wait(PATIENCE_S)
    saved.end(delete=False)
    with pytest.raises(HeldError):
        store.claim("film")
    goes_on.set()
    writing.join(PATIENCE_S)
    store.claim("film").release()
    with pytest.raises(StoreError, match="let go"):
        write(saved, state_at(saved, 0, 0))


def test_a_disk_that_gets_full_within_a_frame_has_none_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording, left = Recording(TemporarySamples(LIMIT)), 10_000

    def write_some(handle: int, data: bytes, offset: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(handle, data[:left])
        left -= written
        return written

    monkeypatch.setattr(os, "pwrite", write_some)
    play(recording, range(40))
    assert recording.full
    size, contents = recording.file(HEAD)
    assert size == len(b"".join(contents))


def test_a_full_recording_is_saved_as_it_is(store: FolderStore) -> None:
    saved = SavedFilm.create(store, "film", 3, 10_000)
    play(saved.recording, range(40))
    assert saved.recording.full
    count = len(saved.recording)
    write(saved, state_at(saved, 40, 40))
    saved.end(delete=False)
    again = SavedFilm.reopen(store, "film", 10_000)
    assert again is not None
    assert samples_of(again) == [(n, 0) for n in range(count)]
    again.end(delete=False)


def test_a_store_that_fails_loses_nothing(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = StoredSamples(store, "film", LIMIT)
    store.claim("film")
    assert samples.append(b"one") == 0
    with monkeypatch.context() as broken:

        def refuse(*_: object, **__: object) -> None:
            raise StoreError("store: no space left")

        broken.setattr(store, "append", refuse)
        with pytest.raises(StoreError, match="no space"):
            samples.flush()
    assert samples.append(b"two") == 3
    assert samples.read(0, 6) == b"onetwo"
    assert samples.flush() == 6
    assert store.read("film", "recording", 0, 6) == samples.read(0, 6) == b"onetwo"


@pytest.mark.parametrize("name", ["state", "past-b", "recording", "takes.json"])
def test_damage_is_told(store: FolderStore, tmp_path: Path, name: str) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    play(saved.recording, range(20))
    state = state_at(saved, 20, 20)
    write(saved, state, (take_at(0),))
    saved.end(delete=False)
    file, chance = tmp_path / "films" / "film" / name, random.Random(name)
    whole = file.read_bytes()
    damaged = [b"", whole[:-1], whole[: len(whole) // 2], b"\0" * len(whole), b"[" * 100_000]
    for _ in range(60):
        at = chance.randrange(len(whole))
        flipped = bytes([whole[at] ^ (1 << chance.randrange(8))])
        damaged.append(whole[:at] + flipped + whole[at + 1 :])
    for data in damaged:
        file.write_bytes(data)
        try:
            again = SavedFilm.reopen(store, "film", LIMIT)
        except StoreError as error:
            assert str(tmp_path) not in str(error)
            assert len(str(error)) < 400
        else:
            # A letter of a caption, or of a picture, may be another one.
            assert name == "takes.json"
            assert again is not None
            again.end(delete=False)
        store.claim("film").release()  # it was let go


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{" * 50_000,
        b'{"version":2,"seed":0}',
        b'{"version":1,"seed":-1}',
        b'{"version":1,"seed":1e3}',
        b'{"version":1,"seed":0,"recorded":-5}',
        b'{"version":1,"seed":0,"recorded":999999999}',
        b'{"version":1,"seed":0,"frames":99999999999999}',
        b'{"version":1,"seed":0,"paused":"no"}',
        b'{"version":1,"seed":0,"other":0}',
        b'{"version":1,"seed":0,"answers":[{"type":"hello","id":"a","frame":0}]}',
        b'{"version":1,"seed":0,"answers":[' + b'{"type":"accepted","id":"a","frame":0},' * 99
        + b'{"type":"accepted","id":"a","frame":0}]}',
    ],
)  # fmt: skip
def test_a_state_that_somebody_made(store: FolderStore, head: bytes) -> None:
    saved = SavedFilm.create(store, "film", 3, LIMIT)
    play(saved.recording, range(4))
    write(saved, state_at(saved, 4, 4))
    saved.end(delete=False)
    lease = store.claim("film")

    class Forged(SavedState):
        def model_dump_json(self, **_: object) -> str:  # type: ignore[override]
            return head.decode()

    store.put("film", "state", _packed(Forged(seed=0), b"snapshot"))
    lease.release()
    with pytest.raises(StoreError):
        SavedFilm.reopen(store, "film", LIMIT)
    store.claim("film").release()
