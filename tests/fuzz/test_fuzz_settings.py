"""Damaged manifests, calibrations and configurations of models."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from shotstream_rt.config import StreamConfig
from shotstream_rt.loading.history_file import FORMAT, read_history
from shotstream_rt.loading.lora import _configured_alpha
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.loading.wan_config import apply_wan_config, read_wan_config
from shotstream_rt.model.checkpoint import load_folder


def test_manifests(surface, tmp_path):
    path = tmp_path / "student.json"
    good = json.loads((NANO_FOLDER / "student.json").read_text("utf-8"))
    history = {"recent_frames": 3, "pruned_heads": [[0]] * good["stream"]["model"]["num_layers"]}
    good["stream"]["history"] = history

    def attempt(mutator):
        path.write_bytes(mutator.text(good))
        StudentManifest.read(path)

    surface.run(attempt, 1500, in_ten_minutes=5000)


def test_histories(surface, tmp_path):
    good = {
        "format": FORMAT, "schema_version": 1, "student": "0123456789abcdef", "share": 0.25,
        "policy": {"recent_frames": 3, "pruned_heads": [[0, 1], [], [2]]},
        "frames_psnr_db": 40.0, "latents_rel_l2": 0.1, "measured": {"shots": 4},
    }  # fmt: skip

    def attempt(mutator):
        (tmp_path / "history.json").write_bytes(mutator.text(good))
        read_history(tmp_path)

    surface.run(attempt, 1000)


def test_wan_configs(surface, tmp_path):
    path, model = tmp_path / "config.json", StreamConfig().model
    good = {
        **{key: value for key, value in model.to_dict().items() if not key.startswith("latent_")},
        "model_type": "t2v", "patch_size": [1, 2, 2], "qk_norm": True,
    }  # fmt: skip

    def attempt(mutator):
        path.write_bytes(mutator.text(good))
        apply_wan_config(model, read_wan_config(path), path)

    surface.run(attempt, 800)


def test_lora_configs(surface, tmp_path):
    config = tmp_path / "adapter_config.json"

    def attempt(mutator):
        config.write_bytes(mutator.text({"r": 4, "lora_alpha": 4, "use_rslora": False}))
        _configured_alpha(tmp_path / "adapter_model.safetensors")

    surface.run(attempt, 300)


def test_indices_of_parts(surface, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for name in ("a", "b"):
        save_file({name: torch.zeros(2)}, tmp_path / f"model-{name}.safetensors")
    good = {"weight_map": {"a": "model-a.safetensors", "b": "model-b.safetensors"}}

    def attempt(mutator):
        index.write_bytes(mutator.text(good))
        assert set(load_folder(tmp_path)) <= {"a", "b"}

    surface.run(attempt, 300)
