"""Weights that learn: float32 masters, the optimiser, the running average, and their state.

Called by the stages (to have one) and the trainer (to step and store it). Alone, a network may
compute in bfloat16 while masters learn in float32; sharded, the parameters are the masters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..common.processes import Processes, alike, local, sum_plain_gradients, whole
from .stage_config import OptimizerConfig


class Learner:
    """The trainable parameters of some modules.

    Args:
        modules: by the prefix of their parameters' names.
        config: of the optimiser.
        processes: who takes part.
        masters: float32 values to start from where a module holds a narrower type.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        config: OptimizerConfig,
        processes: Processes,
        masters: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._modules, self._config, self._processes = modules, config, processes
        self.names: list[str] = []
        self._working: list[nn.Parameter] = []
        self.masters: list[nn.Parameter] = []
        for prefix, module in modules.items():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    self.names.append(prefix + name)
                    self._working.append(parameter)
                    self.masters.append(self._master(prefix + name, parameter, masters or {}))
        # Fused updates want all of a group sharded, or none.
        kinds = [[m for m in self.masters if isinstance(m, DTensor) == sharded]
                 for sharded in (True, False)]  # fmt: skip
        self._optimizer = torch.optim.AdamW(
            [{"params": kind} for kind in kinds if kind],
            lr=config.rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay,
        )  # fmt: skip
        self._average = [m.detach().clone() for m in self.masters] if config.average else []
        self.step_count = 0
        self.skipped = 0

    @staticmethod
    def _master(name: str, parameter: nn.Parameter, values: Mapping[str, Tensor]) -> nn.Parameter:
        if parameter.dtype == torch.float32:
            return parameter
        value = values.get(name, parameter.detach())
        return nn.Parameter(value.detach().to(device=parameter.device, dtype=torch.float32).clone())

    @torch.no_grad()
    def step(self, scale: float) -> float:
        """Take one optimiser step from the gradients, and clear them.

        Args:
            scale: factor on the learning rate.

        Returns:
            The gradients' norm before clipping; a step whose norm is not finite changes nothing.
        """
        for module in self._modules.values():
            sum_plain_gradients(module, self._processes)
        for master, parameter in zip(self.masters, self._working, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
        size = self._clip()
        if math.isfinite(size):
            for group in self._optimizer.param_groups:
                group["lr"] = self._config.rate * scale
            self._optimizer.step()
            self.step_count += 1
            self._follow()
        else:
            self.skipped += 1
        self._optimizer.zero_grad()
        return size

    def _clip(self) -> float:
        """Bound the norm of all gradients together; returns what it was."""
        sharded = torch.zeros((), device=self._processes.device)
        plain = torch.zeros((), device=self._processes.device)
        gradients = [m.grad for m in self.masters if m.grad is not None]
        for gradient in gradients:
            part = sharded if isinstance(gradient, DTensor) else plain
            part += local(gradient).float().square().sum()
        norm = float((self._processes.mean(sharded) * self._processes.world + plain).sqrt())
        if math.isfinite(norm) and norm > self._config.clip:
            for gradient in gradients:
                local(gradient).mul_(self._config.clip / norm)
        return norm

    def _follow(self) -> None:
        """Carry the masters over to the working copies and the average."""
        for master, parameter in zip(self.masters, self._working, strict=True):
            if master is not parameter:
                parameter.copy_(master)
        # At first the average follows faster, or it would hold on to the initial weights.
        keep = min(self._config.average, self.step_count / (self.step_count + 10))
        for average, master in zip(self._average, self.masters, strict=False):
            local(average).lerp_(local(master.detach()), 1 - keep)

    def working_bytes(self) -> int:
        """Bytes of the modules' parameters, masters not counted."""
        own = {id(m) for m in self.masters}
        return sum(
            p.nbytes for module in self._modules.values() for p in module.parameters()
            if id(p) not in own
        )  # fmt: skip

    def shipped(self) -> dict[str, Tensor]:
        """Return what ships, whole and on the host: the average, or the weights themselves."""
        values = self._average or [m.detach() for m in self.masters]
        return {n: whole(v).clone() for n, v in zip(self.names, values, strict=True)}

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on, whole and on the host."""
        optimizer = self._optimizer.state_dict()
        return {
            "names": self.names,
            "masters": [whole(m).clone() for m in self.masters],
            "average": [whole(a).clone() for a in self._average],
            "moments": {
                index: {k: whole(v).clone() for k, v in values.items()}
                for index, values in optimizer["state"].items()
            },
            "step_count": self.step_count,
            "skipped": self.skipped,
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        for mine, saved in zip(self.masters, state["masters"], strict=True):
            mine.copy_(alike(saved, mine))
        for mine_average, saved in zip(self._average, state["average"], strict=True):
            mine_average.copy_(alike(saved, mine_average))
        moments = {
            index: {
                k: alike(v, self.masters[index]) if v.dim() else v.clone()
                for k, v in values.items()
            }
            for index, values in state["moments"].items()
        }
        told = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**told, "state": moments})
        for master, parameter in zip(self.masters, self._working, strict=True):
            if master is not parameter:
                parameter.copy_(master)
        self.step_count, self.skipped = state["step_count"], state["skipped"]
