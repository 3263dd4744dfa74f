"""How the films of a server are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..checks import check_one_of, check_range, check_seed
from ..film.shots import AT_END, AtEnd
from .scheduler import POLICIES, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmSettings:
    """How films are made.

    Attributes:
        model: ``nano`` or a checkpoint folder.
        options: of ``Model.open``.
        seed: noise seed of the first film, 0 to 2**63 - 1; every further one counts it up.
        at_end: what a shot of trained length does when nothing is queued; see ``Session``.
        threads: CPU threads of a film, 1 to 1024; default: torch's own choice.
        policy: who computes next where films wait for one another; see ``scheduler.py``.
        capacity: how many films play at one time, 1 or more; the others wait in line. Default: as
            many as the device plays in real time, measured when the server starts and all the time.

    Raises:
        ConfigError: one of them is not usable; ``model`` and ``options`` are looked at when the
            model is loaded.
    """

    model: str = "nano"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    at_end: AtEnd = "extend"
    threads: int | None = None
    policy: Policy = "slack"
    capacity: int | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_one_of("at_end", self.at_end, AT_END)
        check_one_of("policy", self.policy, POLICIES)
        if self.threads is not None:
            check_range("threads", self.threads, 1, 1024)
        if self.capacity is not None:
            check_range("capacity", self.capacity, 1, 2**40)
