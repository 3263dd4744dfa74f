"""Files that are cut short, of another model, or half there: the error names file and tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt import Model, WeightsError
from shotstream_rt.loading.student_weights import open_student


def opening(root: Path, **options: Any) -> None:
    Model.open(root, device="cpu", size="16x32", kernels="reference", **options).close()


@pytest.fixture
def diffusers(layouts: Any, save_student: Callable[..., Path], tmp_path: Path) -> Path:
    layouts.diffusers(tmp_path, transformer=True)
    return tmp_path


def test_a_missing_shard_is_named_with_a_tensor_of_it(diffusers: Path) -> None:
    index = json.loads((diffusers / "text_encoder/model.safetensors.index.json").read_text("utf-8"))
    shard = sorted(set(index["weight_map"].values()))[1]
    (diffusers / "text_encoder" / shard).unlink()
    tensor = next(name for name, file in index["weight_map"].items() if file == shard)
    with pytest.raises(WeightsError) as caught:
        opening(diffusers, student="self-forcing")
    assert shard in str(caught.value)
    assert tensor in str(caught.value)
    assert "complete" in str(caught.value)


def test_a_shard_that_is_cut_short_is_named_with_the_tensor(diffusers: Path) -> None:
    shard = sorted((diffusers / "transformer").glob("*.safetensors"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) - 100])
    with pytest.raises(WeightsError) as caught:
        opening(diffusers, student="self-forcing")
    assert shard.name in str(caught.value)
    assert "ends in tensor" in str(caught.value)


def test_a_shard_of_another_download_is_named_with_the_tensor(diffusers: Path) -> None:
    shards = sorted((diffusers / "transformer").glob("*.safetensors"))
    shards[0].write_bytes(shards[1].read_bytes())
    with pytest.raises(WeightsError, match=r"00001-of-.*: tensor '.*' is not in it, but .*index"):
        opening(diffusers, student="self-forcing")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}',
             '{"weight_map": {"a": ".."}}', "{", "\0"]
)  # fmt: skip
def test_a_broken_index_is_named(text: str, diffusers: Path) -> None:
    (diffusers / "text_encoder/model.safetensors.index.json").write_text(text, "utf-8")
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        opening(diffusers, student="self-forcing")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_student_cut_short_names_its_file(
    ending: str, keep: float, save_student: Callable[..., Path], tmp_path: Path,
    student_state: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    path = tmp_path / f"student{ending}"
    if ending == ".pt":
        save_student(path, generator=1.0)
    else:
        save_file(student_state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(WeightsError) as caught:
        open_student(path)
    assert path.name in str(caught.value)
    assert "complete" in str(caught.value)
    assert "ends in tensor '" in str(caught.value)


def test_files_of_other_models_name_the_tensor(
    layouts: Any, save_student: Callable[..., Path], tmp_path: Path
) -> None:
    folder = layouts.wan(tmp_path)
    path = save_student(tmp_path / "self_forcing_dmd.pt", generator_ema=1.0)
    torch.save(layouts.text, folder / "Wan2.1_VAE.pth")
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth: .*missing: .*conv"):
        opening(tmp_path)
    torch.save(layouts.vae, folder / "Wan2.1_VAE.pth")
    torch.save(layouts.vae, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    with pytest.raises(WeightsError, match=r"models_t5.*tensor '.*is this umT5's encoder"):
        opening(tmp_path)
    torch.save(layouts.text, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save({"generator_ema": layouts.vae}, path)
    with pytest.raises(WeightsError, match=r"self_forcing_dmd\.pt: tensor 'patch_embedding"):
        opening(tmp_path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<html>Log in</html>", "web page"),
        (b"", "empty"),
        (bytes(4000), "zeros"),
    ],
)
def test_what_a_broken_download_leaves_is_told(
    data: bytes, told: str, layouts: Any, save_student: Callable[..., Path], tmp_path: Path
) -> None:
    layouts.comfyui(tmp_path)
    save_student(tmp_path / "self_forcing_dmd.pt", generator_ema=1.0)
    (tmp_path / "split_files/vae/wan_2.1_vae.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=rf"wan_2\.1_vae\.safetensors.*{told}"):
        opening(tmp_path)


def test_a_file_without_its_tokenizer_says_so(layouts: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from shotstream_rt.model.umt5.text_encoder import UMT5TextEncoder

    layouts.comfyui(tmp_path)
    path = tmp_path / "split_files/text_encoders/umt5_xxl_fp16.safetensors"
    state = load_file(path)
    del state["spiece_model"]
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"umt5_xxl_fp16.*'spiece_model': got nothing"):
        UMT5TextEncoder.from_files(path, path)
    save_file({**state, "spiece_model": torch.arange(9, dtype=torch.uint8)}, path)
    with pytest.raises(WeightsError, match=r"umt5_xxl_fp16.*not a readable tokenizer"):
        UMT5TextEncoder.from_files(path, path)


def test_a_file_that_lacks_its_end_alone_says_so(
    save_student: Callable[..., Path], tmp_path: Path
) -> None:
    path = save_student(tmp_path / "student.pt", generator=1.0, generator_ema=1.0)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match=r"student\.pt: .*138 tensors are there, but the direc"):
        open_student(path)


def test_a_width_that_no_model_has_names_its_tensor(
    student_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    name = "patch_embedding.weight"
    save_file({**student_state, name: student_state[name][:-1].clone()}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors: .*'patch_embedding\.weight' of shape"):
        open_student(tmp_path / "a.safetensors", num_heads=1)
