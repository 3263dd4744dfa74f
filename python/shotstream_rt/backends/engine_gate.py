"""Parity of exported graphs with ``eager``, one by one, on random input, here and now."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import BackendUnavailableError
from ..export.segment import HEAD, PROJECT, REST1, REST2
from ..model.captions import CaptionSet
from ..plan.noise import PhiloxNoise
from ..plan.policy import PassPlan, policy_of
from .base import BackendInfo, FilmState
from .cross_attention import caption_kv
from .eager import EagerBackend
from .segment_backend import float32_twin

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..export.manifest import EngineManifest
    from ..model.bound_student import BoundStudent, TimeTable
    from ..model.nano.codec import NanoCodecNet
    from .cache import DualKVCache
    from .engine_passes import PassRun
    from .request import BackendRequest

_log = logging.getLogger("shotstream_rt.backends")

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 6e-2}
"""Largest relative l2 distance to ``eager`` in float32. The kernel sets in bfloat16 are up to 3e-2
away themselves after a whole shot."""

LOSSY_LIMIT = 0.2
"""Likewise of passes whose products are in 8 bits, to ``eager`` with such products: a number
between two 8-bit steps goes either way by its last bit, and passes amplify that. Segments amplify
nothing and keep to ``LIMITS``."""


OWN_RATIO = 1.3
"""How many times further away than torch's own a segment in a 16-bit type may be in a check."""


@runtime_checkable
class CaptionedFilm(Protocol):
    """A film whose captions are computed by a pass."""

    def caption_tensors(self, text: Tensor, length: int) -> dict[str, Tensor]:
        """Compute a caption's keys and values; arguments as of ``caption_kv``."""
        ...


