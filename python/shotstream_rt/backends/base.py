"""What a backend is: it holds weights, and each film made with them is a state of its own.

Any number of films share a backend; nothing that a film writes is seen by another one. Backends
execute ``PassPlan``s and know of shots, windows and positions only what a plan says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..abandonment import Abandoned
    from ..device.companion import Companion
    from ..model.captions import CaptionSet
    from ..plan.policy import PassPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """What a backend resolved to.

    Attributes:
        name: as in the registry, such as ``eager``.
        kernel_set: ``reference``, ``torch``, ``cpu`` or ``triton``, or an engine library's name.
        device: such as ``cpu`` or ``cuda:0``.
        dtype: type of activations and caches, such as ``bfloat16``.
        cache_bytes: bytes of one film's dual cache.
        weight_bytes: bytes of the student's weights as they are held.
    """

    name: str
    kernel_set: str
    device: str
    dtype: str
    cache_bytes: int
    weight_bytes: int


class StudentBackend(Protocol):
    """The student's weights, ready to run."""

    @property
    def info(self) -> BackendInfo:
        """What was chosen: name, kernels, device, type, bytes."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the latents that films take and return."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of latents."""
        ...

    @property
    def records_passes(self) -> bool:
        """Whether passes are recorded once and replayed; then decoding is recorded too."""
        ...

    def new_film(self) -> FilmState:
        """Allocate everything that one film writes; capture its passes, if this backend does."""
        ...

    def close(self) -> None:
        """Drop the weights; films made before are closed already."""
        ...


class FilmState(Protocol):
    """One film's caches and buffers, and the passes over them.

    A shot is ``begin_shot``, ``encode_context`` if there is a context, and then chunk by chunk
    ``begin_chunk``, ``denoise`` for every pass of the plan in order, and ``commit`` if more chunks
    follow. Called from one thread at a time; not always the same one. All latents are
    ``[1, F, C, h, w]`` on ``device`` in ``dtype``.

    Attributes:
        abandoned: asked between layers, or as often as the backend can stop; once it is true the
            pass raises ``ChunkAbandonedError``. Set by the caller.
    """

    abandoned: Abandoned

    @property
    def device(self) -> torch.device:
        """The backend's."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The backend's."""
        ...

    def prepare_captions(self, captions: CaptionSet) -> None:
        """Compute what a coming shot needs of captions, while its frames cannot be made yet.

        The film does not change by it; a backend that has nothing to compute ahead does nothing.

        Args:
            captions: with their keys; some of what ``begin_shot`` will be given.
        """
        ...

    def begin_shot(self, captions: CaptionSet) -> None:
        """Start a shot.

        Args:
            captions: what the context frames and the chunks attend to.
        """
        ...

    def change_captions(self, captions: CaptionSet) -> None:
        """Replace the captions from the next pass on, a clean pass included; caches are kept.

        Args:
            captions: as many as the shot began with.
        """
        ...

    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """Run the one pass of a plan over frames that are known, and fill their slots.

        They are the context, a given start, or frames whose keys are computed anew.

        Args:
            plan: of the pass.
            captions: caption of each frame, as a row of the shot's captions.
            latents: the frames.
        """
        ...

    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """Set what all passes over a chunk share.

        Args:
            plan: of the chunk.
            caption: row of the shot's captions.
            noise: ``[S, 1, F, C, h, w]`` for the plan's frames; entry ``s`` enters a frame's input
                at its step ``s``. Left as it is by the caller until the last pass was run.
        """
        ...

    def denoise(self, step: int) -> Tensor:
        """Run one denoising pass.

        Args:
            step: index into the plan's ``levels``.

        Returns:
            The clean estimate of the plan's frames, valid until the next call.
        """
        ...

    def commit(self) -> None:
        """Run the clean pass: leave the keys and values of the last estimate in the slots."""
        ...

    def keep(self, slots: Sequence[int] | None = None) -> Callable[[], None]:
        """Copy what the caches hold; calling the result puts it back.

        Asked for where a cut keeps the caches, and of a chunk's slots before it takes the place of
        frames that the window has left.

        Args:
            slots: copy what these hold; default: all.
        """
        ...

    def poison(self) -> None:
        """Fill all caches with NaN, so that reading a slot never written shows; for checks."""
        ...

    def close(self) -> None:
        """Release this film's memory."""
        ...


@runtime_checkable
class AccompaniedFilm(Protocol):
    """A ``FilmState`` that can let a second thread compute half of a pass.

    Attributes:
        companion: that thread; None without one. Set by the caller, who ends it.
    """

    companion: Companion | None
