"""``export``: the student as ONNX files, plans for GPUs made of them, and a check of both."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shotstream_rt.backends import registry
from shotstream_rt.checks import check_one_of, check_range
from shotstream_rt.errors import BackendUnavailableError, ConfigError
from shotstream_rt.export.manifest import CODEC_FILE, FORMS, PRODUCTS, EngineManifest
from shotstream_rt.export.packages import require_writers
from shotstream_rt.loading.backend_request import backend_request, open_nano_codec, stream_config
from shotstream_rt.loading.placement import DTYPES
from shotstream_rt.terminal import say, tell, tell_json

if TYPE_CHECKING:
    from shotstream_rt.backends.request import BackendRequest
    from shotstream_rt.export.build import PlanReport
    from shotstream_rt.export.exporter import PassReport
    from shotstream_rt.model.nano.codec import NanoCodecNet

_GPU_LIBRARIES = ("rtx", "tensorrt")
_EXAMPLES = """\
Files hold no weights: those are read from the model when it is opened. `--form passes` writes whole
passes, which CPUs run fastest; `--form segments` writes what a block does around its attentions,
which our own kernels stand beside: for GPUs. `build` makes plans for TensorRT, without a GPU in the
case of TensorRT-RTX. `check` runs every graph and compares it with backend eager.

