"""Parts of a GPU check that need no GPU, and what became of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from device_check.part import Part

ROOT = Path(__file__).resolve().parents[2]
DEVICE = {"name": "Fake GPU", "sm": [9, 0], "torch": "2", "cuda": "13"}
FOREVER = "import time; time.sleep(1000)"
FIGURE = (
    "import json, pathlib, sys; pathlib.Path(sys.argv[1], 'film.json').write_text(json.dumps("
    "{'status': 'ok', 'metrics': [{'name': 'e2e_fps', 'p50': 21.5, 'ratio': 2.0}]}))"
)
UNCHECKED = (
    "import json, os, pathlib, sys; pathlib.Path(sys.argv[1], 'film.unchecked.json').write_text("
    "json.dumps({'status': 'not checked', 'metrics': [], 'unchecked': {'e2e_fps': 30.0}}))\n"
)


def part_of(name: str, code: str, *arguments: str, limit_s: float = 100, **changes: Any) -> Part:
    command = [sys.executable, "-S", "-c", code, *arguments]
    return Part(name=name, command=command, limit_s=limit_s, **changes)


def verdicts(out: Path) -> dict[str, str]:
    data = json.loads((out / "report.json").read_text())
    return {part["name"]: part["verdict"] for part in data["parts"]}
