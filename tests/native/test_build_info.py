"""What the extension says about itself."""

from __future__ import annotations

from shotstream_rt._native import build_info


def test_build_info_names_compiler_and_flags() -> None:
    info = build_info()
    assert info["version"]
    assert info["compiler"]
    assert "-O" in info["flags"]
