"""Every released layout from the same random weights: full names, small sizes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.config import ModelConfig
from shotstream_rt.loading.fetch import BASE_REPOSITORY
from shotstream_rt.loading.student_weights import student_shapes
from shotstream_rt.model.umt5.network import umt5_from_state
from shotstream_rt.model.wan_vae.network import WanVAE

from .hub_models import BASE_FILES, SF, SF_FILE
from .hub_server import Hub

WAN = "Wan2.1-T2V-1.3B"
STUDENT = ModelConfig(
    dim=128, ffn_dim=64, num_heads=1, num_layers=2, text_dim=16, latent_height=2, latent_width=4
)
"""One head of 128 features, so that nothing has to say how many there are."""
VAE_WIDTH = 4
VOCABULARY = 96
CONFIG = {
    "_class_name": "WanModel", "model_type": "t2v", "dim": 128, "ffn_dim": 64, "num_heads": 1,
    "num_layers": 2, "in_dim": 16, "out_dim": 16, "freq_dim": 256, "text_len": 512, "eps": 1e-6,
}  # fmt: skip
DIFFUSERS_CONFIG = {
    "_class_name": "WanTransformer3DModel", "num_attention_heads": 1, "attention_head_dim": 128,
    "ffn_dim": 64, "num_layers": 2, "in_channels": 16, "out_channels": 16, "freq_dim": 256,
    "text_dim": 16, "eps": 1e-6, "patch_size": [1, 2, 2], "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
}  # fmt: skip


def _random(shapes: dict[str, Any], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tuple(shape), generator=generator) * 0.1
        + (1.0 if len(tuple(shape)) == 1 else 0.0)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def student_state() -> dict[str, Tensor]:
    return _random(student_shapes(STUDENT), 1)


@pytest.fixture(scope="session")
def vae_state() -> dict[str, Tensor]:
    return _random({k: v.shape for k, v in WanVAE(VAE_WIDTH).state_dict().items()}, 2)


@pytest.fixture(scope="session")
def text_state() -> dict[str, Tensor]:
    """A umT5 encoder under the released names."""
    dim, inner, ffn, heads = 16, 16, 24, 2
    shapes: dict[str, Any] = {"token_embedding.weight": (VOCABULARY, dim), "norm.weight": (dim,)}
    for layer in range(2):
        shapes |= {
            f"blocks.{layer}.{name}.weight": shape
            for name, shape in {
                "norm1": (dim,), "norm2": (dim,), "attn.q": (inner, dim), "attn.k": (inner, dim),
                "attn.v": (inner, dim), "attn.o": (dim, inner), "ffn.gate.0": (ffn, dim),
                "ffn.fc1": (ffn, dim), "ffn.fc2": (dim, ffn),
                "pos_embedding.embedding": (32, heads),
            }.items()
        }  # fmt: skip
    return _random(shapes, 3)


@pytest.fixture(scope="session")
def piece() -> bytes:
    """A small ``spiece.model`` with umT5's special tokens."""
    library = pytest.importorskip("sentencepiece", reason="the text extra is not installed")
    pytest.importorskip("ftfy", reason="the text extra is not installed")
    pytest.importorskip("transformers", reason="the text extra is not installed")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red cat walks on the beach", "a dog runs in the rain"] * 8),
        model_writer=model, vocab_size=40, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def as_diffusers_student(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename as Diffusers' own conversion does."""
    pairs = [
        ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("head.modulation", "scale_shift_table"), ("head.head", "proj_out"),
        ("modulation", "scale_shift_table"), ("ffn.0", "ffn.net.0.proj"), ("ffn.2", "ffn.net.2"),
        ("norm3", "norm2"), ("self_attn.q.", "attn1.to_q."), ("self_attn.k.", "attn1.to_k."),
        ("self_attn.v.", "attn1.to_v."), ("self_attn.o.", "attn1.to_out.0."),
        ("self_attn.norm", "attn1.norm"), ("cross_attn.q.", "attn2.to_q."),
        ("cross_attn.k.", "attn2.to_k."), ("cross_attn.v.", "attn2.to_v."),
        ("cross_attn.o.", "attn2.to_out.0."), ("cross_attn.norm", "attn2.norm"),
    ]  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


class Layouts:
    """Writes the base model's files in each released layout."""

    def __init__(
        self, vae: dict[str, Tensor], text: dict[str, Tensor], student: dict[str, Tensor],
        piece: bytes,
    ) -> None:  # fmt: skip
        self.vae, self.text, self.student, self.piece = vae, text, student, piece

    def wan(self, root: Path, place: str = WAN) -> Path:
        """Wan's own files."""
        folder = root / place
        (folder / "google/umt5-xxl").mkdir(parents=True)
        (folder / "google/umt5-xxl/spiece.model").write_bytes(self.piece)
        (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
        torch.save(self.vae, folder / "Wan2.1_VAE.pth")
        torch.save(self.text, folder / "models_t5_umt5-xxl-enc-bf16.pth")
        return folder

    def diffusers(self, root: Path, *, transformer: bool = False) -> Path:
        """A ``...-Diffusers`` folder, its text encoder and its transformer in several files."""
        peer = pytest.importorskip("diffusers", reason="the peer whose names these are")
        root.mkdir(parents=True, exist_ok=True)
        vae = peer.AutoencoderKLWan(base_dim=VAE_WIDTH, z_dim=16)
        vae.load_state_dict(as_diffusers_vae(self.vae))
        vae.save_pretrained(root / "vae")
        network: Any = umt5_from_state(self.text)
        network.save_pretrained(root / "text_encoder", max_shard_size="6KB")
        assert (root / "text_encoder/model.safetensors.index.json").is_file()
        (root / "tokenizer").mkdir()
        (root / "tokenizer/spiece.model").write_bytes(self.piece)
        if transformer:
            keys = {k: v for k, v in DIFFUSERS_CONFIG.items() if k != "_class_name"}
            student = peer.WanTransformer3DModel(**keys)
            student.load_state_dict(as_diffusers_student(self.student))
            student.save_pretrained(root / "transformer", max_shard_size="300KB")
            assert (root / "transformer/diffusion_pytorch_model.safetensors.index.json").is_file()
        return root

    def comfyui(self, root: Path, *, fp8: bool = False, top: str = "split_files") -> Path:
        """ComfyUI's single files; umT5 carries its tokenizer, and may be in scaled 8-bit floats."""
        (root / top / "vae").mkdir(parents=True)
        (root / top / "text_encoders").mkdir()
        save_file(self.vae, root / top / "vae/wan_2.1_vae.safetensors")
        network: Any = umt5_from_state(self.text)
        state = {k: v.detach().clone() for k, v in network.state_dict().items()}
        state.pop("encoder.embed_tokens.weight")
        state["spiece_model"] = torch.frombuffer(bytearray(self.piece), dtype=torch.uint8)
        name = "umt5_xxl_fp16.safetensors"
        if fp8:
            name = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
            for key in [k for k in state if k.endswith(("SelfAttention.q.weight", ".wo.weight"))]:
                scale = state[key].abs().max() / 448
                state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
                state[key.replace(".weight", ".scale_weight")] = scale
            state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        save_file(state, root / top / "text_encoders" / name)
        return root


def as_diffusers_vae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename as Diffusers' own conversion does."""
    renamed = {}
    for name, tensor in state.items():
        half, _, rest = name.partition(".")
        if half in ("conv1", "conv2"):
            renamed[f"{'quant_conv' if half == 'conv1' else 'post_quant_conv'}.{rest}"] = tensor
            continue
        for ours, theirs in (
            ("conv1.", "conv_in."), ("head.0.", "norm_out."), ("head.2.", "conv_out."),
            ("middle.0.", "mid_block.resnets.0."), ("middle.1.", "mid_block.attentions.0."),
            ("middle.2.", "mid_block.resnets.1."),
        ):  # fmt: skip
            if rest.startswith(ours):
                rest = theirs + rest.removeprefix(ours)
                break
        parts = rest.split(".")
        if parts[0] == "upsamples":
            block, place = divmod(int(parts[1]), 4)
            kind = "upsamplers.0" if place == 3 else f"resnets.{place}"
            rest = f"up_blocks.{block}.{kind}.{'.'.join(parts[2:])}"
        elif parts[0] == "downsamples":
            rest = "down_blocks." + ".".join(parts[1:])
        for ours, theirs in (
            ("residual.0.", "norm1."), ("residual.2.", "conv1."), ("residual.3.", "norm2."),
            ("residual.6.", "conv2."), ("shortcut.", "conv_shortcut."),
        ):  # fmt: skip
            rest = rest.replace(ours, theirs)
        renamed[f"{half}.{rest}"] = tensor
    return renamed


@pytest.fixture(scope="session")
def layouts(
    vae_state: dict[str, Tensor], text_state: dict[str, Tensor], student_state: dict[str, Tensor],
    piece: bytes,
) -> Layouts:  # fmt: skip
    return Layouts(vae_state, text_state, student_state, piece)


@pytest.fixture(scope="session")
def save_student(student_state: dict[str, Tensor]) -> Callable[..., Path]:
    """Write a trainer's checkpoint: groups, each with the student's tensors times a factor."""

    def save(path: Path, *, fragments: bool = False, **groups: float) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        front = "model._fsdp_wrapped_module." if fragments else "model."
        data: dict[str, Any] = {
            group: {f"{front}{name}": value * factor for name, value in student_state.items()}
            for group, factor in groups.items()
        }
        torch.save({**data, "step": 600}, path)
        return path

    return save


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, not made yet, in which fetched files are kept."""
    monkeypatch.setenv("SHOTSTREAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return tmp_path / "cache" / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in for Hugging Face's hub that has the base model and one student."""
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.add(BASE_REPOSITORY, BASE_FILES)
        server.add(SF, {SF_FILE: b"weights" * 1000, "checkpoints/ode_init.pt": b"o" * 4000})
        yield server
