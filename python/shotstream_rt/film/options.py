"""What a session is opened with, as far as it is plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..checks import check_flag, check_one_of, check_path, check_range, check_seed
from ..errors import ConfigError
from ..types import Choose
from .frame_queue import QUEUE_POLICIES, QueuePolicy
from .shots import AT_END, AtEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Options of a session; see ``Session`` for what they mean.

    Attributes:
        seed: noise seed of the film.
        at_end: what a shot of trained length does when nothing is queued.
        queue_chunks: chunks that may wait for the reader.
        queue_policy: what happens when they all wait.
        threads: CPU threads of the film; None for torch's own choice.
        keep_on_device: leave pixels where they are decoded.
        choose: picks what a shot sees of past ones; None for the model's rule.
        stats_path: file that gets a line per chunk; None for none.
    """

    seed: int
    at_end: AtEnd
    queue_chunks: int
    queue_policy: QueuePolicy
    threads: int | None
    keep_on_device: bool
    choose: Choose | None
    stats_path: Path | None

    @classmethod
    def checked(
        cls,
        *,
        seed: object,
        at_end: object,
        queue_chunks: object,
        queue_policy: object,
        threads: object,
        keep_on_device: object,
        choose: object,
        stats_path: object,
    ) -> SessionOptions:
        """Return what a caller gave, of any type, as plain values.

        Args:
            seed: as above, and so are the others.
            at_end: a name.
            queue_chunks: from 1 to 1024.
            queue_policy: a name.
            threads: from 1 to 1024, or None.
            keep_on_device: True or False.
            choose: a function or None.
            stats_path: the name of a file or None.

        Raises:
            ConfigError: one of them is not usable.
        """
        if choose is not None and not callable(choose):
            raise ConfigError(f"choose: got {type(choose).__name__}, wanted a function")
        check_one_of("at_end", at_end, AT_END)
        check_one_of("queue_policy", queue_policy, QUEUE_POLICIES)
        return cls(
            seed=check_seed(seed),
            at_end=cast(AtEnd, at_end),
            queue_chunks=check_range("queue_chunks", queue_chunks, 1, 1024),
            queue_policy=cast(QueuePolicy, queue_policy),
            threads=None if threads is None else check_range("threads", threads, 1, 1024),
            keep_on_device=check_flag("keep_on_device", keep_on_device),
            choose=choose,
            stats_path=None if stats_path is None else check_path("stats_path", stats_path),
        )

    def shared(self) -> dict[str, Any]:
        """Return what a second session of the film is opened with too, by name; not its file."""
        return {
            "seed": self.seed,
            "at_end": self.at_end,
            "queue_chunks": self.queue_chunks,
            "queue_policy": self.queue_policy,
            "threads": self.threads,
            "keep_on_device": self.keep_on_device,
            "choose": self.choose,
        }
