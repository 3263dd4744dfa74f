"""``bench serve``: what simulated players see, and what a record of it tells."""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from shotstream_rt.bench import serve_process, serve_run
from shotstream_rt.bench.__main__ import main
from shotstream_rt.bench.measurement import unit_of
from shotstream_rt.bench.metric import Metric
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.serve_check import compare_served, encodes_ms
from shotstream_rt.bench.serve_figures import (
    films_told,
    memory_growth_mib,
    memory_told,
    turn_figures,
    viewer_costs,
    worst_film_gains,
)
from shotstream_rt.bench.serve_player import Address, Player, PlayerLog
from shotstream_rt.bench.serve_playout import Playout, play_out
from shotstream_rt.bench.serve_run import measure_serve
from shotstream_rt.bench.serve_turn import Turn
from shotstream_rt.bench.workloads import find_workload
from shotstream_rt.errors import ConfigError, ShotStreamError
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.fragments import FragmentEncoder, fragment

needs_nano = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)


def played(arrivals: list[float], *, buffer: int = 1, begin: float = 0, end: float = 10) -> Playout:
    """Play frames of a second each."""
    return play_out(arrivals, interval_s=1, buffer_frames=buffer, begin_s=begin, end_s=end)


def test_frames_in_time_play_without_a_stall() -> None:
    assert played([0, 1, 2, 3, 4], end=5).ratio == 1
    assert played([0, 1.4, 2.4, 2.9, 4.3], buffer=2, end=5.4).stalls == 0


def test_a_late_frame_stalls_once_and_moves_what_follows() -> None:
    out = played([0, 1, 4, 4, 5, 6], end=8)  # due at 2, comes at 4
    assert (out.watched_s, out.stalled_s, out.stalls) == (8, 2, 1)
    assert out.ratio == 0.75


def test_a_start_buffer_takes_what_comes_unevenly() -> None:
    uneven = [0, 1.5, 2, 3.5, 4]
    assert played(uneven, end=5).stalls == 2 - 1  # the first stall is a buffer for the others
    assert played(uneven, buffer=2, end=6).stalls == 0


def test_a_picture_that_stands_at_the_end_stalls_until_then() -> None:
    assert played([0, 1], end=6).stalled_s == 4


def test_only_the_span_is_judged() -> None:
    late = [0, 5, 6, 7, 8, 9]  # four seconds of waiting, three of them before the span
    out = played(late, begin=4, end=8)
    assert (out.watched_s, out.stalled_s, out.stalls) == (4, 1, 1)
    assert played([0, 1, 2, 3, 20], end=4).ratio == 1


def test_who_never_begins_has_nothing_of_the_film() -> None:
    for arrivals in ([], [3.0]):
        out = played(arrivals, buffer=2)
        assert (out.ratio, out.watched_s) == (0, 0)


def log(*, frames: int = 33, first: float = 0.5, rate: int = 4, **changes: Any) -> PlayerLog:
    """A player that got frames at their rate, from ``first`` on."""
    return PlayerLog(
        numbers=array("q", range(frames)),
        arrivals_s=array("d", (first + number / rate for number in range(frames))),
        rate_hz=rate,
        **changes,
    )


def turn(*films: list[PlayerLog], **changes: Any) -> Turn:
    return Turn(begin_s=2.0, end_s=8.0, films=list(films), **changes)


def test_figures_of_a_turn_that_goes_well() -> None:
    found = turn_figures(
        turn(
            [log(begun_s=0.2, cuts=[(3.0, 14), (3.5, 99)]), log(begun_s=0.4)],
            [log(), log()],
            cpu_s=4.8, loop_cpu_s=0.48, memory=[(0.0, 100.0), (1.0, 101.0)],
        ),
        0.25,
    )  # fmt: skip
    assert found["first_frame_ms.director"] == pytest.approx([300, 500])
    assert found["first_frame_ms.viewer"] == pytest.approx([100, 500])
    assert found["play_ratio"] == [1] * 4
    assert found["film_play_ratio"] == [1, 1]
    assert found["film_fps"] == [4, 4]
    assert found["fairness_ratio"] == [1]
    assert found["server_cpu_ms"] == pytest.approx([100])  # 48 frames in six seconds
    assert found["loop_cpu_ms"] == pytest.approx([10])
    assert found["cut_shown_ms"] == pytest.approx([1000])  # of the other cut the frame was lost
    assert found["error_count"] == [0]
    assert "memory_growth_mib" not in found


def test_who_waits_in_the_queue_spoils_no_film_and_is_told() -> None:
    waiting = [PlayerLog(places=[3, 2]), PlayerLog(places=[2])]
    found = turn([log()], waiting)
    assert turn_figures(found, 0.25)["film_play_ratio"] == [1]
    assert films_told(found) == {"played": 1, "waited": 1, "frames": [24], "places": [2]}
    untold = turn([log()], [PlayerLog(errors=["error: full"])])
    assert turn_figures(untold, 0.25)["film_play_ratio"] == [1, 0]
    assert turn_figures(untold, 0.25)["error_count"] == [1]


