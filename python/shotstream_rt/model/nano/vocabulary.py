"""The closed vocabulary of the embedded nano model: words, synonyms and canonical tokens.

Used by ``text.py`` at run time and by the code that draws the training films. A prompt is
reduced to a handful of canonical tokens before the network sees it, so that synonyms, articles,
plural verbs and punctuation cost no capacity. Pure data and regular expressions: no torch.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SPECIES = ("cat", "robot", "bunny", "bird")
ACCESSORIES = ("hat", "scarf")
PLACES = ("beach", "forest", "snow-field", "night-city", "desert", "room")
ACTIONS = ("walks-left", "walks-right", "jumps", "dances", "stands-still")
FRAMINGS = ("wide-shot", "medium-shot", "close-up")
JOINTS = ("and", "with", ".")
TIMES = ("by-day", "at-sunset", "at-night")

PAD = "<pad>"
# New tokens go to the end: weights from before know the leading ones.
TOKENS = (PAD, *COLORS, *SPECIES, *ACCESSORIES, *PLACES, *ACTIONS, *FRAMINGS, *JOINTS, *TIMES)
TOKEN_IDS = MappingProxyType({token: index for index, token in enumerate(TOKENS)})

# Phrases a user may write for a token; the token's own spelling (hyphens as blanks) always counts.
_PHRASES = {
    "red": "crimson|scarlet|ruby",
    "orange": "tangerine|ginger",
    "yellow": "golden|gold|lemon",
    "green": "emerald|lime",
    "blue": "azure|navy",
    "purple": "violet|lilac",
    "pink": "rose|magenta",
    "white": "snowy|ivory|silver",
    "cat": "cats|kitty|kitten|kittens|feline",
    "robot": "robots|droid|android|bot",
    "bunny": "bunnies|rabbit|rabbits|hare",
    "bird": "birds|birdie|chick|parrot|duckling",
    "hat": "hats|cap|tophat|top hat",
    "scarf": "scarves|shawl",
    "beach": "seaside|shore|coast|sea|ocean",
    "forest": "woods|wood|jungle|trees",
    "snow-field": "snow|snowfield|winter field|winter|snowy field",
    "night-city": "city|town|street|city at night|street at night|city by night",
    "desert": "dunes|sahara",
    "room": "bedroom|house|living room|home|indoors",
    "walks-left": (
        "walk left|walking left|walks to the left|walk to the left|walking to the left|goes left|"
        "go left|moves left|move left|runs left|run left|running left|runs to the left|"
        "run to the left|running to the left"
    ),
    "walks-right": (
        "walk right|walking right|walks to the right|walk to the right|walking to the right|"
        "goes right|go right|moves right|move right|runs right|run right|running right|"
        "runs to the right|run to the right|running to the right|walks|walk|walking|runs|run|"
        "running"
    ),
    "jumps": "jump|jumping|hops|hop|hopping|leaps|leap|leaping|bounces|bounce|bouncing",
    "dances": "dance|dancing|sways|sway|swaying|wiggles|wiggle",
    "stands-still": (
        "stand still|stands|stand|standing|standing still|waits|wait|waiting|sits|sit|sitting|"
        "rests|rest|resting|looks around|look around"
    ),
    "wide-shot": "long shot|establishing shot|full shot|wide view|wide",
    "medium-shot": "mid shot|mid-shot|medium view|medium",
    "close-up": "close up|closeup|close-up shot|close up shot|close shot|portrait",
    "with": "wearing|wears|wear",
    "by-day": (
        "in the daytime|daytime|in daylight|daylight|at noon|noon|midday|in the morning|morning"
    ),
    "at-sunset": "sunset|at dusk|dusk|in the evening|evening|at sundown|sundown|golden hour",
    "at-night": "in the night|by night|at midnight|midnight|in moonlight|under the moon|moonlight",
}

# Words that name nothing to draw; dropped without a note.
_STOP_TEXT = (
    "a|an|the|one|of|on|in|at|to|into|is|are|its|his|her|their|by|while|there|same|again|now|then|"
    "this|that|very|scene|shows|show|showing|view|shot|shots|frame|camera"
)
STOP_WORDS = frozenset(_STOP_TEXT.split("|"))

_TOKEN_OF_PHRASE = {
    phrase: token for token, phrases in _PHRASES.items() for phrase in phrases.split("|")
}
for _token in TOKENS[1:]:
    if _token != ".":
        _TOKEN_OF_PHRASE[_token] = _token
        _TOKEN_OF_PHRASE[_token.replace("-", " ")] = _token

_SHOT_PREFIX = re.compile(r"shot\s*\d+\s*:")
_WORD = re.compile(r"[a-z.-]+")
_PLAIN = re.compile(r"[a-z\s.,:'\"()-]*")
_PHRASE_OR_WORD = re.compile(
    r"(?<![\w-])(?:"
    + "|".join(sorted(map(re.escape, _TOKEN_OF_PHRASE), key=len, reverse=True))
    + r")(?![\w-])|\S+"
)


@dataclass(frozen=True, slots=True)
class Named:
    """A character as a sentence names it: ``tokens[begin:end]``, its colour and clothes."""

    species: str
    color: tuple[str, ...]
    worn: tuple[str, ...]
    begin: int
    end: int

    @property
    def tokens(self) -> tuple[str, ...]:
        """Canonical ones: colour, species, clothes."""
        return (*self.color, self.species, *self.worn)

    def may_be(self, other: Named) -> bool:
        """Whether both can be one character: of one species, and not of two colours."""
        alike = not self.color or not other.color or self.color == other.color
        return self.species == other.species and alike


def named(sentence: list[str]) -> list[Named]:
    """Find the characters that tokens name, as in ``red cat with blue hat``."""
    found = []
    for index, species in enumerate(sentence):
        if species not in SPECIES:
            continue
        begin, end = index, index + 1
        if begin and sentence[begin - 1] in COLORS:
            begin -= 1
        if sentence[end : end + 1] == ["with"]:
            stop = end + 1 + (end + 1 < len(sentence) and sentence[end + 1] in COLORS)
            if stop < len(sentence) and sentence[stop] in ACCESSORIES:
                end = stop + 1
        found.append(
            Named(
                species=species, color=tuple(sentence[begin:index]),
                worn=tuple(sentence[index + 1 : end]), begin=begin, end=end,
            )
        )  # fmt: skip
    return found


def split_story(tokens: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Split a caption into the sentences that describe and those of the scene.

    The scene begins with the first sentence that names a character again. Where there is none,
    every sentence is of the scene.
    """
    sentences = [list(said) for dot, said in groupby(tokens, lambda t: t == ".") if not dot]
    before: list[Named] = []
    for index, sentence in enumerate(sentences):
        here = named(sentence)
        if any(one.may_be(other) for one in here for other in before):
            return sentences[:index], sentences[index:]
        before += here
    return [], sentences