class CachedFilm(FilmState, Protocol):
    """A film whose keys and values can be looked at."""

    @property
    def cache(self) -> DualKVCache:
        """Keys and values of all layers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PassDistance:
    """How far a pass's results are from ``eager``'s; infinitely where one is no number.

    Attributes:
        name: of the pass.
        latents: relative l2 distance of the clean estimate; ``None`` where there is none.
        keys: of the keys it leaves, the worst layer.
        values: of the values, likewise.
    """

    name: str
    latents: float | None
    keys: float
    values: float

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max(self.latents or 0.0, self.keys, self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDistance:
    """How far a segment's results are from those of the block that it stands for.

    Attributes:
        name: of the segment.
        layer: of the block; ``None`` for the head.
        distance: relative l2 distance of the worst result.
    """

    name: str
    layer: int | None
    distance: float


class CachedBackend(Protocol):
    """A backend under test."""

    @property
    def info(self) -> BackendInfo:
        """See ``StudentBackend``."""
        ...

    def new_film(self) -> CachedFilm:
        """See ``StudentBackend``."""
        ...


def check_parity(backend: CachedBackend, request: BackendRequest, products: str = "exact") -> None:
    """Require that every pass computes what ``eager`` computes.

    Args:
        backend: under test.
        request: what it was built from.
        products: what linear layers multiply.

    Raises:
        BackendUnavailableError: a pass is further away than ``LIMITS`` or ``LOSSY_LIMIT`` says.
    """
    worst = max(pass_distances(backend, request), key=lambda found: found.worst)
    limit = LIMITS[request.dtype] if products == "exact" else LOSSY_LIMIT
    if worst.worst > limit:
        raise BackendUnavailableError(
            f"backend {backend.info.name}: results of pass {worst.name} are {worst.worst:.1e} away "
            f"from backend eager's, wanted at most {limit:.0e}; export the model again, or use "
            "eager"
        )
    _log.info("backend %s: worst pass %s is %.1e away from eager", backend.info.name, worst.name,
              worst.worst)  # fmt: skip


def check_segments(engines: BoundStudent, request: BackendRequest, products: str) -> None:
    """Require that every segment computes what its block computes.

    Args:
        engines: a student of engine blocks.
        request: what it was built from.
        products: what linear layers multiply.

    Raises:
        BackendUnavailableError: one is further away than ``LIMITS`` says.
    """
    found = segment_distances(engines, request, products)
    worst, limit = max(found, key=lambda one: one.distance), LIMITS[request.dtype]
    if worst.distance > limit:
        raise BackendUnavailableError(
            f"engines: results of segment {worst.name} are {worst.distance:.1e} away from its "
            f"block's, wanted at most {limit:.0e}; export the model again, or use eager"
        )


@torch.inference_mode()
def segment_distances(
    engines: BoundStudent, request: BackendRequest, products: str
) -> list[SegmentDistance]:
    """Run every segment of the first and the last layer beside its block in float32.

    Args:
        engines: a student of engine blocks.
        request: what it was built from.
        products: what linear layers multiply.
    """
    twin, config, found = float32_twin(request, products), request.config, []
    times = (engines.time_table(500.0), twin.time_table(500.0))
    last = config.model.num_layers - 1
    for kind, frames in (("chunk", config.shot.chunk_frames),
                         ("context", config.cache.context_frames)):  # fmt: skip
        if frames == 0:
            continue
        shape = (1, frames * config.model.tokens_per_frame, config.model.dim)
        x, attended = (PhiloxNoise(1).draw(0, 0, part, shape, engines.device) for part in range(2))
        runs = []
        for student, table in zip((engines, twin), times, strict=True):
            given = [each.to(student.dtype) for each in (x, attended)]
            runs.append(list(_segment_results(student, table, *given, chunk=kind == "chunk")))
        for (name, layer, got), (_, _, wanted) in zip(*runs, strict=True):
            if layer in (0, last, None):
                worst = max(map(_distance, got, wanted))
                found.append(SegmentDistance(name=f"{kind}_{name}", layer=layer, distance=worst))
    return found


def _segment_results(
    student: BoundStudent, table: TimeTable, x: Tensor, attended: Tensor, *, chunk: bool
) -> Iterator[tuple[str, int | None, tuple[Tensor, ...]]]:
    """Every segment's results on the same input.

    Args:
        student: of blocks.
        table: of a time.
        x: ``[1, T, dim]``.
        attended: like ``x``.
        chunk: run the head too.
    """
    last = len(student.blocks) - 1
    for layer in sorted({0, last}):
        block, m = student.blocks[layer], table.layers[layer]
        yield PROJECT, layer, (block.project(x, m),)
        yield REST1, layer, block.leave_self(x, attended, m)
        yield REST2, layer, (block.leave_cross(x, attended, m),)
    if chunk:
        yield HEAD, None, (student.edges.head(x, *table.head, student.kernels),)


def pass_distances(backend: CachedBackend, request: BackendRequest) -> list[PassDistance]:
    """Run every pass beside ``eager`` in float32.

    Captions, context, a chunk, its clean pass, and the next chunk's first step, which reads what
    those left. The student is loaded in torch for this and dropped again.

    Args:
        backend: under test.
        request: what it was built from.
    """
    plain = replace(request, kernel_set="reference", dtype=torch.float32)
    student = plain.student()
    captions = _captions(request.config)
    film, oracle = backend.new_film(), EagerBackend(student, request.config).new_film()
    layers, distances = range(request.config.model.num_layers), []
    if isinstance(film, CaptionedFilm):
        text = captions.embeddings[0], captions.lengths[0]
        wanted_kv, got_kv = caption_kv(student, *text), film.caption_tensors(*text)
        distances.append(
            PassDistance(
                name="captions", latents=None,
                keys=max(_distance(got_kv[f"caption_k_{i}"], wanted_kv.k[i].transpose(1, 2))
                         for i in layers),
                values=max(_distance(got_kv[f"caption_v_{i}"], wanted_kv.v[i].transpose(1, 2))
                           for i in layers),
            )
        )  # fmt: skip
    runs = zip(_results(film, request.config), _results(oracle, request.config), strict=True)
    for (name, got), (_, wanted) in runs:
        parts = {part: _distance(got[part], wanted[part]) for part in got}
        distances.append(
            PassDistance(
                name=name, latents=parts.get("latents"),
                keys=max(parts[f"k_{i}"] for i in layers),
                values=max(parts[f"v_{i}"] for i in layers),
            )
        )  # fmt: skip
    for each in (film, oracle):
        each.close()
    return distances


@torch.inference_mode()
def codec_distances(
    runs: Mapping[str, Callable[[], PassRun]], manifest: EngineManifest, net: NanoCodecNet
) -> dict[str, float]:
    """Decode a stream's first three chunks beside torch; the worst result of each graph.

    Args:
        runs: of the graphs, by name.
        manifest: of them.
        net: whose weights they have.
    """
    state: dict[str, Tensor] = {}
    wanted_state, found = None, dict.fromkeys(runs, 0.0)
    for chunk in range(3):
        entry = manifest.passes[min(chunk, 1)]
        shapes = {port.name: [int(side) for side in port.shape] for port in entry.outputs}
        (shape,) = (port.shape for port in entry.inputs if port.name == "latents")
        latents = PhiloxNoise(2).draw(0, chunk, 0, tuple(int(side) for side in shape))
        outputs = {name: torch.empty(sides) for name, sides in shapes.items()}
        runs[entry.name]()({"latents": latents, **state}, outputs)
        pixels, wanted_state = net.decode(latents, wanted_state)
        wanted = [pixels.clamp(-1, 1), *wanted_state]
        worst = max(map(_distance, outputs.values(), wanted))
        found[entry.name] = max(found[entry.name], worst)
        state = {name.replace("after", "before"): value for name, value in outputs.items()
                 if name != "pixels"}  # fmt: skip
    return found


def _distance(got: Tensor, wanted: Tensor) -> float:
    """Relative l2 distance; infinite where it is no number, which every comparison would pass."""
    found = float((got.double() - wanted.double()).norm() / wanted.double().norm())
    return found if math.isfinite(found) else math.inf


def _captions(config: StreamConfig) -> CaptionSet:
    model = config.model
    rows = PhiloxNoise(0).draw(0, 0, 0, (1, model.text_len, model.text_dim))
    return CaptionSet(embeddings=rows, lengths=(model.text_len,))


def _results(film: CachedFilm, config: StreamConfig) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Run the passes of a shot; give what each leaves, under its name."""
    model, policy, noise = config.model, policy_of(config), PhiloxNoise(0)
    frame = (model.in_dim, model.latent_height, model.latent_width)
    chunk, steps = (1, config.shot.chunk_frames, *frame), range(config.schedule.num_steps)
    context = config.cache.context_frames
    film.poison()
    film.begin_shot(_captions(config))
    if context:
        plan = policy.context([0] * context)
        latents = noise.draw(0, 0, 1, (1, context, *frame)).to(film.dtype)
        film.encode_context(plan, [0] * context, latents)
        yield "context", _left(film, plan)
    for number, run in ((0, steps), (1, steps[:1])):
        plan = policy.chunk(1, number, 1)
        drawn = torch.stack([noise.draw(1, number, step, chunk) for step in steps])
        film.begin_chunk(plan, 0, drawn.to(film.dtype))
        for step in run:
            latents = film.denoise(step).clone()
            name = f"denoise_{step}" + (", next chunk" if number else "")
            yield name, {"latents": latents, **_left(film, plan)}
        if number == 0:
            film.commit()
            yield "commit", _left(film, plan)


def _left(film: CachedFilm, plan: PassPlan) -> dict[str, Tensor]:
    """Keys and values in the slots that a pass writes."""
    tokens, slots = film.cache.frame_tokens, list(plan.writes)
    return {
        f"{part}_{layer}": rows.unflatten(0, (-1, tokens))[slots]
        for layer, arena in enumerate(film.cache.arenas)
        for part, rows in (("k", arena.k), ("v", arena.v))
    }
