"""A server that is killed at any moment: the film goes on, and is the one it would have been."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from av.video.reformatter import VideoReformatter

from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.media.video import picture_bt709
from shotstream_rt.serve.fragments import FragmentEncoder
from shotstream_rt.serve.saved_film import SavedFilm
from shotstream_rt.serve.store import FolderStore
from shotstream_rt.session import Session
from shotstream_rt.types import Frame

from .moving_process import MovingProcess
from .server_process import Watcher, server_process

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)

CAT = "Wide shot: a red cat walks right on a beach."
ROBOT = "Close-up: a blue robot stands still in a forest."
BUNNY = "Medium shot: a green bunny jumps in a city."
VALUES = {"state", "past-a", "past-b", "recording", "takes.json", "film.json", "lease"}
KILLS = int(os.environ.get("SHOTSTREAM_KILLS", "3"))
MOVES = int(os.environ.get("SHOTSTREAM_MOVES", "10"))
CHUNK = 12
SEED = 11


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.open("nano", threads=1) as opened:
        yield opened


def undisturbed(model: Model, direct: Callable[[Session], object]) -> tuple[list[bytes], Any]:
    """The pictures of a film that one process makes, as a codec takes them, and its directions."""
    with model.session(seed=SEED, threads=1, queue_chunks=1) as session:
        direct(session)
        return kept(session.stream()), session.directions()


def pictures_of(file: bytes) -> list[bytes]:
    """The pictures of a file as they lie in it; their times have no gap."""
    with av.open(io.BytesIO(file)) as container:
        frames = list(container.decode(video=0))
    times = [round(float(frame.pts * frame.time_base * 16)) for frame in frames]
    assert times == list(range(len(frames)))
    return [frame.to_ndarray().tobytes() for frame in frames]


def kept(frames: Iterable[Frame]) -> list[bytes]:
    """The pictures of a film without the takes that another one has replaced."""
    convert, film = VideoReformatter(), list[tuple[int, int, bytes]]()
    for frame in frames:
        while film and film[-1][0] == frame.shot and film[-1][1] != frame.take:
            film.pop()
        picture = picture_bt709(convert, frame.pixels).to_ndarray().tobytes()
        film.append((frame.shot, frame.take, picture))
    return [picture for _, _, picture in film]


def stored_pictures(store: Path, film: str) -> list[bytes]:
    """The pictures of a film that no process runs."""
    encoder = FragmentEncoder(height=96, width=160, frame_rate_hz=16, crf=0)
    saved = SavedFilm.reopen(FolderStore(store), film, 2**30)
    assert saved is not None
    data = b"".join(saved.recording.file(encoder.head)[1])
    encoder.close()
    saved.end(delete=False)
    return pictures_of(data)


def look(store: Path, film: str) -> None:
    """Nothing half-written: whole values, and what a process that was killed had not named yet."""
    names = {path.name for path in (store / film).iterdir()}
    assert names >= {"state", "recording", "film.json"}
    assert all(name in VALUES or name.endswith(".part") for name in names)


@pytest.mark.slow
def test_killed_at_random_moments(model: Model, tmp_path: Path) -> None:
    chance = random.Random(seed := time.time_ns())
    store, watcher, texts = tmp_path / "films", Watcher(), (CAT, ROBOT)[: 1 + KILLS // 4]

    def direct(session: Session) -> None:
        for text in texts:
            session.cut(text)

    expected, directions = undisturbed(model, direct)
    film = ""
    for kill in range(KILLS + 1):
        with server_process(store, "--at-end", "hold") as server:
            if not film:
                film = server.open(SEED)
            watcher.join(server.address, film)
            if kill == 0:
                for text in texts:
                    assert watcher.ask("cut", text=text, now=False)["type"] == "accepted"
            if kill < KILLS:
                left = len(expected) - 2 - watcher.last
                more = chance.randint(0, 2 * left // (KILLS - kill + 1))
                # Each process begins with a key frame: who sees nothing of two of them in a row may
                # have been away for longer than the frames that are sent again.
                watcher.see(watcher.last + max(more, min(kill % 2, left)))
                time.sleep(chance.random() / 4)
                server.kill()
                look(store, film)
            else:
                watcher.see(len(expected) - 1)
                watcher.leave()
                file = server.http.get(f"/v1/sessions/{film}/film.mp4").content
                made = server.http.get(f"/v1/sessions/{film}/film.json").json()
                server.end()
    assert pictures_of(file) == expected, seed
    assert stored_pictures(store, film) == expected, seed
    assert made["directions"] == directions["directions"], seed
    assert made["frames"] == directions["frames"] == len(expected), seed
    # A chunk, and what a busy machine shows while it is being written.
    assert max(watcher.twice) <= 2 * CHUNK, (seed, watcher.twice)


@pytest.mark.slow
def test_asks_between_kills(model: Model, tmp_path: Path) -> None:
    """Every ask that was accepted is done once, also if it is sent again to another process."""
    store, watcher = tmp_path / "films", Watcher()
    asks: tuple[dict[str, Any], ...] = (
        {"kind": "cut", "text": CAT, "id": "a"},
        {"kind": "prompt", "text": BUNNY, "id": "b"},
        {"kind": "undo", "chunks": 1, "id": "c"},
        {"kind": "cut", "text": ROBOT, "id": "d"},
        {"kind": "retake", "id": "e"},
    )
    film = ""
    for first, behind in ((0, 2), (2, 4), (4, 5)):
        with server_process(store) as server:
            film = film or server.open(SEED)
            watcher.join(server.address, film)
            for ask in asks[:first]:  # as a page does that has not heard what became of them
                assert watcher.ask(**ask)["type"] == "accepted"
            for ask in asks[first:behind]:
                assert watcher.ask(**ask)["type"] == "accepted"
                watcher.see(watcher.last + 5)
            server.kill()
        look(store, film)
    with server_process(store) as server:
        watcher.join(server.address, film)
        watcher.see(watcher.last + CHUNK)
        server.end()
    made = json.loads((store / film / "film.json").read_text())
    with model.session(seed=SEED, threads=1, queue_chunks=1) as again:
        expected = kept(again.replay(made))
    assert stored_pictures(store, film) == expected
    begun = [(one["kind"], one["shot"], one["take"]) for one in made["directions"]]
    shots = [one for one in begun if one[0] != "prompt"]
    assert shots == [("cut", 0, 0), ("cut", 1, 0), ("retake", 1, 1)]


@pytest.mark.slow
def test_moved_between_two_processes_at_each_chunk(model: Model, tmp_path: Path) -> None:
    store = tmp_path / "films"

    def direct(session: Session) -> None:
        for n in range(2 + MOVES * (CHUNK + 2) // 21):  # a move may show a frame or two more
            session.cut((CAT, ROBOT, BUNNY)[n % 3], chunks=2)

    expected, directions = undisturbed(model, direct)
    first, second = (MovingProcess(store) for _ in range(2))
    with first, second:
        film, shown, moves = first.begin(len(directions["directions"])), 0, 0
        for process in itertools.cycle((second, first)):
            before, shown = shown, process.go_on(film)
            assert shown > before
            moves += 1
            if shown == len(expected):
                break
    assert moves >= MOVES
    assert stored_pictures(store, film) == expected
    made = json.loads((store / film / "film.json").read_text())
    assert made["directions"] == directions["directions"]
