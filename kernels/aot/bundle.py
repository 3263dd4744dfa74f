"""A bundle that was opened: finds the machine code made for a launch, and reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ...errors import KernelUnavailableError, ManifestError
from ...inputs import read_bytes
from ...printable import printable
from .cubin import CubinError, read_cubin
from .manifest import FILE, BundleManifest, KernelEntry
from .packing import ParameterLayout
from .signature import NONE, ONE, Argument

_MOST_BYTES = 256 << 20
"""Of one kernel's machine code; those of today have some hundred kilobytes."""


class Bundle:
    """Machine code by launch.

    Args:
        folder: where it was built.

    Raises:
        ManifestError: no bundle there, damaged, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = BundleManifest.read(folder)

    def find(
        self,
        name: str,
        capability: int,
        described: tuple[Argument, ...],
        constants: str,
        options: str,
    ) -> KernelEntry:
        """Find the entry with the most promises, among those whose promises all hold.

        Args:
            name: of the kernel.
            capability: of the device.
            described: types and divisibility of its arguments.
            constants: compile-time constants as text.
            options: options as text.

        Raises:
            KernelUnavailableError: there is none; says what comes nearest.
        """
        entries = [e for e in self.manifest.kernels if e.kernel == name]
        if not entries:
            raise KernelUnavailableError(
                f"{self.folder}: {name} is not in the bundle; add a case to "
                f"kernels/check/compile_cases.py and build it again, or do not open a bundle"
            )
        local = [e for e in entries if e.capability == capability]
        if not local:
            raise KernelUnavailableError(
                f"{self.folder}: {name}: got a device of sm_{capability}, wanted one of "
                f"{', '.join(f'sm_{arch}' for arch in sorted({e.capability for e in entries}))}; "
                f"build with --arch {capability}, or do not open a bundle"
            )
        words = {
            e.name: differences(e.arguments, e.constants, e.options, described, constants, options)
            for e in local
        }
        fitting = [e for e in local if not words[e.name]]
        if not fitting:
            nearest = min(local, key=lambda e: len(words[e.name]))
            raise KernelUnavailableError(
                f"{self.folder}: {name} on sm_{capability} has no machine code for this launch; "
                f"nearest is {printable(nearest.name, 80)}: "
                f"{printable('; '.join(words[nearest.name]))}. Add a case "
                f"to kernels/check/compile_cases.py and build it again, or do not open a bundle"
            )
        return max(fitting, key=lambda e: sum(_promises(a) for a in e.arguments))


def read_machine_code(folder: Path, entry: KernelEntry) -> bytes:
    """Read an entry's machine code and compare it with the manifest.

    Raises:
        ManifestError: missing, changed since it was built, or not what the entry says.
    """
    path = folder / entry.file
    again = f"build it again: python -m shotstream_rt.kernels.aot build --out {folder}"
    try:
        data = read_bytes(path, limit_bytes=_MOST_BYTES, what="machine code", error=ManifestError)
    except ManifestError as error:
        raise ManifestError(f"{path}: cannot be read ({error}); {again}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != entry.cubin_sha256:
        raise ManifestError(
            f"{path}: got sha256 {found[:16]}, wanted {printable(entry.cubin_sha256[:16])}: "
            f"changed since it was built; {again}"
        )
    try:
        cubin = read_cubin(data)
    except CubinError as error:
        raise ManifestError(f"{path}: not machine code: {error}; {again}") from error
    if cubin.capability != entry.capability:
        raise ManifestError(
            f"{path}: got machine code for sm_{cubin.capability}, wanted sm_{entry.capability}; "
            f"{again}"
        )
    table = cubin.parameters.get(entry.symbol)
    if table is None:
        raise ManifestError(f"{path}: has no kernel {printable(entry.symbol)}; {again}")
    try:
        sizes = ParameterLayout.of(entry.arguments).sizes
    except KeyError as error:
        raise ManifestError(
            f"{folder / FILE}: {printable(entry.name)}: {error.args[0]}; {again}"
        ) from error
    if table != sizes:
        raise ManifestError(
            f"{path}: {entry.symbol} takes parameters of {table} bytes, wanted {sizes}; {again}"
        )
    return data


def _promises(argument: Argument) -> int:
    return argument.divisible + (argument.type in (ONE, NONE))


def differences(
    arguments: Sequence[Argument],
    constants: str,
    options: str,
    got_arguments: Sequence[Argument],
    got_constants: str,
    got_options: str,
) -> list[str]:
    """Say in words why what was compiled for one launch cannot serve another; empty if it can.

    Args:
        arguments: of the launch that was compiled.
        constants: its compile-time constants, from ``constants_text``.
        options: its options, from ``options_text``.
        got_arguments: of the launch at hand.
        got_constants: like ``constants``.
        got_options: like ``options``.
    """
    words = []
    for wanted, got in zip(arguments, got_arguments, strict=True):
        # The integer 1 also fits an entry for any integer.
        same = got.type == wanted.type or (got.type == ONE and wanted.type == "i32")
        if not same:
            words.append(f"{got.name}: got {got.type}, wanted {wanted.type}")
        elif wanted.divisible and not got.divisible:
            words.append(f"{got.name}: got no multiple of 16, wanted one")
    if got_constants != constants:
        words.append(f"constants: got {got_constants}, wanted {constants}")
    if got_options != options:
        words.append(f"options: got {got_options}, wanted {options}")
    return words
