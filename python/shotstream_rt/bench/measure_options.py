"""The words of ``python -m shotstream_rt.bench`` itself: a run that measures."""

from __future__ import annotations

import argparse

from shotstream_rt.terminal import CommandParser

from .options import DTYPES, BenchOptions
from .workloads import Workload, find_workload, student_workload

_EPILOG = """\
what is measured
  student passes alone   --student CONFIG.json --random-weights --no-vae, or
                         --workload student-256x4; CONFIG.json has dim, ffn_dim, num_heads,
                         num_layers, text_dim, text_len, latent_height, latent_width
  a whole film           --model NAME|DIR, or --workload nano-story (the default): prompts into a
                         session, uint8 frames on the host out of it
  a person who directs   --interactive: cuts, prompts, retakes (and undos) at random moments, a
                         reader at a quarter of the rate and one at all of it

what comes out
  Every run is checked against the float32 reference on the same weights, plan and noise; without
  a pass there are no figures. shot_s: seconds of one shot's student passes (shot_cpu_s: what the
  calling thread worked meanwhile). denoise_fps: frames per second of the student alone, all five
  passes of a chunk counted; denoise_no_commit_fps: without the clean pass, as some publish theirs;
  worst_chunk_fps: at its slowest chunk. e2e_fps: to frames on the host. chunk_ms.N: denoising of
  a shot's N-th chunk; step_ms.N, commit_ms.N and vae_decode_ms.N likewise. --baseline adds plain
  eager torch, run by turns, and every figure's ratio to it; on a GPU it attends by cuDNN and by
  FlashAttention in turn, and the faster one counts. --roofline adds every stage's floor at the
  ceilings measured here. --interactive: from an ask to the first frame that it changed,
  KIND_made (made) and KIND_shown (shown), in ms and in times of a chunk, and KIND_stale_frames
  (shown in between), by reader: .slow and .full. Lossy profiles tell their distance to exact
  (fidelity). One row per metric with n, min, p50, p95, p99 and max; the record (--json, --out)
  also tells machine, software, commit and command.

examples
  python -m shotstream_rt.bench --threads 2
  python -m shotstream_rt.bench --workload student-256x4 --threads 1 --dtype bfloat16 --json
  python -m shotstream_rt.bench --model nano --shots 3 --out before.json --plots plots
  python -m shotstream_rt.bench --workload student-256x4 --baseline --roofline
  python -m shotstream_rt.bench --interactive --out live.json
  python -m shotstream_rt.bench compare before.json after.json
  python -m shotstream_rt.bench profile --workload nano-story --summary --memory
  python -m shotstream_rt.bench startup --plot startup.png
  python -m shotstream_rt.bench serve --sessions 8 --viewers 4 --seconds 300
  python -m shotstream_rt.bench prove bench/results/h200

exit codes
  0 measured; 1 not correct, out of memory, or worse than the baseline; 2 a mistake in the call
"""


