"""``history.json`` beside a student: which heads are pruned, and what that was measured to cost.

Written by ``python -m shotstream_rt calibrate``, read when a profile prunes history. A file whose
measured fidelity is below the gate, or that was made for other weights, is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shotstream_rt.errors import ConfigError, ManifestError, WeightsError
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.outputs import atomic_file

if TYPE_CHECKING:
    from .student import Student

HISTORY_FILE = "history.json"
FORMAT, SCHEMA_VERSION = "shotstream-history", 1

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

    def check(self, student: Student) -> None:
        """Hold the file against the weights it is used with, and against the gate.

        Raises:
            ManifestError: it was made for other weights.
            ConfigError: what it costs is more than the gate allows.
        """
        if self.student != fingerprint(student):
            raise ManifestError(
                f"{HISTORY_FILE}: made for other weights (got {fingerprint(student)}, wanted "
                f"{self.student}); run python -m shotstream_rt calibrate MODEL again"
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


def fingerprint(student: Student) -> str:
    """Tell students apart: a digest of what makes queries and keys, equal for both float types."""
    digest = hashlib.sha256()
    for block in student.layers:
        own = block.self_attn
        for values in (own.norm_q.weight, own.norm_k.weight, own.q.bias, own.k.bias):
            rounded = values.detach().to("cpu", torch.bfloat16)
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
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.pop("format") != FORMAT or data.pop("schema_version") != SCHEMA_VERSION:
            raise ManifestError(f"{path}: not version {SCHEMA_VERSION} of {FORMAT}")
        return CalibratedHistory(policy=HistoryPolicy.from_dict(data.pop("policy")), **data)
    except ManifestError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f"{path}: cannot be read as a history file ({error})") from error
