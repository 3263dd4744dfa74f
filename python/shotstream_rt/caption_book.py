"""Encoded captions: made ahead of need, once each, on a thread of their own.

Called by the session and the generator from any thread. Keeps a bounded number of captions, so an
endless film does not fill memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from .model.captions import CaptionSet, TextEncoder
from .nvtx import annotate

_CACHED_CAPTIONS = 64

Encoded = tuple[Tensor, int]


class CaptionBook:
    """Encodes captions and hands them out as rows.

    Args:
        encoder: the text encoder.
        device: where embeddings are wanted.
        threads: intra-op threads of the text thread on a CPU.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        device: torch.device | str = "cpu",
        threads: int = 1,
    ) -> None:
        self._encoder = encoder
        self._device = torch.device(device)
        self._lock = threading.Lock()
        self._futures: OrderedDict[str, Future[Encoded]] = OrderedDict()
        self._pool = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="shotstream-text",
            initializer=torch.set_num_threads,
            initargs=(threads,),
        )

    def notes(self, caption: str) -> tuple[str, ...]:
        """Return what a user should know about a caption (unknown words, truncation)."""
        return tuple(self._encoder.check(caption))

    def encode(self, caption: str) -> Future[Encoded]:
        """Start encoding a caption, or return the one already at work or done."""
        with self._lock:
            future = self._futures.get(caption)
            if future is None or future.cancelled():
                future = self._futures[caption] = self._pool.submit(self._encode, caption)
            self._futures.move_to_end(caption)
            while len(self._futures) > _CACHED_CAPTIONS:
                self._futures.popitem(last=False)
            return future

    def rows(self, captions: Sequence[str]) -> CaptionSet:
        """Return captions as one set, in that order; waits for the encoder."""
        encoded = [future.result() for future in [self.encode(text) for text in captions]]
        return CaptionSet(
            embeddings=torch.stack([embedding for embedding, _ in encoded]),
            lengths=tuple(length for _, length in encoded),
        )

    def close(self) -> None:
        """Stop the text thread; captions not begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _encode(self, caption: str) -> Encoded:
        with torch.inference_mode(), annotate("text.encode"):
            embeddings, lengths = self._encoder.encode([caption])
            return embeddings[0].to(self._device), lengths[0]
