"""What holds the memory of a film: weights, arenas, graphs, rings.

``bench profile --memory`` makes it. Parts are counted from the tensors that hold them; what a GPU's
allocator handed out beyond them while the film was made (captured graphs, static buffers) is told
as the difference that it is. What remains of the process is a line of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from shotstream_rt.backends.base import BackendInfo
from shotstream_rt.config import StreamConfig
from shotstream_rt.film.stats import resident_bytes
from shotstream_rt.film.workers import HOST_BUFFERS
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.tiny.codec import TinyCodec

from .work import exact_codec, network_of, plain_codec

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """One holder of memory.

    Attributes:
        name: what it is.
        place: ``device`` (of the model; on a CPU the process) or ``host`` (beside a GPU).
        nbytes: how much.
        per: ``model`` (shared by its films) or ``film``.
    """

    name: str
    place: str
    nbytes: int
    per: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"name": self.name, "place": self.place, "bytes": self.nbytes, "per": self.per}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """The holders of memory, and the totals that the system tells.

    Attributes:
        parts: the holders.
        allocated: bytes that torch holds on the GPU; None on a CPU.
        peak: the most that it held; None on a CPU.
        resident: bytes of the process that are in memory; None where the system does not tell.
    """

    parts: tuple[MemoryPart, ...]
    allocated: int | None
    peak: int | None
    resident: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "parts": [part.to_dict() for part in self.parts],
            "device_allocated_bytes": self.allocated,
            "device_peak_bytes": self.peak,
            "resident_bytes": self.resident,
        }

    def lines(self) -> list[str]:
        """Return a table for people."""
        lines = [f"{'memory':36}{'of each':>10}{'where':>10}{'MiB':>12}"]
        lines += [
            f"{part.name:36}{part.per:>10}{part.place:>10}{part.nbytes / _MIB:>12.2f}"
            for part in self.parts
        ]
        totals = {
            "held by torch on the device": self.allocated,
            "most held by torch on the device": self.peak,
            "resident memory of the process": self.resident,
        }
        lines += [
            f"{name:36}{'':20}{nbytes / _MIB:>12.2f}"
            for name, nbytes in totals.items()
            if nbytes is not None
        ]
        return lines


def memory_table(
    config: StreamConfig,
    info: BackendInfo,
    *,
    model: Model | None,
    film_bytes: int,
    queue_chunks: int,
) -> MemoryTable:
    """Count what a film holds.

    Args:
        config: of the film.
        info: of the backend.
        model: the loaded model; None for a student alone.
        film_bytes: what making the film's passes and decoder took from a GPU's allocator; 0 on a
            CPU.
        queue_chunks: chunks that may wait for the reader.
    """
    device = torch.device(info.device)
    on_gpu = device.type == "cuda"
    context = info.cache_bytes * config.cache.context_frames // config.arena_frames
    parts = [MemoryPart(name="student weights", place="device", nbytes=info.weight_bytes,
                        per="model")]  # fmt: skip
    if model is not None:
        for name, network, place in _networks(model):
            parts.append(
                MemoryPart(name=name, place=place, nbytes=_weight_bytes(network), per="model")
            )
    latent = config.model
    noise = prod(
        (config.schedule.num_steps, config.shot.chunk_frames, latent.in_dim, *_latent_size(config))
    )
    itemsize = getattr(torch, info.dtype).itemsize
    counted = [
        ("arenas, context slots", "device", context),
        ("arenas, local ring", "device", info.cache_bytes - context),
        ("noise of a chunk", "device", noise * itemsize),
    ]
    if on_gpu:
        known = sum(nbytes for _, _, nbytes in counted)
        counted.append(("graphs and static buffers", "device", max(0, film_bytes - known)))
    if model is not None:
        frames = model.codec.temporal_stride * config.shot.chunk_frames
        chunk = frames * 3 * prod(model.size)
        if on_gpu:
            counted.append(("ring of page-locked frames", "host", HOST_BUFFERS * chunk))
        counted.append(("frames that may wait to be read", "host", queue_chunks * chunk))
    parts += [
        MemoryPart(name=name, place=place if on_gpu else "device", nbytes=nbytes, per="film")
        for name, place, nbytes in counted
    ]
    return MemoryTable(
        parts=tuple(parts),
        allocated=torch.cuda.memory_allocated(device) if on_gpu else None,
        peak=torch.cuda.max_memory_allocated(device) if on_gpu else None,
        resident=resident_bytes(),
    )


def device_bytes(device: torch.device) -> int:
    """Return what torch holds on a GPU now; 0 on a CPU, whose allocator does not tell."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _latent_size(config: StreamConfig) -> tuple[int, int]:
    return config.model.latent_height, config.model.latent_width


def _networks(model: Model) -> list[tuple[str, nn.Module, str]]:
    """Return the networks beside the student: name, module, where they are."""
    found = [("decoder and encoder weights", network_of(exact_codec(model.codec)))]
    plain = plain_codec(model.codec)
    if isinstance(plain, TinyCodec):
        found.append(("tiny decoder weights", plain.network))
    found.append(("text encoder weights", network_of(model.text)))
    return [(name, network, _place(network, model.device)) for name, network in found]


def _place(network: nn.Module, device: torch.device) -> str:
    weight = next(network.parameters(), None)
    return "device" if weight is None or weight.device.type == device.type else "host"


def _weight_bytes(network: nn.Module) -> int:
    held = [*network.parameters(), *network.buffers()]
    return sum(tensor.nbytes for tensor in held)
