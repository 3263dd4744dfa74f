"""Who watches a film is shown the same; who joins or comes back begins at a key frame."""

from __future__ import annotations

from shotstream_rt.serve.fragments import Head, Sample, read_fragment
from shotstream_rt.serve.from_server import Failed
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.metrics import Metrics
from shotstream_rt.serve.viewer import Viewer
from shotstream_rt.serve.viewers import Viewers

from ..patience import wait_for
from .test_viewer import received

HEAD = Head(b"head", "avc1.42C01E", 16, 1)
NOTE = Failed(kind="E", message="x")


def sample(number: int) -> Sample:
    """A sample of a stream with a key frame every ten frames."""
    return Sample(b"%d" % number, key=number % 10 == 0)


def told(viewer: Viewer) -> list[object]:
    """Close the viewer and return the numbers of its frames and the types of its messages."""
    return [
        item if isinstance(item, str) or item == b"head" else read_fragment(item)[0]
        for item in received(viewer)
    ]


def joined(viewers: Viewers, after: int | None = None) -> list[object]:
    """What somebody is sent who joins now."""
    viewer = Viewer(Limits(), Metrics())
    viewers.join(viewer, after)
    viewers.leave(viewer)
    return told(viewer)


def test_everybody_is_shown_and_told_the_same() -> None:
    viewers = Viewers(HEAD, Metrics())
    watching = [Viewer(Limits(), Metrics()) for _ in range(2)]
    for viewer in watching:
        viewers.join(viewer)
    assert len(viewers) == 2
    viewers.show(0, sample(0))
    viewers.tell(NOTE)
    viewers.show(1, sample(1))
    assert viewers.frames == 2
    assert [told(viewer) for viewer in watching] == [[b"head", 0, "failed", 1]] * 2


def test_who_joins_gets_what_came_since_the_last_key_frame() -> None:
    viewers = Viewers(HEAD, Metrics())
    assert joined(viewers) == [b"head"]
    for number in range(25):
        viewers.show(number, sample(number))
    assert joined(viewers) == [b"head", 20, 21, 22, 23, 24]


def test_who_comes_back_gets_what_was_missed_from_a_key_frame_on() -> None:
    viewers = Viewers(HEAD, Metrics())
    for number in range(25):
        viewers.show(number, sample(number))
    assert joined(viewers, 22) == [b"head", *range(20, 25)]
    assert joined(viewers, 19) == [b"head", *range(20, 25)]
    assert joined(viewers, 12) == [b"head", *range(10, 25)]
    assert joined(viewers, 3) == [b"head", *range(20, 25)], "too long ago"


def test_the_frames_of_another_process_are_shown_again() -> None:
    viewers = Viewers(HEAD, Metrics(), frames=22, last=[(at, sample(at)) for at in range(20, 22)])
    assert viewers.frames == 22
    assert joined(viewers, 20) == [b"head", 20, 21]


def test_the_seconds_without_a_viewer_are_counted() -> None:
    viewers, viewer = Viewers(HEAD, Metrics()), Viewer(Limits(), Metrics())
    wait_for(lambda: viewers.unwatched_s > 0)
    viewers.join(viewer)
    assert viewers.unwatched_s == 0
    viewers.leave(viewer)
    wait_for(lambda: viewers.unwatched_s > 0)
