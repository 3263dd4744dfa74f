"""The typed stub names what the extension has, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path

import shotstream_rt
from shotstream_rt import _native


def stub_names() -> dict[str, set[str]]:
    path = Path(shotstream_rt.__file__).with_name("_native.pyi")
    names: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = set()
        if isinstance(node, ast.ClassDef) and node.name != "BuildInfo":
            names[node.name] = {m.name for m in node.body if isinstance(m, ast.FunctionDef)}
    return names


def test_the_stub_names_everything_and_nothing_else() -> None:
    names = stub_names()
    assert {name for name in dir(_native) if not name.startswith("_")} == set(names)
    for name, members in names.items():
        runtime = (
            {m for m in vars(getattr(_native, name)) if not m.startswith("_")} if members else set()
        )
        assert {m for m in members if not m.startswith("_")} == runtime
