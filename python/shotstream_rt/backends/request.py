"""What a backend is built from; weights and kernels are made only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..kernels.sets.kernel_set import KernelSet
    from ..model.bound_student import BoundStudent

ENGINES_FOLDER = "engines"
"""Where a model's folder has its exported passes, if it has any."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BackendRequest:
    """A model to run, and where and how.

    Attributes:
        config: all that decides the numbers.
        device: where it runs.
        dtype: of activations, caches and latents.
        weights: reads the student's tensors under their released names; a mapping may read each
            one when it is accessed. An engine backend that has weights of its own never calls it.
        folder: the model's files, engines among them; ``None`` for weights that are in no folder.
        kernel_set: ``auto``, or a set and its parts such as ``triton+cudnn``.
        lossy_parts: parts of the kernel set that the profile takes.
        source: name of the weights in errors.
        engines: folder of exported passes; default: ``engines`` in the model's folder.
        threads: CPU threads of an engine library; default: as many as torch takes.
    """

    config: StreamConfig
    device: torch.device
    dtype: torch.dtype
    weights: Callable[[], Mapping[str, Tensor]]
    folder: Path | None = None
    kernel_set: str = "auto"
    lossy_parts: tuple[str, ...] = field(default=())
    source: str = "student weights"
    engines: Path | None = None
    threads: int | None = None

    def engines_folder(self) -> Path | None:
        """Return where exported passes are, or ``None`` if there are none."""
        if self.engines is not None or self.folder is None:
            return self.engines
        own = self.folder / ENGINES_FOLDER
        return own if own.is_dir() else None

    def kernels(self) -> KernelSet:
        """Resolve the kernel set.

        Raises:
            ConfigError: no set or part has this name, or its arena does not serve the cache policy.
            BackendUnavailableError: it cannot run here.
        """
        from . import kernel_registry
        from .cache import check_layout

        head_dim = self.config.model.head_dim
        target = kernel_registry.Target(device=self.device, dtype=self.dtype, head_dim=head_dim)
        kernels = kernel_registry.resolve(self.kernel_set, target, self.lossy_parts)
        check_layout(kernels.arena, self.config)
        return kernels

    def student(self) -> BoundStudent:
        """Load the student for these kernels, every weight once.

        Raises:
            ConfigError: see ``kernels``.
            BackendUnavailableError: see ``kernels``.
            WeightsError: the weights are missing, broken or of other shapes.
        """
        from ..model.bound_student import BoundStudent

        kernels = self.kernels()  # before the weights: an unknown name should not take seconds
        return BoundStudent.from_state(
            self.weights(), self.config.model, kernels, source=self.source, device=self.device,
            dtype=self.dtype,
        )  # fmt: skip


def engines_dtype(request: BackendRequest) -> torch.dtype:
    """Return the type that a model's exported passes compute in; float32 if there are none.

    Raises:
        ManifestError: their manifest is broken.
    """
    from ..export.manifest import MANIFEST_FILE, EngineManifest

    folder = request.engines_folder()
    if folder is None or not (folder / MANIFEST_FILE).is_file():
        return torch.float32
    name = EngineManifest.read(folder).dtype
    return torch.bfloat16 if name == "bfloat16" else torch.float32
