"""A student's tensors: every layout in the wild opens, everything else is refused and named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.loading.student_weights import (
    bare_names,
    infer_model_config,
    open_student,
    student_shapes,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = ModelConfig(
    dim=16, ffn_dim=24, num_heads=2, num_layers=2, text_dim=12, freq_dim=8,
    latent_height=4, latent_width=6,
)  # fmt: skip


@pytest.fixture
def state():
    torch.manual_seed(2)
    return {name: torch.randn(shape) for name, shape in student_shapes(CONFIG).items()}


def equal(got, wanted):
    return set(got) == set(wanted) and all(torch.equal(got[k], wanted[k]) for k in wanted)


def prefixed(state, prefix="model."):
    return {prefix + name: tensor for name, tensor in state.items()}


def test_released_size_has_825_tensors():
    shapes = student_shapes(ModelConfig())
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    assert len(shapes) == 825
    assert sum(sizes) == 1_418_996_800
    assert shapes["time_projection.1.weight"] == (9216, 1536)
    assert shapes["head.head.weight"] == (64, 1536)
    assert shapes["blocks.29.ffn.2.weight"] == (1536, 8960)


@pytest.mark.parametrize("config", [ModelConfig(), CONFIG], ids=["released", "small"])
def test_the_student_has_exactly_these_tensors(config):
    from shotstream_rt.model.student import Student

    with torch.device("meta"):
        state = Student(config).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == student_shapes(config)


def test_a_student_loads_without_a_config(state, tmp_path):
    save_file(state, tmp_path / "student.safetensors")
    assert equal(open_student(tmp_path, num_heads=2).tensors, state)
    gap = {name.replace("blocks.1.", "blocks.900000000."): v for name, v in state.items()}
    save_file(gap, tmp_path / "student.safetensors")
    with pytest.raises(WeightsError, match=r"missing: blocks\.1\."):
        open_student(tmp_path, num_heads=2)


def test_golden_student_has_the_names_and_shapes():
    facts = json.loads((GOLDEN / "weights_m64.json").read_text())["config"]
    config = ModelConfig.from_dict({**facts, "latent_height": 8, "latent_width": 12})
    state = open_student(GOLDEN / "weights_m64.safetensors", config).tensors
    assert infer_model_config(state, 8, 12, num_heads=config.num_heads) == config


@pytest.mark.parametrize("layout", [
    "safetensors", "flat", "generator", "trainer", "fsdp", "legacy", "folder",
])  # fmt: skip
def test_every_layout_gives_the_bare_state(layout, state, tmp_path):
    path = tmp_path / "student.pt"
    if layout in ("safetensors", "folder"):
        path = tmp_path / "student.safetensors"
        save_file(state, path)
        path = tmp_path if layout == "folder" else path
    elif layout == "flat":
        torch.save(state, path)
    elif layout == "fsdp":
        names = {f"model._fsdp_wrapped_module.{k}".replace("blocks.1.", "blocks.1."
                 "_checkpoint_wrapped_module."): v for k, v in state.items()}  # fmt: skip
        torch.save({"generator": names}, path)
    else:
        raw = {"generator": prefixed(state)}
        if layout == "trainer":
            raw |= {"generator_optimizer": {"state": {0: {"step": torch.ones(1)}}}, "step": 50}
        torch.save(raw, path, _use_new_zipfile_serialization=layout != "legacy")
    assert equal(open_student(path, CONFIG).tensors, state)


def test_ema_is_taken_only_on_request(state, tmp_path):
    path = tmp_path / "student.pt"
    ema = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"generator": prefixed(state), "generator_ema": prefixed(ema)}, path)
    assert equal(open_student(path, CONFIG).tensors, state)
    assert equal(open_student(path, CONFIG, ema=True).tensors, ema)
    torch.save({"generator": prefixed(state)}, path)
    with pytest.raises(WeightsError, match="generator_ema"):
        open_student(path, CONFIG, ema=True)


@pytest.mark.parametrize("wrap", [
    "module.{}", "_orig_mod.{}", "model.{}", "module.model.{}", "model._orig_mod.{}",
    "generator.module.model.{}", "model.diffusion_model.{}", "_fsdp_wrapped_module.model.{}",
    "model.model.{}", "my_trainers_own.name.{}",
])  # fmt: skip
def test_names_of_wrappers_are_taken_off(wrap, state, tmp_path):
    inner = {k.replace("blocks.1.", "blocks.1._orig_mod.module."): v for k, v in state.items()}
    for tensors in (state, inner):
        torch.save(
            {"generator": {wrap.format(k): v for k, v in tensors.items()}}, tmp_path / "s.pt"
        )
        assert equal(open_student(tmp_path / "s.pt", num_heads=2).tensors, state)
    torch.save({"state_dict": {wrap.format(k): v for k, v in state.items()}}, tmp_path / "s.pt")
    assert equal(open_student(tmp_path / "s.pt", CONFIG).tensors, state)


def test_names_that_meet_or_belong_to_several_networks_are_refused(state):
    tensor = torch.zeros(1)
    assert set(bare_names({"model.a": tensor, "b.model.c": tensor}, "f")) == {"a", "b.model.c"}
    with pytest.raises(WeightsError, match=r"twice, as 'model\.a' and as 'a'"):
        bare_names({"model.a": tensor, "a": tensor}, "f")
    both = prefixed(state, "first.") | prefixed(state, "second.")
    with pytest.raises(WeightsError, match=r"2 networks under first\., second\."):
        bare_names(both, "f")
    with pytest.raises(WeightsError, match=r"The file has 1 tensors: something\.else"):
        infer_model_config({"something.else": tensor})


def adapters(state, rank=4):
    layers = [f"blocks.{i}.{layer}" for i in range(CONFIG.num_layers)
              for layer in ("self_attn.q", "cross_attn.o", "ffn.0", "ffn.2")]  # fmt: skip
    lora = {}
    for layer in layers:
        outputs, inputs = state[f"{layer}.weight"].shape
        lora[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(rank, inputs)
        lora[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(outputs, rank)
    return layers, lora


@pytest.mark.parametrize("alpha", [None, 8.0])
@pytest.mark.parametrize("form", ["flat", "trainer", "peft"])
def test_lora_is_merged_in_float32(form, alpha, state, tmp_path):
    rank = 4
    layers, lora = adapters(state, rank)
    base = {name: tensor.bfloat16() for name, tensor in state.items()}
    student, path = tmp_path / "student.pt", tmp_path / "lora.pt"
    torch.save({"generator": prefixed(base)}, student)
    explicit = alpha
    if form == "flat":
        torch.save(lora, path)
    elif form == "trainer":
        torch.save({"generator_lora": lora, "critic_lora": {}, "step": 3}, path)
    else:
        path = tmp_path / "adapter_model.safetensors"
        save_file(lora, path)
        if alpha is not None:
            (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
            explicit = None
    merged = open_student(student, CONFIG, lora=path, lora_alpha=explicit).tensors
    scale = 1.0 if alpha is None else alpha / rank
    for name, tensor in base.items():
        layer = name.removesuffix(".weight")
        if layer in layers and name.endswith(".weight"):
            a = lora[f"base_model.model.{layer}.lora_A.weight"].double()
            b = lora[f"base_model.model.{layer}.lora_B.weight"].double()
            assert merged[name].dtype == torch.float32
            wanted = tensor.double() + scale * (b @ a)
            assert torch.allclose(merged[name].double(), wanted, rtol=0, atol=1e-5)
        else:
            assert torch.equal(merged[name], tensor)


@pytest.mark.parametrize("fault", ["stranger", "half", "shape", "config"])
def test_lora_that_does_not_fit_is_refused(fault, state, tmp_path):
    _, lora = adapters(state)
    name = "base_model.model.blocks.0.self_attn.q.lora_A.weight"
    if fault == "stranger":
        lora["base_model.model.blocks.9.self_attn.q.lora_A.weight"] = lora[name]
    elif fault == "half":
        del lora[name]
    elif fault == "shape":
        lora[name] = lora[name][:, 1:].clone()
    else:
        (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4, "use_rslora": true}')
    save_file(state, tmp_path / "student.safetensors")
    torch.save(lora, tmp_path / "lora.pt")
    with pytest.raises(WeightsError, match="wanted"):
        open_student(tmp_path / "student.safetensors", CONFIG, lora=tmp_path / "lora.pt")


def test_config_is_read_off_the_tensors(state):
    assert infer_model_config(state, 4, 6, num_heads=2) == CONFIG
    with pytest.raises(WeightsError, match="num_heads"):
        infer_model_config(state)
    wide = {name: torch.empty(shape, device="meta")
            for name, shape in student_shapes(ModelConfig()).items()}  # fmt: skip
    assert infer_model_config(wide) == ModelConfig()
    with pytest.raises(WeightsError, match="no usable model"):
        infer_model_config(state, num_heads=7)
    with pytest.raises(WeightsError, match=r"patch_embedding\.weight.*nothing"):
        infer_model_config({"weight": torch.zeros(1)})


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "kind"])
def test_wrong_tensors_are_named_but_not_all(fault, state, tmp_path):
    if fault == "missing":
        state = {k: v for k, v in state.items() if not k.startswith("blocks.1.")}
    elif fault == "unexpected":
        state |= {f"extra.{i}": torch.zeros(1) for i in range(40)}
    elif fault == "kind":
        state["head.head.weight"] = state["head.head.weight"].long()
    else:
        state["head.head.weight"] = torch.zeros(3, 5)
    path = tmp_path / "student.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError) as caught:
        open_student(path, CONFIG)
    message = str(caught.value)
    assert str(path) in message
    assert {"missing": "27 missing: blocks.1.", "unexpected": "40 unexpected: extra.0, ",
            "kind": "1 not of a float type: head.head.weight (torch.int64)",
            "shape": "head.head.weight (3, 5) (wanted (64, 16))"}[fault] in message  # fmt: skip
    assert len(message) < 700


@pytest.mark.parametrize("content", [
    torch.zeros(3), [torch.zeros(3)], {"generator": 3}, {"step": 3}, {},
    {"generator": {"model.a": "text"}}, {"generator": {}},
], ids=["tensor", "list", "number", "no-group", "empty", "text", "empty-group"])  # fmt: skip
def test_torch_files_without_named_tensors_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "student.pt")
    with pytest.raises(WeightsError, match=r"student\.pt"):
        open_student(tmp_path / "student.pt", CONFIG)


def test_a_folder_without_a_student_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"student\.safetensors: is missing"):
        open_student(tmp_path, CONFIG)
