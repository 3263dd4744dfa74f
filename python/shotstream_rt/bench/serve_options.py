"""The words of ``python -m shotstream_rt.bench serve``."""

from __future__ import annotations

import argparse
from typing import Any

from shotstream_rt.errors import ConfigError
from shotstream_rt.terminal import CommandParser

from .options import BenchOptions, add_how
from .serve_player import Address
from .workloads import Workload

_EPILOG = """\
what is measured
  The server runs in a process of its own. Every film has one player that directs it and others
  that watch. Players begin with a start buffer, show a frame when it is due, stall while it is not
  there, and decode nothing. The span of SECONDS begins when everybody sees something.

what comes out
  play_ratio: of each player, the share of the time in which the picture went on; film_play_ratio:
  of each film; stall_count, stalled_s: of each player. first_frame_ms.director: from the first cut
  of a film; .viewer: from connecting to a film that plays. cut_shown_ms: from a later cut to its
  first frame. film_fps: of each film; fairness_ratio: frames of the film with the least over those
  of the film with the most. server_cpu_ms: CPU time of the server for each frame of a film,
  loop_cpu_ms: of its thread that talks with the viewers; encode_cpu_ms: of encoding a frame;
  viewer_cost_encodes: what one viewer more costs for each frame, in encodes (with several numbers
  of viewers), by the whole process (.process) and by that thread (.loop). server_memory_mib;
  memory_growth_mib: a minute, after the first one (of runs of four minutes and more); the record
  has how memory went (method.memory).
  worst_film_gain: how many times better the worst film plays with the first policy than with the
  others, round by round. Films that wait in the queue are told in the record (method.films), with
  their places. The first frames of the first film are compared with the same film made alone;
  without a pass there are no figures.

examples
  python -m shotstream_rt.bench serve --sessions 2 --viewers 4 --seconds 30
  python -m shotstream_rt.bench serve --sessions 8 --viewers 4 --seconds 300 --out load.json
  python -m shotstream_rt.bench serve --sessions 1 --viewers 1,8,32 --seconds 30 --rounds 3
  python -m shotstream_rt.bench serve --sessions 8 --policy slack,first_come --rounds 2
  python -m shotstream_rt.bench serve --url 'http://127.0.0.1:8716/#token=...' --model nano
  python -m shotstream_rt.bench compare before.json after.json

exit codes
  0 measured; 1 not the right film, or a player met an error; 2 a mistake in the call, or no server
"""


def serve_parser() -> argparse.ArgumentParser:
    """Return the parser of ``serve``."""
    out = CommandParser(
        prog="python -m shotstream_rt.bench serve",
        description="Let simulated players watch films of a real server, and tell how they play "
        "and what it costs. See docs/operate.md.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = out.add_argument_group("what to run (default: the workload nano-serve)")
    what.add_argument("--sessions", type=int, metavar="N", help="films at one time (default 2)")
    what.add_argument(
        "--viewers", metavar="M[,M...]",
        help="of each film, one of whom directs (default 4); several numbers: by turns",
    )  # fmt: skip
    what.add_argument("--seconds", type=int, metavar="S", help="of each turn (default 30)")
    what.add_argument(
        "--policy", metavar="P[,P]",
        help="of the server's scheduler; several: by turns (default: the server's own)",
    )  # fmt: skip
    what.add_argument(
        "--capacity", type=int, metavar="N",
        help="films that play at one time, the others wait in line (default: the server measures)",
    )  # fmt: skip
    what.add_argument(
        "--rounds", type=int, metavar="R",
        help="how often every turn is measured (default 1; if there are several turns, 2)",
    )  # fmt: skip
    what.add_argument(
        "--cut-every", metavar="S[,S...]",
        help="seconds from cut to cut, 0 for none (default 8); several: of the films in turn",
    )  # fmt: skip
    what.add_argument(
        "--start-buffer", type=float, metavar="S",
        help="seconds of film that a player holds before it begins (default 0.125)",
    )  # fmt: skip
    what.add_argument("--model", metavar="NAME|DIR", help="what the server plays (default nano)")
    what.add_argument(
        "--url", metavar="URL",
        help="a server that runs already, with its token, as `serve` prints it; of another process "
        "neither CPU time nor memory are read",
    )  # fmt: skip
    add_how(out.add_argument_group("how the server makes films"))
    where = out.add_argument_group("where results go")
    where.add_argument("--out", metavar="PATH", help="write the record to this file or folder")
    where.add_argument("--json", action="store_true", help="print the record as one JSON line")
    where.add_argument("--plots", metavar="DIR", help="draw how memory went (needs matplotlib)")
    return out


def serve_workload(workload: Workload, asked: argparse.Namespace) -> Workload:
    """Return the workload with what was asked for.

    Args:
        workload: of kind ``serve``.
        asked: what ``serve_parser`` parsed.

    Raises:
        ConfigError: something that cannot be measured.
    """
    changes: dict[str, Any] = {
        "sessions": _within("--sessions", asked.sessions, 1, 1000),
        "seconds": _within("--seconds", asked.seconds, 1, 86400),
        "start_buffer_s": _within("--start-buffer", asked.start_buffer, 0, 60),
        "capacity": _within("--capacity", asked.capacity, 1, 1000),
        "model": asked.model,
    }
    if asked.viewers is not None:
        changes["viewers"] = _numbers("--viewers", asked.viewers, 1, 1000)
    if asked.cut_every is not None:
        changes["cut_every_s"] = _numbers("--cut-every", asked.cut_every, 0, 86400)
    if asked.policy is not None:
        changes["policies"] = asked.policy.split(",")
    if asked.url is not None and (asked.policy or asked.capacity) is not None:
        raise ConfigError(
            "--policy and --capacity go with a server that is started here, not with --url"
        )
    for name in ("viewers", "policies"):
        if len(set(changes.get(name, ()))) != len(changes.get(name, ())):
            raise ConfigError(f"--{'policy' if name == 'policies' else name}: one of them twice")
    return workload.with_recipe(**{k: value for k, value in changes.items() if value is not None})


def serve_options(workload: Workload, asked: argparse.Namespace) -> BenchOptions:
    """Return how the workload is run.

    Args:
        workload: what ``serve_workload`` returned.
        asked: what ``serve_parser`` parsed.

    Raises:
        ConfigError: an option is not usable.
    """
    turns = len(workload.recipe["viewers"]) * max(1, len(workload.recipe["policies"]))
    rounds = asked.rounds if asked.rounds is not None else 1 if turns == 1 else 2
    if asked.url is not None:
        Address.of(asked.url)
    return BenchOptions(
        device=asked.device, backend=asked.backend, kernels=asked.kernels, profile=asked.profile,
        dtype=asked.dtype, threads=asked.threads, warmup=0, url=asked.url,
        repeats=_within("--rounds", rounds, 1, 1000),
    )  # fmt: skip


def _numbers(name: str, words: str, low: int, high: int) -> list[int]:
    try:
        numbers = [int(word) for word in words.split(",")]
    except ValueError:
        raise ConfigError(f"{name}: got {words!r}, wanted numbers such as 1,8,32") from None
    return [int(_within(name, number, low, high)) for number in numbers]


def _within(name: str, value: Any, low: float, high: float) -> Any:
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{name}: got {value}, wanted {low} to {high}")
    return value
