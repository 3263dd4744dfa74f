"""Runs kernels from a bundle: finds the machine code made for a launch, packs, starts.

A kernel may have been compiled several times, each time under promises about its arguments (an
address divisible by 16, a stride of 1). A launch takes the entry whose types, constants and options
are its own and whose promises all hold; of several the one with the most promises. No entry is an
error that names what differs: nothing is compiled.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from operator import is_
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import BackendUnavailableError, KernelUnavailableError, ManifestError
from .bundle import Bundle, read_machine_code
from .driver import CudaDriver, Driver, Launch, TensorMapRequest
from .manifest import Descriptor, KernelEntry
from .packing import ParameterLayout
from .signature import (
    DIVISOR,
    NONE,
    ONE,
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

_ADDRESS, _NUMBER = "address", "number"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An entry on a device, ready to run.

    Attributes:
        entry: what was built.
        function: what the driver gave for it.
        layout: of its parameters.
        passed: index among the launch's values, and how to pass it, of each argument that the
            machine code has a parameter for.
        parameters: declarations, needed where a launch's arguments have to be sorted first; empty
            where its positional arguments are the values.
    """

    entry: KernelEntry
    function: Any
    layout: ParameterLayout
    passed: tuple[tuple[int, str | Descriptor], ...]
    parameters: tuple[Parameter, ...]


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
        self.bundle = Bundle(folder)
        self._driver = driver or _cuda_driver()
        self._found: dict[Any, _Loaded] = {}
        self._functions: dict[tuple[str, torch.device], Any] = {}
        self._maps: OrderedDict[TensorMapRequest, bytes] = OrderedDict()

    def launch(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """Like ``kernels.launch.run_kernel``.

        Args:
            kernel: a ``triton.jit`` function.
            grid: programs along one to three axes.
            arguments: its arguments that are not compile-time constants, in order.
            named: compile-time constants by name, and options such as ``num_warps``.
        """
        device = _device_of(kernel, (*arguments, *named.values()))
        # Differs wherever entries differ, perhaps more often; quick to compute.
        key = (
            kernel.fn,
            device,
            tuple(map(_token, arguments)),
            tuple((name, _token(value), _plain(value)) for name, value in named.items()),
        )
        loaded = self._found.get(key)
        if loaded is None:
            loaded = self._found[key] = self._load(kernel, device, arguments, named)
        values = arguments
        if loaded.parameters:
            values = tuple(bind(loaded.parameters, arguments, named)[0])
        self._start(loaded, grid, values, device)

    def _load(
        self,
        kernel: Any,
        device: torch.device,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> _Loaded:
        """Find the entry for a launch, check it and put it onto the device."""
        name, folder = kernel_name(kernel), self.bundle.folder
        if not hasattr(kernel, "params"):
            raise KernelUnavailableError(
                f"{name}: is interpreted (TRITON_INTERPRET=1), and a bundle is open; unset one of "
                f"the two"
            )
        parameters = parameters_of(kernel)
        values, constants, options = bind(parameters, arguments, named)
        declared = [parameter for parameter in parameters if not parameter.constant]
        entry = self.bundle.find(
            name,
            self._driver.capability(device),
            tuple(map(describe, declared, values)),
            constants_text(constants),
            options_text(options),
        )
        if entry.source_sha256 != source_sha256(kernel):
            raise ManifestError(
                f"{folder}: {name}: the bundle was built from another source of this kernel; "
                f"build it again: python -m shotstream_rt.kernels.aot build --out {folder}"
            )
        place = (entry.file, device)
        if place not in self._functions:
            self._functions[place] = self._driver.load(
                read_machine_code(folder, entry), entry.symbol, entry.shared_bytes, device
            )
        same = len(arguments) == len(values) and all(map(is_, arguments, values))
        return _Loaded(
            entry,
            self._functions[place],
            ParameterLayout.of(entry.arguments),
            _passed(entry),
            () if same else parameters,
        )

    def _start(
        self, loaded: _Loaded, grid: tuple[int, ...], values: tuple[Any, ...], device: torch.device
    ) -> None:
        entry = loaded.entry
        x, y, z = (*grid, 1, 1)[:3]
        if x * y * z == 0:
            return
        flat: list[Any] = []
        for index, how in loaded.passed:
            value = values[index]
            if how is _ADDRESS:
                flat.append(value.data_ptr())
            elif isinstance(how, Descriptor):
                flat += (self._tensor_map(value, how), *value.shape, *value.strides)
            else:
                flat.append(value)
        scratch = None
        if entry.scratch_bytes:
            # Taken from torch on the same stream, so it may be given back at once.
            size = x * y * z * entry.num_ctas * entry.scratch_bytes
            scratch = torch.empty(size, dtype=torch.uint8, device=device)
        packed = loaded.layout.pack([*flat, 0 if scratch is None else scratch.data_ptr(), 0])
        shape = Launch(
            grid=(x * entry.num_ctas, y, z),
            threads=32 * entry.num_warps,
            shared_bytes=entry.shared_bytes,
            cluster=entry.num_ctas,
            cooperative=entry.cooperative,
            overlapped=entry.overlapped,
        )
        self._driver.launch(loaded.function, shape, packed.address, device)

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


def _passed(entry: KernelEntry) -> tuple[tuple[int, str | Descriptor], ...]:
    """Places and kinds of the arguments that are passed."""
    descriptors = iter(entry.descriptors)
    passed: list[tuple[int, str | Descriptor]] = []
    for index, argument in enumerate(entry.arguments):
        if argument.type.startswith("*"):
            passed.append((index, _ADDRESS))
        elif argument.type.startswith("tensordesc"):
            passed.append((index, next(descriptors)))
        elif argument.type not in (ONE, NONE):
            passed.append((index, _NUMBER))
    return tuple(passed)


def _token(value: Any) -> Any:
    """Everything about one value that specialisation may depend on."""
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % DIVISOR == 0
    if isinstance(value, int):
        size = (-(2**31) <= value < 2**31, value < 2**63)
        return type(value), value == 1, value % DIVISOR == 0, *size
    if hasattr(value, "block_shape"):
        layout = getattr(value, "layout", None)
        return value.base.dtype, tuple(value.block_shape), layout
    return type(value)


def _plain(value: Any) -> Any:
    """A named value itself where it may be a compile-time constant."""
    return None if isinstance(value, Tensor) or hasattr(value, "block_shape") else value


def _device_of(kernel: Any, values: tuple[Any, ...]) -> torch.device:
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
