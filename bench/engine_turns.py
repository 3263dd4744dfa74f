"""Nano's film on this CPU by turns: ``eager`` and engines, in float32 and bfloat16.

One process opens all of them, and every round plays the bundled story once on each, so that other
load on the machine slows all alike; a figure is the ratio to ``eager`` in float32 of the same
round, given as median and quartiles over the rounds. Rates are frames of the whole film, from
prompts to frames on the host, by the clock (``by the clock``) and by the seconds of all threads of
the process (``by CPU time``), which other programs disturb less. Nano's decoder is timed alone
likewise. Before the first round every one's latents are compared with those of ``eager`` with the
reference kernels in float32.

    OMP_WAIT_POLICY=PASSIVE python bench/engine_turns.py --threads 1,2 --out turns.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from engine_film import SEED, Row, Script, distance, engines_of, played, recorded

from shotstream_rt.backends import registry
from shotstream_rt.backends.engine_passes import bind_weights, load_passes
from shotstream_rt.export.exporter import export_graphs
from shotstream_rt.loading.backend_request import open_nano_codec, stream_config
from shotstream_rt.loading.load_model import Model
from shotstream_rt.outputs import atomic_file
from shotstream_rt.session import Session
from shotstream_rt.story import Story

ROWS = (
    Row(backend="eager", dtype="float32", form=""),
    Row(backend="eager", dtype="bfloat16", form=""),
    Row(backend="onnxruntime", dtype="float32"),
    Row(backend="openvino", dtype="float32"),
    Row(backend="openvino", dtype="bfloat16"),
)
"""The first one is what the others are compared with."""

LIMITS = {"float32": 1e-4, "bfloat16": 6e-2}
"""Largest relative l2 distance of a chunk's latents."""

Times = dict[str, list[tuple[float, float]]]
"""By row: seconds by the clock and of all threads, one pair a round."""


