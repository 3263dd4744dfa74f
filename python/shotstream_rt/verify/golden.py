"""Reading golden files and the weights they name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backends.registry import resolve
from ..config import ModelConfig, StreamConfig
from ..errors import ConfigError, WeightsError
from ..model.captions import CaptionSet
from ..model.student import Student
from ..model.weights import load_checkpoint, load_into

_WEIGHTS = re.compile(r"weights_\w+")


@dataclass(frozen=True, slots=True, eq=False)
class GoldenCase:
    """One golden file.

    Attributes:
        name: file name without its ending.
        folder: where it and its weights are.
        meta: the json beside it.
        tensors: golden values.
    """

    name: str
    folder: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> GoldenCase:
        """Read ``NAME.safetensors`` and ``NAME.json``.

        Raises:
            WeightsError: the tensors cannot be read.
            ConfigError: the json cannot.
        """
        meta_path = path.with_suffix(".json")
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{meta_path}: cannot be read as JSON ({error})") from error
        return cls(path.stem, path.parent, meta, load_checkpoint(path))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise WeightsError(f"{self.folder / self.name}.safetensors: no tensor {name!r}")
        return self.tensors[name]

    def named(self, pattern: str) -> list[re.Match[str]]:
        """Matches of a pattern with whole tensor names, in order."""
        found = (re.fullmatch(pattern, name) for name in self.tensors)
        return sorted((match for match in found if match), key=lambda match: match.string)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Latent height and width."""
        height, width = self.meta["latent_hw"]
        return height, width

    @property
    def model(self) -> ModelConfig:
        """Configuration of the student or teacher."""
        height, width = self.latent_size
        return ModelConfig(**self.meta["config"], latent_height=height, latent_width=width)

    def weights(self, kind: str = "student") -> dict[str, Tensor]:
        """Weights the case was computed with, float32.

        Args:
            kind: ``student`` or ``vae``.
        """
        named = self.meta.get("weights") or _WEIGHTS.findall(self.meta["what"])
        for name in named:
            if (name == "weights_vae") == (kind == "vae"):
                state = load_checkpoint(self.folder / f"{name}.safetensors")
                return {key: value.float() for key, value in state.items()}
        raise ConfigError(f"{self.name}: names no {kind} weights, only {', '.join(named)}")

    def student(self, dtype: torch.dtype) -> Student:
        """The network with its weights in a type."""
        with torch.device("meta"):
            student = Student(self.model)
        load_into(student, self.weights(), source=self.name, device="cpu", dtype=dtype)
        return student.eval()

    def backend(self, config: StreamConfig, dtype: torch.dtype) -> Any:
        """The eager backend as users get it, its cache poisoned so that stale reads show."""
        backend = resolve("eager", self.student(dtype), config, torch.device("cpu"))
        backend.cache.poison()  # type: ignore[attr-defined]
        return backend

    def captions(self, rows: list[int]) -> CaptionSet:
        """Captions at some rows."""
        lengths = self.meta["prompt_lengths"]
        return CaptionSet(
            embeddings=self["prompt_embeds"][rows], lengths=tuple(lengths[row] for row in rows)
        )
