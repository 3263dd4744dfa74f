"""Runs kernels from a bundle: finds the machine code made for a launch, packs, starts.

A kernel may have been compiled several times, each time under promises about its arguments (an
address divisible by 16, a stride of 1). A launch takes the entry whose types, constants and options
are its own and whose promises all hold; of several the one with the most promises, which is what
Triton would have compiled. No entry is an error that names what differs: nothing is compiled.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import BackendUnavailableError, KernelUnavailableError, ManifestError
from .cubin import CubinError, read_cubin
from .driver import CudaDriver, Driver, Launch, TensorMapRequest
from .manifest import BundleManifest, Descriptor, KernelEntry
from .packing import ParameterLayout
from .signature import (
    NONE,
    ONE,
    Argument,
    Parameter,
    bind,
    constants_text,
    describe,
    options_text,
    parameters_of,
)
from .source import kernel_name, source_sha256

_KEPT_MAPS = 4096
"""Tensor maps kept: three per layer and fill level of a 30-layer student fit many times."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An entry on a device, ready to run."""

    entry: KernelEntry
    function: Any
    layout: ParameterLayout


class BundleLauncher:
    """A ``kernels.launch.Launcher`` over one bundle; safe to use from several threads.

    Args:
        folder: the bundle.
        driver: of the device; by default the real one.

    Raises:
        ManifestError: no bundle there, damaged, or of another version.
        BackendUnavailableError: ``cuda-bindings`` is missing.
    """

    def __init__(self, folder: Path, driver: Driver | None = None) -> None:
        self.folder = folder
        self.manifest = BundleManifest.read(folder)
        self._driver = driver or _cuda_driver()
        self._parameters: dict[Any, tuple[Parameter, ...]] = {}
        self._found: dict[Any, _Loaded] = {}
        self._maps: OrderedDict[TensorMapRequest, bytes] = OrderedDict()

    def launch(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """Like ``kernels.launch.run_kernel``."""
        function = getattr(kernel, "fn", None)
        parameters = self._parameters.get(function)
        if parameters is None:
            parameters = self._parameters[function] = _declared(kernel)
        values, constants, options = bind(parameters, arguments, named)
        device = _device_of(values, kernel)
        declared = [parameter for parameter in parameters if not parameter.constant]
        described = tuple(map(describe, declared, values))
        key = (function, device, described, constants_text(constants), options_text(options))
        loaded = self._found.get(key)
        if loaded is None:
            loaded = self._found[key] = self._load(kernel, device, *key[2:])
        self._start(loaded, grid, values, device)

    def _load(
        self,
        kernel: Any,
        device: torch.device,
        described: tuple[Argument, ...],
        constants: str,
        options: str,
    ) -> _Loaded:
        """Find the entry for a launch, check it and put it onto the device."""
        name, capability = kernel_name(kernel), self._driver.capability(device)
        entry = self._find(name, capability, described, constants, options)
        if entry.source_sha256 != source_sha256(kernel):
            raise ManifestError(
                f"{self.folder}: {name}: the bundle was built from another source of this kernel; "
                f"build it again: python -m shotstream_rt.kernels.aot build --out {self.folder}"
            )
        cubin = read_machine_code(self.folder, entry)
        layout = ParameterLayout.of(entry.arguments)
        return _Loaded(
            entry,
            self._driver.load(cubin, entry.symbol, entry.shared_bytes, device),
            layout,
        )

    def _find(
        self,
        name: str,
        capability: int,
        described: tuple[Argument, ...],
        constants: str,
        options: str,
    ) -> KernelEntry:
        """Find the entry with the most promises of those that hold."""
        entries = [e for e in self.manifest.kernels if e.kernel == name]
        if not entries:
            raise KernelUnavailableError(
                f"{self.folder}: {name} is not in the bundle; add a case to "
                f"kernels/compile_cases.py and build it again, or do not open a bundle"
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
                f"nearest is {nearest.name}: {'; '.join(words[nearest.name])}. Add a case "
                f"to kernels/compile_cases.py and build it again, or do not open a bundle"
            )
        return max(fitting, key=lambda e: sum(_promises(a) for a in e.arguments))

    def _start(
        self, loaded: _Loaded, grid: tuple[int, ...], values: list[Any], device: torch.device
    ) -> None:
        entry = loaded.entry
        x, y, z = (*grid, 1, 1)[:3]
        if x * y * z == 0:
            return
        programs = x * y * z * entry.num_ctas
        # Scratch is taken from torch on the same stream, so it may be given back at once.
        scratch = (
            torch.empty(programs * entry.scratch_bytes, dtype=torch.uint8, device=device)
            if entry.scratch_bytes
            else None
        )
        flat = self._flatten(entry, values)
        packed = loaded.layout.pack([*flat, scratch.data_ptr() if scratch is not None else 0, 0])
        shape = Launch(
            grid=(x * entry.num_ctas, y, z),
            threads=32 * entry.num_warps,
            shared_bytes=entry.shared_bytes,
            cluster=entry.num_ctas,
            cooperative=entry.cooperative,
            overlapped=entry.overlapped,
        )
        self._driver.launch(loaded.function, shape, packed.address, device)

    def _flatten(self, entry: KernelEntry, values: list[Any]) -> list[Any]:
        """Values as they lie in parameter memory, scratch left out."""
        flat: list[Any] = []
        descriptors = iter(entry.descriptors)
        for argument, value in zip(entry.arguments, values, strict=True):
            if argument.type in (ONE, NONE):
                continue
            if argument.type.startswith("*"):
                flat.append(value.data_ptr())
            elif argument.type.startswith("tensordesc"):
                flat += [
                    self._tensor_map(value, next(descriptors)), *value.shape, *value.strides
                ]  # fmt: skip
            else:
                flat.append(value)
        return flat

    def _tensor_map(self, value: Any, descriptor: Descriptor) -> bytes:
        """Encode a descriptor; one that was encoded before is remembered."""
        request = TensorMapRequest(
            address=value.base.data_ptr(),
            shape=tuple(value.shape),
            strides=tuple(value.strides),
            not_a_number=value.padding == "nan",
            data_type=descriptor.data_type,
            element_bytes=descriptor.element_bytes,
            swizzle=descriptor.swizzle,
            box=descriptor.box,
        )
        known = self._maps.get(request)
        if known is None:
            known = self._maps[request] = self._driver.tensor_map(request)
            if len(self._maps) > _KEPT_MAPS:
                self._maps.popitem(last=False)
        return known


def read_machine_code(folder: Path, entry: KernelEntry) -> bytes:
    """Read an entry's machine code and hold it against the manifest.

    Raises:
        ManifestError: missing, changed since it was built, or not what the entry says.
    """
    path = folder / entry.file
    again = f"build it again: python -m shotstream_rt.kernels.aot build --out {folder}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error}); {again}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != entry.cubin_sha256:
        raise ManifestError(
            f"{path}: got sha256 {found[:16]}, wanted {entry.cubin_sha256[:16]}: changed since it "
            f"was built; {again}"
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
        raise ManifestError(f"{path}: has no kernel {entry.symbol}; {again}")
    sizes = ParameterLayout.of(entry.arguments).sizes
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
    """Say in words why what was compiled for one launch cannot serve another; empty if it can."""
    words = []
    for wanted, got in zip(arguments, got_arguments, strict=True):
        # The integer 1 is also an integer of no promise.
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


def _declared(kernel: Any) -> tuple[Parameter, ...]:
    if not hasattr(kernel, "params"):
        raise KernelUnavailableError(
            f"{kernel_name(kernel)}: is interpreted (TRITON_INTERPRET=1), and a bundle is open; "
            f"unset one of the two"
        )
    return parameters_of(kernel)


def _device_of(values: list[Any], kernel: Any) -> torch.device:
    for value in values:
        tensor = getattr(value, "base", value)
        if isinstance(tensor, Tensor):
            return tensor.device
    raise TypeError(f"{kernel_name(kernel)}: got no tensor, so no device to run on")


def _cuda_driver() -> Driver:
    try:
        return CudaDriver()
    except ImportError as error:
        raise BackendUnavailableError(
            f"running a bundle of kernels takes cuda-bindings, which cannot be imported ({error}); "
            f"pip install shotstream_rt[gpu], or do not open a bundle"
        ) from error
