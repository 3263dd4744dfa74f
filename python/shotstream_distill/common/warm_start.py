"""Begins a training with the weights of a file that may lack some of the network's parts.

Called by the trainings of the codec and of the detector, which grow between releases.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from shotstream_rt.errors import WeightsError

_log = logging.getLogger("shotstream_distill.common.warm_start")


def warm_start(
    net: nn.Module, path: Path, what: str, may_lack: Callable[[str, Collection[str]], bool]
) -> None:
    """Fill a network; what the file may lack stays as it is.

    Args:
        net: as it begins.
        path: safetensors file.
        what: the network's name in messages.
        may_lack: whether the file may lack a name, given the names it has.

    Raises:
        WeightsError: no such file, it lacks anything else, or it does not fit.
    """
    if not path.is_file():
        raise WeightsError(f"{what}: no file {path}, wanted weights to start from")
    values = {name: value.float() for name, value in load_file(str(path)).items()}
    try:
        wrong = net.load_state_dict(values, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{what}: {path} does not fit this version: {error}") from error
    lost = [name for name in wrong.missing_keys if not may_lack(name, values)]
    if lost or wrong.unexpected_keys:
        raise WeightsError(
            f"{what}: {path} lacks {lost[:3]} and has {wrong.unexpected_keys[:3]} besides, wanted "
            f"weights of a {what} of this version or before; start from another file"
        )
    if wrong.missing_keys:
        _log.info("%s lacks %s: they begin new", path.name, ", ".join(wrong.missing_keys))
