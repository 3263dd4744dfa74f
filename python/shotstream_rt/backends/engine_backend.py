"""What backends share that run exported passes through an engine library."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..config import RolloutConfig
from ..errors import ManifestError
from ..export.engine_tensors import pass_tensors, time_tensors
from ..export.manifest import MAKE_THEM, MANIFEST_FILE, EngineManifest
from ..export.product import with_products
from ..inputs import is_file
from ..kernels.sets.arena_layout import ArenaLayout
from ..kernels.sets.kernel_set import TORCH_OPS
from ..model.bound_student import BoundStudent
from ..plan.policy import policy_of
from .base import BackendInfo
from .cache import DualKVCache
from .eager import EagerBackend
from .engine_film import EngineFilm
from .engine_gate import check_parity, check_segments
from .engine_passes import LoadPass, bind_weights, load_passes
from .segment_backend import LibrarySegments, engine_student, product_student, profile_reason

if TYPE_CHECKING:
    from .base import StudentBackend
    from .request import BackendRequest


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