def main(words: list[str] | None = None) -> int:
    """Measure and print the table; the exit code is 1 if something computes other latents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="1,2", metavar="N,N", help="default: 1,2")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--shots", type=int, default=2, help="of the story (default: 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON report")
    asked = parser.parse_args(words)
    report: dict[str, Any] = {
        "machine": _machine(), "torch": torch.__version__, "shots": asked.shots,
        "rounds": asked.rounds, "threads": {},
    }  # fmt: skip
    passed = True
    with tempfile.TemporaryDirectory() as temporary:
        for threads in map(int, asked.threads.split(",")):
            torch.set_num_threads(threads)
            measured = _films(asked, threads, Path(temporary))
            passed &= all(row["passed"] for row in measured)
            decoders = _table(_decoders(asked.rounds * 5, threads, Path(temporary)))
            report["threads"][threads] = {"films": measured, "decoders": decoders}
            print(f"\n{threads} thread(s), {platform.processor() or platform.machine()}")  # noqa: T201
            for row in measured:
                _tell(row, f"{row['fps']:6.1f} fps  distance {row['distance']:.1e}")
            for row in decoders:
                _tell(row | {"title": f"decoder {row['title']}"}, f"{row['ms']:6.1f} ms a chunk")
    if asked.out is not None:
        with atomic_file(asked.out) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if passed else 1


def _films(asked: argparse.Namespace, threads: int, folder: Path) -> list[dict[str, Any]]:
    """Play the story on every row by turns.

    Args:
        asked: how often, and how many shots.
        threads: of each film.
        folder: for exports.
    """
    story = Story.bundled().first(asked.shots)
    oracle = Model.open("nano", device="cpu", kernels="reference", dtype="float32")
    texts = Story.bundled().captions
    tape, _ = recorded(oracle, Script(shots=texts[:2], chunks=(2, 2), prompt=texts[2]))
    oracle.close()
    models, distances = {}, {}
    for row in ROWS:
        model = models[row.title] = Model.open(
            "nano", device="cpu", backend=row.backend, dtype=row.dtype,
            engines=engines_of(row, folder), threads=threads,
        )  # fmt: skip
        distances[row.title] = distance(played(model, tape), tape.latents)
    films: dict[str, Callable[[], int]] = {
        title: lambda model=model: _play(model, story, threads)  # type: ignore[misc]
        for title, model in models.items()
    }
    frames = {title: film() for title, film in films.items()}  # a first film that does not count
    rows = _table(_by_turns(films, asked.rounds))
    for row, made in zip(rows, ROWS, strict=True):
        row["fps"] = frames[row["title"]] / row["seconds"]
        row["distance"] = distances[row["title"]]
        row["passed"] = row["distance"] <= LIMITS[made.dtype]
    for model in models.values():
        model.close()
    return rows


def _play(model: Model, story: Story, threads: int) -> int:
    """Play a story as fast as it comes; return its frames.

    Args:
        model: that plays it.
        story: what.
        threads: of the film.
    """
    with Session(model, seed=SEED, threads=threads) as session:
        return sum(1 for _ in session.story(story))


def _decoders(rounds: int, threads: int, folder: Path) -> Times:
    """Decode a later chunk in torch and by each library's graph, by turns.

    Args:
        rounds: how often.
        threads: of a library.
        folder: for the export.
    """
    codec, made = open_nano_codec("nano"), folder / "codec"
    assert codec is not None
    manifest = export_graphs(
        stream_config("nano"), torch.float32, made, form="codec", codec=codec.net
    )
    weights = bind_weights(manifest, codec.net.state_dict(), torch.float32, "nano")
    entry = manifest.named("decode_next")
    draw = torch.Generator().manual_seed(SEED)
    inputs = {port.name: torch.randn([int(side) for side in port.shape], generator=draw)
              for port in entry.inputs if port.role != "weight"}  # fmt: skip
    outputs = {port.name: torch.empty([int(side) for side in port.shape]) for port in entry.outputs}
    decoder = codec.decoder()
    decoder.decode(inputs["latents"])
    turns: dict[str, Callable[[], object]] = {"torch": lambda: decoder.decode(inputs["latents"])}
    for name in registry.ENGINE_LIBRARIES:
        load = registry.engine_library(name).load
        run = load_passes(manifest, made, weights, load, threads)[entry.name]()
        turns[name] = lambda run=run: run(inputs, outputs)  # type: ignore[misc]
    for turn in turns.values():
        turn()
    return _by_turns(turns, rounds)


def _by_turns(turns: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Run all in each round, beginning with another one every time."""
    times: Times = {title: [] for title in turns}
    titles = list(turns)
    for number in range(rounds):
        first = number % len(titles)
        for title in titles[first:] + titles[:first]:
            begun = time.perf_counter(), time.process_time()
            turns[title]()
            times[title].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return times


def _table(times: Times) -> list[dict[str, Any]]:
    """Ratios to the first, by round."""
    first, rows = next(iter(times.values())), []
    for title, own in times.items():
        seconds = statistics.median(wall for wall, _ in own)
        row: dict[str, Any] = {"title": title, "seconds": seconds, "ms": 1e3 * seconds}
        for part, name in enumerate(("by the clock", "by CPU time")):
            ratios = [a[part] / b[part] for a, b in zip(first, own, strict=True)]
            row[name] = _quartiles(ratios)
        rows.append(row)
    return rows


def _quartiles(ratios: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile."""
    return statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3


def _tell(row: Mapping[str, Any], more: str) -> None:
    """Print a line."""
    ratios = "  ".join(
        f"{name} {row[name][1]:.2f} ({row[name][0]:.2f}-{row[name][2]:.2f})"
        for name in ("by the clock", "by CPU time")
    )
    print(f"{row['title']:30} {ratios}  {more}", flush=True)  # noqa: T201


def _machine() -> str:
    """What the processor is called."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if "model name" in line]
    return names[0] if names else platform.processor()


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
