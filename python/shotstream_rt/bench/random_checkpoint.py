"""Checkpoints of random weights at a real model's shape, for speed where no released file is.

A folder in the project's own layout, so it goes through the same loader, profiles and session as a
trained one: student, Wan VAE and tiny decoder of random weights, and nano's small text encoder in
place of umT5 (its time is not part of these workloads). What it makes is no picture, but takes as
long as one. Students of the family are also made at nano's size, with nano's codec.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from shotstream_rt import env
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ConfigError, OutputError
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.loading.history_file import (
    HISTORY_FILE,
    MAX_LATENTS_REL_L2,
    MIN_FRAMES_PSNR_DB,
    CalibratedHistory,
    fingerprint,
)
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.placement import resolve_device
from shotstream_rt.loading.project_layout import MANIFEST_FILE, NANO_FOLDER, STUDENT_FILE
from shotstream_rt.loading.tiny_decoder import TINY_FILES
from shotstream_rt.model.student import Student
from shotstream_rt.model.tiny.network import TinyDecoder
from shotstream_rt.model.wan_vae.network import WanVAE
from shotstream_rt.outputs import atomic_folder
from shotstream_rt.plan.students import STUDENTS

from .student_run import random_student

_PREFIX = "random-"
_VERSION = 2
"""Counted up whenever what is written changes."""
_TEXT_FILE, _CODEC_FILE = "text.safetensors", "vae.safetensors"
_NANO_CODEC_FILE = "codec.safetensors"

_log = logging.getLogger("shotstream_rt.bench")


@dataclass(frozen=True, slots=True)
class RandomModel:
    """Which random model to write.

    Attributes:
        stream: shapes of the student; captions are as nano's text encoder makes them.
        vae_width: channels of the Wan VAE's first level, 96 in the released one; ``None``: nano's
            codec is taken.
    """

    stream: StreamConfig
    vae_width: int | None


_RELEASED = ModelConfig(text_dim=128, text_len=64)
_NANO = replace(
    _RELEASED, dim=256, ffn_dim=1024, num_heads=4, num_layers=4, latent_height=12, latent_width=20
)
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
    **{
        f"random-nano-{name}": RandomModel(student.stream(_NANO), None)
        for name, student in STUDENTS.items()
    },
}
"""By name: the released shapes, the same without context frames, one for tests, and each student of
the family at nano's size."""


def resolve_model(name: str) -> str:
    """Return a model's name or folder; a random one is written first if it is not there yet.

    Raises:
        ConfigError: no random model has this name.
        OutputError: it cannot be written; see ``SHOTSTREAM_CACHE_DIR``.
    """
    if not name.startswith(_PREFIX):
        return name
    if name not in RANDOM_MODELS:
        raise ConfigError(f"model: got {name!r}, wanted one of {', '.join(RANDOM_MODELS)}")
    folder = env.cache_dir() / "bench" / f"{name}-v{_VERSION}"
    if not folder.is_dir():
        _log.info("writing random weights to %s", folder)
        with atomic_folder(folder, own=".*") as part:
            write_random_checkpoint(RANDOM_MODELS[name], part)
    return str(folder)


def write_random_checkpoint(model: RandomModel, folder: Path, *, seed: int = 0) -> None:
    """Write a checkpoint of random weights in bfloat16 into an empty folder.

    Drawn on a GPU where there is one, with that device's numbers.

    Args:
        model: what to make.
        folder: empty.
        seed: of the weights.
    """
    device = resolve_device("auto")
    student = random_student(model.stream, seed=seed, device=device).to(torch.bfloat16)
    _save(student, folder / STUDENT_FILE)
    _made_up_history(student).write(folder / HISTORY_FILE)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        if model.vae_width is not None:
            _save(WanVAE(model.vae_width), folder / _CODEC_FILE)
        _save(TinyDecoder(), folder / TINY_FILES[0])
    shutil.copyfile(NANO_FOLDER / _TEXT_FILE, folder / _TEXT_FILE)
    codec = {"kind": "wan", "file": _CODEC_FILE}
    if model.vae_width is None:
        codec = {"kind": "nano", "file": _NANO_CODEC_FILE}
        shutil.copyfile(NANO_FOLDER / _NANO_CODEC_FILE, folder / _NANO_CODEC_FILE)
    StudentManifest(
        stream=model.stream,
        codec=codec,
        text={"kind": "nano", "file": _TEXT_FILE},
        lineage={"student": "random weights, for measuring speed", "seed": seed},
    ).write(folder / MANIFEST_FILE)


def _made_up_history(student: Student) -> CalibratedHistory:
    """Prune every other head, for speed only: random weights have no quality to lose."""
    heads = tuple(range(0, student.config.num_heads, 2))
    policy = HistoryPolicy(recent_frames=3, pruned_heads=(heads,) * student.config.num_layers)
    return CalibratedHistory(
        student=fingerprint(student.state_dict()),
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
    try:
        save_file(state, path)
    except SafetensorError as error:  # raised when the disk is full
        raise OutputError(f"{path}: cannot be written: {error}; free some space") from error
