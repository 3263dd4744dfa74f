"""Which attention heads look at a shot's whole history, and which at its nearest part.

A pruned head reads the context, the sink, the last frames before the chunk and the chunk itself;
every other head reads everything. Which heads are pruned is data, calibrated per model and kept
beside its weights (``python -m shotstream_rt calibrate`` writes it). Read by the configuration;
holds integers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError
from .printable import listed, shown

_MOST = 1 << 16
"""Largest frame count and head number; a file must not ask for more than any model has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPolicy:
    """Pruned heads of a model.

    Attributes:
        recent_frames: latent frames in front of a chunk that pruned heads still read, 0 or more.
        pruned_heads: per layer, the numbers of its pruned heads, rising.
    """

    recent_frames: int
    pruned_heads: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not _is_count(self.recent_frames):
            raise ConfigError(
                f"HistoryPolicy.recent_frames: got {shown(self.recent_frames)}, wanted an integer "
                f"from 0 to {_MOST}"
            )
        for heads in self.pruned_heads:
            if not all(map(_is_count, heads)) or sorted(set(heads)) != [*heads]:
                raise ConfigError(
                    f"HistoryPolicy.pruned_heads: got {shown(heads)}, wanted rising head numbers"
                )

    def check(self, layers: int, heads: int) -> None:
        """Hold the policy against a model's shape.

        Raises:
            ConfigError: another number of layers, or a head that the model does not have.
        """
        found = len(self.pruned_heads)
        highest = max((h for own in self.pruned_heads for h in own), default=-1)
        if found != layers or highest >= heads:
            raise ConfigError(
                f"HistoryPolicy.pruned_heads: got {found} layers with heads up to {highest}, "
                f"wanted {layers} layers with heads below {heads}; calibrate again"
            )

    def share(self, heads: int) -> float:
        """Share of a model's heads that is pruned, 0 to 1."""
        return sum(map(len, self.pruned_heads)) / (heads * len(self.pruned_heads))

    def visible_slots(
        self, slot_frames: Sequence[int], first_frame: int, context_frames: int, sink_frames: int
    ) -> list[int]:
        """Return the arena slots that a pruned head reads, rising.

        Args:
            slot_frames: shot frame in every valid local slot.
            first_frame: shot frame that the chunk begins with.
            context_frames: slots in front of the local ones.
            sink_frames: frames of a shot that are never evicted.
        """
        oldest = first_frame - self.recent_frames
        local = [
            context_frames + slot
            for slot, frame in enumerate(slot_frames)
            if frame >= oldest or frame < sink_frames
        ]
        return [*range(context_frames), *local]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "recent_frames": self.recent_frames,
            "pruned_heads": [list(heads) for heads in self.pruned_heads],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HistoryPolicy:
        """Build from a JSON object.

        Raises:
            ConfigError: a key that is missing, unknown or of a wrong kind.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"HistoryPolicy: got {shown(data)}, wanted a JSON object")
        if set(data) != {"recent_frames", "pruned_heads"}:
            raise ConfigError(
                f"HistoryPolicy: got keys {listed(data)}, wanted recent_frames and pruned_heads"
            )
        rows = data["pruned_heads"]
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise ConfigError(
                f"HistoryPolicy.pruned_heads: got {shown(rows)}, wanted a list of lists"
            )
        return cls(recent_frames=data["recent_frames"], pruned_heads=tuple(map(tuple, rows)))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
