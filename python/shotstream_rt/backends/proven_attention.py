"""Which attention was measured to be the fastest on a chip, as data of the package.

``proven_attention.json`` in this folder is written by ``python -m shotstream_rt.bench prove``
from bench records whose correctness passed, and by nothing else. ``kernel_registry`` reads it when
asked for ``auto``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ManifestError

PATH = Path(__file__).with_name("proven_attention.json")
SCHEMA_VERSION = 1

HEAD_DIM = 128
"""Features per head of the released student; other head sizes are not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenSet:
    """One kernel set as it was measured.

    Attributes:
        kernel_set: ``triton``, or with its attention replaced, ``triton+gluon``.
        denoise_fps: median frames per second of the student alone.
        rel_l2: distance to the oracle, within its tolerance.
    """

    kernel_set: str
    denoise_fps: float
    rel_l2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipProof:
    """What was measured on one chip.

    Attributes:
        gpu: the chip's name as torch gives it, such as ``NVIDIA H200``.
        dtype: of activations, ``bfloat16``.
        workload: what was measured.
        commit: of the code, or ``None`` where the run had no checkout.
        ranking: kernel sets, fastest first.
    """

    gpu: str
    dtype: str
    workload: str
    commit: str | None
    ranking: tuple[ProvenSet, ...]


def read_proofs(path: Path = PATH) -> tuple[ChipProof, ...]:
    """Read the proofs that the package carries.

    Raises:
        ManifestError: the file is damaged or of another version.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise ManifestError(
                f"{path}: schema_version: got {version!r}, wanted {SCHEMA_VERSION}; write it again "
                "with: python -m shotstream_rt.bench prove RECORDS"
            )
        return tuple(_chip(chip) for chip in data["chips"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path}: cannot be read as proofs of attention: {error}") from error


def proofs_text(proofs: Sequence[ChipProof]) -> str:
    """Return the file's content."""
    chips = [dataclasses.asdict(proof) for proof in proofs]
    return json.dumps({"schema_version": SCHEMA_VERSION, "chips": chips}, indent=2) + "\n"


def find_proof(gpu: str, dtype: str, head_dim: int) -> ChipProof | None:
    """Return what is proven on a chip, or ``None``.

    Args:
        gpu: the chip's name as torch gives it.
        dtype: of activations, ``bfloat16``.
        head_dim: features per head.
    """
    found = (proof for proof in read_proofs() if (proof.gpu, proof.dtype) == (gpu, dtype))
    return next(found, None) if head_dim == HEAD_DIM else None


def _chip(data: Mapping[str, Any]) -> ChipProof:
    values = dict(data)
    ranking = tuple(ProvenSet(**row) for row in values.pop("ranking"))
    return ChipProof(**values, ranking=ranking)
