"""Exported passes through OpenVINO on a CPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .engine_backend import open_engines, unfit_reason
from .engine_passes import PassRun, Tensors, check_ports

if TYPE_CHECKING:
    from ..export.manifest import ExportedPass
    from .base import StudentBackend
    from .request import BackendRequest

NAME = "openvino"
_CPU_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""OpenVINO asks the CPU what it has, but its oneDNN minds these. Where they disagree, nothing
compiles in bfloat16, and some float32 graphs end the process (2026.4, ``AVX2`` on a CPU with
AVX-512)."""
_PRECISIONS = {"float": "f32", "bfloat16": "bf16"}


def unavailable_reason(device: torch.device) -> str | None:
    """Return why it cannot run on a device, or ``None``."""
    if device.type != "cpu":
        return f"exported passes run on a CPU through {NAME}, not on {device.type}"
    if importlib.util.find_spec(NAME) is None:
        return f"{NAME} is not installed; pip install 'shotstream_rt[{NAME}]'"
    for limit in _CPU_LIMITS:
        if (isa := os.environ.get(limit, "DEFAULT").upper()) not in ("", "DEFAULT", "ALL"):
            return f"{NAME} crashes where oneDNN is kept from what the CPU has: unset {limit}={isa}"
    return None


def unfit(request: BackendRequest) -> str | None:
    """Return why it cannot run a model, or ``None``."""
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
        weights: by name; none for segments, whose weights stay inputs.
        threads: that the library computes with.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    for parameter in list(model.get_parameters()):
        name = _name(parameter.output(0), weights.keys())
        if name in weights:
            constant = openvino.op.Constant(_shared(weights[name]))
            parameter.output(0).replace(constant.output(0))
            model.remove_parameter(parameter)
    precision = _PRECISIONS[entry.outputs[0].dtype]
    compiled = core.compile_model(
        model, "CPU",
        {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision,
         "NUM_STREAMS": 1},
    )  # fmt: skip
    known = {port.name for port in (*entry.inputs, *entry.outputs)}
    names = ([_name(one, known) for one in ports] for ports in (compiled.inputs, compiled.outputs))
    check_ports(entry, weights, *names)
    return lambda: _Run(compiled, entry, weights)


class _Run:
    """A pass as one film runs it.

    Args:
        compiled: shared by all films.
        entry: names of inputs and results.
        weights: the compiled pass may read their memory, which therefore has to stay.
    """

    def __init__(self, compiled: Any, entry: ExportedPass, weights: Tensors) -> None:
        self._request, self._weights = compiled.create_infer_request(), weights
        self._inputs = [port.name for port in entry.inputs if port.name not in weights]
        self._outputs = [port.name for port in entry.outputs]

    def __call__(self, inputs: Tensors, outputs: Tensors) -> None:
        """See ``PassRun``."""
        for names, tensors in ((self._inputs, inputs), (self._outputs, outputs)):
            for name in names:
                self._request.set_tensor(name, _shared(tensors[name]))
        self._request.infer()


def _name(port: Any, known: Collection[str]) -> str:
    """Return a port's name; OpenVINO may give it those of values beside it as well."""
    names: set[str] = port.get_names()
    return min(names.intersection(known) or names)


def _shared(tensor: Tensor) -> Any:
    """Return OpenVINO's view of a tensor's memory."""
    import openvino

    assert tensor.is_contiguous()
    if tensor.dtype == torch.float8_e4m3fn:
        return openvino.Tensor(
            tensor.view(torch.uint8).numpy(), list(tensor.shape), openvino.Type.f8e4m3
        )
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy()
        return openvino.Tensor(bits, list(tensor.shape), openvino.Type.bf16)
    return openvino.Tensor(tensor.numpy(), shared_memory=True)