def measure_parser() -> argparse.ArgumentParser:
    """Return the parser of a measuring run."""
    out = CommandParser(
        prog="python -m shotstream_rt.bench",
        description="Measure how fast a film streams, and check that it is the right film.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = out.add_argument_group("what to run")
    film = what.add_mutually_exclusive_group()
    film.add_argument("--workload", metavar="ID", help="a declared workload; see --list")
    film.add_argument("--model", metavar="NAME|PATH", help="a film with this model")
    what.add_argument(
        "--student", metavar="NAME|CONFIG.json",
        help="the student alone: one of the family at its released size, or of this shape; with "
        "--model, whose settings the file is run with",
    )  # fmt: skip
    out.add_argument(
        "--random-weights", action="store_true", help="with --student: weights from a fixed seed"
    )
    out.add_argument(
        "--no-vae", action="store_true", help="student passes alone (what --student measures)"
    )
    out.add_argument("--shots", type=int, metavar="N", help="shots of the film")
    out.add_argument(
        "--interactive", action="store_true",
        help="how soon the picture follows cuts, prompts, retakes and undos (workload nano-live)",
    )  # fmt: skip
    out.add_argument(
        "--asks", type=int, metavar="N", help="of each kind, with --interactive (default 30)"
    )
    out.add_argument(
        "--list", action="store_true", help="list the workloads and profiles, and stop"
    )
    how = out.add_argument_group("how to run it")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    how.add_argument("--backend", default="auto", help="auto or a backend's name (default auto)")
    how.add_argument("--engines", metavar="DIR", help="what `export` wrote, for such a backend")
    how.add_argument(
        "--kernels", metavar="SET", help="kernel set and its parts, such as triton+cudnn"
    )
    how.add_argument("--profile", default="exact", help="a name that --list shows (default exact)")
    how.add_argument("--dtype", choices=tuple(DTYPES), help="default: the model's own choice")
    how.add_argument("--lora", metavar="FILE|DIR", help="of a film: LoRA merged into the student")
    how.add_argument(
        "--ema", action="store_true", help="of a film: running average of a trainer's checkpoint"
    )
    how.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    how.add_argument(
        "--warmup", type=int, default=1, metavar="N", help="uncounted runs first (default 1)"
    )
    how.add_argument(
        "--repeats", type=int, metavar="N", help="counted runs (default 5, of a film 2)"
    )
    how.add_argument(
        "--full-check", action="store_true", help="check a whole shot, not its first two chunks"
    )
    how.add_argument(
        "--baseline", action="store_true",
        help="run plain eager torch by turns with it; every figure then has its ratio",
    )  # fmt: skip
    how.add_argument(
        "--roofline", action="store_true",
        help="measure the device's ceilings; tell floor and percent of floor of every stage",
    )  # fmt: skip
    how.add_argument(
        "--quick", action="store_true",
        help="check two chunks of a lossy profile too (on a GPU by tf32 products), leave out its "
        "film's distance to exact, and change no captions",
    )  # fmt: skip
    where = out.add_argument_group("where results go")
    where.add_argument(
        "--out", metavar="PATH",
        help="write the record to this file or folder; until the check is done, what was measured "
        "is there as NAME.unchecked.json with status not checked",
    )  # fmt: skip
    where.add_argument("--json", action="store_true", help="print the record as one JSON line")
    where.add_argument("--plots", metavar="DIR", help="draw plots (needs matplotlib)")
    return out


def measure_workload(cli: argparse.ArgumentParser, asked: argparse.Namespace) -> Workload:
    """Return the workload that was asked for; what it does not go with ends the program.

    Args:
        cli: what ``measure_parser`` returned.
        asked: what it parsed.
    """
    if asked.shots is not None and not 1 <= asked.shots <= 1000:
        cli.error(f"--shots: got {asked.shots}, wanted 1 to 1000")
    if asked.student is not None and asked.model is None:
        if asked.workload is not None:
            cli.error("--student does not go with --workload")
        if asked.interactive:
            cli.error("--interactive goes with a film: --student makes no frames")
        if asked.lora is not None or asked.ema:
            cli.error("--lora and --ema go with a film: --student has random weights")
        if not asked.random_weights:
            cli.error("--student describes a shape only: add --random-weights")
        return student_workload(asked.student, shots=asked.shots or 1)
    if asked.random_weights:
        cli.error("--random-weights goes with --student NAME or CONFIG.json, without --model")
    workload = find_workload(asked.workload or ("nano-live" if asked.interactive else "nano-story"))
    if asked.interactive and workload.kind != "interactive":
        cli.error(f"--interactive goes with an interactive workload, not with {workload.id}")
    if workload.kind == "interactive":
        return _interactive(cli, asked, workload)
    if asked.asks is not None:
        cli.error("--asks goes with --interactive")
    if workload.kind == "serve":
        cli.error(f"--workload {workload.id}: a server is measured by: bench serve")
    if workload.kind == "kernels":
        cli.error(f"--workload {workload.id}: kernels are measured by: pytest bench --workload ID")
    if asked.no_vae and workload.kind == "film":
        cli.error("--no-vae goes with --student, or with a workload of kind student")
    if workload.kind == "student" and (asked.lora is not None or asked.ema):
        cli.error(f"--lora and --ema go with a film: {workload.id} has random weights")
    changes = {"model": asked.model, "shots": asked.shots}
    return workload.with_recipe(**{key: value for key, value in changes.items() if value})


def measure_options(workload: Workload, asked: argparse.Namespace) -> BenchOptions:
    """Return how a workload is to be measured.

    Args:
        workload: what ``measure_workload`` returned.
        asked: what ``measure_parser`` parsed.

    Raises:
        ConfigError: an option is out of range.
    """
    repeats = asked.repeats
    if repeats is None:
        repeats = {"film": 2, "interactive": 1}.get(workload.kind, 5)
    return BenchOptions(
        device=asked.device, backend=asked.backend, kernels=asked.kernels, profile=asked.profile,
        dtype=asked.dtype, lora=asked.lora, ema=asked.ema, engines=asked.engines,
        student=None if asked.model is None else asked.student, threads=asked.threads,
        warmup=asked.warmup,
        repeats=repeats,
        full_check=asked.full_check, baseline=asked.baseline, roofline=asked.roofline,
        quick=asked.quick,
    )  # fmt: skip


def _interactive(
    cli: argparse.ArgumentParser, asked: argparse.Namespace, workload: Workload
) -> Workload:
    """Return the workload with what was asked for, and refuse what would not be measured."""
    for name in ("shots", "repeats", "no_vae", "baseline", "roofline", "quick", "plots"):
        if getattr(asked, name):
            cli.error(f"--{name.replace('_', '-')} does not go with --interactive")
    if asked.asks is not None and not 1 <= asked.asks <= 1000:
        cli.error(f"--asks: got {asked.asks}, wanted 1 to 1000")
    changes = {"model": asked.model, "asks": asked.asks}
    return workload.with_recipe(**{key: value for key, value in changes.items() if value})
