"""Rooms of the training package import downwards only, and no modules import in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import shotstream_distill

PACKAGE = Path(shotstream_distill.__file__).parent
ROOMS = ("common", "world", "codec", "nano", "paper", "evaluation", "ablations", "commands")
"""From the ground up: a room imports itself and the rooms before it."""


def _imports() -> dict[str, set[str]]:
    """Modules of the package that each module imports, anywhere in it."""
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = name.split(".")[: -node.level]
            source = [*base, *(node.module.split(".") if node.module else [])]
            named = {".".join([*source, alias.name]) for alias in node.names}
            found[name] |= {m for m in {".".join(source), *named} if m in modules}
    return found


def test_rooms_import_downwards_only() -> None:
    floors = {room: floor for floor, room in enumerate(ROOMS)} | {"__main__": len(ROOMS)}
    imports = _imports()
    assert "common.processes" in imports["paper.run"]
    offenders = [
        f"{name} imports {target}"
        for name, targets in imports.items()
        for target in targets
        if floors[target.split(".")[0]] > floors[name.split(".")[0]]
    ]
    assert offenders == []


def test_no_modules_import_in_a_circle() -> None:
    left = _imports()
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []
