"""Captions to embeddings, ahead of need, on a thread of their own.

Belongs to whoever made it, and serves any number of sessions of the same model: a caption that two
of them want is encoded once. Each session keeps a list of the captions it wants, most urgent first;
a caption that is on no list any more is not encoded, and one that is on a list is not forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from ..checks import check_float_precision
from ..errors import SessionClosedError
from ..model.captions import CaptionSet, TextEncoder, unfit_captions
from ..nvtx import annotate
from .threads import WorkerThread

_CACHED_CAPTIONS = 64
"""Captions kept although nobody wants them now."""

Encoded = tuple[Tensor, int]
"""Embeddings ``[text_len, text_dim]`` of one caption, and how many of its rows are real tokens."""


class Wanting(Protocol):
    """Who wants captions, such as a film's timeline; hashable, and equal to nobody else."""

    def wake(self) -> None:
        """Hear, on the text thread, that a caption of anybody's is encoded, or failed."""


class _ClosedEncoder:
    """Stands in for the text encoder that was closed, and refuses."""

    def check(self, prompt: str) -> NoReturn:
        raise _closed()

    def encode(self, prompts: Sequence[str]) -> NoReturn:
        raise _closed()


class CaptionEncoder:
    """Encodes captions on one thread and caches them; every method may be called from any thread.

    The thread lives as long as anybody has a list.

    Args:
        encoder: the model's text encoder; used from the text thread, its ``check`` from any.
        device: where embeddings are wanted.
        threads: intra-op threads of the text thread on a CPU.

    Attributes:
        lock: guards all of this.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        device: torch.device | str = "cpu",
        threads: int = 1,
    ) -> None:
        self._encoder: TextEncoder | _ClosedEncoder = encoder
        self._device = torch.device(device)
        self._threads = threads
        # May be entered again by the thread that holds it: a signal handler may close the session.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._wishes: dict[Wanting, tuple[str, ...]] = {}
        self._done: OrderedDict[str, Encoded] = OrderedDict()
        self._errors: dict[str, BaseException] = {}
        self._thread: WorkerThread | None = None

    def notes(self, caption: str) -> tuple[str, ...]:
        """Return what a user should know about a caption; raises as ``want``."""
        return tuple(self._encoder.check(caption))

    def want(self, owner: Wanting, captions: Sequence[str]) -> None:
        """Replace what somebody wants, most urgent first; ``SessionClosedError`` once closed."""
        with self.lock:
            if isinstance(self._encoder, _ClosedEncoder):
                raise _closed()
            self._wishes[owner] = tuple(captions)
            if self._errors:
                self._forget_errors()
            if self._thread is None:
                self._start_thread()
            self._changed.notify_all()

    def _start_thread(self) -> None:
        """Start the text thread; it is not there if it cannot be started."""
        thread = WorkerThread("shotstream-text", self._main, self._threads)
        thread.start()
        self._thread = thread

    def forget(self, owner: Wanting) -> None:
        """Drop what ``owner`` wants; the last one's thread has ended when this returns."""
        with self.lock:
            self._wishes.pop(owner, None)
            self._forget_errors()
            thread = None if self._wishes else self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.wait()

    def ready(self, caption: str) -> bool:
        """Tell whether a caption is encoded, or failed to be."""
        return caption in self._done or caption in self._errors

    def failure(self, caption: str) -> BaseException | None:
        """Return why a caption could not be encoded, None if it could or is not done yet."""
        return self._errors.get(caption)

    def encoded(self, captions: Sequence[str]) -> CaptionSet:
        """Return ready captions as one set, or raise why one of them is not there."""
        with self.lock:
            for caption in captions:
                if caption not in self._done:
                    raise self._errors.get(caption) or _closed()
                self._done.move_to_end(caption)
            rows, lengths = zip(*(self._done[caption] for caption in captions), strict=True)
        return CaptionSet(embeddings=torch.stack(rows), lengths=lengths, keys=tuple(captions))

    def close(self) -> None:
        """Stop the text thread; captions not begun are dropped. For the owner only; idempotent."""
        with self.lock:
            self._encoder, thread = _ClosedEncoder(), self._thread
            waiting = list(self._wishes)
            self._wishes.clear()
            self._changed.notify_all()
        for owner in waiting:
            owner.wake()
        if thread is not None:
            thread.wait()
        self._done.clear()

    @property
    def thread(self) -> WorkerThread | None:
        """The text thread while it runs."""
        return self._thread

    # On the text thread.

    def _main(self) -> None:
        while (caption := self._next()) is not None:
            found = self._encode(caption)
            with self.lock:
                if isinstance(found, BaseException):
                    self._errors[caption] = found
                else:
                    self._done[caption] = found
                if len(self._done) > _CACHED_CAPTIONS:
                    self._forget_old()
                waiting = list(self._wishes)
            for owner in waiting:
                owner.wake()

    def _next(self) -> str | None:
        """Wait for a caption to encode, the most urgent one of any owner; None to end."""
        with self.lock:
            while self._wishes:
                by_rank = zip_longest(*self._wishes.values())
                for caption in chain.from_iterable(by_rank):
                    if caption is not None and not self.ready(caption):
                        return str(caption)
                self._changed.wait()
            self._thread = None
            return None

    def _encode(self, caption: str) -> Encoded | BaseException:
        try:
            check_float_precision(self._device)
            with torch.inference_mode(), annotate("text.encode"):
                embeddings, lengths = self._encoder.encode([caption])
                if embeddings.ndim != 3 or not 0 <= lengths[0] <= embeddings.shape[1]:
                    raise unfit_captions(embeddings, lengths)
                return embeddings[0].to(self._device), lengths[0]
        except Exception as error:
            return error

    # Under the lock.

    def _forget_errors(self) -> None:
        """Forget failures of captions that nobody wants, so that they can be asked for again."""
        wanted = {text for captions in self._wishes.values() for text in captions}
        self._errors = {text: error for text, error in self._errors.items() if text in wanted}

    def _forget_old(self) -> None:
        """Forget old captions that nobody wants."""
        wanted = {text for captions in self._wishes.values() for text in captions}
        spare = [text for text in self._done if text not in wanted]
        for text in spare[: max(0, len(spare) - _CACHED_CAPTIONS)]:
            del self._done[text]


def _closed() -> SessionClosedError:
    return SessionClosedError("the text encoder is closed; open another session")
