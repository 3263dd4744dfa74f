"""What the documents show works, and what they point to exists."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.loading.student_files import RELEASED_FILES
from shotstream_rt.plan.students import STUDENTS

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


@pytest.mark.parametrize("name", ["README.md", "docs/students.md"])
def test_tables_of_students_have_their_figures(name: str) -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    told: dict[str, str] = {}
    for student, rest in rows:
        if student in STUDENTS:
            told.setdefault(student, rest)  # another table may follow
    assert list(told) == list(STUDENTS)
    for student, cells in told.items():
        config = STUDENTS[student].stream(ModelConfig())
        model, steps = config.model, config.schedule.num_steps
        values = 2 * model.num_layers * config.arena_frames * model.tokens_per_frame * model.dim
        assert f"| {2 * values / 1e9:.1f} GB |" in cells, student
        chunk = config.shot.chunk_frames
        rolling = config.rollout.policy == "rolling"
        passes = f"{steps * chunk} + {chunk}" if rolling else f"{steps + 1} x {chunk}"
        assert f"| {passes} " in cells, student


def test_the_table_of_the_readme_names_files_and_profiles() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for known in RELEASED_FILES:
        (row,) = re.findall(rf"^\| `{known.student}` \|.*$", text, re.MULTILINE)
        config = STUDENTS[known.student].stream(ModelConfig())
        assert re.split("[_/]", known.path)[-1] in row
        assert ("8-bit keys" in row) == (config.cache.key_rotation == "on_read")
        try:
            replace(config, schedule=config.schedule.shortened())
        except ConfigError:
            assert "`two-step`" in row
        else:
            assert "`two-step`" not in row