Examples:
  python -m shotstream_rt export nano --out nano-engines
  python -m shotstream_rt export check nano-engines
  python -m shotstream_rt generate --backend onnxruntime --engines nano-engines
  python -m shotstream_rt export DIR --out engines --form segments --dtype bfloat16 --products fp8
  python -m shotstream_rt export build engines --library rtx --target sm_89,sm_120
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("model", metavar="MODEL|build|check",
        help="nano or a checkpoint folder; or the word build or check")  # fmt: skip
    add("folder", nargs="?", metavar="DIR", type=Path, help="after build or check: an export")
    add("--out", metavar="DIR", type=Path, help="folder for the files; an export in it is replaced")
    add("--form", default="passes", help="passes (default), segments, or codec: nano's decoder")
    add("--products", default="exact", help="of segments: exact (default), fp8 or int8")
    add("--dtype", default="float32", help="float32 (default) or bfloat16")
    add("--size", metavar="HxW", help="frame size in multiples of 16 (default: the model's)")
    add("--any-weights", action="store_true",
        help="leave out the weights' digests: the engines take a LoRA and other weights of the "
        "same shapes as well")  # fmt: skip
    add("--model", dest="weights", metavar="MODEL", default="nano",
        help="for check: whose weights (default: nano)")  # fmt: skip
    add("--student", metavar="NAME", help="whose settings a student's file is run with; see `info`")
    add("--library", help="for check: onnxruntime (default) or openvino; for build: rtx or "
        "tensorrt")  # fmt: skip
    add("--target", metavar="SM,SM", help="for build: GPUs, such as sm_89,sm_120")
    add("--arena-frames", type=int, default=27, metavar="N",
        help="for build of whole passes: most slots they find keys in (default: 27)")  # fmt: skip
    add("--json", action="store_true", help="one JSON object as the last line of standard output")
    add("-q", "--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Export, or build or check what was exported."""
    check_one_of("--dtype", arguments.dtype, DTYPES)
    check_one_of("--form", arguments.form, FORMS)
    check_one_of("--products", arguments.products, PRODUCTS)
    if arguments.model == "check":
        return _check(arguments)
    if arguments.model == "build":
        return _build(arguments)
    return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    if arguments.folder is not None or arguments.out is None:
        raise ConfigError("export: wanted MODEL and --out DIR, build DIR, or check DIR")
    if arguments.products != "exact" and arguments.form != "segments":
        raise ConfigError("export: --products: whole passes are exact; add --form segments")
    require_writers()
    from shotstream_rt.export.exporter import export_graphs

    weights, codec = None, None
    config = stream_config(arguments.model, size=arguments.size, student=arguments.student)
    if not arguments.any_weights:
        weights = backend_request(
            arguments.model, size=arguments.size, student=arguments.student
        ).weights()
    if arguments.form == "passes":
        found = open_nano_codec(arguments.model, student=arguments.student)
        codec = None if found is None else found.net
    if arguments.form == "codec":
        codec = _nano_codec(arguments.model, arguments.student)
        weights = None if arguments.any_weights else codec.state_dict()
    reports: list[PassReport] = []

    def on_pass(report: PassReport) -> None:
        reports.append(report)
        if not arguments.quiet:
            say(f"{report.file:20} {report.nodes:6} operators {report.nbytes / 1e3:8.1f} kB "
                f"{report.seconds:6.1f} s")  # fmt: skip

    begun_s = time.monotonic()
    manifest = export_graphs(
        config, getattr(torch, arguments.dtype), arguments.out, form=arguments.form,
        products=arguments.products, weights=weights, codec=codec, on_pass=on_pass,
    )  # fmt: skip
    seconds = time.monotonic() - begun_s
    total = sum(report.nbytes for report in reports)
    tell(f"{arguments.out}: {len(reports)} {manifest.form}, {total / 1e6:.2f} MB, {seconds:.1f} s, "
         f"{manifest.dtype}, products {manifest.products}, opset {manifest.opset}")  # fmt: skip
    if arguments.json:
        digests = {entry.name: entry.sha256 for entry in manifest.passes}
        if (arguments.out / CODEC_FILE).is_file():
            beside = EngineManifest.read(arguments.out, CODEC_FILE)
            digests |= {entry.name: entry.sha256 for entry in beside.passes}
        tell_json(
            {
                "out": str(arguments.out), "form": manifest.form, "products": manifest.products,
                "dtype": manifest.dtype, "opset": manifest.opset, "seconds": round(seconds, 3),
                "passes": [dataclasses.asdict(report) | {"sha256": digests[report.name]}
                           for report in reports],
            }
        )  # fmt: skip
    return 0


def _build(arguments: argparse.Namespace) -> int:
    if arguments.folder is None or arguments.library is None or arguments.target is None:
        raise ConfigError("export build: wanted DIR, --library rtx or tensorrt, and --target SM,SM")
    check_one_of("--library", arguments.library, _GPU_LIBRARIES)
    check_range("--arena-frames", arguments.arena_frames, 1, 1 << 16)
    from shotstream_rt.export.build import build_plans
    from shotstream_rt.export.library import Library

    reports: list[PlanReport] = []

    def on_plan(report: PlanReport) -> None:
        reports.append(report)
        if not arguments.quiet:
            types = ", ".join(f"{count} {kind}" for kind, count in report.plan.gemm_types.items())
            say(f"{report.plan.engine:16} {report.plan.launches:5} launches  products {types}  "
                f"scratch {report.plan.scratch_bytes / 1e6:7.1f} MB  plan "
                f"{report.nbytes / 1e6:6.2f} MB {report.seconds:6.1f} s")  # fmt: skip

    library = Library.load(arguments.library)
    targets = arguments.target.split(",")
    begun_s = time.monotonic()
    build_plans(arguments.folder, library, targets, arguments.arena_frames, on_plan)
    seconds, total = time.monotonic() - begun_s, sum(report.nbytes for report in reports)
    tell(f"{arguments.folder}: {len(reports)} plans by {library.title} {library.version} for "
         f"{', '.join(targets)}, {total / 1e6:.2f} MB, {seconds:.1f} s")  # fmt: skip
    if arguments.json:
        tell_json(
            {
                "folder": str(arguments.folder), "library": library.name,
                "version": library.version, "targets": targets, "seconds": round(seconds, 3),
                "plans": [dataclasses.asdict(report) for report in reports],
            }
        )  # fmt: skip
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if arguments.folder is None:
        raise ConfigError("export check: wanted the folder that `export MODEL --out` wrote")
    name = arguments.library or "onnxruntime"
    check_one_of("--library", name, registry.ENGINE_LIBRARIES)
    manifest = EngineManifest.read(arguments.folder)
    if manifest.form == "codec":
        return _check_codec(arguments, name, manifest)
    if (arguments.folder / CODEC_FILE).is_file():
        beside = EngineManifest.read(arguments.folder, CODEC_FILE)
        quiet = argparse.Namespace(**{**vars(arguments), "json": False})
        if code := _check_codec(quiet, name, beside):
            return code
    request = backend_request(
        arguments.weights, size=arguments.size, dtype=manifest.dtype, engines=arguments.folder,
        student=arguments.student,
    )  # fmt: skip
    if manifest.products == "fp8":
        request = dataclasses.replace(request, lossy_parts=(manifest.products,))
    library = registry.engine_library(name)
    reason = library.unavailable_reason(request.device)
    if manifest.products != "int8":
        reason = reason or library.unfit(request)
    if reason is not None:
        raise BackendUnavailableError(f"export check: {reason}")
    for plan in manifest.plans:
        manifest.read_file(arguments.folder, plan)
    check = _check_segments if manifest.form == "segments" else _check_passes
    rows, worst, limit = check(arguments.folder, name, request, manifest)
    passed = all(row["passed"] for row in rows)
    tell(f"{'all passed' if passed else 'FAILED'}: worst {worst:.1e}, limit {limit}, {name} in "
         f"{manifest.dtype} against eager in float32")  # fmt: skip
    if arguments.json:
        tell_json(
            {
                "folder": str(arguments.folder), "library": name, "form": manifest.form,
                "products": manifest.products, "dtype": manifest.dtype, "passed": passed,
                "worst": worst, "limit": limit, manifest.form: rows,
                "plans": [dataclasses.asdict(plan) for plan in manifest.plans],
            }
        )  # fmt: skip
    return 0 if passed else 1


def _nano_codec(model: str, student: str | None) -> NanoCodecNet:
    codec = open_nano_codec(model, student=student)
    if codec is None:
        raise ConfigError(f"export: --form codec: {model} has a codec that is not exported; "
                          "wanted nano's")  # fmt: skip
    return codec.net


def _check_codec(arguments: argparse.Namespace, name: str, manifest: EngineManifest) -> int:
    """Decode two chunks beside torch.

    Args:
        arguments: of the command.
        name: of the library.
        manifest: of the folder.
    """
    from shotstream_rt.backends.engine_gate import LIMITS, codec_distances
    from shotstream_rt.backends.engine_passes import bind_weights, load_passes

    config = stream_config(arguments.weights, size=arguments.size, student=arguments.student)
    manifest.check_fits(config, manifest.dtype, arguments.folder)
    net = _nano_codec(arguments.weights, arguments.student)
    library, threads = registry.engine_library(name), torch.get_num_threads()
    reason = library.unavailable_reason(torch.device("cpu"))
    if reason is not None:
        raise BackendUnavailableError(f"export check: {reason}")
    weights = bind_weights(manifest, net.state_dict(), torch.float32, arguments.weights)
    runs = load_passes(manifest, arguments.folder, weights, library.load, threads)
    found, limit = codec_distances(runs, manifest, net), LIMITS[torch.float32]
    passed = all(distance <= limit for distance in found.values())
    for graph, distance in found.items():
        tell(f"{'pass' if distance <= limit else 'FAIL'}  {graph:16} {distance:.1e}")
    tell(f"{'all passed' if passed else 'FAILED'}: worst {max(found.values()):.1e}, limit "
         f"{limit:.0e}, {name} against torch")  # fmt: skip
    if arguments.json:
        tell_json({"folder": str(arguments.folder), "library": name, "form": manifest.form,
                   "passed": passed, "limit": limit, "codec": found})  # fmt: skip
    return 0 if passed else 1


def _check_passes(
    folder: Path, name: str, request: BackendRequest, manifest: EngineManifest
) -> tuple[list[dict[str, Any]], float, str]:
    """Compare whole passes with eager: rows for the report, the largest distance, the limit.

    Args:
        folder: of the passes.
        name: of the library.
        request: whose weights.
        manifest: of the folder.
    """
    from shotstream_rt.backends.engine_backend import EngineBackend
    from shotstream_rt.backends.engine_gate import LIMITS, pass_distances

    backend = EngineBackend(request, name, registry.engine_library(name).load, gate=False)
    limit, rows = LIMITS[request.dtype], []
    for found in pass_distances(backend, request):
        latents = "-" if found.latents is None else f"{found.latents:.1e}"
        passed = found.worst <= limit
        tell(f"{'pass' if passed else 'FAIL'}  {found.name:12} latents {latents:8} keys "
             f"{found.keys:.1e}  values {found.values:.1e}")  # fmt: skip
        rows.append(dataclasses.asdict(found) | {"worst": found.worst, "passed": passed})
    backend.close()
    return rows, max(row["worst"] for row in rows), f"{limit:.0e}"


def _check_segments(
    folder: Path, name: str, request: BackendRequest, manifest: EngineManifest
) -> tuple[list[dict[str, Any]], float, str]:
    """Compare segments with blocks; see ``_check_passes``.

    Args:
        folder: of the segments.
        name: of the library.
        request: whose weights.
        manifest: of the folder.
    """
    from shotstream_rt.backends.engine_gate import LIMITS, OWN_RATIO, segment_distances
    from shotstream_rt.backends.engine_passes import load_passes
    from shotstream_rt.backends.segment_backend import (
        LibrarySegments,
        engine_student,
        product_student,
    )

    student = product_student(request, manifest)
    own = segment_distances(student, request, manifest.products)
    load = registry.engine_library(name).load
    runner = LibrarySegments(load_passes(manifest, folder, {}, load, torch.get_num_threads()))
    engines = engine_student(student, request.config, runner)
    exact, rows = request.dtype == torch.float32, []
    for found, plain in zip(
        segment_distances(engines, request, manifest.products), own, strict=True
    ):
        limit = LIMITS[request.dtype] if exact else OWN_RATIO * plain.distance
        passed = found.distance <= limit
        place = "" if found.layer is None else f"layer {found.layer}"
        tell(f"{'pass' if passed else 'FAIL'}  {found.name:16} {place:9} {found.distance:.1e}  "
             f"torch {plain.distance:.1e}")  # fmt: skip
        rows.append(dataclasses.asdict(found) | {"torch": plain.distance, "passed": passed})
    limit_text = f"{LIMITS[request.dtype]:.0e}" if exact else f"{OWN_RATIO} times torch's own"
    return rows, max(row["distance"] for row in rows), limit_text
