"""What backends share that run exported passes through an engine library.

The library runs whole passes; here are the film's caches, its rotary tables and the order of
passes. Keys and values go in as views of the arena and come out straight into their slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..abandonment import never
from ..config import RolloutConfig
from ..errors import ConfigError, ManifestError, WeightsError
from ..export.engine_tensors import digest_of, pass_tensors, time_tensors
from ..export.manifest import MAKE_THEM, MANIFEST_FILE, EngineManifest, ExportedPass
from ..export.product import with_products
from ..inputs import is_file
from ..kernels.sets.arena_layout import ArenaLayout
from ..kernels.sets.kernel_set import TORCH_OPS
from ..model.bound_student import BoundStudent
from ..plan.policy import PassPlan, policy_of
from .base import BackendInfo
from .cache import DualKVCache
from .eager import EagerBackend
from .engine_gate import check_parity, check_segments
from .rotary_table import RotaryTable
from .segment_backend import LibrarySegments, engine_student, product_student, profile_reason

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..model.captions import CaptionSet
    from .base import StudentBackend
    from .request import BackendRequest

Tensors = Mapping[str, Tensor]


class PassRun(Protocol):
    """A loaded pass as one film runs it."""

    def __call__(self, inputs: Tensors, outputs: Tensors) -> None:
        """Run it.

        Args:
            inputs: contiguous tensors by the graph's names, without what it was loaded with.
            outputs: likewise; written in place.
        """
        ...


LoadPass = Callable[[bytes, ExportedPass, Tensors, int], Callable[[], PassRun]]
"""Loads a graph with its weights, for a number of threads; what it gives makes a run for each film.
"""


def unfit_reason(request: BackendRequest) -> str | None:
    """Return why no engine library runs a model, or ``None``."""
    folder = request.engines_folder()
    if folder is None:
        if request.config.history is not None or request.lossy_parts:
            return "exported passes have no lossy kernels; use profile exact, or export segments"
        return f"it needs exported passes: `{MAKE_THEM}`, then --engines DIR"
    if not is_file(folder / MANIFEST_FILE):
        return None  # opening says so
    manifest = EngineManifest.read(folder)
    if manifest.form == "codec":
        return f"{folder} holds a codec's decoder; export passes or segments"
    if manifest.form == "segments":
        return profile_reason(manifest, request)
    config = request.config
    if config.rollout != RolloutConfig() or config.schedule.first_steps:
        return "exported passes are for chunks of one length and schedule, one after the other"
    if config.history is not None:
        return "exported passes do not prune history; use profile exact, or export segments"
    if request.lossy_parts:
        return "exported passes have no lossy kernels; use profile exact, or export segments"
    return None


def open_engines(
    request: BackendRequest, name: str, load: LoadPass, *, gate: bool = True
) -> StudentBackend:
    """Open what a folder holds: whole passes, or segments with this package's kernels beside them.

    Args:
        request: the model; its weights are bound by name.
        name: of the backend, which is the library's.
        load: loads one graph.
        gate: compare with ``eager`` before the first film.

    Raises:
        ManifestError: the graphs are not those of this model, or a file was changed.
        WeightsError: a weight is missing or has another shape.
        BackendUnavailableError: what is computed differs from ``eager``.
    """
    folder = request.engines_folder()
    if folder is None:
        raise ManifestError(f"backend {name}: got no folder of engines; {MAKE_THEM}")
    manifest = EngineManifest.read(folder)
    if manifest.form == "passes":
        return EngineBackend(request, name, load, gate=gate)
    manifest.check_fits(request.config, str(request.dtype).removeprefix("torch."), folder)
    student = product_student(request, manifest)
    threads = request.threads or torch.get_num_threads()
    runner = LibrarySegments(load_passes(manifest, folder, {}, load, threads))
    engines = engine_student(student, request.config, runner)
    backend = EagerBackend(engines, request.config)
    backend.info = replace(backend.info, name=name)
    if gate:
        check_segments(engines, request, manifest.products)
        check_parity(backend, request, manifest.products)
    return backend


class EngineBackend:
    """Runs exported passes.

    Args:
        request: the model; its weights are bound to the passes by name.
        name: of the backend, which is the library's.
        load: loads one pass.
        gate: compare every pass with ``eager`` before the first film.

    Raises:
        ManifestError: the folder's passes are not those of this model, or a file was changed.
        WeightsError: a weight is missing or has another shape.
        BackendUnavailableError: what the passes compute differs from ``eager``.
    """

    records_passes = False

    def __init__(
        self, request: BackendRequest, name: str, load: LoadPass, *, gate: bool = True
    ) -> None:
        folder = request.engines_folder()
        if folder is None:
            raise ManifestError(f"backend {name}: got no folder of engines; {MAKE_THEM}")
        self.config, self.device, self.dtype = request.config, request.device, request.dtype
        manifest = EngineManifest.read(folder)
        dtype = str(request.dtype).removeprefix("torch.")
        manifest.check_fits(request.config, dtype, folder)
        if manifest.form != "passes":
            raise ManifestError(f"{folder}: got segments, wanted whole passes")
        student = BoundStudent.from_state(
            request.weights(), request.config.model, with_products(TORCH_OPS, "exact"),
            source=request.source, dtype=request.dtype,
        )  # fmt: skip
        weights = bind_weights(manifest, pass_tensors(student), request.dtype, request.source)
        rows = {
            entry.name: {} if entry.time is None
            else time_tensors(student.time_table(entry.time)) for entry in manifest.passes
        }  # fmt: skip
        threads = request.threads or torch.get_num_threads()
        self._passes = load_passes(manifest, folder, weights, load, threads, rows)
        self._policy = policy_of(request.config)
        frames = self._policy.arena_frames
        self.info = BackendInfo(
            name=name,
            kernel_set=name,
            device=str(request.device),
            dtype=dtype,
            cache_bytes=DualKVCache.bytes_of(
                request.config.model, frames, ArenaLayout(), request.dtype
            ),
            weight_bytes=sum(weight.nbytes for weight in weights.values()),
        )
        if gate:
            check_parity(self, request)

    def new_film(self) -> EngineFilm:
        """See ``StudentBackend``."""
        runs = {name: make() for name, make in self._passes.items()}
        return EngineFilm(runs, self.config, self.dtype, self._policy.arena_frames)

    def close(self) -> None:
        """Drop the passes and their weights."""
        self._passes = {}


def bind_weights(
    manifest: EngineManifest, state: Tensors, dtype: torch.dtype, source: str
) -> dict[str, Tensor]:
    """Take every weight that a pass has as an input.

    Args:
        manifest: says which.
        state: tensors by the passes' names, and what else the manifest has a digest of.
        dtype: what they are cast to.
        source: names the checkpoint in errors.

    Raises:
        WeightsError: one is missing or has another shape.
        ManifestError: it is another than was exported.
    """
    wanted = {port.name: port.shape for entry in manifest.passes for port in entry.weights}
    weights = {}
    for name, shape in wanted.items():
        if name not in state:
            raise WeightsError(f"{source}: no tensor {name}, which the engines need")
        weight = state[name]
        if tuple(weight.shape) != shape:
            raise WeightsError(
                f"{source}: {name}: got shape {tuple(weight.shape)}, the engines want {shape}"
            )
        weights[name] = weight.detach().to("cpu", dtype).contiguous()
    for bound in manifest.tensors:
        if bound.sha256 is not None:
            found = weights.get(bound.name, state.get(bound.name))
            if found is None:
                raise WeightsError(f"{source}: no tensor {bound.name}, which the engines need")
            manifest.check_tensor(bound, digest_of(found.to(dtype)), source)
    return weights


def load_passes(
    manifest: EngineManifest, folder: Path, weights: Tensors, load: LoadPass, threads: int,
    rows: Mapping[str, Tensors] | None = None,
) -> dict[str, Callable[[], PassRun]]:  # fmt: skip
    """Load every graph with its own weights.

    Args:
        manifest: of the folder.
        folder: where the files are.
        weights: of all passes; those that are not among them stay inputs.
        load: loads one.
        threads: that the library computes with.
        rows: by pass, tensors of its own; likewise. Then a pass has all of its rows.

    Raises:
        ManifestError: a file is missing or was changed, or is not what the manifest says.
    """
    made = {}
    for entry in manifest.passes:
        held = {**weights, **(rows or {}).get(entry.name, {})}
        own = {port.name: held[port.name] for port in entry.inputs if port.name in held}
        for port in entry.inputs:
            if rows is not None and port.role == "modulation" and port.name not in own:
                raise ManifestError(
                    f"{folder / entry.file}: {port.name}: time {entry.time} has no such row; "
                    f"export again with `{MAKE_THEM}`"
                )
        made[entry.name] = load(manifest.read_file(folder, entry), entry, own, threads)
    return made


def check_ports(
    entry: ExportedPass, weights: Tensors, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Require that a loaded graph has the inputs and results that the manifest says.

    Args:
        entry: of the manifest.
        weights: inputs that it was loaded with.
        inputs: names of the others.
        outputs: names of its results.

    Raises:
        ManifestError: it has not.
    """
    wanted = {port.name for port in (*entry.inputs, *entry.outputs)} - weights.keys()
    if odd := wanted ^ {*inputs, *outputs}:
        raise ManifestError(
            f"{entry.file}: {', '.join(sorted(odd))}: in the graph or in {MANIFEST_FILE}, and not "
            f"in the other one; export again with `{MAKE_THEM}`"
        )


