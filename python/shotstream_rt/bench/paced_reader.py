"""A reader of a session's frames at a fixed rate, as a screen shows them, that keeps a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shotstream_rt.session import Session
from shotstream_rt.types import Frame

_LONGEST_WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame that was shown.

    Attributes:
        at_ns: when, host clock.
        made_ns: when it was made.
        shot: shot number.
        take: take of the shot.
        index: frame number in the film.
        caption: what the text encoder read for it.
    """

    at_ns: int
    made_ns: int
    shot: int
    take: int
    index: int
    caption: str

    @classmethod
    def of(cls, frame: Frame) -> Shown:
        """Note a frame that is shown now."""
        return cls(
            time.perf_counter_ns(), int(1e9 * frame.made_s), frame.shot, frame.take, frame.index,
            frame.caption,
        )  # fmt: skip


class PacedReader:
    """Reads on a thread of its own until it is stopped.

    A frame that is late is shown when it comes, and the next one an interval after it.

    Args:
        session: open.
        rate_fps: frames per second to show at most.
    """

    def __init__(self, session: Session, rate_fps: float) -> None:
        self._session, self._interval_s = session, 1 / rate_fps
        self._news = threading.Condition()
        self._log: list[Shown] = []
        self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="bench-reader", daemon=True)

    def __enter__(self) -> PacedReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()

    @property
    def count(self) -> int:
        """Frames shown so far."""
        return len(self._log)

    def wait_for(
        self,
        wanted: Callable[[Shown], bool],
        *,
        first: int,
        over: Callable[[], bool] = lambda: False,
    ) -> tuple[int, Shown] | None:
        """Wait for a frame.

        Args:
            wanted: tells it.
            first: number of the first frame of the log to look at.
            over: tells, whenever another frame was shown, whether to give up.

        Returns:
            Its number in the log, and the frame; None if it was given up.

        Raises:
            ShotStreamError: reading failed.
        """
        with self._news:
            while True:
                # All over again each time: ``wanted`` may have come to know more meanwhile.
                for position in range(first, len(self._log)):
                    if wanted(self._log[position]):
                        return position, self._log[position]
                if self._error is not None:
                    raise self._error
                if over():
                    return None
                self._news.wait(0.05)

    def _main(self) -> None:
        frames = self._session.stream(follow=True, timeout_s=_LONGEST_WAIT_S)
        due = time.perf_counter()
        try:
            while not self._stopping:
                time.sleep(max(0.0, due - time.perf_counter()))
                shown = Shown.of(next(frames))
                due = max(due, shown.at_ns / 1e9) + self._interval_s
                with self._news:
                    self._log.append(shown)
                    self._news.notify_all()
        except BaseException as error:  # raised where somebody waits for a frame
            with self._news:
                self._error = error
                self._news.notify_all()
