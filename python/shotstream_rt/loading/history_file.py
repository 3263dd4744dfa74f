"""``history.json`` beside a student: which heads are pruned, and what that was measured to cost.

Written by ``python -m shotstream_rt calibrate``, read when a profile prunes history. A file whose
measured fidelity is below the gate, or that was made for other weights, is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError, ManifestError, WeightsError
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.inputs import parse_json, read_text
from shotstream_rt.outputs import atomic_file
from shotstream_rt.printable import listed, shown

HISTORY_FILE = "history.json"
FORMAT, SCHEMA_VERSION = "shotstream-history", 1
_MAX_BYTES = 16 << 20
_NUMBERS = {"share": (0.0, 1.0), "frames_psnr_db": (0.0, 1000.0), "latents_rel_l2": (0.0, 1e6)}
_KEYS = frozenset({"format", "schema_version", "student", "policy", "measured", *_NUMBERS})

MIN_FRAMES_PSNR_DB = 30.0
MAX_LATENTS_REL_L2 = 0.25
"""The gate: frames and latents of whole shots against ``exact``, same context, captions, noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedHistory:
    """Contents of ``history.json``.

    Attributes:
        student: ``fingerprint`` of the weights it was made for.
        policy: the pruned heads.
        share: pruned heads out of all, 0 to 1.
        frames_psnr_db: of the measured shots' frames against ``exact``.
        latents_rel_l2: of the measured shots' latents against ``exact``.
        measured: how: profile, shots, other candidates; for readers.
    """

    student: str
    policy: HistoryPolicy
    share: float
    frames_psnr_db: float
    latents_rel_l2: float
    measured: Mapping[str, Any] = field(default_factory=dict)

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Compare the file with the weights it is used with, and what it costs with the gate.

        Args:
            weights: the student's tensors under their released names.
            layers: blocks of the student.

        Raises:
            ManifestError: it was made for other weights.
            ConfigError: what it costs is more than the gate allows.
        """
        found = fingerprint(weights)
        if self.student != found:
            raise ManifestError(
                f"{HISTORY_FILE}: made for other weights (got {found}, wanted "
                f"{shown(self.student)}); run python -m shotstream_rt calibrate MODEL again"
            )
        if not passes_gate(self.frames_psnr_db, self.latents_rel_l2):
            raise ConfigError(
                f"{HISTORY_FILE}: got frames at {self.frames_psnr_db} dB and latents at "
                f"{self.latents_rel_l2} from exact, wanted at least {MIN_FRAMES_PSNR_DB} dB and at "
                f"most {MAX_LATENTS_REL_L2}; use profile fp8, or calibrate again"
            )

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OutputError: it cannot be written.
        """
        data = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "student": self.student,
            "policy": self.policy.to_dict(),
            "share": self.share,
            "frames_psnr_db": self.frames_psnr_db,
            "latents_rel_l2": self.latents_rel_l2,
            "measured": dict(self.measured),
        }
        with atomic_file(path) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", "utf-8")


def passes_gate(frames_psnr_db: float, latents_rel_l2: float) -> bool:
    """Return whether a measured fidelity is good enough for a profile."""
    return frames_psnr_db >= MIN_FRAMES_PSNR_DB and latents_rel_l2 <= MAX_LATENTS_REL_L2


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Tell students apart: a digest of vectors that scale and shift queries and keys.

    The same in float32 and bfloat16. Weight matrices are left out, so that only a few kilobytes are
    read; a LoRA merged into them does not show.

    Args:
        weights: all tensors of the student by name.
    """
    digest = hashlib.sha256()
    for layer in itertools.count():
        own = f"blocks.{layer}.self_attn"
        if f"{own}.q.bias" not in weights:
            break
        for vector in ("norm_q.weight", "norm_k.weight", "q.bias", "k.bias"):
            rounded = weights[f"{own}.{vector}"].detach().to("cpu", torch.bfloat16)
            digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def read_history(folder: Path) -> CalibratedHistory:
    """Read a model's file.

    Raises:
        WeightsError: there is none.
        ManifestError: it cannot be read, or is of another format or version.
    """
    path = folder / HISTORY_FILE
    if not path.is_file():
        raise WeightsError(
            f"{path}: missing, and this profile prunes history; run python -m shotstream_rt "
            "calibrate MODEL, or use profile fp8"
        )
    text = read_text(path, limit_bytes=_MAX_BYTES, what="history", error=ManifestError)
    data = parse_json(text, path, ManifestError)
    if not isinstance(data, dict):
        raise ManifestError(f"{path}: got {type(data).__name__}, wanted a JSON object")
    version = data.get("schema_version")
    if data.get("format") != FORMAT or type(version) is not int or version != SCHEMA_VERSION:
        raise ManifestError(f"{path}: not version {SCHEMA_VERSION} of {FORMAT}")
    missing, unknown = sorted(_KEYS - {"measured"} - set(data)), sorted(set(data) - _KEYS)
    if missing or unknown:
        raise ManifestError(
            f"{path}: missing key(s) {listed(missing) or 'none'}, unknown key(s) "
            f"{listed(unknown) or 'none'}"
        )
    numbers = {}
    for key, (low, high) in _NUMBERS.items():
        value = data[key]
        # Frames without any difference are infinitely many decibels apart from noise.
        exact = key == "frames_psnr_db" and value == math.inf
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not exact and not (number and low <= value <= high):
            raise ManifestError(
                f"{path}: {key}: got {shown(value)}, wanted a number from {low:g} to {high:g}"
            )
        numbers[key] = float(value)
    measured = data.get("measured", {})
    if not isinstance(data["student"], str) or not isinstance(measured, dict):
        raise ManifestError(
            f"{path}: got student {shown(data['student'])} and measured {shown(measured)}, wanted "
            "a fingerprint and an object"
        )
    try:
        policy = HistoryPolicy.from_dict(data["policy"])
    except ConfigError as error:
        raise ManifestError(f"{path}: {error}") from error
    return CalibratedHistory(student=data["student"], policy=policy, measured=measured, **numbers)
