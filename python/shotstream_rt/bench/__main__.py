"""The command line of the bench: ``python -m shotstream_rt.bench``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shotstream_rt import env
from shotstream_rt.checks import check_one_of
from shotstream_rt.errors import ConfigError
from shotstream_rt.outputs import check_file_target
from shotstream_rt.profiles import PROFILES
from shotstream_rt.terminal import CommandParser, log_handler, run_command, tell, tell_json

from . import report
from .compare import STATISTICS, compare_paths
from .measurement import Measurement
from .options import DTYPES, BenchOptions
from .record import BenchRecord, write_record
from .runner import run
from .workloads import Workload, bundled_workloads, find_workload, student_workload

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


def parser() -> argparse.ArgumentParser:
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


def compare_parser() -> argparse.ArgumentParser:
    """Return the parser of ``compare``."""
    out = CommandParser(
        prog="python -m shotstream_rt.bench compare",
        description="Compare two records, or two folders of records, metric by metric; exit code "
        "1 when one got worse by more than the workload's tolerance.",
    )
    out.add_argument("base", help="the record before, or a folder")
    out.add_argument("new", help="the record after, or a folder")
    out.add_argument(
        "--tolerance", type=float, metavar="RATIO",
        help="accept up to this ratio for every metric, such as 1.1 (default: the workload's own)",
    )  # fmt: skip
    out.add_argument(
        "--statistic", choices=STATISTICS, default="p50",
        help="which statistic decides (default p50)",
    )  # fmt: skip
    out.add_argument("--json", action="store_true", help="print the verdicts as one JSON line")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_command(arguments, lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING, handlers=[log_handler("%(message)s")])
    logging.getLogger("shotstream_rt.bench").setLevel(logging.INFO)
    if arguments[:1] == ["compare"]:
        return _compare(arguments[1:])
    if arguments[:1] == ["profile"]:
        return _profile(arguments[1:])
    if arguments[:1] == ["startup"]:
        return _startup(arguments[1:])
    if arguments[:1] == ["serve"]:
        return _serve(arguments[1:])
    if arguments[:1] == ["prove"]:
        return _prove(arguments[1:])
    return _measure(arguments)


def _compare(arguments: list[str]) -> int:
    asked = compare_parser().parse_args(arguments)
    verdicts = compare_paths(
        asked.base, asked.new, tolerance=asked.tolerance, statistic=asked.statistic
    )
    if asked.json:
        tell_json([verdict.to_dict() for verdict in verdicts])
    else:
        tell(*report.verdict_table(verdicts).splitlines())
    return 0 if all(verdict.accepted for verdict in verdicts) else 1


def _profile(arguments: list[str]) -> int:
    from .profile_run import profile, profile_parser

    asked = profile_parser().parse_args(arguments)
    with _kernels(asked.kernels):
        profile(asked)
    return 0


def _startup(arguments: list[str]) -> int:
    from .startup_run import measure_startup, startup_parser

    asked = startup_parser().parse_args(arguments)
    if asked.plot is not None:
        from .plots import PICTURES, require_matplotlib

        require_matplotlib()
        check_one_of("plot: ending", Path(asked.plot).suffix.lower(), PICTURES)
        check_file_target(asked.plot)
    found = measure_startup(asked, arguments)
    if asked.plot is not None:
        from .plots import draw_startup

        draw_startup(found, Path(asked.plot))
    if asked.json:
        tell_json(found.to_dict())
    else:
        tell(*found.lines())
    return 0


def _serve(arguments: list[str]) -> int:
    try:
        from .serve_options import serve_options, serve_parser, serve_workload
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"bench serve: the package {error.name} is not installed; "
            "pip install 'shotstream_rt[serve]'"
        ) from error
    asked = serve_parser().parse_args(arguments)
    _check_plots(asked.plots)
    workload = serve_workload(find_workload("nano-serve"), asked)
    options = serve_options(workload, asked)
    out = _checked_out(asked.out)
    # The fragment of an address is a token, which is in no record.
    words = [word.partition("#")[0] for word in arguments]
    with _kernels(asked.kernels):
        record, measured = run(workload, options, ["serve", *words], out=out)
    _draw_plots(record, measured, asked.plots)
    _hand_over(record, out, as_json=asked.json)
    return _exit_code(record) or int(bool(record.method.get("errors")))


def _prove(arguments: list[str]) -> int:
    from .prove import prove, prove_parser

    asked = prove_parser().parse_args(arguments)
    for proof in prove(asked):
        figures = ", ".join(f"{row.kernel_set} {row.denoise_fps:.1f}" for row in proof.ranking)
        print(f"{proof.gpu}, {proof.dtype}, {proof.workload}: {figures}")  # noqa: T201
    return 0


def _measure(arguments: list[str]) -> int:
    cli = parser()
    asked = cli.parse_args(arguments)
    if asked.list:
        for workload in bundled_workloads().values():
            tell(f"{workload.id:16} {workload.kind:8} {workload.title}")
        for profile in PROFILES.values():
            note = f"; lossy: {profile.changes}" if profile.lossy else ""
            tell(f"{profile.name:16} {'profile':8} {profile.summary}{note}")
        return 0
    workload = _workload(cli, asked)
    _check_plots(asked.plots)
    out = _checked_out(asked.out)
    repeats = asked.repeats
    if repeats is None:
        repeats = {"film": 2, "interactive": 1}.get(workload.kind, 5)
    options = BenchOptions(
        device=asked.device, backend=asked.backend, kernels=asked.kernels, profile=asked.profile,
        dtype=asked.dtype, lora=asked.lora, ema=asked.ema, engines=asked.engines,
        student=None if asked.model is None else asked.student, threads=asked.threads,
        warmup=asked.warmup,
        repeats=repeats,
        full_check=asked.full_check, baseline=asked.baseline, roofline=asked.roofline,
        quick=asked.quick,
    )  # fmt: skip
    with _kernels(asked.kernels):
        record, measured = run(workload, options, arguments, out=out)
    _draw_plots(record, measured, asked.plots)
    _hand_over(record, out, as_json=asked.json)
    return _exit_code(record)


def _check_plots(folder: str | None) -> None:
    """Check that plots can be drawn, where some were asked for."""
    if folder is not None:
        from .plots import require_matplotlib

        require_matplotlib()


def _draw_plots(record: BenchRecord, measured: Measurement | None, folder: str | None) -> None:
    """Draw plots, where some were asked for and the film was the right one."""
    if folder is not None and measured is not None and record.status == "ok":
        from .plots import draw

        draw(record, measured, Path(folder))


def _checked_out(out: str | None) -> Path | None:
    """Return where a record goes, once it is clear that it can be written there."""
    if out is None:
        return None
    path = Path(out)
    check_file_target(path / "record.json" if path.is_dir() else path)
    return path


def _hand_over(record: BenchRecord, out: Path | None, *, as_json: bool) -> None:
    """Write and print a record."""
    if out is not None:
        path = write_record(record, out)
        logging.getLogger("shotstream_rt.bench").info("record: %s", path)
    if as_json:
        tell_json({**record.to_dict(), **record.headline()})
    else:
        tell(*report.record_table(record).splitlines())


@contextmanager
def _kernels(name: str | None) -> Iterator[None]:
    """Make every model that is loaded inside the ``with`` block use this kernel set."""
    before = os.environ.get(env.KERNEL_SET)
    if name is not None:
        os.environ[env.KERNEL_SET] = name
    try:
        yield
    finally:
        if name is not None:
            os.environ.pop(env.KERNEL_SET)
            if before is not None:
                os.environ[env.KERNEL_SET] = before


def _exit_code(record: BenchRecord) -> int:
    return {"ok": 0, "unsupported": 2}.get(record.status, 1)


def _workload(cli: argparse.ArgumentParser, asked: argparse.Namespace) -> Workload:
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


if __name__ == "__main__":
    sys.exit(main())
