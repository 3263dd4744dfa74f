"""Reading golden files and the weights they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backends import registry
from ..backends.base import StudentBackend
from ..backends.eager import EagerBackend
from ..backends.passes import EagerFilm
from ..backends.request import BackendRequest
from ..config import ModelConfig, StreamConfig
from ..errors import ConfigError, WeightsError
from ..inputs import parse_json, read_text
from ..loading.lora import merge_lora
from ..model.captions import CaptionSet
from ..model.checkpoint import load_checkpoint
from ..model.student import Student
from ..printable import shown

_MAX_META_BYTES = 16 << 20
_WEIGHTS = re.compile(r"weights_\w+")
_ADAPTERS = re.compile(r"lora_\w+")
_HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """How a case is recomputed.

    Attributes:
        dtype: of weights and activations; decides the limits too.
        backend: runs whole films; single passes and blocks are always run by ``eager``.
        kernels: kernel set of both, as for ``Model.open``.
        device: where the student runs; everything else runs on the host.
        engines: where exported graphs of the cases are kept; ``None``: they are not kept.
        form: of the graphs that a backend of engines runs: ``passes`` or ``segments``.
    """

    dtype: torch.dtype = torch.float32
    backend: str = "eager"
    kernels: str = "auto"
    device: torch.device = _HOST
    engines: Path | None = None
    form: str = "passes"


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
            ConfigError: the json cannot, or is no object.
        """
        meta_path = path.with_suffix(".json")
        text = read_text(meta_path, limit_bytes=_MAX_META_BYTES, what="golden case")
        meta = parse_json(text, meta_path)
        if not isinstance(meta, dict):
            raise ConfigError(f"{meta_path}: got {type(meta).__name__}, wanted a JSON object")
        return cls(path.stem, path.parent, meta, dict(load_checkpoint(path)))

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
            if not _WEIGHTS.fullmatch(name):
                raise ConfigError(f"weights: got {shown(name)}, wanted names such as weights_m64")
            if (name == "weights_vae") == (kind == "vae"):
                state = load_checkpoint(self.folder / f"{name}.safetensors")
                return {key: value.float() for key, value in state.items()}
        raise ConfigError(f"{self.name}: names no {kind} weights, only {', '.join(named)}")

    def student(self, dtype: torch.dtype) -> Student:
        """The network in its training form, on the host."""
        return Student.from_state(self.weights(), self.model, source=self.name, dtype=dtype)

    def backend(
        self, config: StreamConfig, asked: VerifyOptions, lora: str | None = None
    ) -> StudentBackend:
        """The backend asked for, as users get it; its passes are exported if it runs such.

        Args:
            config: of the film.
            asked: backend, kernels, device and type.
            lora: name of adapters beside the case that are merged into the weights.
        """
        request = self._request(config, asked)
        if lora is not None:
            request = replace(request, weights=partial(self._merged, lora))
        if asked.backend not in registry.ENGINE_LIBRARIES:
            return registry.resolve(asked.backend, request)
        from ..export.case_folder import exported

        with exported(config, asked.dtype, asked.engines, asked.form) as folder:
            return registry.resolve(asked.backend, replace(request, engines=folder))

    def eager_film(self, config: StreamConfig, asked: VerifyOptions) -> EagerFilm:
        """A film that can run single passes, its cache poisoned so that stale reads show."""
        film = EagerBackend(self._request(config, asked).student(), config).new_film()
        film.poison()
        return film

    def _merged(self, lora: str) -> Mapping[str, Tensor]:
        """Student weights with adapters merged."""
        if not _ADAPTERS.fullmatch(lora):
            raise ConfigError(f"lora: got {shown(lora)}, wanted a name such as lora_s128")
        path = self.folder / f"{lora}.safetensors"
        meta_path = path.with_suffix(".json")
        meta = parse_json(
            read_text(meta_path, limit_bytes=_MAX_META_BYTES, what="adapters"), meta_path
        )
        alpha = meta["alpha"]
        return merge_lora(self.weights(), load_checkpoint(path), source=path, alpha=alpha)

    def _request(self, config: StreamConfig, asked: VerifyOptions) -> BackendRequest:
        return BackendRequest(
            config=config, device=asked.device, dtype=asked.dtype, weights=self.weights,
            kernel_set=asked.kernels, source=self.name,
        )  # fmt: skip

    def captions(self, rows: list[int]) -> CaptionSet:
        """Captions at some rows."""
        lengths = self.meta["prompt_lengths"]
        return CaptionSet(
            embeddings=self["prompt_embeds"][rows], lengths=tuple(lengths[row] for row in rows)
        ).checked()
