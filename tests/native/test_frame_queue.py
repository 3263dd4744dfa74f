"""The frame queue as Python threads see it."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotstream_rt._native import FrameQueue
from shotstream_rt.errors import ConfigError, FrameTimeoutError, SessionClosedError


class Payload:
    """Something that can be watched being freed."""


def drain(queue: FrameQueue) -> list[object]:
    return [queue.get(0) for _ in range(len(queue))]


@given(items=st.lists(st.integers(), max_size=12), capacity=st.integers(1, 5))
def test_policies_equal_a_list_model(items: list[int], capacity: int) -> None:
    oldest, latest = FrameQueue(capacity, "drop_oldest"), FrameQueue(capacity, "latest")
    block = FrameQueue(capacity)
    stored = [block.put(item, 0) for item in items]
    for item in items:
        assert oldest.put(item)
        assert latest.put(item)
    assert stored == [place < capacity for place in range(len(items))]
    assert oldest.dropped == max(0, len(items) - capacity)
    assert latest.dropped == max(0, len(items) - 1)
    assert drain(block) == items[:capacity]
    assert drain(oldest) == items[-capacity:]
    assert drain(latest) == items[-1:]


def test_a_waiting_thread_does_not_hold_the_interpreter() -> None:
    queue = FrameQueue(1)
    got: list[object] = []
    consumer = threading.Thread(target=lambda: got.append(queue.get(60)))
    consumer.start()
    # Were the lock of the interpreter held while waiting, this line would never run.
    queue.put("frame")
    consumer.join(60)
    assert got == ["frame"]


def test_a_blocked_producer_resumes_when_there_is_room() -> None:
    queue = FrameQueue(1)
    done: list[bool] = []
    queue.put(0)
    producer = threading.Thread(target=lambda: done.append(queue.put(1, 60)))
    producer.start()
    assert queue.get() == 0
    assert queue.get(60) == 1
    producer.join(60)
    assert done == [True]


def test_frames_do_not_depend_on_the_consumers_speed() -> None:
    queue = FrameQueue(3)
    frames = list(range(500))

    def produce() -> None:
        for frame in frames:
            queue.put(frame)
        queue.close()

    producer = threading.Thread(target=produce)
    producer.start()
    received: list[object] = []
    with pytest.raises(SessionClosedError):
        while True:
            received.append(queue.get(60))
    producer.join(60)
    assert received == frames


def test_close_lets_the_rest_out_and_then_raises() -> None:
    queue = FrameQueue(2)
    queue.put("last")
    queue.close()
    assert queue.closed
    with pytest.raises(SessionClosedError, match="takes no more"):
        queue.put("late")
    assert queue.get() == "last"
    with pytest.raises(SessionClosedError, match="closed and empty"):
        queue.get()


def test_a_failure_comes_out_after_the_good_frames_with_its_cause() -> None:
    queue = FrameQueue(2)
    queue.put("good")
    cause = KeyError("cause")
    failure = RuntimeError("decoder died")
    failure.__cause__ = cause
    queue.fail(failure)
    queue.fail(ValueError("a later one does not count"))
    assert queue.get() == "good"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="decoder died") as caught:
            queue.get()
        assert caught.value is failure
        assert caught.value.__cause__ is cause


def test_fail_wants_an_exception_instance() -> None:
    with pytest.raises(ConfigError, match="exception instance"):
        FrameQueue(1).fail("text")  # type: ignore[arg-type]


def test_waiting_ends_with_a_timeout() -> None:
    queue = FrameQueue(1)
    with pytest.raises(FrameTimeoutError, match="no frame within"):
        queue.get(0.001)
    with pytest.raises(TimeoutError):
        queue.get(0)


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf")])
def test_a_strange_time_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        FrameQueue(1).get(timeout_s)


@pytest.mark.parametrize(("capacity", "policy"), [(0, "block"), (1, "newest")])
def test_a_bad_queue_is_refused(capacity: int, policy: str) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        FrameQueue(capacity, policy)


def test_items_are_freed_when_taken_dropped_cleared_or_abandoned() -> None:
    queue = FrameQueue(1, "drop_oldest")
    watched = []
    for _ in range(4):
        item = Payload()
        watched.append(weakref.ref(item))
        queue.put(item)
        del item
    assert [ref() is None for ref in watched] == [True, True, True, False]
    assert queue.clear() == 1
    assert watched[-1]() is None
    kept = Payload()
    before = sys.getrefcount(kept)
    queue.put(kept)
    assert queue.get() is kept
    queue.put(kept)
    del queue
    assert sys.getrefcount(kept) == before


def test_a_failure_that_refers_to_its_queue_is_collected() -> None:
    class CyclicError(RuntimeError):
        queue: FrameQueue

    queue = FrameQueue(1)
    failure = CyclicError("cycle")
    failure.queue = queue
    queue.fail(failure)
    watched = weakref.ref(failure)
    del queue, failure
    gc.collect()
    assert watched() is None
