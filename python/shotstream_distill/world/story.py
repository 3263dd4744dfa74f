"""Stories of the drawn world: who, where, what happens, and what no caption tells.

Called by the renderer, the latent bank and the evaluation. A story is a pure function of its
integer seed. Hidden variables (tint, hue, sizes, phases) reach later shots only through the
context frames, which makes use of the context measurable.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from shotstream_rt.model.nano.vocabulary import (
    ACCESSORIES,
    ACTIONS,
    COLORS,
    FRAMINGS,
    PLACES,
    SPECIES,
    TIMES,
)

BOTH = 2
TIMELESS = ("night-city", "room")
"""Places that look the same at all hours: the city is always dark, the room is always lit."""
SHOT_COUNTS = (2, 3, 3, 4, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """One of a story's two characters.

    ``hue`` (RGB offset), ``size``, ``belly`` and ``eye`` (factors) are in no caption.
    """

    species: str
    color: str
    accessory: str | None
    accessory_color: str | None
    hue: tuple[float, float, float]
    size: float
    belly: float
    eye: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and when a story plays; only ``place`` and ``time`` are in the captions.

    ``time`` is ``None`` in ``TIMELESS`` places.
    """

    place: str
    time: str | None
    phase_rad: float
    sun_x: float
    amplitude: float
    tint: tuple[float, float, float]
    horizon: float
    camera_x: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One shot: ``who`` is 0, 1 or ``BOTH``; lengths are in world units, speed is a factor."""

    who: int
    framing: str
    action: str
    start_x: float
    speed: float
    phase_rad: float
    face: int
    push: float

    @property
    def cast(self) -> tuple[int, ...]:
        """Indices of the characters seen."""
        return (0, 1) if self.who == BOTH else (self.who,)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldStory:
    """A story of two characters in one place."""

    seed: int
    characters: tuple[Character, Character]
    setting: Setting
    shots: tuple[Shot, ...]


def _characters(rng: random.Random) -> tuple[Character, Character]:
    made: list[Character] = []
    for species in rng.sample(SPECIES, 2):
        color = rng.choice([c for c in COLORS if not made or c != made[0].color])
        accessory = rng.choice((None, *ACCESSORIES))
        accessory_color = rng.choice([c for c in COLORS if c != color])
        made.append(
            Character(
                species=species,
                color=color,
                accessory=accessory,
                accessory_color=accessory_color if accessory else None,
                hue=(rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
                size=rng.uniform(0.9, 1.1),
                belly=rng.uniform(0, 1),
                eye=rng.uniform(0.85, 1.2),
            )
        )
    return made[0], made[1]


def _shot(rng: random.Random, previous: Shot | None) -> Shot:
    if previous is None:
        who = rng.choice((0, 0, 1, BOTH))
    else:
        other = 1 - previous.who if previous.who != BOTH else 0
        who = rng.choice((0, 1, other, BOTH))
    # Two characters do not fit a close-up.
    framings = list(FRAMINGS if who != BOTH else FRAMINGS[:2])
    if previous is not None and previous.who == who:
        # The same cast at the same framing would be a jump cut, hard to see as a cut.
        framings.remove(previous.framing)
    return Shot(
        who=who,
        framing=rng.choice(framings),
        action=rng.choice(ACTIONS),
        start_x=rng.uniform(-0.3, 0.3),
        speed=rng.uniform(0.85, 1.15),
        phase_rad=rng.uniform(0, 2 * math.pi),
        face=rng.choice((-1, 1)),
        push=rng.choice((0.0, 0.0, 0.0, 0.12, -0.1)),
    )


def make_story(seed: int, shot_count: int | None = None) -> WorldStory:
    """Draw the story of a seed.

    Args:
        seed: any integer; equal seeds give equal stories.
        shot_count: shots wanted; by default drawn too.

    Returns:
        The story.
    """
    rng = random.Random(seed)
    count = shot_count or rng.choice(SHOT_COUNTS)
    place = rng.choice(PLACES)
    time = rng.choice((*TIMES, TIMES[0]))
    setting = Setting(
        place=place,
        time=None if place in TIMELESS else time,
        phase_rad=rng.uniform(0, 2 * math.pi),
        sun_x=rng.uniform(-1.3, 1.3),
        amplitude=rng.uniform(0.6, 1.4),
        tint=(rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
        horizon=rng.uniform(0, 0.18),
        camera_x=rng.uniform(-0.6, 0.6),
    )
    characters = _characters(rng)
    shots: list[Shot] = []
    for _ in range(count):
        shots.append(_shot(rng, shots[-1] if shots else None))
    return WorldStory(seed=seed, characters=characters, setting=setting, shots=tuple(shots))
