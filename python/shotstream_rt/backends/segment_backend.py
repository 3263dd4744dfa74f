"""A student whose blocks an engine library computes, and the backend that runs it on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BackendUnavailableError, WeightsError
from ..export.engine_tensors import digest_of, segment_tensors
from ..export.manifest import EngineManifest
from ..export.product import with_products
from ..model.bound_student import BoundStudent
from .engine_block import EngineBlock, EngineHead, SegmentRunner

if TYPE_CHECKING:
    from ..config import StreamConfig
    from .engine_passes import PassRun
    from .request import BackendRequest


def profile_reason(manifest: EngineManifest, request: BackendRequest) -> str | None:
    """Return why a folder's segments do not compute what a profile does, or ``None``."""
    if manifest.products == "int8":
        return "no profile multiplies integers; its segments are for `export build` and `check`"
    lossy = () if manifest.products == "exact" else (manifest.products,)
    if request.lossy_parts != lossy:
        got, wanted = (" and ".join(parts) or "exact" for parts in (lossy, request.lossy_parts))
        return f"its segments' products are {got}, the profile's kernels are {wanted}"
    return None


def product_student(request: BackendRequest, manifest: EngineManifest) -> BoundStudent:
    """Load a student whose tensors are those that segments are bound to.

    Args:
        request: the model.
        manifest: of its segments.

    Raises:
        BackendUnavailableError: the kernels beside the segments cannot run here.
        WeightsError: the weights are missing, broken or of other shapes.
        ManifestError: they are others than were exported.
    """
    kernels = replace(request, lossy_parts=()).kernels()
    if manifest.products != "exact":
        kernels = replace(kernels, name=f"{kernels.name}+{manifest.products}")
    state = request.weights()
    student = BoundStudent.from_state(
        state, request.config.model, with_products(kernels, manifest.products),
        source=request.source, device=request.device, dtype=request.dtype,
    )  # fmt: skip
    if any(bound.sha256 is not None for bound in manifest.tensors):
        found = segment_tensors(student)
        for bound in manifest.tensors:
            tensor = found.get((bound.name, bound.layer))
            if tensor is None and bound.name in state:
                tensor = state[bound.name].to(request.dtype)
            if tensor is None:
                raise WeightsError(
                    f"{request.source}: no tensor {bound.name}, which the engines need"
                )
            manifest.check_tensor(bound, digest_of(tensor), request.source)
    return student


def engine_student(
    student: BoundStudent, config: StreamConfig, runner: SegmentRunner
) -> BoundStudent:
    """Let an engine library compute a student's blocks and head.

    Args:
        student: from ``product_student``.
        config: shapes of passes.
        runner: runs the segments.
    """
    tokens = config.model.tokens_per_frame
    kinds = {config.cache.context_frames * tokens: "context",
             config.shot.chunk_frames * tokens: "chunk"}  # fmt: skip
    blocks = [EngineBlock.of(block, runner, kinds) for block in student.blocks]
    edges = student.edges
    edges.head = EngineHead(edges.head, student.blocks[0], runner)
    return BoundStudent(edges, blocks, student.kernels)


class LibrarySegments:
    """Segments that a library for CPUs loaded.

    Films of one backend may run on several threads, so each thread has runs of its own.

    Args:
        makers: what makes a run of each segment.
    """

    def __init__(self, makers: Mapping[str, Callable[[], PassRun]]) -> None:
        self._makers, self._own = dict(makers), threading.local()

    def run(self, name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """See ``SegmentRunner``.

        Args:
            name: of the segment.
            inputs: by name.
            outputs: likewise.
        """
        runs: dict[str, PassRun] = self._own.__dict__.setdefault("runs", {})
        if name not in runs:
            runs[name] = self._makers[name]()
        runs[name](inputs, outputs)


def require_profile(manifest: EngineManifest, request: BackendRequest, name: str) -> None:
    """Require that a folder's segments compute what the request's profile does.

    Args:
        manifest: of the folder.
        request: the model.
        name: of the backend.

    Raises:
        BackendUnavailableError: they do not.
    """
    reason = profile_reason(manifest, request)
    if reason is not None:
        raise BackendUnavailableError(
            f"backend {name}: {request.engines_folder()}: {reason}; export with --products, or "
            "take another --profile"
        )


def float32_twin(request: BackendRequest, products: str) -> BoundStudent:
    """Load the student that segments are compared with, on the request's device.

    Args:
        request: the model.
        products: of the segments. The reference kernels multiply likewise; integers are multiplied
            by the form that is exported, run by torch.
    """
    plain = replace(request, kernel_set="reference", dtype=torch.float32)
    if products != "int8":
        return replace(plain, lossy_parts=() if products == "exact" else (products,)).student()
    kernels = with_products(replace(plain, lossy_parts=()).kernels(), products)
    return BoundStudent.from_state(
        plain.weights(), plain.config.model, kernels, source=plain.source, device=plain.device,
        dtype=plain.dtype,
    )  # fmt: skip
