"""The launcher's own rules of specialisation, against Triton's."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("reads compiled kernels; the plain run does it", allow_module_level=True)

from triton._C.libtriton import native_specialize_impl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import CUDABackend  # noqa: E402
from triton.experimental.gluon import language as gl  # noqa: E402
from triton.experimental.gluon.nvidia.hopper import (  # noqa: E402
    TensorDescriptor as GluonDescriptor,
)
from triton.runtime.jit import create_function_from_signature  # noqa: E402
from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: E402

from shotstream_rt.kernels.aot import signature, source  # noqa: E402
from shotstream_rt.kernels.aot.build import arguments_of, constants_of  # noqa: E402
from shotstream_rt.kernels.aot.packing import ParameterLayout, rank_of  # noqa: E402
from shotstream_rt.kernels.aot.signature import Argument, Parameter  # noqa: E402
from shotstream_rt.kernels.check.compile_cases import compile_cases  # noqa: E402
from shotstream_rt.kernels.gpu import adaln, dual_attention, qk_norm  # noqa: E402

ROWS = torch.zeros(256, 128, dtype=torch.bfloat16)
LAYOUT = gl.NVMMASharedLayout.get_default_for([128, 64], gl.bfloat16)
VALUES = {
    "zero": 0, "one": 1, "minus-one": -1, "sixteen": 16, "seventeen": 17, "last-i32": 2**31 - 1,
    "first-i64": 2**31, "below-i32": -(2**31) - 1, "first-u64": 2**63, "true": True,
    "false": False, "float": 0.5, "none": None, "rows": ROWS, "odd-address": ROWS[0, 3:],
    **{str(dtype): torch.zeros(16, dtype=dtype) for dtype in signature.POINTERS},
    "descriptor": TensorDescriptor(ROWS, [256, 128], [128, 1], [64, 64]),
    "gluon-descriptor": GluonDescriptor(ROWS, [256, 128], [128, 1], [128, 64], LAYOUT),
}  # fmt: skip


def as_triton_says(value: Any, specialised: bool, aligned: bool) -> Argument:
    kind, key = native_specialize_impl(CUDABackend, value, False, specialised, aligned)
    if kind == "constexpr":
        kind = signature.ONE if value == 1 else signature.NONE
    return Argument(name="x", type=kind, divisible=key == "D")


@pytest.mark.parametrize("specialised,aligned", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("name", VALUES)
def test_values_are_specialised_as_triton_does(name: str, specialised: bool, aligned: bool) -> None:
    parameter = Parameter("x", False, specialised, aligned, "", None)
    described = signature.describe(parameter, VALUES[name])
    assert described == as_triton_says(VALUES[name], specialised, aligned)


def test_a_text_is_no_argument() -> None:
    with pytest.raises(TypeError, match=r"x: got str, wanted a tensor or a number"):
        signature.describe(Parameter("x", False, True, True, "", None), "text")


@pytest.mark.parametrize("capability", [80, 90])
def test_cases_promise_what_triton_would_find(capability: int) -> None:
    """Sample values, taken through Triton's own binder, give what the case is compiled for."""
    backend = CUDABackend(GPUTarget("cuda", capability, 32))
    for case in compile_cases(capability):
        if any(str(kind).startswith("tensordesc") for kind in case.arguments.values()):
            continue
        parameters = signature.parameters_of(case.kernel)
        by_type = {kind: dtype for dtype, kind in signature.POINTERS.items()}
        given = {
            name: torch.zeros(16, dtype=by_type[value]) if isinstance(value, str) else value
            for name, value in case.arguments.items()
        } | case.constants
        binder = create_function_from_signature(case.kernel.signature, case.kernel.params, backend)
        _, specialisation, _ = binder(**given, debug=False)
        theirs = []
        for parameter, (kind, key) in zip(parameters, specialisation, strict=True):
            if not parameter.constant:
                fixed = signature.ONE if key == 1 else signature.NONE
                kind = fixed if kind == "constexpr" else kind
                theirs.append(Argument(name=parameter.name, type=kind, divisible=key == "D"))
        assert list(arguments_of(case)) == theirs, case.name
        values, constants, _ = signature.bind(parameters, (), given)
        declared = [parameter for parameter in parameters if not parameter.constant]
        assert [signature.describe(p, v) for p, v in zip(declared, values, strict=True)] == theirs
        assert constants == constants_of(case)


def test_constants_and_options_are_told_apart() -> None:
    text = signature.constants_text
    assert text({"A": True}) != text({"A": 1})
    assert text({"A": 1.0}) != text({"A": 1})
    assert text({"A": 1, "B": 2}) == text({"B": 2, "A": 1})
    assert text({"A": triton.language.constexpr(3)}) == text({"A": 3})
    assert text({"A": triton.language.float32}) == '{"A": "fp32"}'
    assert text({"A": (1, [2])}) == '{"A": [1, [2]]}'
    assert source.source_sha256(qk_norm.rms_normalise) in text({"A": qk_norm.rms_normalise})
    assert signature.options_text({"num_warps": 4, "num_stages": 3}) == "{}"
    assert signature.options_text({"num_warps": 8}) == '{"num_warps": 8}'


def test_a_missing_argument_is_named() -> None:
    parameters = signature.parameters_of(qk_norm._rms_norm_kernel)
    with pytest.raises(TypeError, match="eps: not given"):
        signature.bind(parameters, (ROWS, ROWS, ROWS, 16), {"WIDTH": 128, "BLOCK": 128})


def test_source_hash_covers_parts_and_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = dual_attention._attention_kernel
    before = source.source_sha256(kernel)
    assert before == source.source_sha256(kernel)
    assert before != source.source_sha256(dual_attention._attention_tma_kernel)
    part = dual_attention._block_weights  # a part of a part
    monkeypatch.setattr(part, "_src", part.src.replace("tl.maximum", "tl.minimum"))
    changed = source.source_sha256(kernel)
    assert changed != before
    monkeypatch.undo()
    monkeypatch.setattr(dual_attention, "_NEVER", triton.language.constexpr(-1e20))
    assert source.source_sha256(kernel) not in (before, changed)


def test_source_hash_leaves_out_what_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source.source_sha256(qk_norm._rms_norm_kernel)
    part = adaln._normalise
    monkeypatch.setattr(part, "_src", part.src + "\n")
    assert source.source_sha256(qk_norm._rms_norm_kernel) == before


def test_layout_of_parameters() -> None:
    arguments = [
        Argument(name="a", type="*bf16", divisible=True),
        Argument(name="b", type=signature.ONE),
        Argument(name="c", type="fp32"),
        Argument(name="d", type="tensordesc<bf16[128, 64]>"),
        Argument(name="e", type="i64"),
    ]
    layout = ParameterLayout.of(arguments)
    assert layout.sizes == (8, 4, 128, 4, 4, 8, 8, 8, 8, 8)
    assert layout.starts == (0, 8, 64, 192, 196, 200, 208, 216, 224, 232)
    packed = layout.pack([2**40, 0.5, b"\x07" * 128, 3, 4, 5, 6, -7, 8, 9])
    memory = packed.memory.raw
    assert int.from_bytes(memory[0:8], "little") == 2**40
    assert memory[8:12] == bytes.fromhex("0000003f")
    assert memory[64:192] == b"\x07" * 128
    assert int.from_bytes(memory[216:224], "little", signed=True) == -7
    assert rank_of("tensordesc<fp8e4nv[1, 2, 3],Layout(a=[4, 5])>") == 3
