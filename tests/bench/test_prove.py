"""What records prove about attention, and what they do not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.backends import proven_attention
from shotstream_rt.bench.__main__ import main
from shotstream_rt.bench.prove import rank
from shotstream_rt.bench.record import BenchRecord, write_record
from shotstream_rt.errors import ManifestError

MakeRecord = Callable[..., BenchRecord]
Measured = Callable[..., BenchRecord]


@pytest.fixture
def measured(make_record: MakeRecord) -> Measured:
    """A record of one attention on an H200; fields named as in the record replace its own."""

    def make(kernel_set: str, fps: float | None, **changes: Any) -> BenchRecord:
        plain = make_record()
        fields: dict[str, dict[str, Any]] = {
            "workload": {"id": "film-480p", "version": 1, "fingerprint": kernel_set},
            "backend": {
                **plain.backend, "kernel_set": kernel_set, "dtype": "bfloat16",
                "resolved": "cuda_graph",
            },
            "hardware": {**plain.hardware, "gpu": "NVIDIA H200", "sm": "90"},
            "software": {**plain.software, "torch": "2.11.0+cu130", "triton": "3.6.0"},
            "git": {"commit": "c0ffee", "dirty": False},
        }  # fmt: skip
        for name in set(changes) & set(fields):
            changes[name] = {**fields[name], **changes[name]}
        metrics = {} if fps is None else {"denoise_fps": ("fps", fps)}
        return make_record(metrics, **{**fields, **changes})

    return make


def failed(record: BenchRecord) -> BenchRecord:
    assert record.correctness is not None
    correctness = dataclasses.replace(record.correctness, passed=False)
    return dataclasses.replace(record, status="incorrect", correctness=correctness)


def test_sets_are_ranked_by_what_was_measured(measured: Measured) -> None:
    records = [measured("triton", 21.0), measured("triton+gluon", 28.0),
               measured("triton+cudnn", 26.0), measured("triton+gluon+waves", 29.0),
               measured("triton+gluon+warp", 99.0)]  # fmt: skip
    (proof,) = rank(records)
    assert (proof.gpu, proof.dtype, proof.workload) == ("NVIDIA H200", "bfloat16", "film-480p")
    assert proof.commit == "c0ffee"
    assert [(row.kernel_set, row.denoise_fps) for row in proof.ranking] == [
        ("triton+gluon+waves", 29.0), ("triton+gluon", 28.0), ("triton+cudnn", 26.0),
        ("triton", 21.0),
    ]  # fmt: skip


def test_a_set_that_is_wrong_proves_nothing(measured: Measured) -> None:
    records = [measured("triton", 21.0), measured("triton+cudnn", 26.0),
               failed(measured("triton+gluon", None))]  # fmt: skip
    (proof,) = rank(records)
    assert [row.kernel_set for row in proof.ranking] == ["triton+cudnn", "triton"]


@pytest.mark.parametrize(
    "changes",
    [
        {"hardware": {"gpu": "NVIDIA H100"}},
        {"hardware": {"gpu": None}},
        {"backend": {"dtype": "float16"}},
        {"backend": {"profile": "fp8"}},
        {"backend": {"kernel_set": "torch"}},
        {"workload": {"id": "nano-story"}},
        {"workload": {"id": "student-1.3b"}},
    ],
    ids=str,
)
def test_records_that_cannot_be_compared_prove_nothing(
    measured: Measured, changes: dict[str, Any]
) -> None:
    with pytest.raises(ManifestError, match="wanted kernel set triton and at least one"):
        rank([measured("triton", 21.0), measured("triton+gluon", 28.0, **changes)])


def test_a_proof_needs_the_plain_set(measured: Measured) -> None:
    with pytest.raises(ManifestError, match="got 2 that count"):
        rank([measured("triton+cudnn", 26.0), measured("triton+gluon", 28.0)])


@pytest.mark.parametrize(
    "changes",
    [
        {"git": {"commit": "decade"}},
        {"software": {"triton": "3.7.1"}},
        {"workload": {"version": 2}},
        {"backend": {"resolved": "eager"}},
    ],
    ids=str,
)
def test_records_of_different_runs_are_an_error(
    measured: Measured, changes: dict[str, Any]
) -> None:
    with pytest.raises(ManifestError, match="name those of one run"):
        rank([measured("triton", 21.0), measured("triton+gluon", 28.0, **changes)])


def test_one_set_twice_is_an_error(measured: Measured) -> None:
    with pytest.raises(ManifestError, match="more than one of triton,"):
        rank([measured("triton", 21.0), measured("triton", 22.0), measured("triton+gluon", 28.0)])


def test_a_film_tells_more_than_passes_alone(measured: Measured) -> None:
    student = {"workload": {"id": "student-1.3b"}}
    records = [
        measured("triton", 21.0),
        measured("triton+gluon", 20.0),
        measured("triton", 21.0, **student),
        measured("triton+gluon", 28.0, **student),
    ]
    (proof,) = rank(records)
    assert (proof.workload, proof.ranking[0].kernel_set) == ("film-480p", "triton")


def test_the_command_writes_what_auto_reads(
    measured: Measured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "records", tmp_path / "proven.json"
    for n, (name, fps) in enumerate([("triton", 21.0), ("triton+gluon", 28.0)]):
        write_record(measured(name, fps), folder / f"{n}.json")
    assert main(["prove", str(folder), "--out", str(out)]) == 0
    assert "NVIDIA H200, bfloat16, film-480p: triton+gluon 28.0, triton 21.0" in (
        capsys.readouterr().out
    )
    first = proven_attention.read_proofs(out)
    assert [row.kernel_set for row in first[0].ranking] == ["triton+gluon", "triton"]
    # Another chip is added, the same one replaced.
    for n, (gpu, fps) in enumerate([("NVIDIA H100", 17.0), ("NVIDIA H200", 30.0)]):
        for name in ("triton", "triton+cudnn"):
            record = measured(name, fps, hardware={"gpu": gpu})
            write_record(record, tmp_path / str(n) / f"{name}.json")
        assert main(["prove", str(tmp_path / str(n)), "--out", str(out)]) == 0
    both = proven_attention.read_proofs(out)
    assert [proof.gpu for proof in both] == ["NVIDIA H100", "NVIDIA H200"]
    assert {row.kernel_set for row in both[1].ranking} == {"triton", "triton+cudnn"}


def test_nothing_is_written_without_a_proof(measured: Measured, tmp_path: Path) -> None:
    path = write_record(measured("triton", 21.0), tmp_path / "one.json")
    assert main(["prove", str(path), "--out", str(tmp_path / "proven.json")]) == 2
    assert not (tmp_path / "proven.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"schema_version": 2, "chips": []})])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "proven.json"
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"proven\.json"):
        proven_attention.read_proofs(path)


def test_the_package_carries_a_readable_file() -> None:
    for proof in proven_attention.read_proofs():
        assert "triton" in {row.kernel_set for row in proof.ranking}
