"""Every kernel has a twin, a test and a micro-benchmark of the same name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    path.stem for path in (ROOT / "kernels/reference").glob("*.py") if path.stem != "__init__"
)
NOT_KERNELS = {
    "__init__",
    "fp8_support",
    "hopper_attention",
    "hopper_launch",
    "hopper_weights",
    "instructions",
    "key_split",
    "span_table",
    "span_walk",
    "wave_product",
    "wave_split",
}
"""Parts of kernels in ``kernels/gpu`` and ``kernels/cpu`` that several of them share."""


def public_functions(path: Path) -> dict[str, list[str]]:
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in tree.body
        # Decorated functions are parts of device code.
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and not node.decorator_list
    }


@pytest.mark.parametrize("name", NAMES)
def test_reference_has_a_test_and_a_bench(name: str) -> None:
    assert (ROOT / f"tests/kernels/test_{name}.py").is_file()
    assert (ROOT / f"bench/bench_{name}.py").is_file()


@pytest.mark.parametrize("folder,pattern", [("tests/kernels", "test_*"), ("bench", "bench_*")])
def test_no_partner_is_left_without_a_kernel(folder: str, pattern: str) -> None:
    prefix = pattern.rstrip("*")
    found = {path.stem.removeprefix(prefix) for path in (ROOT / folder).glob(f"{pattern}.py")}
    found = {name for name in found if not name.startswith(("triton_", "aot_", "cpu_", "avx2_"))}
    assert found - {"pairing", "native", "kernel_set", "chunk_decoder"} == set(NAMES)


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "kernels/gpu").glob("*.py")) if p.stem not in NOT_KERNELS],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_fast_twin_has_the_signature_of_its_reference(path: Path) -> None:
    # What one architecture has beside the portable kernel goes by the same name.
    name = path.stem.removesuffix("_hopper")
    reference = public_functions(ROOT / f"kernels/reference/{name}.py")
    fast = public_functions(path)
    assert fast
    for name, arguments in fast.items():
        assert reference[name] == arguments


@pytest.mark.parametrize("folder", ["cpu", "torch_ops"])
def test_gathered_forms_have_the_signatures_of_their_references(folder: str) -> None:
    reference: dict[str, list[str]] = {}
    for name in NAMES:
        reference |= public_functions(ROOT / f"kernels/reference/{name}.py")
    paths = [p for p in (ROOT / "kernels" / folder).glob("*.py") if p.stem not in NOT_KERNELS]
    fast = {name: args for path in paths for name, args in public_functions(path).items()}
    assert fast
    for name, arguments in fast.items():
        assert reference[name] == arguments
