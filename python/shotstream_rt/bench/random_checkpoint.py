"""Checkpoints of random weights at a real model's shape, for speed where no released file is.

A folder in the project's own layout, so it goes through the same loader, profiles and session as a
trained one: student, Wan VAE and tiny decoder of random weights, and nano's small text encoder in
place of umT5 (its time is not part of these workloads). What comes out is no picture, but takes as
long as one.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from shotstream_rt import env
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.manifest import StudentManifest
from shotstream_rt.model.history_file import (
    HISTORY_FILE,
    MAX_LATENTS_REL_L2,
    MIN_FRAMES_PSNR_DB,
    CalibratedHistory,
    fingerprint,
)
from shotstream_rt.model.loading import MANIFEST_FILE, NANO_FOLDER, STUDENT_FILE, resolve_device
from shotstream_rt.model.released import TINY_FILES
from shotstream_rt.model.student import Student
from shotstream_rt.model.tiny_decoder import TinyDecoder
from shotstream_rt.model.vae import WanVAE

from .student_run import random_student

_PREFIX = "random-"
_VERSION = 2
"""Counted up whenever what is written changes."""
_TEXT_FILE, _CODEC_FILE = "text.safetensors", "vae.safetensors"

_log = logging.getLogger("shotstream_rt.bench")


@dataclass(frozen=True, slots=True)
class RandomModel:
    """What to make up.

    Attributes:
        stream: shapes of the student; captions are as nano's text encoder makes them.
        vae_width: channels of the Wan VAE's first level; 96 in the released one.
    """

    stream: StreamConfig
    vae_width: int


_RELEASED = ModelConfig(text_dim=128, text_len=64)
RANDOM_MODELS: Mapping[str, RandomModel] = {
    "random-1.3b": RandomModel(StreamConfig(model=_RELEASED), 96),
    "random-1.3b-0-21": RandomModel(
        StreamConfig(model=_RELEASED, cache=CacheConfig(context_frames=0)), 96
    ),
    "random-small": RandomModel(
        StreamConfig(
            model=replace(
                _RELEASED,
                dim=48,
                ffn_dim=64,
                num_heads=2,
                num_layers=2,
                latent_height=4,
                latent_width=6,
            ),
            shot=ShotConfig(chunk_frames=1, shot_frames=4),
        ),
        4,
    ),
}
"""By name: the released shapes, the same without context frames, and one for tests."""


def resolve_model(name: str) -> str:
    """Return a model's name or folder; a random one is written first if it is not there yet.

    Raises:
        ConfigError: no random model has this name.
    """
    if not name.startswith(_PREFIX):
        return name
    if name not in RANDOM_MODELS:
        raise ConfigError(f"model: got {name!r}, wanted one of {', '.join(RANDOM_MODELS)}")
    folder = env.cache_dir() / "bench" / f"{name}-v{_VERSION}"
    if not folder.is_dir():
        _log.info("writing random weights to %s", folder)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_random_checkpoint(RANDOM_MODELS[name], partial)
        partial.rename(folder)
    return str(folder)


def write_random_checkpoint(model: RandomModel, folder: Path, *, seed: int = 0) -> None:
    """Write a checkpoint of random weights in bfloat16 into an empty folder.

    Drawn on a GPU where there is one, with that device's numbers.
    """
    device = resolve_device("auto")
    student = random_student(model.stream, seed=seed, device=device).to(torch.bfloat16)
    _save(student, folder / STUDENT_FILE)
    _made_up_history(student).write(folder / HISTORY_FILE)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        _save(WanVAE(model.vae_width), folder / _CODEC_FILE)
        _save(TinyDecoder(), folder / TINY_FILES[0])
    shutil.copyfile(NANO_FOLDER / _TEXT_FILE, folder / _TEXT_FILE)
    StudentManifest(
        stream=model.stream,
        codec={"kind": "wan", "file": _CODEC_FILE},
        text={"kind": "nano", "file": _TEXT_FILE},
        lineage={"student": "random weights, for measuring speed", "seed": seed},
    ).write(folder / MANIFEST_FILE)


def _made_up_history(student: Student) -> CalibratedHistory:
    """Prune every other head: for speed alone, what it costs random weights means nothing."""
    heads = tuple(range(0, student.config.num_heads, 2))
    policy = HistoryPolicy(recent_frames=3, pruned_heads=(heads,) * student.config.num_layers)
    return CalibratedHistory(
        student=fingerprint(student),
        policy=policy,
        share=policy.share(student.config.num_heads),
        frames_psnr_db=MIN_FRAMES_PSNR_DB,
        latents_rel_l2=MAX_LATENTS_REL_L2,
        measured={"note": "not calibrated: random weights, every other head, for speed alone"},
    )


def _save(network: nn.Module, path: Path) -> None:
    state = {
        name: tensor.to("cpu", torch.bfloat16).contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_file(state, path)
