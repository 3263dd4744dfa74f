"""shotstream_rt: streaming prompts in, streaming multi-shot video out.

The names below are the public surface. They are loaded on first use, so that importing the package
costs nothing and pulls in neither torch nor any accelerator library.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._native import build_info
    from .errors import (
        BackendUnavailableError,
        ConfigError,
        DeviceError,
        FetchError,
        FrameTimeoutError,
        KernelUnavailableError,
        ManifestError,
        ModelClosedError,
        OutputError,
        SessionClosedError,
        ShotStreamError,
        WeightsError,
    )
    from .loading.load_model import Model
    from .session import Session
    from .story import Story
    from .types import Chunk, Event, Frame, MemoryFrame, Place, Receipt, SessionState

__version__ = "0.1.0"

_HOMES = {
    "Model": "loading.load_model", "Session": "session", "Story": "story", "Frame": "types",
    "Chunk": "types", "Event": "types", "MemoryFrame": "types", "Place": "types",
    "Receipt": "types", "SessionState": "types", "build_info": "_native",
    "ShotStreamError": "errors", "ConfigError": "errors", "WeightsError": "errors",
    "ManifestError": "errors", "ModelClosedError": "errors", "BackendUnavailableError": "errors",
    "SessionClosedError": "errors", "FrameTimeoutError": "errors", "OutputError": "errors",
    "DeviceError": "errors", "KernelUnavailableError": "errors", "FetchError": "errors",
}  # fmt: skip

__all__ = [
    "BackendUnavailableError",
    "Chunk",
    "ConfigError",
    "DeviceError",
    "Event",
    "FetchError",
    "Frame",
    "FrameTimeoutError",
    "KernelUnavailableError",
    "ManifestError",
    "MemoryFrame",
    "Model",
    "ModelClosedError",
    "OutputError",
    "Place",
    "Receipt",
    "Session",
    "SessionClosedError",
    "SessionState",
    "ShotStreamError",
    "Story",
    "WeightsError",
    "__version__",
    "build_info",
]

logging.getLogger("shotstream_rt").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
