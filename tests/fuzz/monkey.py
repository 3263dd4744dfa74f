"""A session under random calls from many threads: what must hold whatever they are.

Used by ``test_fuzz_session.py`` for seconds and by ``tests/soak.py`` for as long as one likes.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shotstream_rt import (
    FrameTimeoutError,
    Receipt,
    Session,
    SessionClosedError,
    ShotStreamError,
    Story,
)

TEXTS = ("a red cat", "a blue bird jumps", "a robot walks on a beach", "zzz", "x" * 400)


class Monkey:
    """Random calls of one session.

    Args:
        session: the session.
        seed: of the choices; what the threads make of them differs from run to run.
        calls: names of the calls to choose from, methods of this class; default: all.
    """

    def __init__(self, session: Session, seed: int, calls: tuple[str, ...] = ()) -> None:
        self.session, self.seed = session, seed
        self.names = calls or tuple(n.removeprefix("call_") for n in dir(self) if "call_" in n)
        self.counts: Counter[str] = Counter()
        self.raw: list[str] = []
        self.waiting: list[Receipt] = []
        self.states: Counter[str] = Counter()
        self.frames = self.lost = self._expected = 0
        self._may_go_back = False  # a shot named for a retake may be an older one
        self.snapshots: list[bytes] = []
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, directors: int, pause_s: float) -> None:
        """Start the threads that call and one that reads.

        Args:
            directors: threads that call.
            pause_s: longest pause of each between two calls.
        """
        for number in range(directors):
            self._run(self._direct, random.Random(f"{self.seed} {number}"), pause_s)
        self._run(self._read, random.Random(f"{self.seed} reader"))

    def stop(self, timeout_s: float) -> list[str]:
        """End all threads and return the names of those that hang."""
        self.stopping.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def undecided(self) -> list[Receipt]:
        """Count and forget receipts that are decided, and return those that are not."""
        with self._lock:
            self.states.update(r.state for r in self.waiting if r.state != "waiting")
            self.waiting = [receipt for receipt in self.waiting if receipt.state == "waiting"]
            return list(self.waiting)

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(
            target=target, args=args, name=f"{target.__name__} {len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """Count a call; only our own errors are an answer."""
        try:
            yield
        except ShotStreamError as error:
            self.counts[f"{name}: {type(error).__name__}"] += 1
        except BaseException as error:
            self.raw.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        self.counts[name] += 1

    def _direct(self, rng: random.Random, pause_s: float) -> None:
        while not self.stopping.is_set():
            name = rng.choice(self.names)
            with self._noted(name):
                answer = getattr(self, f"call_{name}")(rng)
                if isinstance(answer, Receipt):
                    with self._lock:
                        self.waiting.append(answer)
            self.stopping.wait(rng.random() * pause_s)

    def _read(self, rng: random.Random) -> None:
        """Read frames or chunks, now and then slowly; frames of a film have no gap."""
        while not self.stopping.is_set():
            with self._noted("read"):
                try:
                    self._read_some(rng)
                except FrameTimeoutError:
                    continue
                except SessionClosedError:
                    return
            if rng.random() < 0.1:
                self.stopping.wait(rng.random())

    def _read_some(self, rng: random.Random) -> None:
        by_frame = rng.random() < 0.5
        options: dict[str, Any] = {"timeout_s": 0.2, "follow": rng.random() < 0.5}
        part: Any
        for part in (self.session.stream if by_frame else self.session.chunks)(**options):
            count = 1 if by_frame else len(part.pixels)
            back = part.index < self._expected and self._may_go_back
            self.lost += part.index != self._expected and not back
            self._expected = part.index + count
            self.frames += count
            if self.stopping.is_set() or rng.random() < 0.05:
                break

    def call_cut(self, rng: random.Random) -> Receipt:
        return self.session.cut(
            rng.choice(TEXTS), seed=rng.choice((None, 0, 5)), take=rng.randrange(3),
            chunks=rng.choice((None, 1, 2, 3)), global_caption=rng.choice((None, "a film. ")),
        )  # fmt: skip

    def call_cut_now(self, rng: random.Random) -> Receipt:
        return self.session.cut(rng.choice(TEXTS), now=True, chunks=rng.choice((None, 1, 3)))

    def call_story(self, _: random.Random) -> None:
        self.session.story(Story(shots=["a cat", "a bird"], global_caption="a beach. "))

    def call_prompt(self, rng: random.Random) -> Receipt:
        return self.session.prompt(rng.choice(TEXTS), shot=rng.choice((None, None, None, 0, 3)))

    def call_retake(self, rng: random.Random) -> Receipt:
        shot = rng.choice((None, None, 0, 3))
        self._may_go_back |= shot is not None
        return self.session.retake(shot)

    def call_cancel(self, rng: random.Random) -> None:
        with self._lock:
            receipt = rng.choice(self.waiting) if self.waiting else None
        self.session.cancel(7 if receipt is None else receipt)

    def call_clear(self, _: random.Random) -> None:
        self.session.clear()

    def call_pause(self, rng: random.Random) -> None:
        self.session.pause()
        time.sleep(rng.random() * 0.01)
        self.session.resume()

    def call_snapshot(self, _: random.Random) -> None:
        self.snapshots.append(self.session.snapshot())
        del self.snapshots[:-3]

    def call_restore(self, rng: random.Random) -> None:
        if self.snapshots:
            self.session.restore(rng.choice(self.snapshots))

    def call_damaged_restore(self, rng: random.Random) -> None:
        self.session.restore(rng.randbytes(200))

    def call_look(self, rng: random.Random) -> None:
        session = self.session
        _ = (session.state, session.stats, session.failed, session.size, session.closed)
        session.check(rng.choice(TEXTS))

    def call_listen(self, rng: random.Random) -> None:
        stop = self.session.on_event(lambda _: None)
        time.sleep(rng.random() * 0.01)
        stop()

    def call_wrong(self, rng: random.Random) -> None:
        wrong: Any = rng.choice((None, -1, 1.5, b"x", [], float("nan")))
        rng.choice(
            (self.session.cut, self.session.prompt, self.session.cancel, self.session.restore)
        )(wrong)
