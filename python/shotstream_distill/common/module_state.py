"""A module that learns by AdamW, and what survives a restart of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from .processes import Processes
from .product import write_whole

Module = TypeVar("Module", bound=nn.Module)


class ModuleState(Generic[Module]):
    """The module's weights and optimiser.

    Args:
        module: that learns.
        rate: largest learning rate.
        weight_decay: of AdamW.
        processes: that average their gradients.
    """

    def __init__(
        self, module: Module, *, rate: float, weight_decay: float,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        self.module = module
        self.processes = processes or Processes()
        self._rate = rate
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=weight_decay)
        self.step = 0
        self.elapsed_s = 0.0

    def apply(self, scale: float) -> None:
        """Take one step from the gradients; ``scale`` multiplies the learning rate."""
        parameters = list(self.module.parameters())
        self.processes.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * scale
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def save(self, path: Path) -> None:
        """Write everything needed to go on, replacing the file; the leading process does."""
        if self.processes.leads:
            data = {
                "module": self.module.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
            }
            write_whole(path, data)

    def load(self, path: Path) -> None:
        """Go on from a file of ``save``."""
        data = torch.load(path, weights_only=True)
        self.module.load_state_dict(data["module"])
        self._optimizer.load_state_dict(data["optimizer"])
        self.step, self.elapsed_s = data["step"], data["elapsed_s"]
