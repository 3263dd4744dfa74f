"""Whatever is asked, and whenever: the film that was read is the film that its directions make."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shotstream_rt import ConfigError, Model, Session

SCRIPTS = int(os.environ.get("SHOTSTREAM_LIVE_SCRIPTS", "40"))
"""How many scripts are played; each takes a fraction of a second."""

Key = tuple[int, int, int, str, bytes]

texts = st.sampled_from(["a", "bb", "ccc", "dddd"])
calls = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 40)),
    st.tuples(
        st.just("cut"),
        texts,
        st.booleans(),
        st.booleans(),
        st.integers(1, 3),
        st.lists(st.integers(0, 2), max_size=6),
    ),
    st.tuples(
        st.just("prompt"), texts, st.booleans(), st.sampled_from(["none", "none", 1, 3, "shot"])
    ),
    st.tuples(st.just("retake"), st.booleans()),
    st.tuples(st.just("retake older"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("undo"), st.sampled_from(["chunks", "frame", "shot"]), st.integers(0, 60)),
    st.tuples(st.just("pin"), st.integers(0, 60)),
    st.tuples(st.just("forget"), st.integers(0, 2)),
    st.tuples(st.just("branch")),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("restore")),
)


class Film:
    """A session, and what was read of it, by number of the frame."""

    def __init__(self, session: Session, frames: list[Key]) -> None:
        self.session, self.frames = session, frames

    def read(self, count: int) -> None:
        for _ in range(count):
            frame = next(self.session.stream(timeout_s=60), None)
            if frame is None:
                return
            assert frame.index <= len(self.frames), "no frame is left out"
            del self.frames[frame.index :]
            key = (frame.shot, frame.take, frame.chunk, frame.caption, frame.pixels.tobytes())
            self.frames.append(key)

    def ask(self, call: tuple[Any, ...], saved: list[tuple[bytes, list[Key]]]) -> Film | None:
        session, kind = self.session, call[0]
        if kind == "read":
            self.read(call[1])
        elif kind == "cut":
            images = [np.full((20, 20, 3), 100 * level, np.uint8) for level in call[5]]
            session.cut(call[1], now=call[2], flush=call[3], chunks=call[4], images=images)
        elif kind == "prompt":
            session.prompt(call[1], flush=call[2], reread=call[3])
        elif kind == "retake":
            session.retake(flush=call[1])
        elif kind == "retake older":
            session.retake(call[1], keep_following=call[2])
        elif kind == "undo":
            session.undo(**{call[1]: call[2] % 3 + 1 if call[1] == "chunks" else call[2]})
        elif kind == "pin":
            session.pin(call[1])
        elif kind == "forget":
            session.forget(call[1])
        elif kind == "branch":
            return Film(session.branch(), list(self.frames))
        elif kind == "snapshot":
            self.read_whole_chunk()
            saved.append((session.snapshot(), list(self.frames)))
        elif saved:
            data, frames = saved[-1]
            session.restore(data)
            self.frames = list(frames)
        return None

    def read_whole_chunk(self) -> None:
        """Read on to where a chunk begins, where snapshots are taken."""
        while self.session.state.unread_frames:
            before = self.session._film.frames
            if before.gone_index() == before.read_index():
                return
            self.read(1)

    def check(self, model: Model) -> None:
        made = json.loads(json.dumps(self.session.directions()))
        del self.frames[made["frames"] :]
        with Session(model, seed=99, queue_chunks=3) as other:
            again = Film(other, [])
            for frame in other.replay(made):
                key = (frame.shot, frame.take, frame.chunk, frame.caption, frame.pixels.tobytes())
                again.frames.append(key)
            assert again.frames == self.frames
            told = other.directions()
        assert [told[name] for name in ("frames", "directions")] == [
            made[name] for name in ("frames", "directions")
        ]


@settings(
    max_examples=SCRIPTS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    script=st.lists(calls, min_size=1, max_size=14),
    queue_chunks=st.integers(1, 3),
    at_end=st.sampled_from(["hold", "extend", "loop"]),
)
def test_a_film_is_what_its_directions_make(
    new_bundle: Callable[[], Model], script: list[Any], queue_chunks: int, at_end: Any
) -> None:
    with new_bundle() as model:
        pipeline: Any = type(model.pipeline)  # type: ignore[attr-defined]
        model.new_pipeline = lambda: pipeline(model.config)  # type: ignore[method-assign]
        first = Session(model, seed=3, queue_chunks=queue_chunks, at_end=at_end)
        films, saved = [Film(first, [])], list[tuple[bytes, list[Key]]]()
        try:
            first.cut("begin")
            for number, call in enumerate(script):
                film = films[number % len(films)]
                try:
                    branch = film.ask(call, saved)
                except ConfigError:
                    continue  # such as an undo of more than was read
                if branch is not None:
                    films.append(branch)
            for film in films:
                film.read(15)
                film.check(model)
        finally:
            for film in films:
                film.session.close()
