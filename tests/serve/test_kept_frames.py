"""The frames of a film take little memory, and their takes are known without looking at each."""

from __future__ import annotations

import random

from shotstream_rt.serve.kept_frames import KeptFrame, KeptFrames, Run


def frame(index: int, shot: int = 0, take: int = 0) -> KeptFrame:
    return KeptFrame(index, shot, take, index // 12, 2**40 + index, 1500, index % 48 == 0)


def place(one: KeptFrame | Run) -> tuple[int, int]:
    return one.shot, one.take


def test_frames_come_back_as_they_were_added() -> None:
    kept, wanted = KeptFrames(), [frame(number) for number in range(100)]
    assert kept.last is None and list(kept) == []
    for one in wanted:
        kept.append(one)
    assert (len(kept), kept.last, list(kept)) == (100, wanted[-1], wanted)


def test_takes_are_told_however_the_film_changed() -> None:
    rate, kept, wanted = random.Random(0), KeptFrames(), list[KeptFrame]()
    for step in range(2000):
        if wanted and rate.random() < 0.4:
            kept.pop()
            wanted.pop()
        else:
            wanted.append(frame(len(wanted), shot=step // 50, take=rate.randrange(2)))
            kept.append(wanted[-1])
    found: list[Run] = []
    for one in wanted:
        goes_on = bool(found) and place(found[-1]) == place(one)
        begun = found.pop() if goes_on else Run(*place(one), one.index, 0)
        found.append(Run(*place(one), begun.index, begun.frames + 1))
    assert list(kept) == wanted
    assert list(kept.runs) == found


def test_a_copy_goes_its_own_way() -> None:
    kept = KeptFrames()
    kept.append(frame(0))
    other = kept.copy()
    other.append(frame(1))
    kept.pop()
    assert (list(kept), list(other)) == ([], [frame(0), frame(1)])
    assert kept.runs == () and other.runs == (Run(0, 0, 0, 2),)


def test_a_frame_takes_a_few_bytes() -> None:
    kept = KeptFrames()
    for number in range(10_000):
        kept.append(frame(number))
    assert len(kept._rows) <= 40 * 10_000
    assert kept.runs == (Run(0, 0, 0, 10_000),)