def without(sentence: list[str], absent: Sequence[Named]) -> list[str]:
    """Leave out some of a sentence's characters; where none remains, all but place and time."""
    if len(absent) == len(named(sentence)):
        return [token for token in sentence if token in PLACES + TIMES]
    for one in reversed(absent):
        begin, end = one.begin, one.end
        if begin and sentence[begin - 1] == "and":
            begin -= 1
        elif sentence[end : end + 1] == ["and"]:
            end += 1
        sentence = sentence[:begin] + sentence[end:]
    return sentence


def _of_the_cast(tokens: list[str]) -> list[str]:
    """Leave out of a story's description the characters that are not in its scene.

    Read with all of a story's characters before it, nano draws one in the other's clothes, or both.
    """
    description, scene = split_story(tokens)
    if not description:
        return tokens
    cast = [one for sentence in scene for one in named(sentence)]
    told = []
    for sentence in description:
        absent = [one for one in named(sentence) if not any(one.may_be(who) for who in cast)]
        told.append(without(sentence, absent) if absent else sentence)
    said = [sentence for sentence in told + scene if sentence]
    return [token for sentence in said for token in (".", *sentence)][1:]


def canonical(prompt: str, words: int = len(TOKENS)) -> tuple[list[str], list[str]]:
    """Reduce free text to canonical tokens, of those that a model knows: the first ``words``.

    ``shotN:`` prefixes become a sentence break, phrases are replaced longest first; fillers and
    repeated and outer breaks are dropped, and characters that a story describes and its scene does
    not name. Gives the tokens, and what is not known, as spelt but in lower case, in order.
    """
    text = re.sub(r"[.;!?]", " . ", _SHOT_PREFIX.sub(".", prompt.lower()))
    words_at = [(match.start(), match.group()) for match in _WORD.finditer(text)]
    foreign = [] if _PLAIN.fullmatch(text) else list(_foreign_words(text))
    tokens: list[str] = []
    unknown: list[tuple[int, str]] = []
    for match in _PHRASE_OR_WORD.finditer(" ".join(word for _, word in words_at)):
        token = _TOKEN_OF_PHRASE.get(match.group(), match.group())
        if TOKEN_IDS.get(token, words) < words:
            if token != "." or (tokens and tokens[-1] != "."):
                tokens.append(token)
        elif token not in STOP_WORDS:
            unknown.append((match.start(), match.group()))
    if tokens[-1:] == ["."]:
        tokens.pop()
    if "." in tokens:
        tokens = _of_the_cast(tokens)
    return tokens, _in_order(unknown, words_at, foreign) if unknown or foreign else []