def test_frames_of_a_film_are_counted_whether_they_came_or_not() -> None:
    gap = log(skipped=4)
    del gap.numbers[10:14], gap.arrivals_s[10:14]
    found = turn_figures(turn([gap], [log(frames=21)]), 0.25)
    assert found["film_fps"] == [4, 2.5]
    assert found["fairness_ratio"] == [0.625]
    assert found["skipped_frames"] == [4, 0]
    assert found["stall_count"] == [1, 1]


def test_memory_grows_by_the_least_of_its_minutes() -> None:
    held = [(second, 100 + 3 * (second // 60) + second % 7) for second in range(300)]
    assert memory_growth_mib(held) == pytest.approx(3)
    assert memory_growth_mib(held[:170]) is None


def test_memory_is_told_by_the_second_and_thinned_in_long_runs() -> None:
    held = [(1.01 * number, 100 + 2 * 1.01 * number) for number in range(4)]
    assert memory_told(held) == {"every_s": 1, "mib": [100, 102, 104, 106]}
    told = memory_told([(float(second), 100.0 + second) for second in range(1801)])
    assert told["every_s"] == 3 and told["mib"] == [100 + second for second in range(0, 1801, 3)]
    assert memory_told([]) == {"every_s": 1, "mib": []}


def test_a_viewers_cost_is_told_in_encodes() -> None:
    costs = viewer_costs([1, 8, 32], [[10.1, 10.8, 13.2], [20.0, 20.0, 20.0]], 0.5)
    assert costs == pytest.approx([0.2, 0.0], abs=1e-9)


def test_the_worst_films_of_two_policies_are_compared_by_rounds() -> None:
    half = log(rate=2)
    half.rate_hz = 4  # frames come at half their rate
    gain = worst_film_gains([turn([log()])], [turn([log()], [half])], 0.25)
    assert gain == pytest.approx([2], rel=0.1)
    assert worst_film_gains([turn([log()])], [turn([PlayerLog()])], 0.25) == pytest.approx([100])


def pictures(seed: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Smooth moving pictures, which a codec keeps well."""
    rows, columns = np.mgrid[0:32, 0:48] / 8
    waves = [np.sin(rows + seed) + np.cos(columns + seed + number / 4) for number in range(6)]
    return [np.repeat((63 * wave + 127)[..., None], 3, 2).astype(np.uint8) for wave in waves]


@pytest.fixture
def served() -> PlayerLog:
    """A player that got the film of seed 0."""
    encoder = FragmentEncoder(height=32, width=48, frame_rate_hz=4)
    fragments = [
        fragment(encoder.head, number, number, encoder.encode(picture, key=number == 0))
        for number, picture in enumerate(pictures(0))
    ]
    encoder.close()
    return log(frames=6, head=encoder.head.data, fragments=fragments)


def test_the_right_film_passes_through_the_codec_and_another_one_does_not(
    served: PlayerLog,
) -> None:
    assert compare_served(served, pictures(0)).passed
    other = compare_served(served, pictures(2))
    assert not other.passed and other.psnr_db < 20
    served.numbers[3] = 7
    with pytest.raises(ShotStreamError, match="lost some"):
        compare_served(served, pictures(0))
    with pytest.raises(ShotStreamError, match="--model"):
        compare_served(log(frames=6, head=served.head, fragments=served.fragments),
                       [picture[:16] for picture in pictures(0)])  # fmt: skip


def test_encodes_are_timed_after_the_first_time() -> None:
    found = encodes_ms(pictures(0), 4)
    assert len(found) % 6 == 0 and min(found) > 0


def test_the_address_carries_the_token() -> None:
    address = Address.of("https://host:8/#token=abc&session=x")
    assert (address.http, address.socket, address.token) == (
        "https://host:8", "wss://host:8/v1/live", "abc",
    )  # fmt: skip
    for url in ("host:8", "http://host:8/", "http://host:8/?token=abc"):
        with pytest.raises(ConfigError, match="token=TOKEN"):
            Address.of(url)


def test_a_player_notes_what_it_is_told_and_shown(served: PlayerLog) -> None:
    """Against a server that says everything that there is to say."""
    heard: list[Any] = []

    async def talk(socket: ServerConnection) -> None:
        async def tell(**message: Any) -> None:
            await socket.send(json.dumps(message))

        heard.append(json.loads(await socket.recv()))
        for place in (2, 1):
            await tell(type="queue", position=place, length=2)
        await tell(type="welcome", frame_rate_hz=4)
        heard.append(json.loads(await socket.recv()))
        for data in (served.head, *served.fragments[:2]):
            await socket.send(data)
        heard.append(json.loads(await socket.recv()))
        for first in heard[1:]:
            await tell(type="applied", id=first["id"], frame=5)
        await tell(type="skipped", frames=3)
        await socket.send(served.fragments[5])
        await tell(type="ended", message="the server ends")

    async def play() -> PlayerLog:
        async with serve(talk, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            player = Player(
                Address(http=f"http://{host}:{port}", token="t"), "film",
                texts=("a cat", "a dog"), keep_frames=2,
            )  # fmt: skip
            running = asyncio.create_task(player.run())
            while len(player.log.numbers) < 2:
                await asyncio.sleep(0.01)
            await player.cut()
            await running
            return player.log

    log = asyncio.run(play())
    assert heard[0] == {"type": "hello", "token": "t", "session": "film"}
    assert [ask["text"] for ask in heard[1:]] == ["a cat", "a dog"]
    assert (log.places, log.skipped, list(log.numbers)) == ([2, 1], 3, [0, 1, 5])
    assert [frame for _, frame in log.cuts] == [5]  # the first one cuts nothing
    assert (log.head, log.fragments) == (served.head, served.fragments[:2])
    assert log.errors == ["ended: the server ends"]


@pytest.mark.parametrize(
    "words,reason",
    [
        (["--sessions", "0"], "--sessions"),
        (["--viewers", "1,x"], "such as 1,8,32"),
        (["--viewers", "1,0"], "--viewers: got 0"),
        (["--viewers", "4,4"], "twice"),
        (["--seconds", "0"], "--seconds"),
        (["--rounds", "0"], "--rounds"),
        (["--cut-every", "2,-1"], "--cut-every"),
        (["--url", "http://127.0.0.1:1"], "token=TOKEN"),
        (["--url", "http://h:1/#token=a", "--policy", "slack"], "--policy"),
        (["--profile", "best"], "profile"),
    ],
)
def test_mistakes_are_named_before_a_server_starts(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(serve_run, "started", None)
    assert main(["serve", *words]) == 2
    assert reason in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--url", "http://127.0.0.1:9/#token=secret"]) == 2
    told = capsys.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in told
    assert "secret" not in told


def test_a_server_that_does_not_start_tells_why() -> None:
    words = ["--model", "/nowhere/at/all", "--profile", "best"]
    with pytest.raises(ConfigError, match="profile"), serve_process.started(words):
        pass


def test_the_other_commands_name_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--workload", "nano-serve"])
    assert "bench serve" in capsys.readouterr().err


def test_figures_have_their_direction() -> None:
    rising = {"play_ratio", "film_fps", "fairness_ratio.4", "worst_film_gain.slack"}
    falling = {"first_frame_ms.director", "stall_count", "stalled_s", "viewer_cost_encodes.loop",
               "memory_growth_mib", "error_count", "skipped_frames"}  # fmt: skip
    for name in rising | falling:
        metric = Metric.of(name, unit_of(name), [1.0])
        assert metric.higher_is_better == (name in rising)


@needs_nano
@pytest.mark.slow
def test_a_real_server_by_turns_in_a_record_that_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two films, then the same with more viewers."""
    path = tmp_path / "load.json"
    words = ["serve", "--sessions", "2", "--viewers", "1,3", "--seconds", "4", "--rounds", "1",
             "--cut-every", "3", "--capacity", "2", "--device", "cpu",
             "--threads", "1"]  # fmt: skip
    assert main([*words, "--json", "--out", str(path)]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["status"] == "ok" and record["correctness"]["passed"]
    wanted = "nano-serve-capacity-2-cut_every_s-3-seconds-4-viewers-1-3"
    assert record["workload"]["id"] == wanted
    metrics = {metric["name"]: metric for metric in record["metrics"]}
    assert metrics["play_ratio.1"]["n"] == 2 and metrics["play_ratio.3"]["n"] == 6
    assert metrics["first_frame_ms.viewer.3"]["n"] == 4
    assert "first_frame_ms.viewer.1" not in metrics
    for name in ("film_fps.3", "cut_shown_ms.1", "encode_cpu_ms"):
        assert metrics[name]["p50"] > 0
    assert metrics["error_count.3"]["max"] == 0
    told = record["method"]["films"]
    assert {mark: [one["played"] for one in found] for mark, found in told.items()} == {
        "1": [2], "3": [2],
    }  # fmt: skip
    if sys.platform == "linux":
        for name in ("viewer_cost_encodes.loop", "viewer_cost_encodes.process"):
            assert metrics[name]["n"] == 1
        assert metrics["server_memory_mib.1"]["min"] > 0
        for mark in ("1", "3"):
            (memory,) = record["method"]["memory"][mark]
            assert memory["every_s"] == 1 and len(memory["mib"]) >= 3 and min(memory["mib"]) > 0
    assert main(["compare", str(path), str(path)]) == 0


@needs_nano
@pytest.mark.slow
def test_a_server_that_runs_already_is_measured_from_outside(tmp_path: Path) -> None:
    changes = {"sessions": 1, "viewers": [2], "seconds": 2, "model": "nano"}
    workload = find_workload("nano-serve").with_recipe(**changes)
    with serve_process.started(["--threads", "1", "--device", "cpu"]) as server:
        url = f"{server.address.http}/#token={server.address.token}"
        options = BenchOptions(device="cpu", threads=1, repeats=1, url=url)
        measured = measure_serve(workload, options, lambda _: None)
    assert measured.correctness is not None and measured.correctness.passed
    assert "server_cpu_ms" not in measured.samples
    assert not measured.samples["server_memory_mib"]
    assert measured.notes["errors"] == []
