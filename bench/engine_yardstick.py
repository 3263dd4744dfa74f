"""What a fusing compiler could win on segments, on a GPU that needs no TensorRT for the answer.

Two parts, in one call: engine blocks in the captured loop with the segments as torch modules
(parity with the kernel set; how many graphs; what is allocated after open), and the time of each
segment at a chunk's tokens: our kernels, ``torch.compile`` of the segment, and the least that its
products and bytes take at the device's measured ceilings. ``--rehearse`` does it on a CPU at a
small size, without ``torch.compile``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shotstream_rt.backends.cuda_graph import CudaGraphBackend, GraphCapture
from shotstream_rt.backends.engine_gate import check_segments, pass_distances
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.backends.segment_backend import engine_student
from shotstream_rt.bench.ceilings import measure_ceilings
from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.export.product import with_products
from shotstream_rt.export.segment import OF_BLOCKS, PROJECT, REST1, REST2, segment_networks
from shotstream_rt.model.blocks import BoundBlock, Modulation
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.student import Student

SMALL = ModelConfig(
    dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32, text_len=8, latent_height=8,
    latent_width=8,
)  # fmt: skip
_ROUNDS = 30


class TorchSegments:
    """Segments as torch modules that read the tensors they are given.

    Args:
        networks: by name, on the meta device.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self._networks = networks

    def run(self, name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """See ``SegmentRunner``.

        Args:
            name: of the graph.
            inputs: by name.
            outputs: likewise.
        """
        network = self._networks[name.partition("_")[2]]
        held = {key: inputs[key] for key, _ in network.named_parameters()}
        given = {key: value for key, value in inputs.items() if key not in held}
        made = torch.func.functional_call(network, held, (), given)
        for output, value in zip(
            outputs.values(), made if isinstance(made, tuple) else (made,), strict=True
        ):
            output.copy_(value)


def main(words: list[str] | None = None) -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4, help="of the captured loop (default: 4)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at a small size")
    asked = parser.parse_args(words)
    device = torch.device("cpu" if asked.rehearse else "cuda")
    dtype = torch.float32 if asked.rehearse else torch.bfloat16
    model = SMALL if asked.rehearse else ModelConfig(num_layers=asked.layers)
    request = _request(StreamConfig(model=model), device, dtype)
    found = {"loop": _loop(request), "segments": _segments(request)}
    print(json.dumps(found))  # noqa: T201
    return 0


def _request(config: StreamConfig, device: torch.device, dtype: torch.dtype) -> BackendRequest:
    """Random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        state = Student(config.model).requires_grad_(False).to(dtype).state_dict()
    return BackendRequest(
        config=config, device=device, dtype=dtype, weights=lambda: state,
        kernel_set="torch" if device.type == "cpu" else "auto",
    )  # fmt: skip


def _loop(request: BackendRequest) -> dict[str, Any]:
    """Engine blocks under capture."""
    config, on_gpu = request.config, request.device.type == "cuda"
    kernels = with_products(request.kernels(), "exact")
    student = BoundStudent.from_state(
        request.weights(), config.model, kernels, source="random weights", device=request.device,
        dtype=request.dtype,
    )  # fmt: skip
    networks = segment_networks(config, request.dtype, "exact")
    engines = engine_student(student, config, TorchSegments(networks))
    check_segments(engines, request, "exact")
    graphs = []

    def record() -> Callable[[Callable[[], None]], Callable[[], None]]:
        capture = GraphCapture(request.device) if on_gpu else (lambda function: function)

        def counted(function: Callable[[], None]) -> Callable[[], None]:
            graphs.append(function)
            return capture(function)

        return counted

    backend = CudaGraphBackend(engines, config, record)
    worst = max(found.worst for found in pass_distances(backend, request))
    captured, film = len(graphs), backend.new_film()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    film.close()
    after = torch.cuda.memory_allocated() if on_gpu else 0
    return {"graphs": captured, "worst_distance": worst, "film_bytes": before - after}


def _segments(request: BackendRequest) -> dict[str, Any]:
    """Time of each segment of one block."""
    config, device = request.config, request.device
    student = request.student()
    block, m = student.blocks[0], student.time_table(500.0).layers[0]
    products = BoundStudent.from_state(
        request.weights(), config.model, with_products(request.kernels(), "exact"),
        source="random weights", device=device, dtype=request.dtype,
    )  # fmt: skip
    tokens = config.shot.chunk_frames * config.model.tokens_per_frame
    x, attended = (
        torch.randn(1, tokens, config.model.dim, device=device).to(request.dtype) for _ in range(2)
    )
    ceilings = measure_ceilings(device, request.dtype, config.model)
    found = {}
    for name, kind in OF_BLOCKS.items():
        segment = kind(products.blocks[0])
        for row in [key for key, value in segment.named_parameters() if value.is_meta]:
            setattr(segment, row, nn.Parameter(getattr(m, row), requires_grad=False))
        given = (x,) if name == PROJECT else (x, attended)
        times = {"kernels_ms": _time_ms(device, _kernels(block, name, given, m))}
        if device.type == "cuda":
            compiled = torch.compile(segment, mode="max-autotune-no-cudagraphs")
            times["compiled_ms"] = _time_ms(device, lambda own=compiled, given=given: own(*given))
        weights = [value for key, value in segment.named_parameters() if key.endswith("weight")]
        flops = sum(2 * tokens * weight.numel() for weight in weights)
        moved = sum(value.nbytes for value in (*segment.parameters(), *given)) + x.nbytes * (
            3 if name == PROJECT else len(given)
        )
        times["floor_ms"], _ = ceilings.floor_ms(flops, moved, str(request.dtype)[6:])
        found[name] = {key: round(value, 5) for key, value in times.items()}
    return found


def _kernels(
    block: BoundBlock, name: str, given: tuple[Tensor, ...], m: Modulation
) -> Callable[[], object]:
    """A segment by the kernel set.

    Args:
        block: bound to it.
        name: of the segment.
        given: its activations.
        m: of a time.
    """
    calls = {PROJECT: block.project, REST1: block.leave_self, REST2: block.leave_cross}
    return lambda: calls[name](*given, m)


@torch.inference_mode()
def _time_ms(device: torch.device, function: Callable[[], object]) -> float:
    """Median time of a call, after some that are not counted."""
    samples = []
    for round_ in range(_ROUNDS + 5):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            end.synchronize()
            took = start.elapsed_time(end)
        else:
            begun = time.perf_counter_ns()
            function()
            took = (time.perf_counter_ns() - begun) / 1e6
        if round_ >= 5:
            samples.append(took)
    return sorted(samples)[len(samples) // 2]


if __name__ == "__main__":
    sys.exit(main())
