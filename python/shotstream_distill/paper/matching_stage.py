"""What both self-forcing stages share: student, scores, text side and product."""

from __future__ import annotations

from .dmd import ScoreMatch
from .stage_config import DmdConfig
from .student_product import student_product
from .workshop import Weights, Workshop


class MatchingStage:
    """A stage of distribution matching.

    Args:
        shop: shared parts.
        config: of this stage.
        student: weights to start from.
        teacher: weights of the scores.
    """

    def __init__(
        self, shop: Workshop, config: DmdConfig, student: Weights, teacher: Weights
    ) -> None:
        self._shop, self._config, self._start = shop, config, student
        self._match = ScoreMatch(shop, config, student, teacher)
        self._text = shop.text_side(student)
        self.learners = self._match.learners

    def product(self) -> Weights:
        """Return the student as it would ship, adapters merged."""
        return student_product(self._start, self.learners["student"], self._config)
