"""Undo, branch and asks that flush, through the server: what is shown, kept and downloaded."""

from __future__ import annotations

import io
import itertools
from typing import Any

import av
import httpx

from shotstream_rt.serve.client import Client

from ..patience import PATIENCE_S

CAT = "Wide shot: a red cat walks right on a beach."
ROBOT = "Close-up: a blue robot stands still in a forest."


def decoded(file: bytes) -> list[bytes]:
    """Every picture of a file, whose times have to follow each other without a gap."""
    with av.open(io.BytesIO(file)) as container:
        frames = list(container.decode(video=0))
        times = [round(float(frame.pts * frame.time_base * 16)) for frame in frames]
        assert times == list(range(len(frames)))
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in frames]


def look(client: Any, count: int) -> int:
    """See some frames; returns the number of the last one."""
    *_, last = itertools.islice(client.frames(timeout_s=PATIENCE_S), count)
    return int(last.frame)


def follow(client: Any, frame: int) -> None:
    """See frames until one has come."""
    while look(client, 1) < frame:
        pass


def test_what_is_undone_is_not_in_the_film(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={"seed": 1}).json()["id"]
    with Client(url, session=session) as client:
        client.cut(CAT)
        look(client, 30)
        cut = client.outcome(client.cut(ROBOT))
        follow(client, cut.frame + 5)
        undone = client.outcome(client.undo(shot=1))
        assert (undone.kind, undone.shot, undone.index) == ("undo", 1, cut.index)
        assert undone.frame > cut.frame
        again = client.outcome(client.undo(index=10))
        assert (again.shot, again.index) == (0, 10)
        follow(client, again.frame + 5)
        client.pause()
        before = decoded(client.download())
        after = decoded(client.download())
        assert after[: len(before)] == before
        # Every frame of the film is in it once: the stream went back to frame 10 and on from there.
        assert 10 + 5 <= len(before) < again.frame
    http.delete(f"/v1/sessions/{session}")


def test_a_branch_shares_the_past_and_goes_on_by_itself(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={"seed": 2}).json()["id"]
    with Client(url, session=session) as client:
        client.cut(CAT)
        look(client, 15)
        other = client.branch()
        assert other != session
        with Client(url, session=other) as branch:
            look(branch, 3)
            cut = branch.outcome(branch.cut(ROBOT))
            follow(branch, cut.frame + 2)
            assert list(branch.takes) == [(0, 0), (1, 0)]
            theirs = decoded(branch.download())
        mine = decoded(client.download())
        shared = sum(
            1 for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(mine, theirs, strict=False))
        )
        # Up to the branching the pictures are the same ones; the frames' numbers go on from there.
        assert 15 <= shared <= cut.index
        assert len(theirs) > cut.index
        assert list(client.takes) == [(0, 0)]
    http.delete(f"/v1/sessions/{session}")
    http.delete(f"/v1/sessions/{other}")


def test_an_ask_is_seen_after_few_frames_whatever_waits(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={"seed": 3}).json()["id"]
    with Client(url, session=session) as client:
        client.cut(CAT)
        look(client, 14)
        for ask in (lambda: client.prompt(CAT), client.retake, lambda: client.cut(ROBOT),
                    lambda: client.undo(chunks=1)):  # fmt: skip
            answer = ask()
            applied = client.outcome(answer)
            assert applied.frame - answer.frame <= 8, applied.kind
            follow(client, applied.frame + 14)
    http.delete(f"/v1/sessions/{session}")


def test_directions_make_the_same_film_again(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={"seed": 4}).json()["id"]
    with Client(url, session=session) as client:
        client.outcome(client.cut(CAT))
        directions = client.directions()
        assert directions["seed"] == 4
        assert CAT in str(directions["directions"])
    http.delete(f"/v1/sessions/{session}")
