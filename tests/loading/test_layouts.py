"""The same weights in every released layout make the same film."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt import Model, WeightsError
from shotstream_rt.loading.student_weights import open_student

SETTINGS: dict[str, Any] = {"device": "cpu", "threads": 1, "size": "16x32", "kernels": "reference"}


CAPTION = "a red cat walks on the beach"


def first_chunk(model: Path, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """Return a film's first frames and its caption's embedding, and what was chosen."""
    with Model.open(model, **{**SETTINGS, **options}) as opened, opened.session() as session:
        session.cut(CAPTION)
        frames = next(session.chunks()).pixels.tobytes()
        return frames + embedding(opened).numpy().tobytes(), session.stats


def embedding(model: Model) -> torch.Tensor:
    rows, lengths = model.text.encode([CAPTION])
    return rows[0, : lengths[0]].float()


@pytest.fixture(scope="module")
def wanted(
    layouts: Any, save_student: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The film from Wan's own layout."""
    root = tmp_path_factory.mktemp("wan")
    layouts.wan(root)
    save_student(root / "checkpoints/self_forcing_dmd.pt", generator_ema=1.0)
    frames, told = first_chunk(root)
    assert (told["student"], told["notes"]) == ("self-forcing", [])
    assert len(set(frames)) > 20  # it is a picture
    return frames


def test_a_folder_of_diffusers(
    layouts: Any, save_student: Callable[..., Path], tmp_path: Path, wanted: bytes
) -> None:
    layouts.diffusers(tmp_path / "Wan2.1-T2V-1.3B-Diffusers")
    save_student(tmp_path / "self_forcing_dmd.pt", generator_ema=1.0)
    assert first_chunk(tmp_path)[0] == wanted


def test_a_student_inside_a_folder_of_diffusers(
    layouts: Any, tmp_path: Path, wanted: bytes
) -> None:
    layouts.diffusers(tmp_path, transformer=True)
    with pytest.raises(WeightsError, match=r"transformer: nothing tells which student.*longlive"):
        Model.open(tmp_path, device="cpu")
    frames, told = first_chunk(tmp_path, student="self-forcing")
    assert frames == wanted
    assert told["student"] == "self-forcing"


@pytest.mark.parametrize("top", ["split_files", "models"])
def test_single_files_of_comfyui(
    top: str, layouts: Any, save_student: Callable[..., Path], tmp_path: Path, wanted: bytes
) -> None:
    layouts.comfyui(tmp_path, top=top)
    save_student(tmp_path / "self_forcing_dmd.pt", generator_ema=1.0)
    assert first_chunk(tmp_path)[0] == wanted


def test_scaled_8_bit_weights_are_made_whole_and_said_so(
    layouts: Any, save_student: Callable[..., Path], tmp_path: Path
) -> None:
    layouts.comfyui(tmp_path, fp8=True)
    save_student(tmp_path / "self_forcing_dmd.pt", generator_ema=1.0)
    layouts.wan(tmp_path / "exact")
    exact = save_student(tmp_path / "exact/self_forcing_dmd.pt", generator_ema=1.0)
    with Model.open(tmp_path / "self_forcing_dmd.pt", **SETTINGS) as model:
        assert [note for note in model.info["notes"] if "4 weights are 8-bit floats" in note]
        got = embedding(model)
    with Model.open(exact, **SETTINGS) as model:
        told = embedding(model)
    assert 0 < (got - told).norm() / told.norm() < 0.05


def test_scaled_8_bit_weights_of_a_student(
    student_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    name = "blocks.1.ffn.0"
    weight = student_state[f"{name}.weight"]
    for scale in (weight.abs().max() / 448, weight.abs().amax(1, keepdim=True) / 448):
        eighths = (weight / scale).to(torch.float8_e4m3fn)
        scaled = {
            **student_state, f"{name}.weight": eighths, f"{name}.weight_scale": scale,
            f"{name}.input_scale": torch.ones(()),
        }  # fmt: skip
        save_file(scaled, tmp_path / "student.safetensors")
        opened = open_student(tmp_path)
        assert opened.note is not None
        assert "1 weights are 8-bit floats" in opened.note
        assert torch.equal(opened.tensors[f"{name}.weight"], eighths.float() * scale)
        assert (opened.tensors[f"{name}.weight"] - weight).norm() < 0.04 * weight.norm()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"a.scale_weight": torch.ones(())}, r"tensor 'a\.scale_weight' is a scale.*'a\.weight'"),
        (
            {"blocks.0.ffn.0.scale_weight": torch.ones(7),
             "blocks.0.ffn.0.weight": torch.ones(64, 128).to(torch.float8_e4m3fn)},
            r"ffn\.0\.scale_weight'.*scale of shape \(7,\) for a weight of \(64, 128\)",
        ),
        (
            {"blocks.0.ffn.0.scale_weight": torch.ones(())},
            r"a scale in torch\.float32 for a weight in torch\.float32",
        ),
        (
            {"blocks.0.ffn.0.scale_weight": torch.ones(()),
             "blocks.0.ffn.0.weight": torch.ones(64, 128).to(torch.float8_e4m3fn),
             "blocks.1.ffn.0.weight": torch.ones(64, 128).to(torch.float8_e4m3fn)},
            r"1 8-bit tensors without a scale .*blocks\.1\.ffn\.0\.weight",
        ),
        (
            {"blocks.0.ffn.0.weight": torch.ones(64, 128).to(torch.float8_e4m3fn)},
            r"1 of \d+ tensors in torch\.float8_e4m3fn, such as blocks\.0\.ffn\.0\.weight",
        ),
    ],
)  # fmt: skip
def test_scales_that_do_not_go_with_their_weights_are_refused(
    change: dict[str, torch.Tensor], told: str, student_state: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:  # fmt: skip
    save_file({**student_state, **change}, tmp_path / "student.safetensors")
    with pytest.raises(WeightsError, match=told):
        open_student(tmp_path)


def test_parts_of_several_layouts_go_together(
    layouts: Any, save_student: Callable[..., Path], tmp_path: Path, wanted: bytes
) -> None:
    layouts.comfyui(tmp_path)
    (tmp_path / "split_files/vae/wan_2.1_vae.safetensors").unlink()
    torch.save(layouts.vae, tmp_path / "Wan2.1_VAE.pth")
    # umT5 of Wan with the tokenizer that ComfyUI's file carries.
    torch.save(layouts.text, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    save_student(tmp_path / "self_forcing_dmd.pt", generator_ema=1.0)
    assert first_chunk(tmp_path)[0] == wanted


def test_a_file_finds_the_base_model_above_it(
    layouts: Any, save_student: Callable[..., Path], tmp_path: Path, wanted: bytes
) -> None:
    layouts.wan(tmp_path, "wan_models/Wan2.1-T2V-1.3B")
    path = save_student(tmp_path / "checkpoints/self_forcing_dmd.pt", generator_ema=1.0)
    assert first_chunk(path)[0] == wanted
    (tmp_path / "other").mkdir()
    alone = path.rename(tmp_path / "other" / "self_forcing_dmd.pt")
    layouts.wan(tmp_path / "elsewhere")
    (tmp_path / "wan_models").rename(tmp_path / "moved")
    with pytest.raises(WeightsError, match=r"missing the Wan VAE: Wan2\.1_VAE.*fetch wan2\.1"):
        Model.open(alone, device="cpu")
