"""A stub of TensorRT and of TensorRT-RTX that computes at the addresses it is given.

A plan is the graph itself, and onnxruntime computes it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import torch

from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.backends.tensorrt import open_plans
from shotstream_rt.export.library import Library
from shotstream_rt.export.manifest import EngineManifest, Plan

CARD = (8, 9)

SCRATCH = 4096
"""Bytes that every plan computes in."""


class Mode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class Managed(enum.Enum):
    USER_MANAGED = 2


class Context:
    """Computes a graph at the addresses that were set last."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.bound: list[str] = []
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.calls = 0

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.bound.append(name)
        self.addresses[name] = address
        return name in self.engine.shapes

    def execute_async_v3(self, stream: int) -> bool:
        assert self.scratch is not None
        binding = self.engine.session.io_binding()
        for name, (mode, shape) in self.engine.shapes.items():
            bind = binding.bind_input if mode is Mode.INPUT else binding.bind_output
            bind(name, "cpu", 0, 1, list(shape), self.addresses[name])
        self.engine.session.run_with_iobinding(binding)
        self.calls += 1
        return True


class Engine:
    def __init__(self, graph: bytes) -> None:
        model = onnx.load_from_string(graph)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.shapes = {
            value.name: (mode, tuple(side.dim_value for side in value.type.tensor_type.shape.dim))
            for values, mode in ((model.graph.input, Mode.INPUT), (model.graph.output, Mode.OUTPUT))
            for value in values
        }
        self.names = list(self.shapes)
        self.num_io_tensors = len(self.names)
        self.device_memory_size_v2 = SCRATCH
        self.contexts: list[Context] = []

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self.shapes[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name][1]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT")

    def create_execution_context(self, managed: Managed) -> Context:
        assert managed is Managed.USER_MANAGED
        self.contexts.append(Context(self))
        return self.contexts[-1]


class Stub:
    """Members of the library that the runner uses. A plan is the graph itself."""

    __version__ = "9.9.9"
    TensorIOMode = Mode
    ExecutionContextAllocationStrategy = Managed
    engine_kind = Engine

    class ILogger:
        def __init__(self) -> None:
            pass

    def __init__(self) -> None:
        self.engines: list[Engine] = []

    def Runtime(self, logger: Any) -> Stub:  # noqa: N802
        self.logger = logger
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if plan == b"broken":
            self.logger.log(1, "it is broken")
            return None
        self.engines.append(self.engine_kind(plan))
        return self.engines[-1]


class Strategy(enum.Enum):
    """How TensorRT-RTX uses CUDA graphs of its own."""

    DISABLED = 0


class RuntimeCache:
    """Kernels that were compiled: here, how many contexts were made."""

    def __init__(self) -> None:
        self.compiled = 0

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"stub "):
            return False
        self.compiled = int(data.removeprefix(b"stub "))
        return True

    def serialize(self) -> bytes:
        return b"stub %d" % self.compiled


class RuntimeConfig:
    """How contexts are made."""

    def __init__(self) -> None:
        self.cache: RuntimeCache | None = None
        self.allocation: Managed | None = None
        self.cuda_graph_strategy: Strategy | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> None:
        self.cache = cache

    def set_execution_context_allocation_strategy(self, managed: Managed) -> None:
        self.allocation = managed


class RtxContext(Context):
    """Says whether it can be captured, which the whole stub decides."""

    capturable = True

    def is_stream_capturable(self, stream: int) -> bool:
        assert self.scratch is not None, "asked before it had memory"
        return self.capturable


class RtxEngine(Engine):
    """Makes contexts as a configuration says."""

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: Any) -> Context:
        assert config.allocation is Managed.USER_MANAGED
        assert config.cuda_graph_strategy is Strategy.DISABLED, "captured inside a capture"
        assert config.cache is not None
        config.cache.compiled += 1
        self.contexts.append(RtxContext(self))
        return self.contexts[-1]


class RtxStub(Stub):
    """What TensorRT-RTX has in addition."""

    __version__ = "8.8.8"
    IRuntimeCache = RuntimeCache
    CudaGraphStrategy = Strategy
    engine_kind = RtxEngine


def with_plans(
    source: Path, own: Path, library: str = "tensorrt", version: str = Stub.__version__
) -> Path:
    """Copy segments whose plans are themselves, as the stub wants them.

    Args:
        source: the segments.
        own: the copy, which is returned.
        library: that is said to have built them.
        version: of it.
    """
    own.mkdir()
    for path in source.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    manifest = EngineManifest.read(own)
    plans = tuple(
        Plan(
            engine=entry.name, file=entry.file, sha256=entry.sha256, library=library,
            version=version, targets=("sm_89",), flags=(), launches=1, kinds={},
            gemm_types={}, scratch_bytes=SCRATCH,
        )
        for entry in manifest.passes
    )  # fmt: skip
    replace(manifest, plans=plans).write(own)
    return own


def opened(asked: BackendRequest, stub: Stub, card: tuple[int, int] = CARD) -> StudentBackend:
    """Open plans on a stub; what would be captured is run each time.

    Args:
        asked: what is to be opened.
        stub: stands for the library.
        card: compute capability of the GPU that is said to be there.
    """

    def by_calling(function: Callable[[], None]) -> Callable[[], None]:
        with torch.inference_mode():
            function()
        return function

    return open_plans(asked, card, lambda name: Library(name, stub), lambda: by_calling)
