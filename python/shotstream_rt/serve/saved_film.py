"""What a store has of one film, and reading and writing it.

=============== ================================================================================
``state``       one value that is put whole at each chunk: how far the film is, the last answers,
                how much of the recording counts, and the session's snapshot without its tensors
``past-a``      the snapshot's tensors, which are large and change when a shot begins; ``state``
                tells whether these hold or those in ``past-b``
``recording``   the coded frames, appended to before the state that counts them is put
``takes.json``  first pictures of the takes, for those who join
``film.json``   the film's directions, for people and for ``generate``; the film is made without it
=============== ================================================================================
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ..errors import ShotStreamError
from ..film.replay import check_directions
from ..film.snapshot import tensors_at
from ..types import Standing
from .from_server import Accepted, Applied, Branched, Over, Take, Takes
from .message import AskId, Message, Number
from .problems import StoreError
from .recording import Recording
from .samples import StoredSamples
from .store import Lease, Store

ANSWERS_KEPT = 64
"""Answers to asks that outlive a process: as many as one viewer can have on their way."""

_MARK = b"SHOTSTREAM-FILM\n"
_HASH_BYTES = hashlib.sha256().digest_size
_START = len(_MARK) + _HASH_BYTES + 4

Past = Literal["past-a", "past-b"]


class SavedState(Message):
    """Where a film stands between two frames.

    Attributes:
        seed: noise seed of the session.
        owner: name of the token that the film was opened with.
        frames: how many frames the live stream has shown.
        index: number in the film of the next frame.
        recorded: bytes of the recording that count.
        paused: a director has paused it.
        past: value that has the tensors of the snapshot.
        past_digest: SHA-256 of that value; empty for a snapshot without.
        answers: to the last asks, so that one that is repeated is not done again.
        outcomes: of the last asks.
        pending: asks of which it is not known what becomes of them.
    """

    version: Literal[1] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    owner: Annotated[str, Field(max_length=64)] = ""
    frames: Number = 0
    index: Number = 0
    recorded: Annotated[int, Field(ge=0, lt=2**53)] = 0
    paused: bool = False
    past: Past = "past-a"
    past_digest: Annotated[str, Field(max_length=64)] = ""
    answers: Annotated[
        tuple[Annotated[Accepted | Branched, Field(discriminator="type")], ...],
        Field(max_length=ANSWERS_KEPT),
    ] = ()
    outcomes: Annotated[
        tuple[Annotated[Applied | Over, Field(discriminator="type")], ...],
        Field(max_length=ANSWERS_KEPT),
    ] = ()
    pending: Annotated[tuple[AskId, ...], Field(max_length=ANSWERS_KEPT)] = ()

    def told(self) -> tuple[Applied | Over, ...]:
        """Return the outcomes that another process can tell."""
        untold = (Over(id=id, state="untold") for id in self.pending)
        return (*self.outcomes, *untold)[-ANSWERS_KEPT:]


class SavedFilm:
    """A film in a store, with the right to write to it.

    Use ``create`` or ``reopen``.

    Args:
        store: where it is.
        id: of the film.
        lease: the right; let go with ``end``.
        state: where it stands.
        snapshot: of the session; empty for a new film.
        recording: its frames.
        samples: those of the recording.
        takes: the takes begun, the oldest first.
        film: its directions; None if there are none.
    """

    def __init__(
        self,
        store: Store,
        id: str,
        lease: Lease,
        *,
        state: SavedState,
        recording: Recording,
        samples: StoredSamples,
        snapshot: bytes = b"",
        takes: tuple[Take, ...] = (),
        film: dict[str, Any] | None = None,
    ) -> None:
        self.id, self.state, self.snapshot, self.takes = id, state, snapshot, takes
        self.recording, self.film = recording, film
        self._store, self._lease, self._samples = store, lease, samples
        self._put_takes = takes
        self._past: tuple[Past, str] = state.past, state.past_digest
        self._writing, self._ended = threading.Lock(), False

    @classmethod
    def create(
        cls,
        store: Store,
        id: str,
        seed: int,
        limit_bytes: int,
        *,
        owner: str = "",
        past: Recording | None = None,
        takes: tuple[Take, ...] = (),
        standing: Standing | None = None,
        film: dict[str, Any] | None = None,
    ) -> SavedFilm:
        """Return a new film; it is in the store from here on.

        Args:
            store: where to put it.
            id: of the film.
            seed: noise seed of its session.
            limit_bytes: largest size of its recording.
            owner: name of the token that it is opened with.
            past: recording of a film that it goes on from.
            takes: likewise.
            standing: where that film stands.
            film: its directions.

        Raises:
            HeldError: another process has a film of that name.
            StoreError: the store cannot be written.
        """
        lease = store.claim(id)
        try:
            samples = StoredSamples(store, id, limit_bytes)
            recording = Recording(samples) if past is None else past.branch(samples)
            index, snapshot = (0, b"") if standing is None else (standing.index, standing.snapshot)
            state = SavedState(seed=seed, owner=owner, index=index, recorded=samples.length)
            self = cls(
                store,
                id,
                lease,
                state=state,
                snapshot=snapshot,
                recording=recording,
                samples=samples,
                film=film,
            )
            self.takes = tuple(take for take in takes if take.index < index)
            self.write(state, snapshot, self.takes, film)
            return self
        except BaseException:
            store.delete(id)
            lease.release()
            raise

    @classmethod
    def reopen(cls, store: Store, id: str, limit_bytes: int) -> SavedFilm | None:
        """Return a film that is in the store; None if it is not.

        Args:
            store: where it is.
            id: of the film.
            limit_bytes: largest size of its recording.

        Raises:
            HeldError: another process runs it.
            StoreError: what the store has of it is damaged.
        """
        if store.get(id, "state") is None:
            return None
        lease = store.claim(id)
        try:
            data = store.get(id, "state")  # nobody else writes it from here on
            if data is None:
                store.delete(id)
                lease.release()
                return None
            state, snapshot = _unpacked(id, data)
            snapshot += _past(store, id, state)
            samples = StoredSamples(store, id, limit_bytes, state.recorded)
            return cls(
                store,
                id,
                lease,
                state=state,
                snapshot=snapshot,
                recording=Recording.reopen(samples, state.index),
                samples=samples,
                takes=_takes(store, id, state.index),
                film=_film(store, id),
            )
        except BaseException:
            lease.release()
            raise

    def write(
        self,
        state: SavedState,
        snapshot: bytes,
        takes: tuple[Take, ...],
        film: dict[str, Any] | None,
    ) -> int:
        """Put everything, in an order in which a process may be killed anywhere.

        Args:
            state: where the film stands.
            snapshot: of its session, at that place.
            takes: the takes begun.
            film: its directions; None if there are none yet.

        Returns:
            How many bytes were written.

        Raises:
            StoreError: the store cannot be written; what it had is whole.
        """
        with self._kept():
            written = self._samples.flush()
            if takes != self._put_takes:
                written += self._put("takes.json", Takes(takes=takes).model_dump_json().encode())
                self._put_takes = takes
            at = tensors_at(snapshot)
            written += self._put_past(snapshot[at:])
            past, digest = self._past
            state = state.model_copy(update={"past": past, "past_digest": digest})
            written += self._put("state", _packed(state, snapshot[:at]))
            if film is not None:
                written += self._put("film.json", json.dumps(film).encode())
            return written

    def end(self, *, delete: bool) -> None:
        """Let another process have the film; while it is being written, as soon as that is over.

        Args:
            delete: delete it first.

        Raises:
            StoreError: it cannot be deleted; it is let go all the same.
        """
        try:
            if delete:
                self._store.delete(self.id)
        finally:
            self._ended = True
            self._let_go()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the lease while the film is written, also where it ends meanwhile."""
        try:
            with self._writing:
                if self._ended:
                    raise StoreError(f"film {self.id}: it was let go")
                yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Release the lease of a film that has ended, unless it is being written."""
        if self._ended and self._writing.acquire(blocking=False):
            try:
                self._lease.release()
            finally:
                self._writing.release()

    def _put_past(self, tensors: bytes) -> int:
        """Put the tensors if they are others than last time, where the state does not look yet."""
        name, before = self._past
        digest = hashlib.sha256(tensors).hexdigest() if tensors else ""
        if digest == before:
            return 0
        name = "past-b" if name == "past-a" else "past-a"
        written = self._put(name, tensors)
        self._past = name, digest
        return written

    def _put(self, name: str, data: bytes) -> int:
        self._store.put(self.id, name, data)
        return len(data)


def _packed(state: SavedState, snapshot: bytes) -> bytes:
    head = state.model_dump_json().encode()
    content = len(head).to_bytes(4, "little") + head + snapshot
    return _MARK + hashlib.sha256(content).digest() + content


def _unpacked(id: str, data: bytes) -> tuple[SavedState, bytes]:
    content = data[len(_MARK) + _HASH_BYTES :]
    checksum = data[len(_MARK) : len(_MARK) + _HASH_BYTES]
    if not data.startswith(_MARK) or len(data) < _START:
        raise StoreError(f"film {id}: state: these {len(data)} bytes are none")
    if hashlib.sha256(content).digest() != checksum:
        raise StoreError(f"film {id}: state: damaged, its checksum does not fit")
    end = 4 + int.from_bytes(content[:4], "little")
    try:
        return SavedState.model_validate_json(content[4:end]), content[end:]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise StoreError(
            f"film {id}: state: {place or 'it'}: {first['msg'][:200]}; it may be of another version"
        ) from error


def _past(store: Store, id: str, state: SavedState) -> bytes:
    """Return the tensors of a film's snapshot."""
    if not state.past_digest:
        return b""
    tensors = store.get(id, state.past)
    if tensors is None or hashlib.sha256(tensors).hexdigest() != state.past_digest:
        raise StoreError(f"film {id}: {state.past}: missing, or not what the state tells of")
    return tensors


def _film(store: Store, id: str) -> dict[str, Any] | None:
    """Return a film's directions; None if they are missing or damaged, for it is made without."""
    try:
        return dict(check_directions(json.loads(store.get(id, "film.json") or b"")))
    except (ShotStreamError, ValueError, RecursionError):
        return None


def _takes(store: Store, id: str, index: int) -> tuple[Take, ...]:
    """Return the takes that a film has begun; those that it has not, as it stands, are left out."""
    data = store.get(id, "takes.json")
    if data is None:
        return ()
    try:
        takes = Takes.model_validate_json(data).takes
    except ValidationError as error:
        raise StoreError(f"film {id}: takes.json: damaged") from error
    return tuple(take for take in takes if take.index < index)
