"""Progress of loading, and how it is ended: by the callable, by cancelling, from the keyboard."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt import ConfigError, Model, Session
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.cli.load_progress import LoadLine
from shotstream_rt.loading.progress import Cancellation, LoadingCancelled
from shotstream_rt.model.lazy_tensors import LazyTensor

from ..patience import PATIENCE_S


@pytest.fixture(scope="module")
def released(
    layouts: Any, save_student: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("released")
    layouts.wan(root)
    save_student(root / "self_forcing_dmd.pt", generator_ema=1.0)
    return root


SETTINGS: dict[str, Any] = {"device": "cpu", "size": "16x32", "kernels": "reference"}


class StopError(Exception):
    """The caller's own."""


def test_every_tensor_of_every_part_is_told(released: Path, student_state: Any) -> None:
    calls: list[tuple[str, int, int]] = []
    with Model.open(
        released, progress=lambda *told: calls.append(told), threads=1, **SETTINGS
    ) as model:
        loaded = len(calls)
        model.weights()["head.head.weight"]
        assert len(calls) == loaded  # it is told of loading only
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["student", "codec", "text"]
    for stage in ("student", "codec", "text"):
        done = [done for name, done, _ in calls if name == stage]
        assert done[0] == 0
        assert done == sorted(done)
        assert {total for name, _, total in calls if name == stage} == {done[-1]}
    wanted = sum(tensor.nbytes for tensor in student_state.values())
    assert next(total for name, _, total in calls if name == "student") == wanted
    assert len([1 for name, _, _ in calls if name == "student"]) == 1 + len(student_state)


def test_nano_tells_too() -> None:
    calls: list[tuple[str, int, int]] = []
    Model.open("nano", device="cpu", progress=lambda *told: calls.append(told)).close()
    ends = {stage: (done, total) for stage, done, total in calls}
    assert list(ends) == ["student", "codec", "text"]
    assert all(done == total > 0 for done, total in ends.values())


@pytest.mark.parametrize("stage", ["student", "codec", "text"])
@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_what_it_raises_ends_the_loading_and_frees(
    stage: str, error: type[BaseException], released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    closed: list[object] = []
    real, close = LazyTensor.to, EagerBackend.close

    def watched(self: LazyTensor, *args: Any, **how: Any) -> Any:
        tensor = real(self, *args, **how)
        made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(LazyTensor, "to", watched)
    monkeypatch.setattr(EagerBackend, "close", lambda self: (closed.append(1), close(self))[1])
    seen = []

    def stop(name: str, done: int, total: int) -> None:
        seen.append((name, done))
        if name == stage and done > 0:
            raise error

    with pytest.raises(error):
        Model.open(released, progress=stop, **SETTINGS)
    # It ended at once: the stage has been told of twice, of its beginning and of one tensor.
    assert [name for name, _ in seen].count(stage) == 2
    gc.collect()
    assert [ref for ref in made if ref() is not None] == []
    assert len(closed) == (0 if stage == "student" else 1)
    # And nothing is left that keeps the next from opening.
    Model.open(released, **SETTINGS).close()


@pytest.mark.parametrize("progress", [3, "yes", [print]])
def test_what_cannot_be_called_is_refused(progress: Any) -> None:
    with pytest.raises(ConfigError, match="progress"):
        Session.open("nano", progress=progress)

    async def later() -> None:
        with pytest.raises(ConfigError, match="progress"):
            await Session.aopen("nano", progress=progress)

    asyncio.run(later())


def test_cancelling_the_wait_ends_the_loading(released: Path) -> None:
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    calls: list[tuple[str, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        calls.append((stage, done))
        if done > 0 and not reached.is_set():
            loader = threading.current_thread()
            threading.Thread(target=lambda: (loader.join(), ended.set()), daemon=True).start()
            reached.set()
            assert go_on.wait(PATIENCE_S)

    async def main() -> None:
        task = asyncio.ensure_future(Session.aopen(released, progress=progress, **SETTINGS))
        while not reached.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(main())
    assert ended.wait(PATIENCE_S)
    assert calls[-1][0] == "student"  # nothing was read after the cancelled wait
    assert len(calls) == 2


def test_a_wait_that_is_not_cancelled_gets_its_session(released: Path) -> None:
    stages: list[str] = []

    async def main() -> None:
        async with await Session.aopen(
            released, progress=lambda stage, *_: stages.append(stage), **SETTINGS
        ) as session:
            assert session.size == (16, 32)

    asyncio.run(main())
    assert set(stages) == {"student", "codec", "text"}


def test_a_cancellation_is_told_to_nobody() -> None:
    told: list[str] = []
    wanted = Cancellation(lambda stage, *_: told.append(stage))
    wanted.tell("student", 0, 1)
    wanted.cancel()
    with pytest.raises(LoadingCancelled):
        wanted.tell("student", 1, 1)
    assert told == ["student"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_command_line_shows_long_loads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("shotstream_rt.cli.load_progress.time.monotonic", lambda: now[0])
    live, plain, quiet = Terminal(), io.StringIO(), io.StringIO()
    lines = [LoadLine(out=live), LoadLine(out=plain), LoadLine(out=quiet, quiet=True)]
    for after_s, done in ((0.5, 1), (2.0, 2), (2.1, 3), (8.0, 4), (8.1, 5)):
        now[0] = 100.0 + after_s
        for line in lines:
            line("student", done * 10**9, 5 * 10**9)
    for line in lines:
        line.end()
    assert live.getvalue().count("loading the student") == 2
    assert "40 % of 5.00 GB" in live.getvalue()
    assert live.getvalue().endswith("\r")
    assert plain.getvalue() == "loading the student: 80 % of 5.00 GB\n"
    assert quiet.getvalue() == ""
