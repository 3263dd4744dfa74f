"""Compiles every kernel for every architecture into a bundle; needs no GPU.

Machine code is compiled, compared with its budgets (``compile_check``) and with the parameter
layout that the launcher will use, and written. The manifest is written last.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.nvidia.compiler import get_ptxas
from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST

from ...errors import ManifestError
from ...outputs import atomic_file, output_error
from ..check.case import CompileCase
from ..check.compile_cases import compile_cases
from ..check.compile_check import compile_case, inspect_case, specialise
from .cubin import CubinError, read_cubin
from .manifest import FILE, BundleManifest, Descriptor, KernelEntry
from .packing import ParameterLayout
from .signature import NONE, ONE, Argument, constants_text, options_text, parameters_of
from .source import kernel_name, source_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One entry with its machine code.

    Attributes:
        entry: for the manifest.
        cubin: machine code.
        failures: what is wrong with it, in words; empty if all is well.
    """

    entry: KernelEntry
    cubin: bytes
    failures: tuple[str, ...]


def build_entry(name: str, capability: int, line_info: bool = False) -> Built:
    """Compile one case for one architecture.

    Args:
        name: of the case.
        capability: 90 for sm_90.
        line_info: keep source lines for profilers; the instructions are the same.
    """
    case = next(case for case in compile_cases(capability) if case.name == name)
    with knobs.compilation.scope():
        knobs.compilation.disable_line_info = not line_info
        compiled = compile_case(case, capability)
    cubin, metadata = compiled.asm["cubin"], compiled.metadata
    report = inspect_case(case, capability, compiled)
    arguments = arguments_of(case)
    digest = hashlib.sha256(cubin).hexdigest()
    entry = KernelEntry(
        name=case.name,
        kernel=kernel_name(case.kernel),
        capability=capability,
        symbol=metadata.name,
        arguments=arguments,
        constants=constants_text(constants_of(case)),
        options=options_text(case.options),
        descriptors=_descriptors(metadata),
        num_warps=metadata.num_warps,
        num_ctas=metadata.num_ctas,
        cooperative=metadata.launch_cooperative_grid,
        overlapped=metadata.launch_pdl,
        shared_bytes=metadata.shared,
        scratch_bytes=metadata.global_scratch_size,
        registers=report.registers,
        spill_bytes=report.spill_bytes,
        file=f"sm_{capability}/{case.name}-{digest[:12]}.cubin",
        cubin_bytes=len(cubin),
        cubin_sha256=digest,
        source_sha256=source_sha256(case.kernel),
    )
    return Built(entry=entry, cubin=cubin, failures=(*report.failures, *_mismatches(entry, cubin)))


def arguments_of(case: CompileCase) -> tuple[Argument, ...]:
    """Types and divisibility for which a case is compiled."""
    signature, constants, attributes = specialise(case)
    arguments = []
    for index, parameter in enumerate(parameters_of(case.kernel)):
        if parameter.constant:
            continue
        kind = signature[parameter.name]
        if kind == "constexpr":
            kind = ONE if constants.get(parameter.name) == 1 else NONE
        arguments.append(Argument(name=parameter.name, type=kind, divisible=(index,) in attributes))
    return tuple(arguments)


def constants_of(case: CompileCase) -> dict[str, Any]:
    """Every declared constant, those at their default included."""
    given = {p.name: p.default for p in parameters_of(case.kernel) if p.constant}
    return given | case.constants


def _descriptors(metadata: Any) -> tuple[Descriptor, ...]:
    return tuple(
        Descriptor(
            data_type=TMA_DTYPE_DEVICE_TO_HOST[meta["elem_type"]],
            element_bytes=meta["elem_size"],
            swizzle=meta["swizzle"],
            box=tuple(meta["block_size"]),
        )
        for meta in metadata.tensordesc_meta or ()
    )


def _mismatches(entry: KernelEntry, cubin: bytes) -> list[str]:
    """Say where the machine code differs from what the launcher will assume."""
    descriptors = sum(argument.type.startswith("tensordesc") for argument in entry.arguments)
    if descriptors != len(entry.descriptors):
        # Below sm_90 Triton takes descriptors apart; kernels here use pointers there.
        return [f"has {descriptors} descriptors and {len(entry.descriptors)} tensor maps"]
    try:
        facts, layout = read_cubin(cubin), ParameterLayout.of(entry.arguments)
    except (CubinError, KeyError) as error:
        return [f"cannot be launched: {error}"]
    words = []
    if facts.capability != entry.capability:
        words.append(f"is machine code for sm_{facts.capability}, wanted sm_{entry.capability}")
    table = facts.parameters.get(entry.symbol)
    if table != layout.sizes:
        words.append(f"takes parameters of {table} bytes, wanted {layout.sizes}")
    return words


def cases_of(architectures: Iterable[int], kernels: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Every (case, architecture), or those of some cases."""
    return [
        (case.name, capability)
        for capability in architectures
        for case in compile_cases(capability)
        if not kernels or case.name in kernels
    ]


def build(
    folder: Path,
    work: Sequence[tuple[str, int]],
    *,
    jobs: int = 1,
    line_info: bool = False,
    told: Callable[[Built], None] = lambda built: None,
) -> BundleManifest | None:
    """Build a bundle; a bundle that is there already is replaced at the end.

    Args:
        folder: of the bundle; made if it is not there.
        work: cases and architectures.
        jobs: processes that compile.
        line_info: keep source lines for profilers.
        told: called with each entry as it is done.

    Returns:
        What was written, or ``None`` if an entry failed: then the folder is as it was.

    Raises:
        ManifestError: the folder holds something that is not a bundle.
        OutputError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or _foreign(folder)):
        raise ManifestError(f"{folder}: exists and is no bundle; name a new folder")
    built = []
    for item in _compile(work, jobs, line_info):
        told(item)
        built.append(item)
    if any(item.failures for item in built):
        return None
    built.sort(key=lambda item: (item.entry.capability, item.entry.name))
    manifest = BundleManifest(
        triton=triton.__version__,
        ptxas={f"sm_{sm}": get_ptxas(sm).version for sm in sorted({sm for _, sm in work})},
        line_info=line_info,
        kernels=tuple(item.entry for item in built),
    )
    for item in built:
        # Named by content: what an older manifest points to is not touched until it is replaced.
        with atomic_file(folder / item.entry.file) as part:
            part.write_bytes(item.cubin)
    manifest.write(folder)
    _sweep(folder, {item.entry.file for item in built})
    return manifest


def _compile(work: Sequence[tuple[str, int]], jobs: int, line_info: bool) -> Iterable[Built]:
    if jobs == 1 or len(work) == 1:
        yield from (build_entry(name, capability, line_info) for name, capability in work)
        return
    # Compilers have threads, which do not run in a forked process: spawn it instead.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=context) as pool:
        tasks = [pool.submit(build_entry, name, sm, line_info) for name, sm in work]
        for task in as_completed(tasks):
            yield task.result()


def _foreign(folder: Path) -> bool:
    """Whether a folder holds files that are not a bundle's."""
    return not (folder / FILE).is_file() and any(folder.iterdir())


def _sweep(folder: Path, wanted: set[str]) -> None:
    """Remove machine code that no entry names any more."""
    for path in folder.glob("sm_*/*.cubin"):
        if path.relative_to(folder).as_posix() not in wanted:
            try:
                path.unlink()
            except OSError as error:
                raise output_error(path, error) from error
