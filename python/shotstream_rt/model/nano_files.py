"""Reads a nano network's weights from the file that ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from ..errors import WeightsError

Net = TypeVar("Net", bound=nn.Module)


def load_float32(build: Callable[[Mapping[str, Tensor]], Net], path: Path, what: str) -> Net:
    """Build a network for a safetensors file and fill it, as float32.

    Args:
        build: makes the network; sizes that differ from file to file it reads off the tensors.
        path: the file.
        what: the network's name in messages.

    Returns:
        The filled network.

    Raises:
        WeightsError: the file is missing, or its tensors do not fit.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"{what}: no file {path}; reinstall the package")
    state = {name: value.float() for name, value in load_file(str(path)).items()}
    net = build(state)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{what}: {path} does not fit this version; retrain or reinstall: {error}"
        ) from error
    return net
