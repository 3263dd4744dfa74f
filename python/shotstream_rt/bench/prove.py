"""From bench records to a ranking: with which parts a kernel set is the fastest on a chip.

``python -m shotstream_rt.bench prove RECORDS`` reads records of one run on one chip: the same
workload, type and code, with different parts. Only those whose correctness passed count. What it
writes is ``proven_attention.json`` of the package, by which kernel set ``auto`` chooses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from shotstream_rt.backends import kernel_registry
from shotstream_rt.backends.proven_attention import (
    PATH,
    ChipProof,
    ProvenSet,
    proofs_text,
    read_proofs,
)
from shotstream_rt.errors import ManifestError
from shotstream_rt.outputs import atomic_file
from shotstream_rt.profiles import EXACT

from .record import BenchRecord, read_record

WORKLOADS = ("film-480p", "student-1.3b")
"""Workloads of the released student's shape, the more representative one first."""

PLAIN = "triton"
"""What ``auto`` takes on a GPU without measurements, and what other sets are compared with."""

_METRIC = "denoise_fps"


def prove_parser() -> argparse.ArgumentParser:
    """Return the parser of ``prove``."""
    out = argparse.ArgumentParser(
        prog="python -m shotstream_rt.bench prove",
        description="From records of one run on one GPU, rank its kernel sets by their median "
        f"{_METRIC} and write the ranking where kernel set auto looks it up. A record counts if "
        f"its correctness passed, its workload is {' or '.join(WORKLOADS)}, its profile is exact "
        f"and its kernel set is {PLAIN}, alone or with parts after a +.",
    )
    out.add_argument("records", nargs="+", type=Path, help="record files, or folders of them")
    out.add_argument(
        "--out", type=Path, default=PATH, metavar="FILE", help="default: the package's own file"
    )
    return out


def prove(asked: argparse.Namespace) -> list[ChipProof]:
    """Rank what the records show and write it; proofs of other chips in the file are kept.

    Args:
        asked: what ``prove_parser`` parsed.

    Raises:
        ManifestError: a file is no record, or the records prove nothing.
        OutputError: the file cannot be written.
    """
    made = rank(_read(asked.records))
    known = read_proofs(asked.out) if asked.out.exists() else ()
    new = {(proof.gpu, proof.dtype) for proof in made}
    kept = [proof for proof in known if (proof.gpu, proof.dtype) not in new]
    both = sorted([*kept, *made], key=lambda proof: (proof.gpu, proof.dtype))
    with atomic_file(asked.out) as part:
        part.write_text(proofs_text(both), "utf-8")
    return made


def rank(records: Iterable[BenchRecord]) -> list[ChipProof]:
    """Return one proof for each chip and type that records prove something about.

    Raises:
        ManifestError: none do, or records of a chip are of different runs.
    """
    counting = [record for record in records if _counts(record)]
    proofs = []
    for gpu, dtype in sorted({_chip(record) for record in counting}):
        own = [record for record in counting if _chip(record) == (gpu, dtype)]
        for workload in WORKLOADS:
            proof = _prove(gpu, dtype, [r for r in own if r.workload["id"] == workload])
            if proof is not None:
                proofs.append(proof)
                break
    if not proofs:
        raise ManifestError(
            f"records: got {len(counting)} that count, wanted kernel set {PLAIN} and at least one "
            f"with another attention, such as {PLAIN}+gluon, on one GPU with one workload of "
            f"{', '.join(WORKLOADS)}; run the bench with --kernels for each"
        )
    return proofs


def _prove(gpu: str, dtype: str, records: Sequence[BenchRecord]) -> ChipProof | None:
    if PLAIN not in {r.backend["kernel_set"] for r in records} or len(records) < 2:
        return None
    first = records[0]
    for record in records:
        if _run(record) != _run(first):
            raise ManifestError(
                f"records of {gpu}: got some of {_run(first)} and some of {_run(record)}, wanted "
                "the same workload version, backend, commit, torch and triton: name those of one "
                "run"
            )
    names = [record.backend["kernel_set"] for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(
            f"records of {gpu}: got more than one of {', '.join(twice)}, wanted one of each "
            "kernel set"
        )
    sets = [_proven(record) for record in records]
    return ChipProof(
        gpu=gpu,
        dtype=dtype,
        workload=first.workload["id"],
        commit=first.git["commit"],
        ranking=tuple(sorted(sets, key=lambda proven: -proven.denoise_fps)),
    )


def _counts(record: BenchRecord) -> bool:
    backend = record.backend
    known = {part.name for part in kernel_registry.PARTS}
    base, *parts = backend["kernel_set"].split("+")
    return (
        record.status == "ok"
        and record.correctness is not None
        and record.correctness.passed
        and record.hardware["gpu"] is not None
        and record.workload["id"] in WORKLOADS
        and backend["profile"] == EXACT.name
        and base == PLAIN
        and known.issuperset(parts)
        and record.metric(_METRIC) is not None
    )


def _chip(record: BenchRecord) -> tuple[str, str]:
    return record.hardware["gpu"], record.backend["dtype"]


def _run(record: BenchRecord) -> tuple[str, ...]:
    software = record.software
    return (
        f"version {record.workload['version']}", f"backend {record.backend['resolved']}",
        f"commit {record.git['commit']}", f"torch {software['torch']}",
        f"triton {software['triton']}",
    )  # fmt: skip


def _proven(record: BenchRecord) -> ProvenSet:
    metric = record.metric(_METRIC)
    assert metric is not None
    assert record.correctness is not None
    return ProvenSet(
        kernel_set=record.backend["kernel_set"],
        denoise_fps=metric.p50,
        rel_l2=record.correctness.rel_l2,
    )


def _read(paths: Iterable[Path]) -> Iterator[BenchRecord]:
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        yield from map(read_record, files)
