from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.bench.compare import compare_paths, compare_records
from shotstream_rt.bench.metric import Metric
from shotstream_rt.bench.record import BenchRecord, write_record
from shotstream_rt.errors import ConfigError, ManifestError

MakeRecord = Callable[..., BenchRecord]


@pytest.mark.parametrize(
    "name,unit,base,new,ratio",
    [("shot_s", "s", 2.0, 3.0, 1.5), ("e2e_fps", "fps", 30.0, 20.0, 1.5),
     ("shot_s", "s", 3.0, 1.5, 0.5), ("queue_wait_ms", "ms", 0.0, 0.0, 1.0)],
    ids=["slower", "fewer frames", "faster", "never waited"],
)  # fmt: skip
def test_ratio_is_how_much_worse(
    make_record: MakeRecord, name: str, unit: str, base: float, new: float, ratio: float
) -> None:
    (verdict,) = compare_records(
        make_record({name: (unit, base)}), make_record({name: (unit, new)})
    )
    assert verdict.ratio == pytest.approx(ratio)
    assert verdict.accepted == (ratio <= 1.15)


def test_tolerance_of_the_caller_decides(make_record: MakeRecord) -> None:
    base, new = make_record({"shot_s": ("s", 2.0)}), make_record({"shot_s": ("s", 3.0)})
    assert next(compare_records(base, new, tolerance=1.6)).accepted
    assert not next(compare_records(base, new, tolerance=1.4)).accepted


def test_chosen_statistic_decides(make_record: MakeRecord) -> None:
    base = make_record(metrics=(Metric.of("shot_s", "s", [1.0, 2.0]),))
    new = make_record(metrics=(Metric.of("shot_s", "s", [1.0, 9.0]),))
    assert next(compare_records(base, new, statistic="min")).accepted
    assert not next(compare_records(base, new, statistic="max")).accepted


def test_declared_tolerance_serves_positions(make_record: MakeRecord) -> None:
    workload = {"id": "nano-story", "version": 1, "fingerprint": "f"}
    base = make_record({"chunk_ms.3": ("ms", 10.0)}, workload=workload)
    new = make_record({"chunk_ms.3": ("ms", 12.0)}, workload=workload)
    assert next(compare_records(base, new)).accepted  # the workload allows 1.25


def test_another_recipe_does_not_compare(make_record: MakeRecord) -> None:
    other = make_record(workload={"id": "tiny", "version": 2, "fingerprint": "11aa"})
    with pytest.raises(ManifestError, match="11aa"):
        list(compare_records(make_record(), other))


def test_silent_downgrade_is_not_accepted(make_record: MakeRecord) -> None:
    backend = {**make_record().backend, "kernel_set": "reference"}
    verdicts = list(compare_records(make_record(), make_record(backend=backend)))
    assert "reference" in verdicts[0].reason
    assert not verdicts[0].accepted


def test_failed_run_is_not_accepted(make_record: MakeRecord) -> None:
    failed = make_record({}, status="oom", message="out of memory", correctness=None)
    (verdict,) = compare_records(make_record(), failed)
    assert not verdict.accepted
    assert "out of memory" in verdict.reason


@pytest.mark.parametrize("unchecked_first", [True, False], ids=["before", "after"])
def test_an_unchecked_record_never_compares(make_record: MakeRecord, unchecked_first: bool) -> None:
    unchecked = make_record(
        {}, status="not checked", message="withheld", correctness=None, unchecked={"shot_s": 0.1}
    )
    pair = (unchecked, make_record()) if unchecked_first else (make_record(), unchecked)
    (verdict,) = compare_records(*pair)
    assert not verdict.accepted
    assert "not checked" in verdict.reason


def test_metric_that_is_gone_is_not_accepted(make_record: MakeRecord) -> None:
    (verdict,) = compare_records(make_record(), make_record({}))
    assert (verdict.metric, verdict.accepted) == ("shot_s", False)


def test_folders_are_compared_by_name(make_record: MakeRecord, tmp_path: Path) -> None:
    for folder, seconds in (("base", 1.0), ("new", 1.1)):
        write_record(make_record({"shot_s": ("s", seconds)}), tmp_path / folder / "a.json")
    write_record(make_record(), tmp_path / "new" / "b.json")
    (verdict,) = compare_paths(tmp_path / "base", tmp_path / "new")
    assert verdict.ratio == pytest.approx(1.1)
    with pytest.raises(ConfigError, match="two files or two folders"):
        compare_paths(tmp_path / "base", tmp_path / "new" / "a.json")
    with pytest.raises(ConfigError, match="no record of equal name"):
        compare_paths(tmp_path / "base", tmp_path)
    with pytest.raises(ConfigError, match="tolerance"):
        compare_paths(tmp_path / "base", tmp_path / "new", tolerance=0.5)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("metrics",), {}),
        (("metrics", 0), []),
        (("metrics", 0, "p50"), None),
        (("metrics", 0, "p50"), float("nan")),
        (("metrics", 0, "p50"), "fast"),
        (("metrics", 0, "name"), ["x"]),
        (("metrics", 0, "colour"), "red"),
        (("correctness",), []),
        (("correctness", "passed"), "yes"),
        (("workload",), None),
        (("workload", "id"), {}),
        (("workload", "id"), None),
        (("backend", "resolved"), {"a": 1}),
        (("status",), "fine"),
        (("message",), 5),
        (("fidelity",), {"reference": 5}),
        (("schema_version",), [1]),
    ],
)
def test_broken_records_are_named(
    make_record: MakeRecord, tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    good = make_record({"shot_s": ("s", 2.0)}).to_dict()
    broken = json.loads(json.dumps(good))
    inner = broken
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    for name, data in (("good", good), ("broken", broken)):
        (tmp_path / f"{name}.json").write_text(json.dumps(data), "utf-8")
    for pair in (("good", "broken"), ("broken", "good")):
        with pytest.raises(ManifestError, match=r"broken\.json"):
            compare_paths(*(tmp_path / f"{name}.json" for name in pair))


@pytest.mark.parametrize("key", ["workload", "metrics", "method", "status"])
def test_records_that_lack_something_never_raise_anything_else(
    make_record: MakeRecord, tmp_path: Path, key: str
) -> None:
    data = make_record({"shot_s": ("s", 2.0)}).to_dict()
    del data[key]
    (tmp_path / "a.json").write_text(json.dumps(data), "utf-8")
    if key == "metrics":
        assert compare_paths(tmp_path / "a.json", tmp_path / "a.json") == []
        return
    with pytest.raises(ManifestError, match=f"missing key.*{key}"):
        compare_paths(tmp_path / "a.json", tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "\n", "[" * 10**5, '{"a": 1, "a": 2}', "x", "\x00"])
def test_files_that_are_no_records_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, "utf-8")
    with pytest.raises(ManifestError, match=r"a\.json"):
        compare_paths(tmp_path / "a.json", tmp_path / "a.json")


@pytest.mark.parametrize("options", [{"tolerance": "x"}, {"tolerance": float("nan")},
                                     {"statistic": "mean"}, {"statistic": None}])  # fmt: skip
def test_unusable_options_are_config_errors(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        compare_paths(tmp_path, tmp_path, **options)
