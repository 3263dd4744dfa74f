"""What one server allows: bounds on everything that somebody else can make large."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..checks import check_range


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a server. Exceeding one is answered, never obeyed and never ignored.

    Attributes:
        sessions: films at one time: those that play, wait in line or sleep. How many play is
            another matter, see ``FilmSettings.capacity``.
        token_sessions: likewise, opened with one token.
        token_film_s: seconds of film that are made for one token while the server runs.
        token_messages_per_second: steady rate of messages from all sockets of one token.
        viewers: sockets and live streams at one time, over all films.
        videos: videos that are kept at one time, made and to be made.
        video_keep_s: seconds after which a video that was made is deleted.
        message_bytes: longest message from a viewer; a longer one ends its socket. Likewise the
            longest body of a request.
        messages_per_second: steady rate of messages from one socket; three times as many may come
            at once.
        mistakes: messages of one socket in a row that were answered with an error, after which
            the socket is closed.
        images: reference pictures of one cut.
        image_side: longest side of a reference picture in pixels, read from its header before it is
            decoded.
        hello_s: seconds in which a new socket has to show its token.
        viewer_frames: frames that wait for a slow viewer before it is moved to the next key frame.
        viewer_bytes: likewise, bytes of frames and messages together.
        viewer_messages: messages that wait for a viewer before its socket is closed.
        viewer_gone_s: seconds in which a viewer takes nothing, or does not answer a ping, after
            which it is given up.
        recording_bytes: disk space of one film's recording, and of its branches.
        idle_pause_s: seconds without a viewer after which a film pauses until somebody watches; if
            others wait in line, it also sleeps then.
        idle_sleep_s: seconds without a viewer after which a film sleeps: its memory is freed, and
            who comes back wakes it where it was.
        idle_close_s: seconds without a viewer after which a film is closed.
    """

    sessions: int = 16
    token_sessions: int = 16
    token_film_s: int = 2**40
    token_messages_per_second: int = 200
    viewers: int = 100
    videos: int = 16
    video_keep_s: int = 3600
    message_bytes: int = 6 * 2**20
    messages_per_second: int = 20
    mistakes: int = 100
    images: int = 4
    image_side: int = 4096
    hello_s: int = 5
    viewer_frames: int = 96
    viewer_bytes: int = 8 * 2**20
    viewer_messages: int = 512
    viewer_gone_s: int = 10
    recording_bytes: int = 4 * 2**30
    idle_pause_s: int = 10
    idle_sleep_s: int = 60
    idle_close_s: int = 3600

    def __post_init__(self) -> None:
        for field in fields(self):
            check_range(f"limits.{field.name}", getattr(self, field.name), 1, 2**40)


class Allowance:
    """How many messages one socket may still send: some at once, then a steady rate.

    Args:
        per_second: steady rate in hertz.
    """

    def __init__(self, per_second: int) -> None:
        self._rate, self._most = per_second, 3.0 * per_second
        self._left, self._at_s = self._most, 0.0

    def take(self, now_s: float) -> bool:
        """Use one up and tell whether there was one.

        Args:
            now_s: a monotonic clock in seconds.
        """
        if self._at_s:
            self._left = min(self._most, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
