"""What both self-forcing stages share: student, scores, text side and product."""

from __future__ import annotations

from ..common.product import Weights
from .dmd import ScoreMatch
from .stage_config import DmdConfig
from .stage_services import StageServices
from .student_product import student_product


class MatchingStage:
    """A stage of distribution matching.

    Args:
        services: shared parts.
        config: of this stage.
        student: weights to start from.
        teacher: weights of the scores.
    """

    def __init__(
        self, services: StageServices, config: DmdConfig, student: Weights, teacher: Weights
    ) -> None:
        self._services, self._config, self._start = services, config, student
        self._match = ScoreMatch(services, config, student, teacher)
        self._text = services.text_side(student)
        self.learners = self._match.learners

    def product(self) -> Weights:
        """Return the student as it would ship, adapters merged."""
        return student_product(self._start, self.learners["student"], self._config)
