"""Weights are held once, whatever the kernel set, and the report says how many bytes that is."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import kernel_registry
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet
from shotstream_rt.loading.student_weights import student_shapes
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.lazy_tensors import LazyTensor, LazyTensors
from shotstream_rt.model.student import Student

MODEL = ModelConfig(
    dim=256, ffn_dim=1024, num_heads=4, num_layers=6, text_dim=128, text_len=8, latent_height=2,
    latent_width=2,
)  # fmt: skip
CPU = torch.device("cpu")
SETS = ["reference", "torch", "cpu"]


class Drawn(LazyTensors):
    """Weights that exist only while they are read, as a lazy checkpoint's do."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.reads: list[str] = []

        def entry(name: str, shape: tuple[int, ...]) -> LazyTensor:
            def fill(out: Tensor) -> None:
                self.reads.append(name)
                torch.manual_seed(len(name))
                out.copy_(torch.randn(shape) * 0.05)

            return LazyTensor(shape, dtype, fill)

        super().__init__(
            {name: entry(name, shape) for name, shape in student_shapes(MODEL).items()}
        )


def tensors() -> dict[int, int]:
    """Bytes of every storage that is alive, by address; packed weights by their own measure."""
    found: dict[int, int] = {}
    gc.collect()
    for thing in gc.get_objects():
        # Exact types: what torch's compiler and exporter leave behind has no memory to look at.
        if type(thing) not in (Tensor, torch.nn.Parameter) or thing.is_meta:
            continue
        if thing.is_mkldnn:
            packed = torch.ops.mkldnn
            found[packed.data_ptr(thing)] = packed._nbytes(thing)
        else:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def kernels_of(name: str, dtype: torch.dtype, lossy: tuple[str, ...] = ()) -> KernelSet:
    target = kernel_registry.Target(device=CPU, dtype=dtype, head_dim=MODEL.head_dim)
    return kernel_registry.resolve(name, target, lossy)


def held_by(kernels: KernelSet, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that loading a backend leaves behind, and what it says they are."""
    before = tensors()
    student = BoundStudent.from_state(Drawn(), MODEL, kernels, source="drawn", dtype=dtype)
    backend = EagerBackend(student, StreamConfig(model=MODEL))
    after = tensors()
    held = sum(nbytes for address, nbytes in after.items() if address not in before)
    told = backend.info.weight_bytes
    return held, told


def parameter_bytes(dtype: torch.dtype) -> int:
    return (
        sum(torch.Size(shape).numel() for shape in student_shapes(MODEL).values()) * dtype.itemsize
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", SETS)
def test_every_weight_is_held_once(name: str, dtype: torch.dtype) -> None:
    held, told = held_by(kernels_of(name, dtype), dtype)
    assert 1.0 <= held / parameter_bytes(dtype) <= 1.10
    assert 1.0 <= told / parameter_bytes(dtype) <= 1.05
    # Time tables and the schedule are held beside the weights.
    assert 1.0 <= held / told <= 1.05


@pytest.mark.parametrize("name", SETS)
def test_8_bit_weights_are_not_held_beside_wider_ones(name: str) -> None:
    held, told = held_by(kernels_of(name, torch.bfloat16, ("fp8",)), torch.bfloat16)
    assert held / parameter_bytes(torch.bfloat16) <= 0.62
    assert 1.0 <= held / told <= 1.05


def test_each_tensor_is_read_once_and_a_block_at_a_time() -> None:
    state = Drawn()
    BoundStudent.from_state(state, MODEL, REFERENCE, source="drawn")
    assert sorted(state.reads) == sorted(state)
    blocks = [name.split(".")[1] for name in state.reads if name.startswith("blocks.")]
    assert blocks == sorted(blocks)


def test_a_wrong_shape_is_named() -> None:
    state = dict(Drawn().items())
    state["blocks.2.ffn.0.weight"] = torch.zeros(3, 3)
    with pytest.raises(WeightsError, match=r"drawn: .*blocks\.2\.ffn\.0\.weight \(3, 3\)"):
        BoundStudent.from_state(state, MODEL, REFERENCE, source="drawn")


def test_wrong_names_are_complained_about() -> None:
    state = Drawn()
    missing = {name: state[name] for name in state if "blocks.3." not in name}
    with pytest.raises(WeightsError, match=r"drawn: .*missing: blocks\.3\."):
        BoundStudent.from_state(missing, MODEL, REFERENCE, source="drawn")


def test_both_ways_to_bind_give_the_same_weights() -> None:
    state = {name: tensor.clone() for name, tensor in Drawn().items()}
    whole = Student.from_state(state, MODEL, source="drawn")
    loaded = BoundStudent.from_state(state, MODEL, REFERENCE, source="drawn")
    bound = BoundStudent.from_student(whole, REFERENCE)
    assert bound.nbytes == loaded.nbytes
    x = torch.randn(1, 3, MODEL.dim)
    for one, other in zip(bound.blocks, loaded.blocks, strict=True):
        table = bound.time_table(250.0).layers[0]
        assert torch.equal(one.project(x, table), other.project(x, table))
    assert not bound.edges.layers
