"""The few calls of the CUDA driver that running a bundle takes, through ``cuda-bindings``.

The only file that touches the driver; ``Driver`` is what the launcher asks of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ...errors import DeviceError

_FREE_SHARED_BYTES = 49152
"""Dynamic shared memory that a kernel may take without asking."""


@dataclass(frozen=True, slots=True)
class TensorMapRequest:
    """What makes up a tensor map; equal requests give equal maps.

    Attributes:
        address: of the first element, a multiple of 16.
        shape: elements, slowest axis first.
        strides: elements from one entry of an axis to the next; the last is 1.
        not_a_number: what is fetched beyond the tensor: NaN, or zero.
        data_type: ``CUtensorMapDataType``.
        element_bytes: size of an element.
        swizzle: ``CUtensorMapSwizzle``.
        box: elements fetched at once, slowest axis first.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    not_a_number: bool
    data_type: int
    element_bytes: int
    swizzle: int
    box: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """Shape of one launch.

    Attributes:
        grid: blocks along three axes, clusters counted out.
        threads: of a block.
        shared_bytes: dynamic shared memory of a block.
        cluster: blocks of a cluster.
        cooperative: all blocks must be resident at once.
        overlapped: may start before the kernel in front has ended.
    """

    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    cluster: int
    cooperative: bool
    overlapped: bool


class Driver(Protocol):
    """What the launcher needs of a device."""

    def capability(self, device: torch.device) -> int:
        """Compute capability: 90 for sm_90."""

    def load(self, cubin: bytes, symbol: str, shared_bytes: int, device: torch.device) -> Any:
        """Load machine code onto a device; the result is for ``launch``.

        Args:
            cubin: the machine code file.
            symbol: name of the function in it.
            shared_bytes: dynamic shared memory of a block, in bytes.
            device: the GPU it will run on.
        """

    def tensor_map(self, request: TensorMapRequest) -> bytes:
        """Encode a tensor map, 128 bytes."""

    def launch(self, function: Any, shape: Launch, parameters: int, device: torch.device) -> None:
        """Start a kernel on torch's current stream of the device.

        Args:
            function: what ``load`` gave.
            shape: of the launch.
            parameters: address of an array with the addresses of the parameters.
            device: where it was loaded.
        """


