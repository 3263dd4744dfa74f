"""Captions of the drawn world: the story form and free forms.

Called by the latent bank and the evaluation. The story form is what a ``Story`` gives the runtime
(a global caption and one text per shot); the spare form describes everyone once; free forms are
what a user types into ``Session.cut``.
"""

from __future__ import annotations

import random

from .story import BOTH, Character, Setting, Shot, WorldStory

_PLACE_PHRASES = {
    "beach": "on a beach",
    "forest": "in a forest",
    "snow-field": "in a snow field",
    "night-city": "in a night city",
    "desert": "in a desert",
    "room": "in a room",
}


def _where(setting: Setting) -> str:
    """Place and time, as in ``on a beach at sunset``; broad day goes without saying."""
    place = _PLACE_PHRASES[setting.place]
    return place if setting.time in (None, "by-day") else f"{place} {_words(setting.time)}"


def _words(token: str) -> str:
    return token if token == "close-up" else token.replace("-", " ")


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _name(character: Character, dressed: bool) -> str:
    name = f"{character.color} {character.species}"
    if dressed and character.accessory:
        name += f" with {_a(f'{character.accessory_color} {character.accessory}')}"
    return name


def _framing(shot: Shot) -> str:
    return _words(shot.framing).capitalize()


def _action(shot: Shot) -> str:
    """What the cast does; two do it in the plural."""
    action = _words(shot.action)
    if shot.who != BOTH:
        return action
    verb, _, rest = action.partition(" ")
    return f"{verb[:-1]} {rest}".strip()


def _mention(character: Character, known: bool, dressed: bool) -> str:
    return f"the {character.species}" if known else _a(_name(character, dressed))


def story_captions(story: WorldStory) -> tuple[str, list[str]]:
    """Return the global caption and one text per shot.

    Args:
        story: the story.

    Returns:
        For example ``("A red cat and a blue bird with a pink hat on a beach. ",
        ["Wide shot: the red cat jumps.", ...])``.
    """
    first, second = story.characters
    place = _where(story.setting)
    texts = []
    for shot in story.shots:
        names = " and the ".join(_name(story.characters[i], False) for i in shot.cast)
        texts.append(f"{_framing(shot)}: the {names} {_action(shot)}.")
    cast = f"{_a(_name(first, True))} and {_a(_name(second, True))}"
    return f"{cast[0].upper()}{cast[1:]} {place}. ", texts


def spare_captions(story: WorldStory) -> tuple[str, list[str]]:
    """Return an empty global caption and one text per shot, as one who directs says it.

    Who and where are described once; a character that was seen is named by its species alone.

    Args:
        story: the story.

    Returns:
        For example ``("", ["Wide shot: a red cat with a blue hat jumps on a beach.",
        "Close-up: the cat dances."])``.
    """
    seen: set[int] = set()
    texts = []
    for shot in story.shots:
        who = [_mention(story.characters[i], i in seen, True) for i in shot.cast]
        where = "" if seen else f" {_where(story.setting)}"
        seen.update(shot.cast)
        texts.append(f"{_framing(shot)}: {' and '.join(who)} {_action(shot)}{where}.")
    return "", texts


def free_caption(story: WorldStory, shot_index: int, rng: random.Random) -> str:
    """Describe one shot the way a user might, parts in any order, some left out.

    Place, coats and clothes are left out only where an earlier shot shows them.

    Args:
        story: the story.
        shot_index: which shot, 0-based.
        rng: draws the form.

    Returns:
        For example ``"wide shot of a red cat on a beach, jumps"``.
    """
    shot = story.shots[shot_index]
    dressed = rng.random() < 0.7
    seen = {who for earlier in story.shots[:shot_index] for who in earlier.cast}
    bare = seen if rng.random() < 0.3 else set()
    cast = [_mention(story.characters[i], i in bare, dressed) for i in shot.cast]
    subject = " and ".join(cast)
    place = _where(story.setting)
    framing, action = _words(shot.framing), _words(shot.action)
    keep_place = shot_index == 0 or rng.random() < 0.85
    keep_framing = rng.random() < 0.85
    keep_action = rng.random() < 0.7
    order = rng.choice(("FSAP", "FSPA", "SAPF", "PFSA", "SPA", "FSP"))
    parts = {
        "F": framing if keep_framing else "",
        "S": subject,
        "A": action if keep_action else "",
        "P": place if keep_place else "",
    }
    separator = rng.choice((" ", " ", ". "))
    return separator.join(parts[key] for key in order if parts[key])
