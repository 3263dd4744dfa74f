"""Giving up work that nobody wants any more."""

from __future__ import annotations

from collections.abc import Callable


class ChunkAbandonedError(Exception):
    """A pass or a decode was given up because its caller no longer wants what it makes.

    Some layers of a pass may have written to their slots, so nothing may read those until the same
    pass has run again, or another shot has begun.
    """


Abandoned = Callable[[], bool]
"""Asked between the steps and layers of a pass; once it says yes, nobody wants the result."""

never: Abandoned = bool
"""Never abandon: ``bool()`` is false."""
