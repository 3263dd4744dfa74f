"""An offer is accepted by one reader, or revoked, and never both."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from shotstream_rt.film.frame_queue import FrameQueue, Offer
from shotstream_rt.types import Chunk


@pytest.fixture
def queue() -> FrameQueue:
    queue = FrameQueue(capacity=2, policy="block", frame_rate_hz=16)
    for index in (0, 3):
        pixels: Any = np.zeros((3, 2, 2, 3), np.uint8)
        queue.put(Chunk(pixels, index, shot=0, chunk=index // 3, pts_s=index / 16))
    return queue


def offered(queue: FrameQueue, whole: bool = False) -> Offer:
    offer = queue.offer(whole)
    assert offer is not None
    return offer


def test_an_offer_stands_until_it_is_accepted(queue: FrameQueue) -> None:
    first = offered(queue)
    assert offered(queue) is first
    assert (queue.read_index(), queue.gone_index(), queue.unread) == (0, 0, 6)
    del first.held[0]
    assert offered(queue).held[0].index == 1
    assert (queue.read_index(), queue.gone_index(), queue.unread) == (1, 3, 5)


def test_a_revoked_offer_cannot_be_accepted(queue: FrameQueue) -> None:
    first = offered(queue)
    with queue.standstill() as index:
        assert index == 0
    with pytest.raises(IndexError):
        del first.held[0]
    assert offered(queue).held[0].index == 0


def test_an_accepted_offer_cannot_be_revoked(queue: FrameQueue) -> None:
    for _ in range(3):
        last = offered(queue)
        del last.held[0]
    with queue.standstill() as index:
        assert index == 3
    assert queue.place() == (3, 3)
    queue.clear(2)
    assert (queue.place(), queue.gone_index()) == ((2, 3), 2)


def test_a_frame_and_the_rest_of_its_chunk_are_not_both_accepted(queue: FrameQueue) -> None:
    del offered(queue).held[0]
    frame = offered(queue)
    rest = offered(queue, whole=True)
    with pytest.raises(IndexError):
        del frame.held[0]
    assert (rest.held[0].index, len(rest.held[0].pixels), rest.held[0].pts_s) == (1, 2, 1 / 16)
    del rest.held[0]
    assert offered(queue).held[0].index == 3


def test_revoking_and_accepting_at_once(queue: FrameQueue) -> None:
    queue.clear()
    for index in range(2000):
        pixels: Any = np.zeros((1, 1, 1, 3), np.uint8)
        queue.put(Chunk(pixels, index, shot=0, chunk=index, pts_s=0.0))
    got: list[int] = []

    def read() -> None:
        while (offer := queue.offer(False)) is not None:
            item = offer.held[:]
            try:
                del offer.held[0]
            except IndexError:
                continue
            got.append(item[0].index)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        with queue.standstill() as index:
            assert index <= 2000
    assert sorted(got) == list(range(2000))
    assert queue.place() == (2000, 2000)
