"""Text and values as they may be shown on a terminal or in a log.

Captions, file names and keys of JSON files are other people's text. A terminal obeys control
characters in it, and a line break in it looks like a log line of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_MOST_CHARACTERS = 2000
_MOST_OF_A_VALUE = 120


def printable(text: object, limit: int = _MOST_CHARACTERS) -> str:
    """Return a text in which every character shows itself and does nothing else.

    Control characters, line breaks, marks that change the direction of writing, and characters
    that have no look of their own are written as Python escapes, such as that of the escape
    character, ``1b`` behind a backslash and an x. Blanks of other scripts stay as they are.

    Args:
        text: any text; other objects are turned into one first.
        limit: longest result in characters; a longer text loses its middle.
    """
    value = str(text)
    if len(value) > limit:
        half = limit // 2
        value = f"{value[:half]} ... ({len(value)} characters) ... {value[-half:]}"
    if value.isprintable():
        return value
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in value
    )


def shown(value: object, limit: int = _MOST_OF_A_VALUE) -> str:
    """Return a short representation of any value, for an error message.

    Args:
        value: anything, also an integer with more digits than Python prints.
        limit: longest result in characters.
    """
    if isinstance(value, str | bytes) and len(value) > limit:
        return f"{value[:limit]!r}... ({len(value)} long)"
    try:
        text = repr(value)
    except Exception:
        # An integer of more than 4300 digits, a value nested too deeply, or a class of the caller's
        # that raises whatever it likes.
        return f"{type(value).__name__} too large to show"
    return text if len(text) <= limit else f"{text[:limit]}..."


def listed(names: Iterable[object], most: int = 8) -> str:
    """Return names separated by commas; behind the first ``most`` only how many more there are."""
    every = list(names)
    text = ", ".join(printable(name, 80) for name in every[:most])
    return text if len(every) <= most else f"{text} and {len(every) - most} more"
