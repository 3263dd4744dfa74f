"""``manifest.json`` of a bundle: what was compiled, from which source, for which launches.

A bundle is a folder with the manifest and one file of machine code per entry. The manifest is
written last, so a folder that was not finished is not a bundle.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...errors import ManifestError
from ...inputs import parse_json, read_text
from ...outputs import atomic_file
from ...printable import printable, shown
from .signature import Argument

FILE = "manifest.json"
FORMAT = "shotstream-kernels"
SCHEMA_VERSION = 1
_MOST_BYTES, _MOST_NAME, _MOST = 64 << 20, 1024, 2**31 - 1

_REBUILD = "build it again: python -m shotstream_rt.kernels.aot build --out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """How a tensor descriptor's blocks are fetched into shared memory.

    Attributes:
        data_type: ``CUtensorMapDataType``.
        element_bytes: size of an element.
        swizzle: ``CUtensorMapSwizzle``.
        box: elements fetched at once, slowest axis first.
    """

    data_type: int
    element_bytes: int
    swizzle: int
    box: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEntry:
    """One kernel, specialised and compiled for one architecture.

    Attributes:
        name: of the compile case.
        kernel: module and function, ``adaln._gated_residual_kernel``.
        capability: 90 for sm_90; machine code runs on no other.
        symbol: name of the function in the machine code.
        arguments: those not declared compile-time constants, in order.
        constants: declared compile-time constants, as one comparable text.
        options: options a launch must ask for, as one comparable text.
        descriptors: one per ``tensordesc`` argument.
        num_warps: of a program, after compilation.
        num_ctas: programs of a cluster.
        cooperative: all programs must be resident at once.
        overlapped: may start before the kernel in front has ended.
        shared_bytes: dynamic shared memory of a program.
        scratch_bytes: global memory a program needs.
        registers: of a thread.
        spill_bytes: stack and local memory of a thread.
        file: machine code, relative to the folder.
        cubin_bytes: its size.
        cubin_sha256: its hash.
        source_sha256: hash of the kernel's source.
    """

    name: str
    kernel: str
    capability: int
    symbol: str
    arguments: tuple[Argument, ...]
    constants: str
    options: str
    descriptors: tuple[Descriptor, ...]
    num_warps: int
    num_ctas: int
    cooperative: bool
    overlapped: bool
    shared_bytes: int
    scratch_bytes: int
    registers: int
    spill_bytes: int
    file: str
    cubin_bytes: int
    cubin_sha256: str
    source_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """Contents of ``manifest.json``.

    Attributes:
        triton: release of the compiler.
        ptxas: release of the assembler, by architecture.
        line_info: whether the machine code names source lines, for profilers.
        kernels: all entries.
    """

    triton: str
    ptxas: dict[str, str]
    line_info: bool
    kernels: tuple[KernelEntry, ...]

    @property
    def architectures(self) -> tuple[int, ...]:
        """Compute capabilities for which there is machine code."""
        return tuple(sorted({entry.capability for entry in self.kernels}))

    @classmethod
    def read(cls, folder: Path) -> BundleManifest:
        """Read and check a bundle's manifest; machine code is read when it is used.

        Raises:
            ManifestError: no bundle there, damaged, or of another version; says what to do.
        """
        path = folder / FILE
        try:
            text = read_text(
                path, limit_bytes=_MOST_BYTES, what="bundle manifest", error=ManifestError
            )
            data = parse_json(text, path, ManifestError)
        except ManifestError as error:
            raise ManifestError(
                f"{path}: cannot be read as JSON ({error}); {_REBUILD} {folder}"
            ) from error
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise ManifestError(f'{path}: got no "format": "{FORMAT}"; not a bundle of kernels')
        version = data.pop("schema_version", None)
        if type(version) is not int or version != SCHEMA_VERSION:
            raise ManifestError(
                f"{path}: got schema_version {shown(version)}, wanted {SCHEMA_VERSION}; "
                f"{_REBUILD} {folder}"
            )
        manifest = _decode(cls, data, str(path))
        seen = set()
        for entry in manifest.kernels:
            key = (entry.capability, entry.name)
            if key in seen:
                raise ManifestError(
                    f"{path}: sm_{entry.capability} {printable(entry.name, 80)} occurs twice"
                )
            seen.add(key)
            inside = 0 < len(entry.file) <= _MOST_NAME and entry.file.isprintable()
            if not inside or Path(entry.file).is_absolute() or ".." in Path(entry.file).parts:
                raise ManifestError(
                    f"{path}: {printable(entry.name, 80)}: file: got {shown(entry.file)}, wanted "
                    "one inside the folder"
                )
        return manifest

    def write(self, folder: Path) -> None:
        """Write the manifest, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        data = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            **dataclasses.asdict(self),
        }
        with atomic_file(folder / FILE) as part:
            part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


_T = TypeVar("_T")
_PARTS: dict[str, type] = {
    "arguments": Argument,
    "descriptors": Descriptor,
    "kernels": KernelEntry,
    "box": int,
}
"""What the lists hold, by name of the field."""


def _decode(cls: type[_T], data: Any, where: str) -> _T:
    """Make a dataclass of an object; every key must be there, and no other.

    Raises:
        ManifestError: naming the key.
    """
    if not isinstance(data, dict):
        raise ManifestError(f"{where}: got {type(data).__name__}, wanted an object")
    fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if set(fields) != set(data):
        raise ManifestError(
            f"{where}: missing {shown(sorted(set(fields) - set(data)))}, unknown "
            f"{shown(sorted(set(data) - set(fields)))}"
        )
    values = {name: _value(name, kind, data[name], where) for name, kind in fields.items()}
    return cls(**values)


def _value(name: str, kind: str, value: Any, where: str) -> Any:
    if kind.startswith("tuple"):
        if not isinstance(value, list):
            raise ManifestError(f"{where}: {name}: got {shown(value)}, wanted a list")
        part = _PARTS[name]
        if part is int:
            return tuple(_value(name, "int", item, where) for item in value)
        return tuple(
            _decode(part, item, f"{where}: {name}[{index}]") for index, item in enumerate(value)
        )
    wanted = {"str": str, "int": int, "bool": bool}.get(kind, dict)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ManifestError(f"{where}: {name}: got {shown(value)}, wanted {wanted.__name__}")
    if isinstance(value, int) and not 0 <= value <= _MOST:
        raise ManifestError(f"{where}: {name}: got {shown(value)}, wanted 0 to {_MOST}")
    return value
