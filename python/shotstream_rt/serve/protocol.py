"""Every message between a viewer and the server, both ways, as JSON text over one WebSocket.

The picture comes down the same socket as binary messages: first the head of an MP4 file, then one
fragment per frame (``fragments.py``). ``from_viewer.py`` has what viewers say, ``from_server.py``
what the server says; ``schema()`` is what ``/v1/schema`` answers.

Two numbers count frames. ``frame`` counts what the live stream has shown, from its beginning and
without ever going back: a fragment's time is ``frame`` over the frame rate. ``index`` is the number
of a frame in the film, which goes back when something is undone.
"""

from __future__ import annotations

from typing import Any

from .from_server import FROM_SERVER
from .from_viewer import FROM_VIEWER
from .message import VERSION


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the messages in both directions."""
    return {
        "version": VERSION,
        "from_viewer": FROM_VIEWER.json_schema(),
        "from_server": FROM_SERVER.json_schema(),
    }
