"""Exported passes through ONNX Runtime on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .engine_backend import open_engines, unfit_reason
from .engine_passes import PassRun, Tensors, check_ports

if TYPE_CHECKING:
    from ..export.manifest import ExportedPass
    from .base import StudentBackend
    from .request import BackendRequest

NAME = "onnxruntime"
_QUIET = 3
"""Log level: errors alone."""
_ELEMENTS = {torch.float32: 1, torch.int8: 3, torch.float8_e4m3fn: 17}
"""ONNX's numbers of the types of inputs and results."""


def unavailable_reason(device: torch.device) -> str | None:
    """Return why it cannot run on a device, or ``None``."""
    if device.type != "cpu":
        return f"exported passes run on a CPU through {NAME}, not on {device.type}"
    if any(importlib.util.find_spec(package) is None for package in (NAME, "onnx")):
        return f"{NAME} is not installed; pip install 'shotstream_rt[{NAME}]'"
    return None


def unfit(request: BackendRequest) -> str | None:
    """Return why it cannot run a model, or ``None``."""
    if request.dtype != torch.float32:
        return f"{NAME} computes in float32 on a CPU, not in {str(request.dtype)[6:]}"
    return unfit_reason(request)


def build(request: BackendRequest) -> StudentBackend:
    """Load all graphs."""
    return open_engines(request, NAME, load)


def load(
    graph: bytes, entry: ExportedPass, weights: Tensors, threads: int
) -> Callable[[], PassRun]:
    """Load one graph, with its weights as constants.

    Args:
        graph: serialised.
        entry: names and types of inputs and results.
        weights: by name, float32; none for segments, whose weights stay inputs.
        threads: that the library computes with.
    """
    import onnxruntime

    from ..export.constants import weights_as_constants

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _QUIET
    # Threads that wait busily for the next pass would take the cores that decode frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    arrays = {name: weight.numpy() for name, weight in weights.items()}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    session = onnxruntime.InferenceSession(
        weights_as_constants(graph, weights.keys()), options, providers=["CPUExecutionProvider"]
    )
    inputs, outputs = session.get_inputs(), session.get_outputs()
    check_ports(entry, weights, [one.name for one in inputs], [one.name for one in outputs])
    return lambda: _Run(session, entry, arrays)


class _Run:
    """A pass as one film runs it.

    Args:
        session: shared by all films.
        entry: names of inputs and results.
        arrays: the memory of the weights, which the session may read.
    """

    def __init__(self, session: Any, entry: ExportedPass, arrays: Mapping[str, object]) -> None:
        self._session, self._arrays = session, arrays
        self._inputs = [port.name for port in entry.inputs if port.name not in arrays]
        self._outputs = [port.name for port in entry.outputs]

    def __call__(self, inputs: Tensors, outputs: Tensors) -> None:
        """See ``PassRun``."""
        binding = self._session.io_binding()
        for names, tensors, bind in (
            (self._inputs, inputs, binding.bind_input), (self._outputs, outputs,
                                                         binding.bind_output)
        ):  # fmt: skip
            for name in names:
                tensor = tensors[name]
                assert tensor.is_contiguous()
                element, shape = _ELEMENTS[tensor.dtype], list(tensor.shape)
                bind(name, "cpu", 0, element, shape, tensor.data_ptr())
        self._session.run_with_iobinding(binding)
