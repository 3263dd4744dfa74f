"""From a workload and options to a record."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence

import torch

from shotstream_rt.errors import BackendUnavailableError

from .hardware import describe_git, describe_hardware, describe_software, load_average
from .measurement import Measurement
from .options import BenchOptions
from .record import BenchRecord, Status
from .workloads import Workload

_log = logging.getLogger("shotstream_rt.bench")


def run(
    workload: Workload, options: BenchOptions, command: Sequence[str]
) -> tuple[BenchRecord, Measurement | None]:
    """Run a workload.

    Args:
        workload: of kind ``student`` or ``film``.
        options: how.
        command: arguments of the command line, for the record.

    Returns:
        The record, whose status tells whether there are metrics, and what it was made of.

    Raises:
        ConfigError: the workload or the options cannot be used.
        WeightsError: a checkpoint file is missing or broken.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    load = load_average()
    measurement: Measurement | None = None
    status: Status = "ok"
    message = ""
    try:
        measurement = _measure(workload, options)
    except BackendUnavailableError as error:
        status, message = "unsupported", str(error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        status, message = "oom", str(error).partition("\n")[0] or "out of memory"
    if measurement is not None and not measurement.correctness.passed:
        found = measurement.correctness
        status = "incorrect"
        message = (
            f"rel_l2 to {found.reference}: got {found.rel_l2:.3g}, wanted <= {found.tolerance:g}; "
            "the figures are withheld"
        )
    info = None if measurement is None else measurement.info
    record = BenchRecord(
        workload={
            "id": workload.id,
            "version": workload.version,
            "fingerprint": workload.fingerprint(options.requested()),
        },
        backend={
            "requested": options.backend,
            **({} if options.kernels is None else {"kernels": options.kernels}),
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
        },
        status=status,
        message=message,
        correctness=measurement.correctness if measurement else None,
        metrics=measurement.metrics() if measurement and status == "ok" else (),
        fidelity=measurement.fidelity if measurement else None,
        roofline=measurement.roofline.to_dict() if measurement and measurement.roofline else None,
    )
    return record, measurement


def _measure(workload: Workload, options: BenchOptions) -> Measurement:
    _log.info("workload %s: %s", workload.id, workload.title)
    if workload.kind == "student":
        from .student_run import measure_student

        return measure_student(workload, options)
    from .film_run import measure_film

    return measure_film(workload, options)
