"""Reads a nano network's weights from the file that ships."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..errors import WeightsError


def load_float32(net: nn.Module, path: Path, what: str) -> None:
    """Fill a network from a safetensors file, as float32.

    Args:
        net: built with the shapes this version has.
        path: the file.
        what: the network's name in messages.

    Raises:
        WeightsError: the file is missing, or its tensors do not fit.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"{what}: no file {path}; reinstall the package")
    try:
        net.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    except RuntimeError as error:
        raise WeightsError(
            f"{what}: {path} does not fit this version; retrain or reinstall: {error}"
        ) from error
