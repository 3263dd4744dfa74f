"""Who may import whom: read from the sources, and once from a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PYTHON = Path(__file__).resolve().parents[1] / "python"
PACKAGES = ("shotstream_rt", "shotstream_distill")

PLAIN = {"config", "errors", "history", "types", "env", "nvtx", "_native", "manifest", "checks",
         "plans", "profiles", "transfer"}  # fmt: skip
"""Files at the bottom: data, errors, integers."""

STUDENT = {*PLAIN, "kernels", "model", "schedule", "noise", "cache"}
"""What computes, without a session."""

SESSION = {*STUDENT, "pipeline", "backends", "caption_book", "context", "crew", "direction",
           "frames", "generator", "playlist", "reader", "session", "shots", "snapshot",
           "stats", "streaming", "story"}  # fmt: skip

MAY_IMPORT = {
    # The longest entry that a module's name begins with decides; own files are always allowed.
    "config": {"errors", "history"},
    "history": {"errors"},
    "errors": set(),
    "types": set(),
    "env": {"errors"},
    "nvtx": {"env", "errors"},
    "manifest": {"config", "errors"},
    "checks": {"config", "errors"},
    "plans": {"_native", "config"},
    "profiles": {"checks"},
    "transfer": set(),
    "kernels": set(),
    # Machine code built ahead of time: files with typed errors, beside the kernels themselves.
    "kernels.launch": {"kernels", "env"},
    "kernels.aot": {"kernels", "env", "errors", "outputs"},
    "export": {"model", "kernels.reference", "config", "manifest", "errors"},
    "cache": PLAIN,
    "schedule": PLAIN,
    "noise": PLAIN | {"kernels"},
    "context": {*PLAIN, "model"},
    "model": PLAIN | {"kernels", "schedule"},
    # The one place that puts a model, a backend and a pipeline together.
    "model.loading": STUDENT | {"backends.cuda_graph", "backends.registry", "pipeline"},
    "model.history_file": {*PLAIN, "model", "outputs"},
    "backends": STUDENT,
    "pipeline": {*PLAIN, "backends.base", "cache", "schedule", "noise", "model.captions",
                 "kernels.reference"},
    "streams": set(),
    "host_ring": {"streams"},
    "frames": {*PLAIN, "context", "host_ring", "model.codec", "kernels", "streams"},
    "session": SESSION,
    "verify": {*STUDENT, "backends", "pipeline", "context", "frames"},
}  # fmt: skip
NEVER = {"shotstream_distill", "shotstream_rt.bench", "shotstream_rt.cli"}
"""What nothing in the runtime imports (commands excepted)."""

HOMES = {
    # Where heavy or optional packages may be imported; nowhere else.
    "triton": ("shotstream_rt.kernels.", "shotstream_rt.backends."),
    "tensorrt": ("shotstream_rt.backends.tensorrt", "shotstream_rt.export."),
    "tensorrt_rtx": ("shotstream_rt.backends.tensorrt", "shotstream_rt.export."),
    "torch_tensorrt": ("shotstream_rt.backends.tensorrt", "shotstream_rt.export."),
    "onnx": ("shotstream_rt.export.",),
    "transformers": ("shotstream_rt.model.", "shotstream_distill.metrics.pretrained"),
    "av": ("shotstream_rt.video", "shotstream_distill."),
    "matplotlib": ("shotstream_rt.bench.plots", "shotstream_distill.metrics.plots"),
    "nvtx": ("shotstream_rt.nvtx",),
    "cuda": ("shotstream_rt.kernels.aot.",),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PYTHON).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for package in PACKAGES
    for folder in [PYTHON / package, *(p for p in (PYTHON / package).iterdir() if p.is_dir())]
    for path in (folder.glob("*.py") if folder.parent == PYTHON else folder.rglob("*.py"))
}


def imports(name: str, *, at_import_only: bool = False) -> Iterator[str]:
    """Full names a module imports, without those for the type checker only."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    pending: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*base, node.module or ""] if node.level else [node.module or ""])
            yield from (f"{source.rstrip('.')}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def within(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}.")


def rule_of(name: str) -> str | None:
    own = name.removeprefix("shotstream_rt.")
    fitting = [rule for rule in MAY_IMPORT if within(own, rule)]
    return max(fitting, key=len) if fitting else None


def test_the_sources_were_found() -> None:
    for name in ("pipeline", "kernels.reference.linear", "backends.eager", "model.student"):
        assert f"shotstream_rt.{name}" in FILES
    assert "shotstream_rt.schedule.Schedule" in set(imports("shotstream_rt.pipeline")) | set(
        imports("shotstream_rt.backends.passes")
    )


@pytest.mark.parametrize("name", sorted(name for name in FILES if rule_of(name)))
def test_imports_point_downwards(name: str) -> None:
    rule = rule_of(name)
    assert rule is not None
    allowed = {rule, *MAY_IMPORT[rule]}
    for found in imports(name):
        inside = found.removeprefix("shotstream_rt.")
        if inside == found:
            continue
        assert any(within(inside, group) for group in allowed), f"{name} imports {found}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_below_imports_tools(name: str) -> None:
    users = ("shotstream_rt.cli", "shotstream_rt.bench", "shotstream_rt.__main__")
    if name.startswith("shotstream_distill") or any(within(name, user) for user in users):
        return
    for found in imports(name):
        assert not any(within(found, tool) for tool in NEVER), f"{name} imports {found}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_optional_packages_stay_in_their_files(name: str) -> None:
    for found in imports(name):
        homes = HOMES.get(found.split(".")[0])
        if homes is not None:
            assert name.startswith(homes), f"{name} imports {found}"


@pytest.mark.parametrize("name", sorted(n for n in FILES if n.startswith("shotstream_rt.kernels")))
def test_kernels_import_torch_and_themselves_only(name: str) -> None:
    for found in imports(name):
        root = found.split(".")[0]
        if any(within(name, f"shotstream_rt.kernels.{part}") for part in ("aot", "launch")):
            continue
        if root == "shotstream_rt":
            assert within(found, "shotstream_rt.kernels"), f"{name} imports {found}"
        else:
            assert root in {"torch", "triton", *sys.stdlib_module_names}, f"{name} imports {found}"


@pytest.mark.parametrize(
    "statement",
    ["import shotstream_rt", "import shotstream_rt.session", "import shotstream_rt.pipeline"],
)
def test_import_stays_light(statement: str) -> None:
    heavy = ["triton", "tensorrt", "onnx", "transformers", "av", "matplotlib", "pytest"]
    if statement == "import shotstream_rt":
        heavy += ["torch", "numpy"]
    code = (
        f"import sys; sys.path.insert(0, {str(PYTHON)!r}); {statement}; "
        f"print(*(name for name in {heavy} if name in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.split() == []
