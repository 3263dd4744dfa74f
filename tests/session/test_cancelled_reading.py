"""No frame is lost, whoever interrupts a reader, and a reader borrows nothing from the host."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from shotstream_rt import Frame, FrameTimeoutError, Session, SessionClosedError
from shotstream_rt.loading.load_model import Model

from ..patience import PATIENCE_S

Opener = Callable[..., Session]
SHOT = list(range(81))


async def read_with_timeouts(
    session: Session, timeout_s: float, *, fresh: bool
) -> tuple[list[int], int]:
    """Read everything with ``wait_for`` around each frame; a fresh iterator after each timeout."""
    got: list[int] = []
    cancelled = 0
    frames = session.astream()
    while True:
        try:
            got.append((await asyncio.wait_for(frames.__anext__(), timeout_s)).index)
        except TimeoutError:
            cancelled += 1
            if fresh:
                await frames.aclose()
                frames = session.astream()
        except StopAsyncIteration:
            return got, cancelled


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("timeout_s", [0.0, 0.0005, 0.003])
def test_frames_survive_wait_for(open_session: Opener, timeout_s: float, fresh: bool) -> None:
    session = open_session()
    session.cut("a")
    if timeout_s == 0.0:  # it cancels every wait, so what is read must be ready
        session.cut("b", chunks=1)

        async def some() -> list[int]:
            frames, got = session.astream(), []
            for _ in range(200):
                try:
                    got.append((await asyncio.wait_for(frames.__anext__(), 0)).index)
                except TimeoutError:
                    await asyncio.sleep(0.001)
                except StopAsyncIteration:
                    break
            return got

        got = asyncio.run(some())
        got += [frame.index for frame in session.stream()]
        assert got == list(range(90))
        return
    got, _ = asyncio.run(read_with_timeouts(session, timeout_s, fresh=fresh))
    assert got == SHOT


def test_a_cancelled_task_keeps_its_frames(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    for _ in range(8):
        session.cut("a", chunks=3)
    got: list[int] = []

    async def read() -> None:
        async for frame in session.astream():
            got.append(frame.index)
            await asyncio.sleep(0)

    async def main() -> None:
        for steps in range(1, 40):
            task = asyncio.create_task(read())
            for _ in range(steps):
                await asyncio.sleep(0.0002)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await read()

    asyncio.run(main())
    assert got == list(range(8 * 33))


def test_a_wait_for_the_first_frame_may_be_cancelled(open_session: Opener, bundle: Model) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.gate.clear()
    session = open_session(bundle)
    session.cut("a")

    async def main() -> list[int]:
        waiting = asyncio.create_task(session.astream().__anext__())
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pipeline.gate.set()
        return [frame.index async for frame in session.astream()]

    assert asyncio.run(main()) == SHOT


def test_two_readers_share_the_frames(open_session: Opener) -> None:
    session = open_session(queue_chunks=8)
    for _ in range(4):
        session.cut("a")
    got: list[list[int]] = [[], [], []]
    errors: list[BaseException] = []

    def read(mine: list[int], frames: Iterator[Any]) -> None:
        try:
            mine.extend(item.index for item in frames)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(mine, session.stream())) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(index for mine in got for index in mine) == list(range(4 * 81))
    assert all(mine == sorted(mine) for mine in got)


def test_frames_and_chunks_may_be_read_by_turns(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    indexes: list[int] = []
    frames, chunks = session.stream(), session.chunks()
    for turn in range(7):
        indexes += [frame.index for frame in islice(frames, turn)]
        chunk = next(chunks, None)
        if chunk is not None:
            indexes += range(chunk.index, chunk.index + len(chunk.pixels))
    assert indexes + [frame.index for frame in frames] == SHOT


def test_timeout_does_not_end_the_iterator(open_session: Opener, bundle: Model) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.gate.clear()
    session = open_session(bundle)
    session.cut("a")
    frames, async_frames = session.stream(timeout_s=0.02), session.astream(timeout_s=0.02)
    for _ in range(3):
        with pytest.raises(FrameTimeoutError):
            next(frames)

    async def first() -> Frame:
        for _ in range(2):
            with pytest.raises(FrameTimeoutError):
                await async_frames.__anext__()
        pipeline.gate.set()
        return await session.astream().__anext__()

    assert asyncio.run(first()).index == 0
    assert next(session.stream()).index == 1
    assert next(frames).index == 2


def test_waiting_readers_use_no_thread_of_the_host(open_session: Opener) -> None:
    sessions = [open_session() for _ in range(4)]

    async def main() -> int:
        loop = asyncio.get_running_loop()
        executor = concurrent.futures.ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        before = threading.active_count()
        waiting = [
            asyncio.create_task(session.astream(follow=True)._next()) for session in sessions
        ]
        await asyncio.sleep(0.02)
        assert threading.active_count() == before
        answer = await asyncio.to_thread(lambda: 7)
        sessions[2].cut("a")
        frame = await waiting[2]
        assert frame.index == 0
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return answer

    assert asyncio.run(main()) == 7


def test_closing_wakes_readers_of_every_kind(open_session: Opener) -> None:
    session = open_session()

    async def main() -> None:
        waiting = asyncio.create_task(session.achunks(follow=True)._next())
        await asyncio.sleep(0.01)
        await session.aclose()
        with pytest.raises(SessionClosedError):
            await waiting

    asyncio.run(main())


def test_a_closed_loop_is_forgotten(open_session: Opener) -> None:
    session = open_session()
    loop = asyncio.new_event_loop()
    task = loop.create_task(session.astream(follow=True)._next())
    loop.run_until_complete(asyncio.sleep(0.01))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    session.cut("a")
    assert len(list(session.stream())) == 81


def test_async_with_open_and_chunks(fake_model: list[Model]) -> None:
    async def main() -> list[int]:
        async with await Session.aopen("nano", seed=3) as session:
            session.cut("a")
            sizes = [len(chunk.pixels) async for chunk in session.achunks()]
        assert session.closed
        return sizes

    assert asyncio.run(main()) == [9] + [12] * 6


def test_cancelled_open_closes_what_it_opened(
    fake_model: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, closed = threading.Event(), threading.Event()
    real_open, real_close = Session.open, Session.close

    def slow_open(model: str, **options: Any) -> Session:
        gate.wait(PATIENCE_S)
        return real_open(model, **options)

    def close(session: Session) -> None:
        real_close(session)
        closed.set()

    monkeypatch.setattr(Session, "open", slow_open)
    monkeypatch.setattr(Session, "close", close)

    async def main() -> None:
        opening = asyncio.create_task(Session.aopen("nano"))
        await asyncio.sleep(0.01)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        gate.set()
        await asyncio.to_thread(closed.wait, PATIENCE_S)

    asyncio.run(main())
    assert closed.is_set()


def test_rest_of_a_chunk_is_of_the_same_kind_and_may_be_changed(open_session: Opener) -> None:
    session = open_session(keep_on_device=True)
    session.cut("a")
    next(session.stream())
    rest = next(session.chunks())
    assert isinstance(rest.pixels, torch.Tensor)
    assert (rest.index, len(rest.pixels)) == (1, 8)
    rest.pixels.add_(1)
    (rest.pixels.float().requires_grad_(True) * 2).sum().backward()


def test_frames_tell_their_take_caption_and_time(open_session: Opener) -> None:
    session = open_session()
    session.cut("a", global_caption="g.", take=3)
    frames = list(session.stream())
    assert {(frame.take, frame.caption) for frame in frames} == {(3, "g.shot0:a")}
    made = [frame.made_s for frame in frames]
    assert made == sorted(made)
    assert made[0] > 0
