"""What would make a graph silently wrong is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shotstream_rt.errors import ExportError

ir = pytest.importorskip("onnx_ir", reason="exports need onnx and onnxscript")
onnx = pytest.importorskip("onnx", reason="exports need onnx and onnxscript")
pytest.importorskip("onnxscript", reason="exports need onnx and onnxscript")

from shotstream_rt.export import graph  # noqa: E402


class Weighted(nn.Module):
    """Two inputs and a weight that is reshaped, as the patch embedding's is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 10, 10), requires_grad=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * 2 + b * 3) @ self.weight.view(10, 10)


class Idle(Weighted):
    """Never reads ``b``."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a, a)


def exported(network: nn.Module) -> object:
    examples = {"a": torch.randn(4, 10), "b": torch.randn(4, 10)}
    part = graph.Part(network=network, examples=examples, dynamic={}, results=["y"])
    return graph.weightless_graphs({"only": part})["only"]


def test_weights_are_inputs_and_the_bytes_are_the_same_each_time() -> None:
    first, second = (graph.finish(exported(Weighted()), {}) for _ in range(2))
    assert first == second
    assert b"test_graph.py" not in first, "a path of this machine"
    model = ir.from_proto(onnx.load_from_string(first))
    assert [value.name for value in model.graph.inputs] == ["a", "b", "weight"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_example_inputs_that_are_one_tensor() -> None:
    same = torch.randn(4, 10)
    with pytest.raises(ExportError, match="a and b are one tensor"):
        part = graph.Part(
            network=Weighted(), examples={"a": same, "b": same}, dynamic={}, results=["y"]
        )
        graph.weightless_graphs({"only": part})


def test_a_weight_folded_into_a_constant() -> None:
    """Torch's own optimiser does this to every parameter that is reshaped."""
    network = Weighted().eval()
    program = torch.onnx.export(
        network, (torch.randn(4, 10), torch.randn(4, 10)), dynamo=True, optimize=True,
        opset_version=graph.OPSET, verbose=False,
    )  # fmt: skip
    assert program is not None
    with pytest.raises(ExportError, match="100 numbers and is no parameter"):
        graph.weights_to_inputs(program.model, dict(network.named_parameters()))


def test_an_input_that_nothing_reads() -> None:
    with pytest.raises(ExportError, match=r"nothing reads input\(s\) b"):
        graph.finish(exported(Idle()), {})
