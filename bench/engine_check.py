"""TensorRT engines on a GPU that has them: export, build, open cold and warm, and play beside ours.

``make engine-check OUT=DIR`` runs it. Opening compares every segment and every pass with the kernel
set and fails with the distance. DIR gets the engines and ``report.json``. ``--rehearse`` runs the
same steps without a GPU: plans are built for sm_89, and onnxruntime stands in for TensorRT.

exit codes: 0 all steps passed; 1 one failed; 3 there is no GPU that TensorRT-RTX builds for
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.bench.random_checkpoint import resolve_model
from shotstream_rt.cli import main as command
from shotstream_rt.errors import ShotStreamError
from shotstream_rt.export.library import Library
from shotstream_rt.session import Session

PROMPT = "wide shot of a red cat on a beach"


def main(words: list[str] | None = None) -> int:
    """Run all steps; write the report after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--model", default="nano", help="or random-1.3b (default: nano)")
    parser.add_argument("--products", choices=("exact", "fp8"), default="exact")
    parser.add_argument("--chunks", type=int, default=7, help="to play (default: 7)")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    asked = parser.parse_args(words)
    library, target = Library.load("rtx"), "sm_89"
    device, dtype, engine, plain = "cpu", "float32", "onnxruntime", "eager"
    if not asked.rehearse:
        able = library.targets()
        if not torch.cuda.is_available():
            print("no CUDA device is visible to torch")  # noqa: T201
            return 3
        target = "sm_{}{}".format(*torch.cuda.get_device_capability())
        if target not in able:
            print(f"this GPU is {target}; TensorRT-RTX builds for {', '.join(able)}")  # noqa: T201
            return 3
        device, dtype, engine, plain = "cuda", "bfloat16", "tensorrt", "cuda_graph"
    asked.out.mkdir(parents=True, exist_ok=True)
    os.environ["SHOTSTREAM_CACHE_DIR"] = str(asked.out / "cache")  # so that the first start is cold
    model, engines = resolve_model(asked.model), asked.out / "engines"
    profile = "exact" if asked.products == "exact" else asked.products
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "target": target,
        "library": library.version, "model": asked.model, "dtype": dtype, "steps": {},
    }  # fmt: skip

    def played(backend: str, folder: Path | None) -> dict[str, Any]:
        return _play(
            asked.chunks, model, backend=backend, device=device, dtype=dtype, profile=profile,
            engines=folder,
        )  # fmt: skip

    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "export": lambda: _command(["export", model, "--out", str(engines), "--form", "segments",
                                    "--dtype", dtype, "--products", asked.products, "-q"]),
        "build": lambda: _command(["export", "build", str(engines), "--library", "rtx",
                                   "--target", target]),
        "cold": lambda: played(engine, engines),
        "warm": lambda: played(engine, engines),
        plain: lambda: played(plain, None),
    }  # fmt: skip
    for name, step in steps.items():
        begun_s = time.monotonic()
        try:
            found = step() | {"passed": True}
        except (ShotStreamError, RuntimeError) as error:
            found = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        report["steps"][name] = found | {"seconds": round(time.monotonic() - begun_s, 3)}
        print(f"{name:12} {report['steps'][name]}", flush=True)  # noqa: T201
        (asked.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        if not found["passed"]:
            return 1
    return 0


def _command(words: list[str]) -> dict[str, Any]:
    """Run a command of the package."""
    code = command(words)
    if code:
        raise RuntimeError(f"{' '.join(words)}: exit code {code}")
    return {}


def _play(chunks: int, model: str, **how: Any) -> dict[str, Any]:
    """Open a model and play some chunks.

    Args:
        chunks: how many.
        model: name or folder.
        how: as for ``Session.open``.
    """
    on_gpu = how["device"] == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    begun_s, made = time.perf_counter(), []
    with Session.open(model, seed=7, **how) as session:
        opened_s = time.perf_counter()
        session.cut(PROMPT)
        for chunk in session.chunks():
            made.append(time.perf_counter())
            if len(made) == chunks:
                break
            del chunk
    gaps = sorted(later - sooner for sooner, later in itertools.pairwise(made))
    return {
        "open_s": round(opened_s - begun_s, 3),
        "first_chunk_s": round(made[0] - opened_s, 4),
        "chunk_ms_median": round(1e3 * gaps[len(gaps) // 2], 2) if gaps else None,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


if __name__ == "__main__":
    sys.exit(main())