def _in_order(
    unknown: Sequence[tuple[int, str]],
    words_at: Sequence[tuple[int, str]],
    foreign: Sequence[tuple[int, str]],
) -> list[str]:
    """Return unknown phrases, and words in other letters, in the order of the text.

    Args:
        unknown: phrases, and where they begin in ``words_at`` joined by blanks; those that are part
            of a word in other letters are left out.
        words_at: words of letters a to z, hyphens and dots, and where in the text they begin.
        foreign: words in other letters, and where in the text they begin.
    """
    begins = [0]
    for _, word in words_at:
        begins.append(begins[-1] + len(word) + 1)
    found = [*foreign]
    for index, phrase in unknown:
        number = bisect_right(begins, index) - 1
        place = words_at[number][0] + index - begins[number]
        if not _lies_in(place, foreign):
            found.append((place, phrase))
    return [word for _, word in sorted(found)]


def _foreign_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield (place, word) of what is written in other characters than a to z.

    Words with accents and of other scripts, numbers, and pictures such as emoji; no punctuation,
    which is not meant to be drawn.
    """
    begin, kind = 0, ""
    for index, character in enumerate(f"{text} "):
        here = _kind(character)
        # Accents, joiners and skin tones belong to what they follow, hyphens to a word.
        if kind and (here == "more" or (here == "hyphen" and kind == "letter")):
            continue
        if here != kind:
            word = text[begin:index].strip("-")
            if kind and not _WORD.fullmatch(word):
                yield begin + len(text[begin:index]) - len(text[begin:index].lstrip("-")), word
            begin, kind = index, here if here in ("letter", "number", "picture") else ""


def _kind(character: str) -> str:
    """Return what part a character has in a word: ``""`` for none."""
    if "a" <= character <= "z":
        return "letter"
    if character == "-":
        return "hyphen"
    category = unicodedata.category(character)
    if category[0] == "M" or category in ("Cf", "Sk"):
        return "more"
    if category[0] == "S" and character.isascii():
        return ""
    return {"L": "letter", "N": "number", "S": "picture"}.get(category[0], "")


def _lies_in(place: int, words: Sequence[tuple[int, str]]) -> bool:
    """Tell whether a place of the text lies in one of some words; they are in order."""
    number = bisect_right(words, place, key=lambda word: word[0]) - 1
    return number >= 0 and place < words[number][0] + len(words[number][1])
