"""What a person sees of a running stage: progress lines, TensorBoard curves, sample sheets.

Called by the trainer. Only the leading process writes; TensorBoard is imported here and nowhere
else.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.media.video import save_png

from ..common.step_rng import StepRng
from .stage_config import TrainedConfig
from .stage_services import Stage, StageServices

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger("shotstream_distill.paper.monitor")
_SHOWN_FRAMES = 6
_GAP, _RULE = 4, 12


class Monitor:
    """Use as a context manager around the loop.

    Args:
        services: shared parts.
        config: of the stage.
        folder: the run's.
        step: where the loop begins; later points of an earlier run are dropped.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(
        self, services: StageServices, config: TrainedConfig, folder: Path, step: int
    ) -> None:
        self._services, self._config, self._folder, self._first = services, config, folder, step
        self._writer: SummaryWriter | None = None
        self._begun = self._reported = time.monotonic()
        self._recent: dict[str, list[float]] = {}

    def __enter__(self) -> Monitor:
        if self._services.processes.leads:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "curves: tensorboard is not installed; pip install tensorboard"
                ) from error
            self._writer = SummaryWriter(
                str(self._folder / "curves" / self._config.name), purge_step=self._first
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def scalars(self, learner: str, values: Mapping[str, float], step: int) -> None:
        """Add points to the curves.

        Args:
            learner: prefix of the curves.
            values: by name.
            step: of the stage.
        """
        self._recent.setdefault(learner, []).append(values["loss"])
        if not math.isfinite(values["gradient_norm"]):
            _log.warning("%s: step %d skipped: gradients are not finite", self._config.name, step)
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{learner}/{name}", value, step)

    def progress(self, step: int, train_s: float) -> None:
        """Write a line now and then."""
        now = time.monotonic()
        done = step == self._config.steps
        if not self._services.processes.leads:
            return
        if not done and now - self._reported < self._services.config.log_s:
            return
        self._reported = now
        pace = (now - self._begun) / (step - self._first)
        means = " ".join(f"{k} {sum(v) / len(v):.4f}" for k, v in self._recent.items())
        _log.info(
            "%s: step %d of %d, %.0f s, %.2f s/step, eta %.0f s: %s", self._config.name, step,
            self._config.steps, train_s, pace, pace * (self._config.steps - step), means,
        )  # fmt: skip
        self._recent = {}

    def sheet(self, stage: Stage, rng: StepRng, step: int) -> None:
        """Let the stage make a few shots and write them as one picture.

        Args:
            stage: that makes the shots.
            rng: random numbers.
            step: named in the file.
        """
        batch, latents = stage.sheet(rng)
        if not self._services.processes.leads:
            return
        rows = [
            torch.cat((self._context(batch.context[row]), self._film(latents[row])))
            for row in range(len(latents))
        ]
        picture = sheet_picture(torch.stack(rows), split=batch.context.shape[1])
        path = self._folder / "sheets" / f"{self._config.name}-{step:06d}.png"
        save_png(path, picture.numpy())
        _log.info("%s: wrote %s", self._config.name, path)

    @torch.no_grad()
    def _context(self, latents: Tensor) -> Tensor:
        """Pictures ``[Cf, 3, H, W]`` of context latents, each a clip of its own."""
        single = [self._services.codec.decode_full(latent[None, None])[0] for latent in latents]
        return torch.cat(single).cpu()

    @torch.no_grad()
    def _film(self, latents: Tensor) -> Tensor:
        """A few pictures ``[n, 3, H, W]`` of a shot, evenly spaced."""
        frames = self._services.codec.decode_full(latents[None])[0].cpu()
        picks = torch.linspace(0, len(frames) - 1, _SHOWN_FRAMES).round().long()
        return frames[picks]


def sheet_picture(frames: Tensor, *, split: int) -> Tensor:
    """Lay pictures out in rows.

    Args:
        frames: ``[rows, columns, 3, H, W]`` in [-1, 1].
        split: columns in front of the wide gap (what was given, before what was made).

    Returns:
        uint8 ``[H', W', 3]``.
    """
    rows, columns, _, height, width = frames.shape
    page = torch.full(
        (rows * (height + _GAP) - _GAP, columns * (width + _GAP) + _RULE - _GAP, 3), 20,
        dtype=torch.uint8,
    )  # fmt: skip
    pixels = ((frames.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
    for row in range(rows):
        for column in range(columns):
            top = row * (height + _GAP)
            left = column * (width + _GAP) + (_RULE if column >= split else 0)
            page[top : top + height, left : left + width] = pixels[row, column]
    return page
