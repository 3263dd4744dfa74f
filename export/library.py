"""TensorRT and TensorRT-RTX: which is here, and for which GPUs it builds what."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ExportError

MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
"""Python packages by the libraries' names on the command line."""

INSTALL = {"rtx": "pip install 'shotstream_rt[tensorrt-rtx]'", "tensorrt": "pip install tensorrt"}
SERVES = {
    "rtx": "sm_75 (float32), sm_80, sm_86, sm_89, sm_120 and sm_121, fp8 from sm_89; not sm_90",
    "tensorrt": "the GPU that it builds on, such as sm_90 (H100, H200)",
}
"""GPUs that engines of each library run on."""
_TITLES = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_TARGET = re.compile(r"sm_(\d+)")
_BFLOAT16_FROM, _FP8_FROM = 80, 89


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two, imported.

    Attributes:
        name: ``rtx`` or ``tensorrt``.
        module: its Python package.
    """

    name: str
    module: Any

    @classmethod
    def load(cls, name: str) -> Library:
        """Import a library.

        Raises:
            ExportError: it is not installed, or not whole.
        """
        reason = missing_reason(name)
        if reason is not None:
            raise ExportError(reason)
        try:
            return cls(name, importlib.import_module(MODULES[name]))
        except (ImportError, OSError) as error:
            raise ExportError(
                f"{_TITLES[name]} is installed and cannot be loaded: {error}; {INSTALL[name]}"
            ) from error

    @property
    def title(self) -> str:
        """Its own name."""
        return _TITLES[self.name]

    @property
    def version(self) -> str:
        """Such as ``1.7.1.116``."""
        return str(self.module.__version__)

    def targets(self) -> list[str]:
        """GPUs that it builds for, such as ``sm_89``: TensorRT-RTX any, TensorRT the one here."""
        if self.name == "rtx":
            names = self.module.ComputeCapability.__members__
            return [f"sm_{name[2:]}" for name in names if re.fullmatch(r"SM\d+", name)]
        if not torch.cuda.is_available():
            return []
        major, minor = torch.cuda.get_device_capability()
        return [f"sm_{major}{minor}"]

    def check_targets(self, targets: Sequence[str], dtype: str, products: str) -> None:
        """Require that it builds such engines for some GPUs.

        Args:
            targets: such as ``sm_89``.
            dtype: of weights and activations.
            products: what linear layers multiply.

        Raises:
            ExportError: it does not, for one of them.
        """
        able = self.targets()
        if self.name == "tensorrt" and not able:
            raise ExportError(
                "export build: TensorRT builds for the GPU that it runs on, and torch sees none "
                "here; build on the machine that runs the engines, or with --library rtx"
            )
        for target in targets:
            match = _TARGET.fullmatch(target)
            if match is None:
                raise ExportError(
                    f"export build: --target: got {target!r}, wanted names such as sm_89"
                )
            if target not in able:
                other = ""
                if self.name == "rtx" and target == "sm_90":
                    other = " (H100, H200); install tensorrt and build there"
                raise ExportError(
                    f"export build: {self.title} builds no engines for {target}{other}; it builds "
                    f"for {', '.join(able)}"
                )
            number = int(match[1])
            if products == "fp8" and number < _FP8_FROM:
                raise ExportError(
                    f"export build: {target} multiplies no fp8, wanted sm_{_FP8_FROM} or later; "
                    "export with --products int8"
                )
            if dtype == "bfloat16" and number < _BFLOAT16_FROM:
                raise ExportError(
                    f"export build: {target} has no bfloat16, wanted sm_{_BFLOAT16_FROM} or later; "
                    "export with --dtype float32"
                )


def missing_reason(name: str) -> str | None:
    """Return why a library cannot be imported, or ``None``; imports nothing."""
    if importlib.util.find_spec(MODULES[name]) is not None:
        return None
    return f"{_TITLES[name]} is not installed; {INSTALL[name]}"
