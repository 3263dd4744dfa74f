"""What a kernel is called in a bundle, and the hash by which a stale bundle is known."""

from __future__ import annotations

import ast
import hashlib
from types import ModuleType
from typing import Any

_PACKAGE = __name__.rpartition(".aot")[0]


def kernel_name(kernel: Any) -> str:
    """``adaln._gated_residual_kernel``: the function's module within the package and its name."""
    module = str(kernel.fn.__module__).removeprefix(f"{_PACKAGE}.")
    return f"{module}.{kernel.fn.__name__}"


def source_sha256(kernel: Any) -> str:
    """Hash a kernel's own source, that of the parts it calls, and the constants they name.

    Triton's library is left out: a bundle is good under another release of Triton, for machine code
    needs none. Every character counts, comments included, and the place within the file does not.
    """
    parts: dict[str, str] = {}
    pending = [kernel]
    while pending:
        function = pending.pop()
        name = kernel_name(function)
        if name in parts:
            continue
        used = sorted(_globals_of(function), key=lambda item: item[0])
        constants = [f"{key} = {value.value!r}" for key, value in used if _is_constant(value)]
        parts[name] = "\n".join([function.src, *constants])
        pending += [value for _, value in used if _is_own_function(value)]
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(f"{name}\n{parts[name]}\n".encode())
    return digest.hexdigest()


def _globals_of(function: Any) -> list[tuple[str, Any]]:
    """Names of the module that a device function reads, with their values."""
    scope = function.fn.__globals__
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(function.src)):
        if isinstance(node, ast.Name) and node.id in scope:
            found[node.id] = scope[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = scope.get(node.value.id)
            if isinstance(owner, ModuleType) and hasattr(owner, node.attr):
                found[f"{node.value.id}.{node.attr}"] = getattr(owner, node.attr)
    return list(found.items())


def _is_own_function(value: Any) -> bool:
    module = getattr(getattr(value, "fn", None), "__module__", None) or ""
    return hasattr(value, "src") and (module == _PACKAGE or module.startswith(f"{_PACKAGE}."))


def _is_constant(value: Any) -> bool:
    return type(value).__name__ == "constexpr"
