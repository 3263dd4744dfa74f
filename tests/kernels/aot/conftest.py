"""A small bundle, built once for all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shotstream_rt.kernels.launch import use_launcher

CASES = [
    ("rms_norm", 80),
    ("rms_norm", 90),
    ("advance", 90),
    ("dual_attention", 90),
    ("dual_attention_hopper", 90),
    ("merge_splits", 90),
]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a few cases; not to be changed."""
    pytest.importorskip("triton", reason="triton is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("compiles; the plain run does it")
    from shotstream_rt.kernels.aot.build import build

    folder = tmp_path_factory.mktemp("bundle")
    assert build(folder, CASES) is not None
    return folder


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, for a test to damage."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def no_launcher_is_left() -> Iterator[None]:
    yield
    use_launcher(None)
