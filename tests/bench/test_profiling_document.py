"""Every bench command that docs/profiling.md shows is one that the bench takes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from shotstream_rt import nvtx
from shotstream_rt.bench.compare import compare_parser
from shotstream_rt.bench.measure_options import measure_parser
from shotstream_rt.bench.profile_run import profile_parser
from shotstream_rt.bench.startup_run import startup_parser

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "profiling.md").read_text("utf-8")
PARSERS = {"compare": compare_parser, "profile": profile_parser, "startup": startup_parser}
BENCH = "python -m shotstream_rt.bench "


def commands() -> list[str]:
    """The commands of all blocks, a continued one on one line."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition(BENCH)[2] for line in lines if BENCH in line]


def test_the_commands_were_found() -> None:
    found = " ".join(commands())
    for word in ("--summary", "--memory", "--onednn", "startup", "--interactive", "--trace"):
        assert word in found


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_is_one_that_the_bench_takes(command: str) -> None:
    words = shlex.split(command, comments=True)
    make = PARSERS.get(words[0])
    if make is None:
        measure_parser().parse_args(words)
    else:
        make().parse_args(words[1:])


def test_every_range_and_mark_is_explained() -> None:
    for name in (*nvtx.RANGE_NAMES, *nvtx.MARK_NAMES):
        assert f"`{name}`" in DOCUMENT


def test_the_example_that_writes_a_line_per_chunk_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(example, {})
    rows = [json.loads(row) for row in (tmp_path / "chunks.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 7
    for name in rows[0]:  # every column is told of
        assert f"`{name}`" in DOCUMENT or name in ("memory_bytes", "device_bytes")
