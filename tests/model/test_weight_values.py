"""Weights are looked at when they are placed; a digest tells them apart."""

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.loading.student_weights import open_student, student_shapes
from shotstream_rt.model.checkpoint import load_checkpoint, load_into, place_into
from shotstream_rt.model.lazy_tensors import LazyTensors
from shotstream_rt.model.student import Student

CONFIG = ModelConfig(
    dim=16, ffn_dim=24, num_heads=2, num_layers=2, text_dim=12, freq_dim=8,
    latent_height=4, latent_width=6,
)  # fmt: skip
NAME = "blocks.1.ffn.0.weight"


@pytest.fixture
def state():
    torch.manual_seed(2)
    return {name: torch.randn(shape) for name, shape in student_shapes(CONFIG).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_values_that_no_network_can_compute_with_are_named(value, dtype, state, tmp_path):
    state[NAME][-1, -1] = value
    path = tmp_path / "student.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path)
    opened = open_student(path, CONFIG)
    with torch.device("meta"):
        network = Student(CONFIG)
    with pytest.raises(
        WeightsError, match=rf"student\.safetensors: tensor '{NAME}': got"
    ) as caught:
        place_into(network, opened.tensors, device="cpu", dtype=torch.float32)
    assert ("NaN" in str(caught.value)) == (value != value)
    with pytest.raises(WeightsError, match="wanted finite numbers"):
        load_into(network, load_checkpoint(path), source="f", device="cpu", dtype=None)


def test_a_cast_that_overflows_is_seen(state):
    state[NAME][0, 0] = 1e6  # infinite in float16
    tensors = LazyTensors.of(state).checked("f")
    tensors.entries[NAME].to("cpu", torch.float32)
    with pytest.raises(WeightsError, match="inf"):
        tensors.entries[NAME].to("cpu", torch.float16)


def test_limits_may_be_infinite_but_not_nan():
    for value, usable in ((float("inf"), True), (float("nan"), False)):
        state = {"block.limit": torch.full((3,), value), "other": torch.ones(2)}
        checked = LazyTensors.of(state).checked("f", lambda name: name.endswith(".limit"))
        if usable:
            assert checked["block.limit"].isinf().all()
        else:
            with pytest.raises(WeightsError, match="NaN"):
                checked["block.limit"]
        assert checked["other"].tolist() == [1, 1]


def test_a_digest_is_of_the_weights_and_not_of_their_file(state, tmp_path):
    big = {**state, "more": torch.randn(100, 100)}
    save_file(big, tmp_path / "a.safetensors")
    torch.save({"state_dict": dict(reversed(big.items()))}, tmp_path / "a.pt")
    torch.save(big, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    digests = {
        load_checkpoint(tmp_path / name).digest() for name in ("a.safetensors", "a.pt", "b.pt")
    } | {LazyTensors.of(big).digest()}
    assert len(digests) == 1
    for change in (
        {NAME: state[NAME] + 1e-6}, {NAME: state[NAME].double()}, {"extra": torch.ones(1)},
        {"more": big["more"].index_put((torch.tensor(99), torch.tensor(99)), torch.tensor(0.5))},
    ):  # fmt: skip
        assert LazyTensors.of({**big, **change}).digest() not in digests


def test_a_merged_lora_and_its_strength_show_in_the_digest(state, tmp_path):
    save_file(state, tmp_path / "student.safetensors")
    torch.manual_seed(1)
    lora = {
        "blocks.0.ffn.0.lora_A.weight": torch.randn(2, 16),
        "blocks.0.ffn.0.lora_B.weight": torch.randn(24, 2),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    opened = [
        open_student(tmp_path, CONFIG, lora=path, lora_alpha=alpha).digest()
        for path, alpha in (
            (None, None), (tmp_path / "lora.safetensors", 2.0),
            (tmp_path / "lora.safetensors", 4.0),
        )
    ]  # fmt: skip
    assert len(set(opened)) == 3


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool])
def test_weights_of_8_bits_are_refused(dtype, state, tmp_path):
    changed = {name: t.to(dtype) if t.dim() == 2 else t for name, t in state.items()}
    save_file(changed, tmp_path / "student.safetensors")
    told = "wanted float32, bfloat16 or float16" if dtype.is_floating_point else "not of a float"
    with pytest.raises(WeightsError, match=told):
        open_student(tmp_path, CONFIG)
