"""A story's twin: the same shots, seen the same way, with other facts in them.

Called by ``make_bank``. A few-step student that has drawn a bare head goes on from it; twins show
it that very state, next to the picture that its caption asks for.
"""

from __future__ import annotations

import dataclasses
import random

from shotstream_rt.model.nano_vocabulary import ACCESSORIES, COLORS, SPECIES, TIMES

from .story import Character, WorldStory

_ACCESSORY, _SPECIES, _COLOR = 0.55, 0.75, 0.9
"""Up to these a draw from 0 to 1 changes that; above, the character stays."""
_TIME = 0.5


def _dressed(character: Character, rng: random.Random) -> Character:
    """Wear something else, or the same in another colour, or nothing."""
    kinds = (None, *ACCESSORIES, *(a for a in ACCESSORIES if a == character.accessory))
    while True:
        worn = rng.choice(kinds)
        color = rng.choice([c for c in COLORS if c != character.color]) if worn else None
        if (worn, color) != (character.accessory, character.accessory_color):
            return dataclasses.replace(character, accessory=worn, accessory_color=color)


def twin(story: WorldStory, rng: random.Random) -> WorldStory:
    """Return the story with one thing changed in most characters, and at another time of day.

    Place, framing, action and all hidden variables stay, so what differs in a picture is what
    differs in its caption.

    Args:
        story: the story.
        rng: draws what is changed.
    """
    cast = list(story.characters)
    for index, character in enumerate(cast):
        draw = rng.random()
        if draw < _ACCESSORY:
            cast[index] = _dressed(character, rng)
        elif draw < _SPECIES:
            others = [s for s in SPECIES if s not in {c.species for c in cast}]
            cast[index] = dataclasses.replace(character, species=rng.choice(others))
        elif draw < _COLOR:
            others = [c for c in COLORS if c not in {character.color, character.accessory_color}]
            cast[index] = dataclasses.replace(character, color=rng.choice(others))
    setting = story.setting
    if setting.time is not None and rng.random() < _TIME:
        time = rng.choice([t for t in TIMES if t != setting.time])
        setting = dataclasses.replace(setting, time=time)
    return dataclasses.replace(story, characters=(cast[0], cast[1]), setting=setting)
