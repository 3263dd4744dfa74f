"""Captions that a test waits for."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from shotstream_rt.film.caption_encoder import CaptionEncoder
from shotstream_rt.model.captions import CaptionSet

from ..patience import PATIENCE_S


def caption_set(encoder: CaptionEncoder, captions: Sequence[str]) -> CaptionSet:
    """Wait until captions are encoded, and return them in that order."""
    owner, changed = object(), threading.Event()
    encoder.want(owner, captions, changed.set)
    try:
        while not all(map(encoder.ready, captions)):
            assert changed.wait(PATIENCE_S)
            changed.clear()
        return encoder.encoded(captions)
    finally:
        encoder.forget(owner)
