"""The host's settings of torch, kept away from what is made while a model is loaded.

A program that embeds the runtime may have set a default device, autocast or inference mode for its
own networks. Each would change what a model is loaded as, and with it the film. The default dtype
is one for the whole process and cannot be set for one thread, so the runtime names a dtype wherever
it makes a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def own_torch_settings() -> Iterator[None]:
    """Make tensors as in a process that set nothing: on the CPU, no autocast, no inference mode.

    For this thread and until it is left; also a decorator.
    """
    with ExitStack() as settings:
        settings.enter_context(torch.inference_mode(False))
        if not _makes_tensors_on_cpu():
            # Only where it is needed: it slows every call of torch down.
            settings.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            settings.enter_context(torch.autocast(device, enabled=False))
        yield


def _makes_tensors_on_cpu() -> bool:
    try:
        return torch.empty(0).device.type == "cpu"
    except (AssertionError, RuntimeError):  # the default is a device that is not here
        return False
