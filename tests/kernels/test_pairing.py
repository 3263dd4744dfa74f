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
    "attention_cases",
    "compile_cases",
    "compile_check",
    "decoder_cases",
    "decoder_set",
    "fp8_set",
    "hopper_attention",
    "hopper_launch",
    "kernel_set",
    "key_split",
    "launch",
    "library_attention",
    "sass",
    "tuning",
}


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
    found = {name for name in found if not name.startswith(("triton_", "aot_"))}
    assert found - {"pairing", "native", "kernel_set", "chunk_decoder"} == set(NAMES)


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "kernels/cpu").glob("*.py")),
        *sorted((ROOT / "kernels/torch_ops").glob("*.py")),
        *sorted(p for p in (ROOT / "kernels").glob("*.py") if p.stem not in NOT_KERNELS),
    ],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_fast_twin_has_the_signature_of_its_reference(path: Path) -> None:
    if path.stem == "__init__":
        return
    # What one architecture has beside the portable kernel goes by the same name.
    name = path.stem.removesuffix("_hopper")
    reference = public_functions(ROOT / f"kernels/reference/{name}.py")
    fast = public_functions(path)
    assert fast
    for name, arguments in fast.items():
        assert reference[name] == arguments
