"""The command line of the bench: ``python -m shotstream_rt.bench``."""

from __future__ import annotations

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
from shotstream_rt.terminal import log_handler, run_command, tell, tell_json

from . import report
from .compare import compare_parser, compare_paths
from .measure_options import measure_options, measure_parser, measure_workload
from .measurement import Measurement
from .record import BenchRecord, write_record
from .runner import run
from .workloads import bundled_workloads, find_workload


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
    cli = measure_parser()
    asked = cli.parse_args(arguments)
    if asked.list:
        for workload in bundled_workloads().values():
            tell(f"{workload.id:16} {workload.kind:8} {workload.title}")
        for profile in PROFILES.values():
            note = f"; lossy: {profile.changes}" if profile.lossy else ""
            tell(f"{profile.name:16} {'profile':8} {profile.summary}{note}")
        return 0
    workload = measure_workload(cli, asked)
    _check_plots(asked.plots)
    out = _checked_out(asked.out)
    options = measure_options(workload, asked)
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


if __name__ == "__main__":
    sys.exit(main())
