"""From a workload and options to a record."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from shotstream_rt.errors import BackendUnavailableError

from .hardware import describe_git, describe_hardware, describe_software, load_average
from .measurement import Measurement, SaveUnchecked
from .options import BenchOptions
from .record import BenchRecord, Status, write_record
from .workloads import Workload

_log = logging.getLogger("shotstream_rt.bench")


def run(
    workload: Workload,
    options: BenchOptions,
    command: Sequence[str],
    *,
    out: str | Path | None = None,
) -> tuple[BenchRecord, Measurement | None]:
    """Run a workload.

    Args:
        workload: of kind ``student``, ``film``, ``interactive`` or ``serve``.
        options: how.
        command: arguments of the command line, for the record.
        out: file or folder that gets a record with status ``not checked`` before the correctness
            check begins; see ``record.write_record``.

    Returns:
        The record, whose status tells whether there are metrics, and what it was made of.

    Raises:
        ConfigError: the workload or the options cannot be used.
        WeightsError: a checkpoint file is missing or broken.
        OutputError: ``out`` cannot be written.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    load = load_average()

    def save_unchecked(measured: Measurement) -> None:
        message = "measured, but not compared with the oracle; the figures are withheld"
        record = _record(workload, options, command, load, measured, "not checked", message)
        if out is not None:
            write_record(record, out)

    measurement: Measurement | None = None
    status: Status = "ok"
    message = ""
    try:
        measurement = _measure(workload, options, save_unchecked)
    except BackendUnavailableError as error:
        status, message = "unsupported", str(error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        status, message = "oom", str(error).partition("\n")[0] or "out of memory"
    if measurement is not None:
        found = measurement.correctness
        assert found is not None, "a measurement is returned when its check is done"
        if not found.passed:
            status = "incorrect"
            message = (
                f"rel_l2 to {found.reference}: got {found.rel_l2:.3g}, wanted <= "
                f"{found.tolerance:g}; the figures are withheld"
            )
    return _record(workload, options, command, load, measurement, status, message), measurement


def _record(
    workload: Workload,
    options: BenchOptions,
    command: Sequence[str],
    load: float | None,
    measurement: Measurement | None,
    status: Status,
    message: str,
) -> BenchRecord:
    info = None if measurement is None else measurement.info
    baseline = None if measurement is None else measurement.baseline
    roofline = None if measurement is None else measurement.roofline
    return BenchRecord(
        workload={
            "id": workload.id,
            "version": workload.version,
            "fingerprint": workload.fingerprint(options.requested()),
        },
        backend={
            "requested": options.backend,
            **options.optional(),
            "resolved": info and info.name,
            "kernel_set": info and info.kernel_set,
            "dtype": info.dtype if info else options.dtype,
            "profile": options.profile,
            "device": info and info.device,
        },
        git=describe_git(),
        hardware=describe_hardware(options.torch_device()),
        software=describe_software(),
        method={
            "command": shlex.join(["python", "-m", "shotstream_rt.bench", *command]),
            "timer": measurement and measurement.timer,
            "warmup": options.warmup,
            "repeats": options.repeats,
            "l2": "warm",
            "consumer": measurement and measurement.consumer,
            "threads": torch.get_num_threads(),
            "load_before": load,
            **({"quick": True} if options.quick else {}),
            **({} if baseline is None else {"baseline": baseline.to_dict()}),
            **({} if measurement is None else measurement.notes),
        },
        status=status,
        message=message,
        correctness=measurement.correctness if measurement else None,
        metrics=measurement.metrics() if measurement and status == "ok" else (),
        fidelity=measurement.fidelity if measurement else None,
        roofline=roofline.to_dict() if roofline else None,
        unchecked=measurement.medians() if measurement and status == "not checked" else None,
    )


def _measure(
    workload: Workload, options: BenchOptions, save_unchecked: SaveUnchecked
) -> Measurement:
    _log.info("workload %s: %s", workload.id, workload.title)
    if workload.kind == "student":
        from .student_run import measure_student

        return measure_student(workload, options, save_unchecked)
    if workload.kind == "interactive":
        from .interactive_run import measure_interactive

        return measure_interactive(workload, options, save_unchecked)
    if workload.kind == "serve":
        from .serve_run import measure_serve

        return measure_serve(workload, options, save_unchecked)
    from .film_run import measure_film

    return measure_film(workload, options, save_unchecked)
