"""Whether the packages that write graphs are here; imports none of them."""

from __future__ import annotations

import importlib.util

from ..errors import ExportError

_WRITERS = ("onnx", "onnxscript", "onnx_ir")


def require_writers() -> None:
    """Require the packages that an export needs.

    Raises:
        ExportError: one is missing.
    """
    missing = [name for name in _WRITERS if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"export: {', '.join(missing)} not installed; pip install 'shotstream_rt[export]'"
        )
