"""Reads a nano network's weights from the file that ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from shotstream_rt.errors import WeightsError

from ..checkpoint import check_tensors, load_checkpoint, place_into
from ..lazy_tensors import LazyTensor

Net = TypeVar("Net", bound=nn.Module)


def load_float32(
    build: Callable[[Mapping[str, LazyTensor]], Net],
    path: Path,
    what: str,
    infinite: Callable[[str], bool] | None = None,
) -> Net:
    """Build a network for a file of weights and fill it, as float32.

    Args:
        build: makes the network; sizes that differ from file to file it reads off the tensors'
            names and shapes. It raises ``ValueError`` for sizes that no such network has.
        path: the file.
        what: the network's name in messages.
        infinite: tells by name which tensors may hold infinite values; none by default.

    Returns:
        The filled network, on the CPU.

    Raises:
        WeightsError: the file is missing or damaged, or its tensors do not fit.
    """
    if not path.exists():
        raise WeightsError(f"{what}: no file {path}; reinstall the package")
    state = load_checkpoint(path)
    source = f"{path} ({what})"
    try:
        # On the meta device: nothing is allocated before names and shapes were checked.
        with torch.device("meta"):
            net = build(state.entries)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}; retrain or reinstall") from error
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    try:
        check_tensors(state, wanted, source)
    except WeightsError as error:
        raise WeightsError(
            f"{path} does not fit this version; retrain or reinstall: {error}"
        ) from error
    place_into(net, state.checked(source, infinite), device="cpu", dtype=torch.float32)
    return net
