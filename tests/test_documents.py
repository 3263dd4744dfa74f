"""What the documents show works, and what they point to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (ROOT, ROOT / "docs", ROOT / "python/shotstream_rt/nano")
    for path in folder.glob("*.md")
)
LONGEST_LINE = 120


def test_no_line_is_too_long_to_read() -> None:
    offenders = [
        f"{name}:{number} has {len(line)} characters"
        for name in DOCUMENTS
        for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    assert offenders == []


def test_links_lead_somewhere() -> None:
    offenders = [
        f"{name}: {target}"
        for name in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text("utf-8"))
        if not target.startswith("https://") and not ((ROOT / name).parent / target).exists()
    ]
    assert offenders == []


def test_files_that_are_named_exist() -> None:
    offenders = [
        f"{name}: {word}"
        for name in DOCUMENTS
        for word in re.findall(
            r"`((?:kernels|tests|bench|docs|runtime|python|export)/[\w./]+)`",
            (ROOT / name).read_text("utf-8"),
        )
        if not re.search(r"X|ID|NAME", word) and not (ROOT / word).exists()
    ]
    assert offenders == []


def test_source_files_that_are_named_exist() -> None:
    sources = [
        path.relative_to(ROOT).as_posix()
        for folder in ("bench", "export", "kernels", "python", "runtime", "tests")
        for path in (ROOT / folder).rglob("*.*")
    ]
    offenders = [
        f"{name}: {word}"
        for name in DOCUMENTS
        for word in re.findall(r"`([\w/]+\.(?:py|cpp|h))`", (ROOT / name).read_text("utf-8"))
        if not re.search(r"X|NAME", word)
        and not any(path == word or path.endswith(f"/{word}") for path in sources)
    ]
    assert offenders == []


@pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)
def test_the_example_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    shown: list[tuple[int, ...]] = []
    exec(blocks[0], {"show": lambda pixels: shown.append(pixels.shape)})
    assert len(shown) == 2 * 81
    assert set(shown) == {(96, 160, 3)}
