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

FLOORS = (
    {"errors", "printable"},
    {"inputs", "json_object", "config_object"},
    {"env", "history", "checks", "abandonment", "outputs", "types", "_native"},
    {"config", "nvtx", "profiles", "device", "story", "terminal"},
    {"kernels"},
    {"plan"},
    {"model"},
    {"export"},
    {"backends", "held_frames", "running_shot", "shot_inputs"},
    {"overwritten"},
    {"pipeline"},
    {"film"},
    {"loading"},
    {"session"},
    {"verify", "media"},
    {"serve"},
    {"bench"},
    {"cli"},
    {"__main__"},
)
"""The rooms of the runtime (files and folders of the package), ground floor first. A room imports
rooms of lower floors and itself, so no circle of rooms can arise."""

SHORT_WAY = ("shotstream_rt.loading.load_model", "shotstream_rt.session")
"""``Model.session`` makes a session of itself: the one call upwards."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

HOMES = {
    # Where heavy or optional packages may be imported; nowhere else.
    "triton": ("shotstream_rt.kernels.", "shotstream_rt.backends."),
    "tensorrt": ("shotstream_rt.backends.tensorrt", "shotstream_rt.export."),
    "tensorrt_rtx": ("shotstream_rt.backends.tensorrt", "shotstream_rt.export."),
    "torch_tensorrt": ("shotstream_rt.backends.tensorrt", "shotstream_rt.export."),
    "onnx": ("shotstream_rt.export.",),
    "onnx_ir": ("shotstream_rt.export.",),
    "onnxscript": ("shotstream_rt.export.",),
    "onnxruntime": ("shotstream_rt.backends.onnxruntime",),
    "openvino": ("shotstream_rt.backends.openvino",),
    "transformers": ("shotstream_rt.model.",),
    "av": ("shotstream_rt.media.", "shotstream_rt.serve.", "shotstream_distill."),
    "fastapi": ("shotstream_rt.serve.",),
    "starlette": ("shotstream_rt.serve.",),
    "uvicorn": ("shotstream_rt.serve.",),
    "websockets": ("shotstream_rt.serve.", "shotstream_rt.bench.serve_"),
    "httpx": ("shotstream_rt.serve.", "shotstream_rt.bench.serve_"),
    "pydantic": ("shotstream_rt.serve.",),
    "prometheus_client": ("shotstream_rt.serve.",),
    "opentelemetry": ("shotstream_rt.serve.",),
    "ray": ("shotstream_rt.serve.ray_",),
    "matplotlib": ("shotstream_rt.bench.plots", "shotstream_distill.evaluation.plots"),
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


def imports(name: str) -> Iterator[str]:
    """Full names a module imports, without those for the type checker only."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    pending: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*base, node.module or ""] if node.level else [node.module or ""])
            yield from (f"{source.rstrip('.')}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def module_of(found: str) -> str | None:
    """The module of the packages that an imported full name lies in, if it lies in one."""
    parts = found.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in FILES), None)


def edges() -> Iterator[tuple[str, str]]:
    """Every import of one of the packages' modules by another, those inside functions too."""
    for name in sorted(FILES):
        for found in sorted(set(imports(name))):
            target = module_of(found)
            # The package itself is its lazy front, which any file may ask for the version.
            if target not in (None, name, *PACKAGES) and (name, target) != SHORT_WAY:
                yield name, target


def room_of(module: str) -> str:
    """The file or folder of the runtime's package that a module is or lies in."""
    return module.removeprefix("shotstream_rt.").split(".")[0]


def test_the_sources_were_found() -> None:
    for name in ("pipeline", "kernels.reference.linear", "backends.eager", "model.student"):
        assert f"shotstream_rt.{name}" in FILES
    found = {target for name, target in edges() if name.startswith("shotstream_rt.backends.")}
    assert "shotstream_rt.plan.schedule" in found


def test_imports_point_downwards() -> None:
    rooms = {room_of(name) for name in FILES if name.startswith("shotstream_rt.")}
    assert rooms <= set(FLOOR_OF), "a room without a floor"
    offenders = [
        f"{name} imports {target}"
        for name, target in edges()
        if name.startswith("shotstream_rt.")
        and room_of(name) != room_of(target)
        and not (
            target.startswith("shotstream_rt.")
            and FLOOR_OF[room_of(target)] < FLOOR_OF[room_of(name)]
        )
    ]
    assert offenders == []


def test_there_are_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for name, target in edges():
        graph.setdefault(name, set()).add(target)
    # What imports nothing that is left is not in a circle: taken away until nothing changes.
    while free := [name for name in graph if not graph[name] & graph.keys()]:
        for name in free:
            del graph[name]
    assert {name: sorted(targets & graph.keys()) for name, targets in graph.items()} == {}


def test_optional_packages_stay_in_their_files() -> None:
    offenders = [
        f"{name} imports {found}"
        for name in sorted(FILES)
        for found in imports(name)
        if found.split(".")[0] in HOMES and not name.startswith(HOMES[found.split(".")[0]])
    ]
    assert offenders == []


def test_kernels_import_torch_the_core_and_themselves_only() -> None:
    exempt = ("shotstream_rt.kernels.aot", "shotstream_rt.kernels.launch")
    core = "shotstream_rt._native"
    allowed = {"torch", "triton", *sys.stdlib_module_names}
    offenders = [
        f"{name} imports {found}"
        for name in sorted(FILES)
        if name.startswith("shotstream_rt.kernels") and not name.startswith(exempt)
        for found in imports(name)
        if not found.startswith(("shotstream_rt.kernels", core))
        and found.split(".")[0] not in allowed
    ]
    assert offenders == []


@pytest.mark.parametrize(
    "statement",
    ["import shotstream_rt", "import shotstream_rt.session", "import shotstream_rt.pipeline"],
)
def test_import_stays_light(statement: str) -> None:
    heavy = ["triton", "tensorrt", "onnx", "onnxscript", "onnxruntime", "openvino", "transformers",
             "av", "matplotlib", "pytest", "fastapi", "uvicorn", "pydantic"]  # fmt: skip
    if statement == "import shotstream_rt":
        heavy += ["torch", "numpy"]
    code = (
        f"import sys; sys.path.insert(0, {str(PYTHON)!r}); {statement}; "
        f"print(*(name for name in {heavy} if name in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert run.stdout.split() == []
