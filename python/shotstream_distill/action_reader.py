"""Reads off a few noisy latent frames what the characters do: walk, jump, dance, stand.

Called by ``train-reader`` and by the reward stage, as ``fact_reader``, which sees one frame and so
no motion. It shares nothing with the evaluation, which follows silhouettes in the pictures.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano_vocabulary import ACTIONS, TOKEN_IDS

from .bank import Batch

WINDOW_FRAMES = 4
"""A chunk and the frame before it: a second, and more than a jump's period."""
_WIDTH, _DEEP = 96, 144
_ACTION_COLUMN = 2
_IGNORED = -100


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return out


class ActionReader(nn.Module):
    """Windows ``[N, 4, C, h, w]`` at noise level ``[N]`` to logits ``[N, 5]`` of the actions.

    ``opening [N]`` says that a window begins a shot: its first two frames are one.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        # Frames and what changes between them: a jump is small beside the picture.
        self.stem = nn.Conv2d((2 * WINDOW_FRAMES - 1) * channels, _WIDTH, 3, padding=1)
        self.told = nn.Linear(3, _WIDTH)
        self.fine = _Residual(_WIDTH)
        self.down = nn.Conv2d(_WIDTH, _DEEP, 4, stride=2, padding=1)
        self.deep = nn.Sequential(_Residual(_DEEP), _Residual(_DEEP))
        self.norm = nn.GroupNorm(8, _DEEP)
        self.answer = nn.Linear(2 * _DEEP, len(ACTIONS))

    def forward(self, x: Tensor, level: Tensor, opening: Tensor) -> Tensor:
        """Read windows."""
        change = x[:, 1:] - x[:, :-1]
        told = self.told(torch.stack((level, level.square(), opening.float()), 1))
        cells = self.stem(torch.cat((x, 2 * change), 1).flatten(1, 2)) + told[:, :, None, None]
        cells = F.silu(self.norm(self.deep(self.down(F.silu(self.fine(cells))))))
        out: Tensor = self.answer(torch.cat((cells.mean((2, 3)), cells.amax((2, 3))), 1))
        return out


def openings(batch: Batch) -> Tensor:
    """Return which of ``batch.windows`` begin their shot, bool ``[B * groups]``."""
    begins = [v <= batch.context for v in batch.visible or (batch.context,) * batch.groups]
    return torch.tensor(begins).repeat(len(batch.target))


def asked_actions(batch: Batch, *, named: bool = True) -> Tensor:
    """Return what the characters of each window do, int64 ``[B * groups]``.

    ``named``: where the caption says so; -100 where it does not.
    """
    action = batch.facts[:, _ACTION_COLUMN]
    if named:
        ids = torch.tensor([TOKEN_IDS[name] for name in ACTIONS])
        action = torch.where(torch.isin(batch.caption(), ids).any(1), action, _IGNORED)
    return action.repeat_interleave(batch.groups)


def action_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy over windows that are judged, in nats; 0 where none is."""
    total = F.cross_entropy(logits, wanted, ignore_index=_IGNORED, reduction="sum")
    return total / (wanted != _IGNORED).sum().clamp(min=1)


def load_action_reader(path: Path) -> ActionReader:
    """Read a reader's weights.

    Raises:
        WeightsError: no such file, or it is none of an action reader.
    """
    if not path.is_file():
        raise WeightsError(f"action reader: no file {path}; train-reader --actions makes one")
    reader = ActionReader()
    try:
        reader.load_state_dict(load_file(str(path)))
    except (RuntimeError, SafetensorError) as error:
        raise WeightsError(f"action reader: {path} is none of this version: {error}") from error
    return reader
