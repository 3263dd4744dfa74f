"""A session leaves its host's torch settings alone, and they leave the film alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from shotstream_rt import ConfigError, Session
from shotstream_rt.film.threads import WorkerThread, set_thread_count

from .host_states import default_device, default_dtype, matmul_precision, thread_count

SIZE = (16, 32)


def film(session: Session) -> list[bytes]:
    session.pause()
    session.cut("a red cat walks on a beach", chunks=2)
    session.cut("a blue robot jumps", chunks=1)
    session.prompt("a red cat stands", shot=1)
    session.resume()
    frames = session.stream()
    made = [next(frames).pixels.tobytes() for _ in range(5)]
    data = session.snapshot()
    session.restore(data)
    return made + [frame.pixels.tobytes() for frame in session.stream()]


def settings() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(),
        torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.random.get_rng_state().tolist(),
    )  # fmt: skip


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


HOSTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "float64": lambda: default_dtype(torch.float64),
    "meta": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "two threads": lambda: thread_count(2),
    "tf32": lambda: matmul_precision("high"),
    "deterministic": deterministic,
}


@pytest.fixture(scope="module")
def plain() -> list[bytes]:
    with Session.open("nano", size=SIZE, threads=1, device="cpu") as session:
        return film(session)


@pytest.mark.parametrize("host", HOSTS)
def test_host_settings_do_not_change_the_film(host: str, plain: list[bytes]) -> None:
    with HOSTS[host]():
        before = settings()
        with Session.open("nano", size=SIZE, threads=1, device="cpu") as session:
            made = film(session)
        assert settings() == before
    assert made == plain
    with Session.open("nano", size=SIZE, threads=1, device="cpu") as session, HOSTS[host]():
        assert film(session) == plain


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_default_device_that_is_not_there_does_not_matter(plain: list[bytes]) -> None:
    with default_device("cuda"), Session.open("nano", size=SIZE, threads=1) as session:
        assert film(session) == plain


def test_products_that_the_host_lets_be_rounded_are_refused(plain: list[bytes]) -> None:
    # One setting for the process, which the host's own networks need as it is.
    with matmul_precision("medium"):
        with pytest.raises(ConfigError, match=r"wanted '(ieee|high)'"):
            Session.open("nano", size=SIZE, threads=1, device="cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    with Session.open("nano", size=SIZE, threads=1, device="cpu") as session:
        with matmul_precision("medium"):
            session.cut("a red cat walks on a beach", chunks=2)
            with pytest.raises(ConfigError, match="rounded"):
                list(session.stream())
        assert film(session) == plain


def test_a_small_stack_of_the_hosts_threads_is_not_ours(plain: list[bytes]) -> None:
    before = threading.stack_size(64 << 10)
    try:
        with Session.open("nano", size=SIZE, threads=1, device="cpu") as session:
            assert film(session) == plain
        assert threading.stack_size() == 64 << 10
    finally:
        threading.stack_size(before)


def fresh_thread_count() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_thread_count_is_set_for_one_thread_only(count: int) -> None:
    here, later = torch.get_num_threads(), fresh_thread_count()
    found: list[int] = []
    worker = WorkerThread("worker", lambda: found.append(torch.get_num_threads()), count)
    worker.start()
    worker.wait()
    assert found == [count]
    assert (torch.get_num_threads(), fresh_thread_count()) == (here, later)


def test_a_thread_that_waits_for_who_starts_it_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, done = threading.Lock(), []

    def wait_for_lock(_: int) -> None:
        with lock:
            pass

    monkeypatch.setattr("shotstream_rt.film.threads.set_thread_count", wait_for_lock)
    worker = WorkerThread("worker", lambda: done.append(True), 1)
    with lock:
        worker.start()
        assert not done
    worker.wait()
    assert done


def test_thread_count_without_openmp_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shotstream_rt.film.threads._openmp_setter", lambda: None)
    later, found = fresh_thread_count(), []

    def main() -> None:
        set_thread_count(3)
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert found == [3]
    assert fresh_thread_count() == later
