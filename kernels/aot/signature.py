"""What a launch promises: types, divisibility and compile-time constants of its arguments.

The same rules as Triton's own specialisation (``tests/kernels/aot/test_aot_signature.py``
compares the two), in Python that needs neither a driver nor a compiler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .source import kernel_name, source_sha256

ONE, NONE = "1", "none"
"""Types of arguments that the machine code has no parameter for: the integer 1, and ``None``."""

DIVISOR = 16
"""Bytes or units by which addresses and integers are promised to be divisible."""

POINTERS = {
    torch.bool: "*u1", torch.uint8: "*u8", torch.int8: "*i8", torch.int16: "*i16",
    torch.int32: "*i32", torch.int64: "*i64", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
}  # fmt: skip

_OPTIONS = {
    "num_warps": 4, "num_ctas": 1, "num_stages": 3, "maxnreg": None, "enable_fp_fusion": True,
    "launch_cooperative_grid": False, "launch_pdl": False,
}  # fmt: skip
"""Options of a launch and Triton's defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a kernel that is not declared a compile-time constant.

    Attributes:
        name: as in the source.
        type: ``*bf16``, ``i32``, ``fp32``, ``tensordesc<...>``, or ``ONE`` or ``NONE``.
        divisible: whether its address or value is a multiple of ``DIVISOR``.
    """

    name: str
    type: str
    divisible: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """How a kernel's source declares one argument."""

    name: str
    constant: bool
    specialised: bool
    aligned: bool
    annotation: str
    default: Any


_REQUIRED = object()


def parameters_of(kernel: Any) -> tuple[Parameter, ...]:
    """Read the declarations of a ``triton.jit`` function."""
    return tuple(
        Parameter(
            name=p.name,
            constant=p.is_constexpr,
            specialised=not p.do_not_specialize,
            aligned=not p.do_not_specialize_on_alignment,
            annotation=p.annotation_type if isinstance(p.annotation_type, str) else "",
            default=p.default if p.has_default else _REQUIRED,
        )
        for p in kernel.params
    )


def bind(
    parameters: tuple[Parameter, ...], arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Sort a launch's arguments into values, compile-time constants and options.

    Args:
        parameters: the kernel's declarations, in order.
        arguments: positional arguments of the launch.
        named: compile-time constants and options of the launch, by name.

    Raises:
        TypeError: an argument is missing.
    """
    names = {parameter.name for parameter in parameters}
    given = {p.name: value for p, value in zip(parameters, arguments, strict=False)}
    given |= {name: value for name, value in named.items() if name in names}
    options = {name: value for name, value in named.items() if name not in names}
    values, constants = [], {}
    for parameter in parameters:
        value = given.get(parameter.name, parameter.default)
        if value is _REQUIRED:
            raise TypeError(f"{parameter.name}: not given")
        if parameter.constant:
            constants[parameter.name] = value
        else:
            values.append(value)
    return values, constants, options


def describe(parameter: Parameter, value: Any) -> Argument:
    """Return the type and divisibility of one value.

    Raises:
        TypeError: a value that no kernel takes.
    """
    kind, divisible = _describe(parameter, value)
    if parameter.annotation:
        # Triton promises nothing about what is declared a float or a truth value.
        divisible &= not parameter.annotation.startswith(("fp", "bf", "u1"))
        kind = parameter.annotation
    return Argument(name=parameter.name, type=kind, divisible=divisible)


def _describe(parameter: Parameter, value: Any) -> tuple[str, bool]:
    promises = parameter.specialised and parameter.aligned
    if isinstance(value, Tensor):
        return POINTERS[value.dtype], promises and value.data_ptr() % DIVISOR == 0
    if value is None:
        return NONE, False
    if isinstance(value, bool):
        return "u1", False
    if isinstance(value, int):
        if value == 1 and parameter.specialised:
            return ONE, False
        kind = "i32" if -(2**31) <= value < 2**31 else "i64" if value < 2**63 else "u64"
        return kind, promises and value % DIVISOR == 0
    if isinstance(value, float):
        return "fp32", False
    if hasattr(value, "block_shape"):
        element = POINTERS[value.base.dtype][1:]
        # Descriptors of Gluon kernels say how shared memory holds their blocks.
        layout = f",{value.layout!r}" if hasattr(value, "layout") else ""
        return f"tensordesc<{element}{list(value.block_shape)}{layout}>", False
    raise TypeError(f"{parameter.name}: got {type(value).__name__}, wanted a tensor or a number")


def constants_text(constants: Mapping[str, Any]) -> str:
    """Compile-time constants as one comparable text; ``True`` and ``1`` differ."""
    return json.dumps({name: _plain(value) for name, value in sorted(constants.items())})


def _plain(value: Any) -> Any:
    """Return a constant for JSON; a type or a layout by its name, a function by its source."""
    if type(value).__name__ == "constexpr":
        value = value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "fn") and hasattr(value, "src"):
        return f"{kernel_name(value)} {source_sha256(value)}"
    return str(value)


def options_text(options: Mapping[str, Any]) -> str:
    """Options as one comparable text; those that equal Triton's default are left out."""
    return json.dumps(
        {
            name: _plain(value)
            for name, value in sorted(options.items())
            if name not in _OPTIONS or value != _OPTIONS[name]
        }
    )
