"""What a caption asks of a shot, compared with what the detector reads.

Called by the evaluation and by the detector's training. A fact of a shot is decided by the majority
of its key frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..world.story import WorldStory
from .detectors import Reading, majority
from .intervals import Share

KEY_FRAMES = (0, 24, 48, 72)
"""Frames of a shot that facts are read off."""

FACT_NAMES = ("place", "time", "framing", "color", "species", "accessory")
_OF_SHOT = ("place", "time", "framing")


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterFacts:
    """One character of a shot's cast.

    Attributes:
        who: 0 or 1, which of the story's characters.
        species: whether its species was seen in most key frames.
        color: whether it, or else the character standing in for it, had its colour.
        accessory: whether it wore what it should, or nothing where nothing was asked; ``None``
            when its species was not seen.
        seen_species: what was seen in its place, ``none`` without anybody.
        seen_color: that one's colour.
    """

    who: int
    species: bool
    color: bool
    accessory: bool | None
    seen_species: str
    seen_color: str

    @property
    def right(self) -> bool:
        """Whether kind and colour are right."""
        return self.species and self.color

    def same_as(self, other: CharacterFacts) -> bool:
        """Whether both look the same: kind and colour, right or wrong."""
        mine, others = (self.seen_species, self.seen_color), (other.seen_species, other.seen_color)
        return mine == others and self.seen_species != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotFacts:
    """A shot's place, time of day and framing right or not, and its characters.

    ``time`` is ``None`` where the story has none.
    """

    place: bool
    time: bool | None
    framing: bool
    characters: tuple[CharacterFacts, ...]

    def answers(self, name: str) -> list[bool | None]:
        """Return the answers to one of ``FACT_NAMES``: one of the shot, or one a character."""
        if name in _OF_SHOT:
            return [getattr(self, name)]
        return [getattr(character, name) for character in self.characters]


def read_facts(story: WorldStory, shot_index: int, readings: Sequence[Reading]) -> ShotFacts:
    """Compare a shot with its captions.

    Args:
        story: the truth.
        shot_index: which shot, 0-based.
        readings: of its key frames.
    """
    shot = story.shots[shot_index]
    cast = [story.characters[who] for who in shot.cast]
    wanted = {character.species for character in cast}
    characters = []
    for who, character in zip(shot.cast, cast, strict=True):
        seen, kinds, colors, worn = 0, [], [], []
        for reading in readings:
            # Only as many characters as were asked for, the largest: small remnants are not.
            largest = reading.subjects[: len(cast)]
            match = next((s for s in largest if s.species == character.species), None)
            if match is not None:
                seen += 1
                worn.append(str(match.accessory))
            else:
                # A character of another shape still has a colour.
                match = next((s for s in largest if s.species not in wanted), None)
            kinds.append(match.species if match else "none")
            colors.append(match.color if match else "none")
        found = 2 * seen > len(readings)
        kind, color = majority(kinds), majority(colors)
        characters.append(
            CharacterFacts(
                who=who,
                species=found,
                color=color == character.color,
                accessory=majority(worn) == str(character.accessory) if found else None,
                seen_species=kind,
                seen_color=color,
            )
        )
    time = story.setting.time
    return ShotFacts(
        place=majority([r.place for r in readings]) == story.setting.place,
        time=None if time is None else majority([r.time for r in readings]) == time,
        framing=majority([r.framing for r in readings]) == shot.framing,
        characters=tuple(characters),
    )


def fact_shares(shots: Iterable[ShotFacts]) -> dict[str, Share]:
    """Count every fact over some shots."""
    kept = list(shots)
    return {
        name: Share.of(answer for shot in kept for answer in shot.answers(name))
        for name in FACT_NAMES
    }
