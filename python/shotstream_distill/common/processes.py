"""One training process or many: their group, sharding of networks, gathering of tensors.

Called by the run and the learners. Started by torchrun, every stage runs sharded over all processes
(FSDP2, block by block); alone, nothing distributed is touched.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from shotstream_rt.errors import ConfigError

from .host_memory import keep_freed_memory

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Processes:
    """The group of training processes.

    Attributes:
        rank: this one's number.
        world: how many.
        device: where this one computes.
        mesh: over all of them; ``None`` alone.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mesh: DeviceMesh | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.mesh is not None:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes, in place."""
        if self.mesh is not None:
            dist.all_reduce(value)
            value /= self.world
        return value

    def agree(self, value: bool) -> bool:
        """Return the leading process's answer on every process."""
        return bool(self.told(float(value)))

    def told(self, value: float) -> float:
        """Return the leading process's number on every process."""
        if self.mesh is None:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(number, 0)
        return float(number.item())

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Average whole gradients over the processes, in place, as one message."""
        if self.mesh is None:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))


@contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """Join the processes torchrun started, or be alone.

    Args:
        device: ``auto`` takes a GPU where there is one; ``cpu`` or ``cuda`` decides.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: got 'cuda', and torch finds no GPU; wanted 'cpu'")
    if device == "cpu":
        keep_freed_memory()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(device=torch.device(device))
        return
    local = torch.device(device)
    if device == "cuda":
        local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Processes(
            rank=dist.get_rank(), world=world, device=local,
            mesh=init_device_mesh(device, (world,)),
        )  # fmt: skip
    finally:
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End this process now, its output flushed and the interpreter not taken down.

    gloo's own threads may hold the last tensor of a collective, and with it a Python object, when
    the interpreter goes; they then abort a process whose work is done (pytorch pull request
    179291).
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def shard(
    net: Net, blocks: Iterable[nn.Module], processes: Processes, *, compute: torch.dtype
) -> Net:
    """Shard a network over all processes, in place; alone, cast it to ``compute``.

    Sharded parameters keep their type (float32 masters), are gathered as ``compute`` and their
    gradients are averaged in float32.

    Args:
        net: the network; moved to the processes' device.
        blocks: its parts that are gathered one at a time.
        processes: who takes part.
        compute: dtype of the pass.

    Returns:
        ``net``.
    """
    net.to(processes.device)
    if processes.mesh is None:
        net.to(compute)
        return net
    policy = MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        fully_shard(block, mesh=processes.mesh, mp_policy=policy)
    fully_shard(net, mesh=processes.mesh, mp_policy=policy)
    return net


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as a whole on the host; every process must call it."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def alike(value: Tensor, model: Tensor) -> Tensor:
    """Return a whole tensor cut and placed like ``model``."""
    value = value.to(device=model.device, dtype=model.dtype)
    if isinstance(model, DTensor):
        return distribute_tensor(value, model.device_mesh, model.placements)
    return value


def sum_plain_gradients(module: nn.Module, processes: Processes) -> None:
    """Average the gradients of parameters that are not sharded."""
    if processes.mesh is None:
        return
    for parameter in module.parameters():
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            processes.mean(parameter.grad)
