"""The films that ``generate`` is asked for: what they show, and where they go."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_rt.checks import check_text
from shotstream_rt.errors import ConfigError
from shotstream_rt.film.replay import read_directions, shot_texts
from shotstream_rt.outputs import check_ending
from shotstream_rt.story import Story, load_stories


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFilm:
    """One film to make and where it goes."""

    name: str
    story: Story | None
    prompts: tuple[str, ...]
    out: Path | None
    frames_dir: Path | None
    sheet: Path | None
    directions: Mapping[str, Any] | None = None

    @property
    def captions(self) -> tuple[str, ...]:
        """What the text encoder reads, shot by shot."""
        return self.story.captions if self.story else self.prompts

    @property
    def texts(self) -> tuple[str, ...]:
        """What a person wants to read, shot by shot."""
        return tuple(self.story.shots) if self.story else self.prompts


def wanted_films(arguments: argparse.Namespace) -> list[WantedFilm]:
    """Read what to make, before any model is loaded."""
    out, frames_dir, sheet = (
        None if value is None else check_ending(value, ending)
        for value, ending in (
            (arguments.out, ".mp4"), (arguments.frames_dir, None), (arguments.sheet, ".png"),
        )
    )  # fmt: skip
    if out is None and frames_dir is None and sheet is None:
        out = Path("story.mp4")
    if arguments.prompt:
        if arguments.story:
            raise ConfigError("got a STORY and --prompt, wanted one of them")
        prompts = tuple(check_text(text, "--prompt") for text in arguments.prompt)
        said = Story(shots=prompts, name="--prompt")
        chosen = said.first(len(prompts) if arguments.shots is None else arguments.shots).shots
        return [
            WantedFilm(
                name="prompts", story=None, prompts=tuple(chosen), out=out, frames_dir=frames_dir,
                sheet=sheet,
            )
        ]  # fmt: skip
    directions = read_directions(arguments.story) if arguments.story else None
    if directions is not None:
        if arguments.shots is not None:
            raise ConfigError("got --shots with a film.json, which is played as it is")
        return [
            WantedFilm(
                name=Path(arguments.story).stem, story=None, prompts=shot_texts(directions),
                out=out, frames_dir=frames_dir, sheet=sheet, directions=directions,
            )
        ]  # fmt: skip
    stories = load_stories(arguments.story) if arguments.story else [Story.bundled()]
    if arguments.shots is not None:
        stories = [story.first(arguments.shots) for story in stories]
    single = len(stories) == 1
    return [
        WantedFilm(
            name=story.name if not arguments.story else Path(story.name).stem,
            story=story,
            prompts=(),
            out=out if single else _numbered(out, index, story),
            frames_dir=frames_dir if single or not frames_dir else frames_dir / f"{index:03d}",
            sheet=sheet if single else _numbered(sheet, index, story),
        )
        for index, story in enumerate(stories)
    ]


def _numbered(path: Path | None, index: int, story: Story) -> Path | None:
    """Return the name of one of several films: number and first words of its last shot."""
    if path is None:
        return None
    words = re.sub(r"[^A-Za-z0-9 _-]+", "", story.shots[-1])[:50].strip().replace(" ", "_")
    return path.with_name(f"{path.stem}_{index:03d}_{words}{path.suffix}")
