"""Builds an exported folder's graphs, and adds the plans to its manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..outputs import atomic_file
from .builder import Builder, Range, check_plan
from .library import Library
from .manifest import EngineManifest, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """How a plan was built.

    Attributes:
        plan: as the manifest has it.
        nbytes: its size.
        seconds: that it took.
    """

    plan: Plan
    nbytes: int
    seconds: float


def build_plans(
    folder: Path,
    library: Library,
    targets: Sequence[str],
    arena_frames: int = 27,
    on_plan: Callable[[PlanReport], None] = lambda report: None,
) -> EngineManifest:
    """Build every graph of a folder; its manifest is written last.

    Plans of the same library for the same GPUs are replaced, all others are kept.

    Args:
        folder: that ``export`` wrote.
        library: that builds.
        targets: GPUs, such as ``sm_89``.
        arena_frames: slots that whole passes may find in front of and behind their own, together.
        on_plan: told about each plan as its file is written.

    Raises:
        ManifestError: the folder's graphs were changed.
        ExportError: the library cannot build one for these GPUs, or a plan is not what was asked
            for.
        OutputError: the folder cannot be written.
    """
    manifest = EngineManifest.read(folder)
    library.check_targets(targets, manifest.dtype, manifest.products)
    builder, plans = Builder(library), []
    frame = manifest.fits["model"]
    tokens = frame["latent_height"] * frame["latent_width"] // 4 * arena_frames
    lengths = {
        "front_tokens": Range(0, tokens // 2, tokens), "back_tokens": Range(0, 0, tokens),
    }  # fmt: skip
    for entry in manifest.passes:
        begun_s = time.monotonic()
        graph = manifest.read_file(folder, entry)
        blob, log = builder.build(entry.name, graph, targets, lengths)
        check_plan(entry.name, blob, log, manifest.dtype, manifest.products)
        file = f"{entry.name}_{library.name}_{'_'.join(targets)}.plan"
        with atomic_file(folder / file) as path:
            path.write_bytes(blob)
        plan = Plan(
            engine=entry.name, file=file, sha256=hashlib.sha256(blob).hexdigest(),
            library=library.name, version=library.version, targets=tuple(targets),
            flags=builder.flags, launches=log.launches, kinds=log.kinds,
            gemm_types=log.gemm_types, scratch_bytes=log.scratch_bytes,
        )  # fmt: skip
        plans.append(plan)
        seconds = time.monotonic() - begun_s
        on_plan(PlanReport(plan=plan, nbytes=len(blob), seconds=seconds))
    key = (library.name, tuple(targets))
    kept = [plan for plan in manifest.plans if (plan.library, plan.targets) != key]
    manifest = dataclasses.replace(manifest, plans=(*kept, *plans))
    manifest.write(folder)
    return manifest
