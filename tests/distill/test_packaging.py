"""The training package is a project of its own, and the runtime's wheel holds none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shotstream_distill
import shotstream_rt

PACKAGE = Path(shotstream_distill.__file__).parent
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    data: dict[str, Any] = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))
    return data


def test_every_room_is_in_the_wheel(project: dict[str, Any]) -> None:
    rooms = {
        ".".join(("shotstream_distill", *path.parent.relative_to(PACKAGE).parts))
        for path in PACKAGE.rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == rooms


def test_every_data_file_is_in_the_wheel(project: dict[str, Any]) -> None:
    (patterns,) = project["tool"]["setuptools"]["package-data"].values()
    shipped = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    code = {".py", ".pyc", ".toml"}
    data = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in code and ".egg-info" not in str(path)
    }
    assert data - shipped == {PACKAGE / "LICENSE"}


def test_it_depends_on_this_runtime(project: dict[str, Any]) -> None:
    assert f"shotstream_rt=={shotstream_rt.__version__}" in project["project"]["dependencies"]
    assert project["project"]["version"] == shotstream_rt.__version__


def test_the_runtime_packs_only_itself() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    runtime = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert runtime["tool"]["setuptools"]["packages"]["find"]["include"] == ["shotstream_rt*"]
