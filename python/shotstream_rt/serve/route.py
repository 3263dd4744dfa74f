"""An address and the function that answers there, as the OpenAPI document tells of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastapi.routing import APIRoute


class Route(APIRoute):
    """A route that is described by what its function does, without the function's arguments.

    Args:
        path: the address.
        endpoint: the function.
        options: of ``APIRoute``.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        about = (inspect.getdoc(endpoint) or "").split("\n\nArgs:")[0]
        super().__init__(path, endpoint, **{**options, "description": about})
