"""Compares a bundle with its own hashes and with the kernels as they are now; compiles nothing."""

from __future__ import annotations

from pathlib import Path

from ...errors import ManifestError
from ..check.compile_cases import compile_cases
from .build import arguments_of, constants_of
from .bundle import read_machine_code
from .manifest import BundleManifest, KernelEntry
from .signature import constants_text, options_text
from .source import kernel_name, source_sha256


def check_bundle(folder: Path) -> tuple[BundleManifest, list[str]]:
    """Check every entry of a bundle.

    Returns:
        The manifest, and what is wrong, in words: files that changed, kernels whose source or
        launch is no longer what was compiled, kernels that are missing or gone.

    Raises:
        ManifestError: there is no bundle, or its manifest is damaged.
    """
    manifest = BundleManifest.read(folder)
    problems = [problem for entry in manifest.kernels for problem in _damage(folder, entry)]
    for capability in manifest.architectures:
        arch = f"sm_{capability}"
        entries = {e.name: e for e in manifest.kernels if e.capability == capability}
        cases = {case.name: case for case in compile_cases(capability)}
        problems += [f"{arch} {name}: missing" for name in cases.keys() - entries.keys()]
        problems += [f"{arch} {name}: no such case" for name in entries.keys() - cases.keys()]
        for name in entries.keys() & cases.keys():
            case, entry = cases[name], entries[name]
            now = (
                kernel_name(case.kernel),
                arguments_of(case),
                constants_text(constants_of(case)),
                options_text(case.options),
            )
            if now != _compiled(entry):
                problems.append(f"{arch} {name}: compiled for another launch")
            if entry.source_sha256 != source_sha256(case.kernel):
                problems.append(f"{arch} {name}: compiled from another source")
    return manifest, sorted(problems)


def _damage(folder: Path, entry: KernelEntry) -> list[str]:
    try:
        read_machine_code(folder, entry)
    except ManifestError as error:
        return [str(error)]
    return []


def _compiled(entry: KernelEntry) -> tuple[object, ...]:
    return (entry.kernel, entry.arguments, entry.constants, entry.options)
