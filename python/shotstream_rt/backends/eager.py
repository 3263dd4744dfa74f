"""The eager backend: the student's blocks run one after the other on any device; the oracle.

It is the model plus a ``KernelSet``: with the reference set on the CPU it defines what is correct,
with the ``cpu`` set it is the fast path of machines without a GPU. Its passes are in ``passes.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..plan.policy import RolloutPolicy, policy_of
from .passes import EagerFilm
from .tabulated_student import TabulatedStudent

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..model.bound_student import BoundStudent


class EagerBackend:
    """Runs planned passes with plain calls.

    Args:
        student: the network, bound to its kernels.
        config: shapes, cache and schedule.
        policy: plans the passes; default: the configuration's.
    """

    records_passes = False

    def __init__(
        self, student: BoundStudent, config: StreamConfig, policy: RolloutPolicy | None = None
    ) -> None:
        self._shared: TabulatedStudent | None = TabulatedStudent.of(student, config)
        self._policy = policy or policy_of(config)
        self.device, self.dtype = student.device, student.dtype
        self.info = self._shared.info("eager", self._policy.arena_frames)

    def new_film(
        self, make: Callable[[TabulatedStudent, RolloutPolicy], EagerFilm] = EagerFilm
    ) -> EagerFilm:
        """See ``StudentBackend``; ``make`` makes another form of film, for parity checks."""
        assert self._shared is not None, "new_film after close"
        return make(self._shared, self._policy)

    def close(self) -> None:
        """Drop the weights."""
        self._shared = None
