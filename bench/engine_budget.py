"""A student of 1.3B exported and built for GPUs, within budgets of time, memory and launches.

``make engine-budget`` runs it: no GPU and no weights are needed. Segments are of 30 layers (their
plans do not depend on depth), whole passes of two, or with ``--full`` of 30. Every plan is read
from the builder's own log. The exit code is 1 if a budget is exceeded.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.export.build import build_plans
from shotstream_rt.export.exporter import export_graphs
from shotstream_rt.export.library import Library
from shotstream_rt.export.manifest import EngineManifest

TARGETS = ("sm_89", "sm_120")
LAUNCHES = {"exact": 10, "fp8": 15}
"""Of the segments of one layer, at most; three kernels of our own come on top."""
SCRATCH_BYTES = {"chunk_exact": 130e6, "context_exact": 260e6, "chunk_fp8": 260e6,
                 "context_fp8": 520e6}  # fmt: skip
SEGMENT_PLAN_BYTES, PASS_PLAN_BYTES = 8e6, 120e6
PASS_LAUNCHES, PASS_SCRATCH_BYTES = 22, 700e6
"""Of a whole pass: launches a layer, at most; scratch memory with 27 frames in the arena."""
MEMORY_BYTES = 2e9
CPU_S = {2: 90.0, 30: 300.0}
"""By the number of layers of whole passes."""


def main(words: list[str] | None = None) -> int:
    """Export, build and compare with the budgets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--full", action="store_true", help="whole passes of 30 layers")
    arguments = parser.parse_args(words)
    layers = 30 if arguments.full else 2
    torch.set_num_threads(1)
    library, problems, sizes = Library.load("rtx"), [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for products in LAUNCHES:
            manifest, size = _made(Path(temporary) / products, library, 30, "segments", products)
            problems += _over_budget(manifest, products)
            sizes[products] = size
        passes = Path(temporary) / "passes"
        manifest, sizes["passes"] = _made(passes, library, layers, "passes", "exact")
        problems += _passes_over_budget(manifest, layers)
    cpu_s = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    segments = sizes["exact"] + sizes["fp8"]
    for what, got, most in (
        ("seconds of one core", cpu_s, CPU_S[layers]),
        ("bytes of memory", memory, MEMORY_BYTES),
        ("bytes of segments' plans", segments, SEGMENT_PLAN_BYTES),
        ("bytes of passes' plans", sizes["passes"], PASS_PLAN_BYTES),
    ):
        print(f"{what:26} {got:15.4g}  at most {most:.4g}")  # noqa: T201
        if got > most:
            problems.append(f"{what}: got {got:.4g}, wanted at most {most:.4g}")
    for problem in problems:
        print(f"FAIL  {problem}")  # noqa: T201
    if arguments.json:
        print(json.dumps({"cpu_s": cpu_s, "memory_bytes": memory, "plan_bytes": sizes,  # noqa: T201
                          "problems": problems}))  # fmt: skip
    return 1 if problems else 0


def _made(
    folder: Path, library: Library, layers: int, form: str, products: str
) -> tuple[EngineManifest, int]:
    """Export and build one folder; return its manifest and the size of its plans."""
    config = StreamConfig(model=ModelConfig(num_layers=layers))
    export_graphs(config, torch.bfloat16, folder, form=form, products=products)
    manifest = build_plans(
        folder, library, TARGETS,
        on_plan=lambda report: print(  # noqa: T201
            f"{form} {products:6} {report.plan.engine:16} {report.plan.launches:5} launches  "
            f"scratch {report.plan.scratch_bytes / 1e6:6.1f} MB  {report.nbytes / 1e6:6.2f} MB  "
            f"{report.seconds:6.1f} s", flush=True,
        ),
    )  # fmt: skip
    return manifest, sum((folder / plan.file).stat().st_size for plan in manifest.plans)


def _over_budget(manifest: EngineManifest, products: str) -> list[str]:
    """What segments' plans have too much of."""
    problems = []
    for kind in ("chunk", "context"):
        own = [plan for plan in manifest.plans if plan.engine.startswith(kind)]
        launches = sum(plan.launches for plan in own if not plan.engine.endswith("head"))
        scratch, most = max(plan.scratch_bytes for plan in own), SCRATCH_BYTES[f"{kind}_{products}"]
        if launches > LAUNCHES[products]:
            problems.append(f"{kind} {products}: {launches} launches a layer")
        if scratch > most:
            problems.append(f"{kind} {products}: {scratch / 1e6:.0f} MB of scratch memory")
    return problems


def _passes_over_budget(manifest: EngineManifest, layers: int) -> list[str]:
    """What whole passes' plans have too much of."""
    problems = []
    for plan in manifest.plans:
        if plan.launches > PASS_LAUNCHES * layers + 20:
            problems.append(f"{plan.engine}: {plan.launches} launches for {layers} layers")
        if plan.scratch_bytes > PASS_SCRATCH_BYTES:
            problems.append(f"{plan.engine}: {plan.scratch_bytes / 1e6:.0f} MB of scratch memory")
    return problems


if __name__ == "__main__":
    sys.exit(main())
