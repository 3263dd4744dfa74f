"""What docs/train.md shows can be typed, and the training's documents keep to their width."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from shotstream_distill.__main__ import _parser
from shotstream_distill.nano.later_stages.stages import STAGES
from shotstream_rt.loading.project_layout import NANO_FOLDER

DOCS = Path(__file__).resolve().parents[2] / "docs"
TRAIN = DOCS / "train.md"


def _commands() -> list[list[str]]:
    """Arguments of every command of the package that is shown."""
    found = []
    for line in TRAIN.read_text("utf-8").splitlines():
        if not line.startswith("    "):
            continue
        words = shlex.split(line, comments=True)
        if words[0] == "distill":
            found.append(words[1:])
        elif "shotstream_distill" in words:
            found.append(words[words.index("shotstream_distill") + 1 :])
    return found


def test_every_command_is_understood() -> None:
    parser, runners = _parser()
    commands = [parser.parse_args(arguments).command for arguments in _commands()]
    assert set(commands) <= set(runners)
    assert {"run", "make-bank", "train-nano", "distill-nano", *STAGES, "ship-nano"} <= set(commands)


@pytest.mark.parametrize(
    "path",
    [TRAIN, DOCS / "nano-lab.md", DOCS / "evaluation.md", NANO_FOLDER / "MODEL_CARD.md"],
    ids=lambda path: path.name,
)
def test_lines_fit(path: Path) -> None:
    long = [n for n, line in enumerate(path.read_text("utf-8").splitlines(), 1) if len(line) > 120]
    assert long == []


def test_how_to_train_fits_two_pages() -> None:
    assert len(TRAIN.read_text("utf-8").splitlines()) <= 100
