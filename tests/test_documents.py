"""What the documents show works, and what they point to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shotstream_rt.model.loading import NANO_FOLDER

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {"README.md": 150, "CONTRIBUTING.md": 150, "CHANGELOG.md": 400,
             "docs/architecture.md": 100}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_short_and_their_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= DOCUMENTS[name]
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for word in re.findall(r"`((?:kernels|tests|bench|docs|runtime)/[\w./]+)`", text):
        if "X" not in word and "ID" not in word:
            assert (ROOT / word).exists(), word


@pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)
@pytest.mark.timeout(120)
def test_the_example_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    shown: list[tuple[int, ...]] = []
    exec(blocks[0], {"show": lambda pixels: shown.append(pixels.shape)})
    assert len(shown) == 2 * 81
    assert set(shown) == {(96, 160, 3)}
