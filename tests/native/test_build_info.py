"""What the extension says about itself, and that its range names are Python's."""

from __future__ import annotations

import typing

from shotstream_rt import nvtx
from shotstream_rt._native import build_info


def test_build_info_names_compiler_and_flags() -> None:
    info = build_info()
    assert info["version"]
    assert info["compiler"]
    assert "-O" in info["flags"]
    assert isinstance(info["cuda"], bool)


def test_range_names_equal_those_of_the_python_side() -> None:
    assert build_info()["nvtx_ranges"] == typing.get_args(nvtx.RangeName)
