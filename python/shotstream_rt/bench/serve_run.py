"""A load test of the server: ``python -m shotstream_rt.bench serve``.

The real server runs in a process of its own; this one has simulated players, each with a socket, a
start buffer and stalls. A turn is a number of films with a number of viewers each, for a span of
time that begins when everybody sees something. Several numbers of viewers, or several policies of
the scheduler, are measured by turns in one run, every second round backwards, so that other load on
the machine spoils all of them alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from shotstream_rt.backends.base import BackendInfo
from shotstream_rt.loading.load_model import Model

from .film_run import find_story
from .measurement import Measurement, SaveUnchecked
from .options import BenchOptions
from .random_checkpoint import resolve_model
from .serve_check import compare_served, encodes_ms, film_alone
from .serve_figures import films_told, memory_told, turn_figures, viewer_costs, worst_film_gains
from .serve_player import Address
from .serve_process import ServerProcess, started
from .serve_turn import KEPT_FRAMES, Turn, TurnPlan, play_turn
from .stopwatch import Stopwatch
from .workloads import Workload

_log = logging.getLogger("shotstream_rt.bench")

_ERRORS_KEPT = 20


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of turn: how many watch, under which policy; its mark in names of metrics."""

    viewers: int
    policy: str | None
    mark: str


def measure_serve(
    workload: Workload, options: BenchOptions, save_unchecked: SaveUnchecked
) -> Measurement:
    """Run a ``serve`` workload.

    Args:
        workload: of kind ``serve``.
        options: how; ``repeats`` rounds, at ``url`` if it is given.
        save_unchecked: gets the measurement before its correctness check begins.

    Raises:
        ConfigError: the recipe or an option is not usable.
        ShotStreamError: the server does not start, opens no films or shows nothing.
    """
    recipe = workload.recipe
    texts = tuple(find_story(recipe["story"]).shots)
    kinds = _kinds(recipe["viewers"], recipe["policies"])
    turns: dict[_Kind, list[Turn]] = {kind: [] for kind in kinds}
    for number in range(options.repeats):
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            _log.info("round %d of %d, %s", number + 1, options.repeats, kind.mark or "one turn")
            plan = TurnPlan(
                sessions=recipe["sessions"], viewers=kind.viewers, seconds=recipe["seconds"],
                cut_every_s=tuple(recipe["cut_every_s"]), texts=texts, seed=recipe["seed"],
            )  # fmt: skip
            with _server(recipe, options, kind.policy) as server:
                turns[kind].append(play_turn(server, plan))
    first = next(iter(turns.values()))[0]
    stats, log = first.stats, first.films[0][0]
    with _model(recipe, options, stats) as model:
        wanted = film_alone(
            model, texts[0], seed=recipe["seed"], threads=options.threads, frames=KEPT_FRAMES
        )
    encode_ms = encodes_ms(wanted, log.rate_hz)
    samples = {**_samples(turns, recipe, median(encode_ms)), "encode_cpu_ms": encode_ms}
    measurement = Measurement(
        # The server does not tell the bytes of its backend.
        info=BackendInfo(
            name=stats["backend"], kernel_set=stats["kernel_set"], device=stats["device"],
            dtype=stats["dtype"], cache_bytes=0, weight_bytes=0,
        ),
        samples=samples,
        correctness=None,
        timer=Stopwatch(torch.device("cpu")).timer,
        consumer="players",
        notes={
            "films": {
                kind.mark or "all": [films_told(turn) for turn in found]
                for kind, found in turns.items()
            },
            "memory": {
                kind.mark or "all": [memory_told(turn.memory) for turn in found]
                for kind, found in turns.items()
            },
            "errors": _errors(turns),
        },
    )  # fmt: skip
    save_unchecked(measurement)
    return replace(measurement, correctness=compare_served(log, wanted))


def _kinds(viewers: Sequence[int], policies: Sequence[str]) -> list[_Kind]:
    """Return every kind of turn; what all have in common is in no mark."""
    found = []
    names: Sequence[str | None] = policies or (None,)
    for policy in names:
        for count in viewers:
            marks = [policy] if len(policies) > 1 and policy else []
            marks += [str(count)] if len(viewers) > 1 else []
            found.append(_Kind(count, policy, "-".join(marks)))
    return found


@contextmanager
def _server(
    recipe: Mapping[str, Any], options: BenchOptions, policy: str | None
) -> Iterator[ServerProcess]:
    """Give the server of a turn: a fresh one, or the one that runs already."""
    if options.url is not None:
        yield ServerProcess(Address.of(options.url))
        return
    words = ["--model", str(resolve_model(recipe["model"])), "--sessions", str(recipe["sessions"])]
    words += ["--device", options.device, "--backend", options.backend]
    words += ["--profile", options.profile]
    if options.dtype is not None:
        words += ["--dtype", options.dtype]
    if options.threads is not None:
        words += ["--threads", str(options.threads)]
    if policy is not None:
        words += ["--policy", policy]
    if recipe["capacity"] is not None:
        words += ["--capacity", str(recipe["capacity"])]
    with started(words) as server:
        yield server


def _model(recipe: Mapping[str, Any], options: BenchOptions, stats: Mapping[str, Any]) -> Model:
    """Open the model that the server has, with what it resolved to."""
    return Model.open(
        resolve_model(recipe["model"]), device=options.device, backend=options.backend,
        profile=stats["profile"], dtype=stats["dtype"],
    )  # fmt: skip


def _samples(
    turns: Mapping[_Kind, Sequence[Turn]], recipe: Mapping[str, Any], encode_ms: float
) -> dict[str, list[float]]:
    """Return all samples; those of several kinds of turns are marked."""
    buffer_s = recipe["start_buffer_s"]
    samples: dict[str, list[float]] = {}
    by_kind: dict[_Kind, dict[str, list[float]]] = {}
    for kind, found in turns.items():
        own = by_kind[kind] = {}
        for turn in found:
            for name, values in turn_figures(turn, buffer_s).items():
                own.setdefault(name, []).extend(values)
        samples |= {f"{name}.{kind.mark}" if kind.mark else name: v for name, v in own.items()}
    policies = list(dict.fromkeys(kind.policy for kind in turns))
    for policy in policies:
        kinds = [kind for kind in turns if kind.policy == policy]
        for thread, name in (("process", "server_cpu_ms"), ("loop", "loop_cpu_ms")):
            measured = [by_kind[kind].get(name, []) for kind in kinds]
            if len(kinds) > 1 and all(measured):
                mark = f".{policy}" if len(policies) > 1 else ""
                samples[f"viewer_cost_encodes.{thread}{mark}"] = viewer_costs(
                    [kind.viewers for kind in kinds], list(zip(*measured, strict=True)), encode_ms
                )
    for kind in turns:
        if kind.policy != policies[0]:
            ours = next(k for k in turns if (k.policy, k.viewers) == (policies[0], kind.viewers))
            gains = worst_film_gains(turns[ours], turns[kind], buffer_s)
            samples[f"worst_film_gain.{kind.mark}"] = gains
    return samples


def _errors(turns: Mapping[_Kind, Sequence[Turn]]) -> list[str]:
    logs = (
        log for found in turns.values() for turn in found for film in turn.films for log in film
    )
    return [text for log in logs for text in log.errors][:_ERRORS_KEPT]
