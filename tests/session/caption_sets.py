"""Captions that a test waits for."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from shotstream_rt.film.caption_encoder import CaptionEncoder
from shotstream_rt.model.captions import CaptionSet

from ..patience import PATIENCE_S


class Woken(threading.Event):
    """Somebody who wants captions; set when a caption is encoded, or failed."""

    def wake(self) -> None:
        self.set()


def caption_set(encoder: CaptionEncoder, captions: Sequence[str]) -> CaptionSet:
    """Wait until captions are encoded, and return them in that order."""
    owner = Woken()
    encoder.want(owner, captions)
    try:
        while not all(map(encoder.ready, captions)):
            assert owner.wait(PATIENCE_S)
            owner.clear()
        return encoder.encoded(captions)
    finally:
        encoder.forget(owner)