class EngineFilm:
    """One film's caches, and the passes over them.

    Args:
        runs: the passes, this film's own.
        config: shapes, cache and schedule.
        dtype: of latents and caches.
        arena_frames: slots of one layer's arena.
    """

    def __init__(
        self, runs: Mapping[str, PassRun], config: StreamConfig, dtype: torch.dtype,
        arena_frames: int,
    ) -> None:  # fmt: skip
        self.device, self.dtype = torch.device("cpu"), dtype
        self.abandoned: Callable[[], bool] = never
        self._runs, self._model = dict(runs), config.model
        self._layers = range(config.model.num_layers)
        self._steps = config.schedule.num_steps
        self._on_read = config.cache.key_rotation == "on_read"
        # Token by token in memory, so that any run of slots is one block that engines can read.
        self.cache = DualKVCache(
            config.model, arena_frames, layout=ArenaLayout(), dtype=dtype, device=self.device
        )
        phase, self._commit_time = config.shot.shot_phase, config.schedule.context_noise
        context, chunk = config.cache.context_frames, config.shot.chunk_frames

        def table(frames: int, plain_frames: int = 0) -> RotaryTable:
            return RotaryTable(
                config.model, frames, shot_phase=phase, device=self.device,
                plain_frames=plain_frames,
            )  # fmt: skip

        self._context_rotation, self._rotation = table(context), table(chunk)
        self._read_rotation = table(arena_frames - context, context) if self._on_read else None
        latents = (1, chunk, self._model.in_dim, self._model.latent_height,
                   self._model.latent_width)  # fmt: skip
        self._x0 = torch.zeros(latents, dtype=dtype)
        self._spare = [torch.zeros_like(self._x0), torch.zeros_like(self._x0)]
        self._captions: list[dict[str, Tensor]] = []
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._scattered: tuple[int, ...] | None = None
        self._caption = 0
        self._levels: tuple[tuple[int, ...], ...] = ()
        self._noise = self._x = torch.empty(0, device="cpu")

    def begin_shot(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self.change_captions(captions)

    @torch.inference_mode()
    def change_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._captions = self.caption_tensors(captions)

    @torch.inference_mode()
    def caption_tensors(self, captions: CaptionSet) -> list[dict[str, Tensor]]:
        """Compute each caption's keys and values, ``caption_k_0``... ``[1, N, text_len, D]``."""
        model, made = self._model, []
        shape = (1, model.num_heads, model.text_len, model.head_dim)
        for rows in captions.embeddings.to(self.device, self.dtype):
            kv = {f"{part}_{layer}": torch.empty(shape, dtype=self.dtype)
                  for part in ("k", "v") for layer in self._layers}  # fmt: skip
            self._runs["captions"]({"text": rows[None].contiguous()}, kv)
            made.append({f"caption_{name}": value for name, value in kv.items()})
        return made

    @torch.inference_mode()
    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState``."""
        if plan.chunk is not None:  # a given chunk: what a clean pass leaves of it
            if self._commit_time:
                raise ConfigError(
                    f"given start: the exported clean pass is at time {self._commit_time}, wanted "
                    "0; use backend eager"
                )
            self.begin_chunk(plan, captions[0], latents.to(self.dtype)[None])
            self._x0.copy_(latents)
            self.commit()
            return
        self._context_rotation.set(plan.positions)
        rows = [self._captions[row] for row in captions]
        inputs = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        inputs["x"] = latents.to(self.dtype).contiguous()
        inputs["rotation"] = torch.view_as_real(self._context_rotation.rows)
        self._scattered, outputs = self._own_slots(plan)
        self._runs["context"](inputs, outputs)
        self._scatter(outputs)

    @torch.inference_mode()
    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState``."""
        self._rotation.set(plan.positions)
        self._scattered, self._outputs = self._own_slots(plan)
        self._inputs = self._prefix(plan)
        self._inputs["rotation"] = torch.view_as_real(self._rotation.rows)
        self._caption, self._noise, self._x = caption, noise, noise[0].contiguous()
        self._levels = plan.levels

    @torch.inference_mode()
    def denoise(self, step: int) -> Tensor:
        """See ``FilmState``."""
        inputs, outputs = self._chunk_inputs(self._x), {**self._outputs, "x0": self._x0}
        step = self._levels[step][0]  # a chunk made from given frames has only the last ones
        following = self._spare[step % 2]
        if step + 1 < self._steps:
            inputs["noise"] = self._noise[step + 1].contiguous()
            outputs["next_x"] = following
        self._runs[f"denoise_{step}"](inputs, outputs)
        self._scatter(outputs)
        self._x = following
        return self._x0

    @torch.inference_mode()
    def commit(self) -> None:
        """See ``FilmState``."""
        self._runs["commit"](self._chunk_inputs(self._x0), self._outputs)
        self._scatter(self._outputs)

    @torch.inference_mode()
    def keep(self) -> Callable[[], None]:
        """See ``FilmState``."""
        return self.cache.keep()

    def poison(self) -> None:
        """See ``FilmState``."""
        self.cache.poison()

    def close(self) -> None:
        """Drop the caches and this film's hold on the passes."""
        self.cache.arenas.clear()
        self._runs, self._captions, self._inputs, self._outputs = {}, [], {}, {}

    def _chunk_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Inputs of a pass over the chunk begun; captions may have changed since then."""
        return {**self._inputs, **self._captions[self._caption], "x": x}

    def _own_slots(self, plan: PassPlan) -> tuple[tuple[int, ...] | None, dict[str, Tensor]]:
        """Where a pass's keys and values go.

        That is their slots if those are neighbours; else memory that is copied to them afterwards,
        and then the slots come with it.
        """
        tokens, first = self.cache.frame_tokens, plan.writes[0]
        outputs = {}
        apart = plan.writes != tuple(range(first, first + len(plan.writes)))
        begin, count = first * tokens, len(plan.writes) * tokens
        for layer, arena in enumerate(self.cache.arenas):
            for part, rows in (("k", arena.k), ("v", arena.v)):
                own = (
                    rows.new_empty(count, *rows.shape[1:]) if apart else rows[begin : begin + count]
                )
                outputs[f"{part}_{layer}"] = own.unsqueeze(0)
        return plan.writes if apart else None, outputs

    def _scatter(self, outputs: Tensors) -> None:
        """Copy keys and values to slots that are no neighbours."""
        if self._scattered is None:
            return
        tokens, slots = self.cache.frame_tokens, list(self._scattered)
        for layer, arena in enumerate(self.cache.arenas):
            for part, rows in (("k", arena.k), ("v", arena.v)):
                own = outputs[f"{part}_{layer}"][0].unflatten(0, (-1, tokens))
                rows.unflatten(0, (-1, tokens))[slots] = own

    def _prefix(self, plan: PassPlan) -> dict[str, Tensor]:
        """What a pass attends to beside its own keys: in front of its slots, and behind."""
        ((begin, end),) = plan.reads[0]
        assert begin == 0 and len(plan.reads) == 1, "a plan that prunes history"
        tokens, first = self.cache.frame_tokens, min(plan.writes)
        behind = [slot for slot in range(first, end) if slot not in plan.writes]
        together = behind == list(range(end - len(behind), end))

        def back(rows: Tensor) -> Tensor:
            if together:
                return rows[(end - len(behind)) * tokens : end * tokens]
            picked: Tensor = rows.unflatten(0, (-1, tokens))[behind]
            return picked.flatten(0, 1)

        inputs = {}
        for layer, arena in enumerate(self.cache.arenas):
            for part, rows in (("k", arena.k), ("v", arena.v)):
                inputs[f"front_{part}_{layer}"] = rows[: first * tokens].unsqueeze(0)
                inputs[f"back_{part}_{layer}"] = back(rows).unsqueeze(0)
        if self._read_rotation is not None and plan.read_positions is not None:
            self._read_rotation.set([place for place in plan.read_positions if place is not None])
            rows = torch.view_as_real(self._read_rotation.rows)
            own = rows.unflatten(0, (-1, tokens))[list(plan.writes)].flatten(0, 1)
            inputs |= {"front_rotation": rows[:first * tokens], "back_rotation": back(rows),
                       "own_rotation": own}  # fmt: skip
        return inputs