class CudaDriver:
    """The real one.

    Raises:
        ImportError: ``cuda-bindings`` is not installed.
    """

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._cuda: Any = driver

    def capability(self, device: torch.device) -> int:
        """Like ``Driver.capability``."""
        major, minor = torch.cuda.get_device_capability(device)
        return 10 * major + minor

    def load(self, cubin: bytes, symbol: str, shared_bytes: int, device: torch.device) -> Any:
        """Like ``Driver.load``; the machine code stays loaded as long as the process lives.

        Args:
            cubin: the machine code file.
            symbol: name of the function in it.
            shared_bytes: dynamic shared memory of a block, in bytes.
            device: the GPU it will run on.

        Raises:
            DeviceError: the driver refuses it.
        """
        cuda = self._cuda
        with torch.cuda.device(device):
            self._enter_context(device)
            module = self._call(cuda.cuModuleLoadData(cubin), f"load {symbol}")
            function = self._call(cuda.cuModuleGetFunction(module, symbol.encode()), symbol)
            if shared_bytes > _FREE_SHARED_BYTES:
                prefer = cuda.CUfunc_cache.CU_FUNC_CACHE_PREFER_SHARED
                self._call(cuda.cuFuncSetCacheConfig(function, prefer), symbol)
                limit = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._call(
                    cuda.cuFuncSetAttribute(function, limit, shared_bytes),
                    f"give {shared_bytes} bytes of shared memory to {symbol}",
                )
        return function

    def tensor_map(self, request: TensorMapRequest) -> bytes:
        """Like ``Driver.tensor_map``.

        Raises:
            DeviceError: the hardware cannot describe such a tensor.
        """
        cuda, rank = self._cuda, len(request.shape)
        fills = cuda.CUtensorMapFloatOOBfill
        encoded = self._call(
            cuda.cuTensorMapEncodeTiled(
                cuda.CUtensorMapDataType(request.data_type),
                rank,
                request.address,
                [cuda.cuuint64_t(size) for size in reversed(request.shape)],
                [
                    cuda.cuuint64_t(stride * request.element_bytes)
                    for stride in reversed(request.strides[:-1])
                ],
                [cuda.cuuint32_t(size) for size in reversed(request.box)],
                [cuda.cuuint32_t(1)] * rank,
                cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
                cuda.CUtensorMapSwizzle(request.swizzle),
                cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                fills.CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
                if request.not_a_number
                else fills.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            ),
            f"describe {request}",
        )
        return b"".join(int(word).to_bytes(8, "little") for word in encoded.opaque)

    def launch(self, function: Any, shape: Launch, parameters: int, device: torch.device) -> None:
        """Like ``Driver.launch``.

        Args:
            function: what ``load`` gave.
            shape: of the launch.
            parameters: address of an array with the addresses of the parameters.
            device: where it was loaded.

        Raises:
            DeviceError: the launch is refused, or an earlier kernel failed.
        """
        if device.index is not None and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._start(function, shape, parameters, device)
        else:
            self._start(function, shape, parameters, device)

    def _start(self, function: Any, shape: Launch, parameters: int, device: torch.device) -> None:
        cuda = self._cuda
        self._enter_context(device)
        stream = torch.cuda.current_stream(device).cuda_stream
        attributes = self._attributes(shape)
        if attributes:
            config = cuda.CUlaunchConfig()
            config.gridDimX, config.gridDimY, config.gridDimZ = shape.grid
            config.blockDimX, config.blockDimY, config.blockDimZ = shape.threads, 1, 1
            config.sharedMemBytes, config.hStream = shape.shared_bytes, stream
            config.attrs, config.numAttrs = attributes, len(attributes)
            done = cuda.cuLaunchKernelEx(config, function, parameters, 0)
        else:
            done = cuda.cuLaunchKernel(
                function, *shape.grid, shape.threads, 1, 1, shape.shared_bytes, stream,
                parameters, 0,
            )  # fmt: skip
        self._call(done, "launch a kernel")

    def _attributes(self, shape: Launch) -> list[Any]:
        """Launch attributes beyond the plain shape; mostly none."""
        kinds, attributes = self._cuda.CUlaunchAttributeID, []
        if shape.overlapped:
            attribute = self._cuda.CUlaunchAttribute()
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            attributes.append(attribute)
        if shape.cooperative:
            attribute = self._cuda.CUlaunchAttribute()
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
            attributes.append(attribute)
        if shape.cluster > 1:
            attribute = self._cuda.CUlaunchAttribute()
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            size = attribute.value.clusterDim
            size.x, size.y, size.z = shape.cluster, 1, 1
            attributes.append(attribute)
            spread = self._cuda.CUlaunchAttribute()
            spread.id = kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE
            policies = self._cuda.CUclusterSchedulingPolicy
            spread.value.clusterSchedulingPolicyPreference = (
                policies.CU_CLUSTER_SCHEDULING_POLICY_SPREAD
            )
            attributes.append(spread)
        return attributes

    def _enter_context(self, device: torch.device) -> None:
        """Make the device's context this thread's: one that only took memory may have none yet."""
        cuda = self._cuda
        context = self._call(cuda.cuCtxGetCurrent(), "ask for the context")
        if not int(context):
            ordinal = self._call(cuda.cuDeviceGet(device.index or 0), "find the device")
            context = self._call(cuda.cuDevicePrimaryCtxRetain(ordinal), "enter the device")
            self._call(cuda.cuCtxSetCurrent(context), "enter the device")

    def _call(self, result: tuple[Any, ...], doing: str) -> Any:
        """Unwrap what a binding returned: a status, and perhaps a value."""
        status, *values = result
        if int(status):
            known, name = self._cuda.cuGetErrorName(status)
            told, text = self._cuda.cuGetErrorString(status)
            reason = f"{name.decode()}: {text.decode()}" if not int(known or told) else ""
            raise DeviceError(f"CUDA could not {doing}: {reason} (code {int(status)})")
        return values[0] if values else None
