from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shotstream_rt.bench.metric import Metric
from shotstream_rt.bench.record import BenchRecord, read_record, write_record
from shotstream_rt.errors import ManifestError, OutputError

MakeRecord = Callable[..., BenchRecord]


def test_statistics_of_samples() -> None:
    metric = Metric.of("chunk_ms", "ms", list(range(101)))
    assert (metric.n, metric.min, metric.p50, metric.max) == (101, 0, 50, 100)
    assert (metric.p95, metric.p99) == (95, 99)
    assert Metric.of("shot_s", "s", [3.0]).p99 == 3.0


def test_record_survives_its_file(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record({"shot_s": ("s", 1.5), "denoise_fps": ("fps", 54.0)})
    path = write_record(record, tmp_path / "deep" / "record.json")
    assert read_record(path) == record
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_folder_gets_workload_and_backend_in_the_name(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    record = make_record()
    assert write_record(record, tmp_path).name == "tiny--eager-float32.json"
    lossy = make_record(backend={**record.backend, "profile": "tiny"})
    assert write_record(lossy, tmp_path).name == "tiny--eager-float32-tiny.json"


def test_saved_output_is_a_record_too(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    line = json.dumps({**record.to_dict(), **record.headline()})
    path = tmp_path / "output.txt"
    path.write_text(f"film 1 of 2\n{line}\n", "utf-8")
    assert read_record(path) == record


def test_no_figure_without_passed_correctness(make_record: MakeRecord) -> None:
    record = make_record()
    assert record.correctness is not None
    for changes in (
        {"status": "incorrect"},
        {"correctness": None},
        {"correctness": replace(record.correctness, passed=False)},
    ):
        with pytest.raises(ManifestError, match="no figure"):
            make_record(**changes)
        assert make_record({}, **changes).metrics == ()


def test_medians_without_a_check_are_no_figures(make_record: MakeRecord, tmp_path: Path) -> None:
    medians = {"e2e_fps": 20.0}
    unchecked = make_record(
        {}, status="not checked", message="not compared", correctness=None, unchecked=medians
    )
    path = write_record(unchecked, tmp_path)
    assert path.name == "tiny--eager-float32.unchecked.json"
    assert read_record(path) == unchecked
    assert unchecked.headline() == {}
    with pytest.raises(ManifestError, match="no figure"):
        make_record(status="not checked", correctness=None)
    with pytest.raises(ManifestError, match="'not checked' alone"):
        make_record(unchecked=medians)
    # A check that ran out of memory keeps them; one with a verdict takes their place.
    write_record(make_record({}, status="oom", message="full", correctness=None), tmp_path)
    assert path.exists()
    final = write_record(make_record(), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [final.name]


def test_headline_picks_the_best_shot(make_record: MakeRecord) -> None:
    metric = Metric.of("shot_s", "s", [1.0, 2.0, 6.0])
    cut = Metric.of("cut_ms", "ms", [10.0, 20.0, 90.0])
    record = make_record(metrics=(metric, cut))
    assert record.headline() == {"shot_s": 1.0, "cut_ms": 20.0}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"schema_version": 2}, "schema_version: got 2"),
        ({"extra": 1}, "extra"),
        ({"status": "fine"}, "status: got 'fine'"),
        ({"metrics": [{"name": "shot_s"}]}, "metrics 0: missing"),
        ({"correctness": {"reference": "eager"}}, "correctness: missing"),
        ({"fidelity": 3}, "fidelity: got 3"),
    ],
    ids=["version", "unknown key", "status", "metric", "correctness", "fidelity"],
)
def test_broken_record_is_named(
    make_record: MakeRecord, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({**make_record().to_dict(), **change}), "utf-8")
    with pytest.raises(ManifestError, match=message) as caught:
        read_record(path)
    assert "broken.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "not json", "[1, 2]"])
def test_other_files_are_no_records(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ManifestError, match=r"other\.json"):
        read_record(path)


def test_failed_write_leaves_nothing(make_record: MakeRecord, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        write_record(make_record(), taken / "record.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
