"""``generate``: films from stories or prompts."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_rt.checks import check_range, check_seed, check_text
from shotstream_rt.errors import ConfigError
from shotstream_rt.profiles import PROFILES, find_profile
from shotstream_rt.session import Session
from shotstream_rt.sheet import ContactSheet
from shotstream_rt.story import Story, load_stories
from shotstream_rt.types import FRAME_RATE_HZ
from shotstream_rt.video import FrameFolder, VideoWriter

from .progress import Progress

_EXAMPLES = """\
STORY is a JSON file {"global_caption": ..., "shot1": ..., "shot2": ...}, a CSV table with the
columns json_path and frame_number (one film per row), or nothing: then the bundled story is played.

Examples:
  python -m shotstream_rt generate
  python -m shotstream_rt generate my_story.json --out my_film.mp4 --sheet my_film.png
  python -m shotstream_rt generate -p "a red cat walks right on a beach" -p "close-up of a red cat"
  python -m shotstream_rt generate test_set.csv --out films/film.mp4 --json
  python -m shotstream_rt generate story.json --model /checkpoints/shotstream --device cuda
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("story", nargs="?", metavar="STORY", help="story JSON or table CSV; default: bundled story")
    add("-p", "--prompt", action="append", metavar="TEXT", help="a shot in free words; repeatable")
    add("--out", metavar="FILE.mp4", help="the film (default: story.mp4, unless other outputs)")
    add("--frames-dir", metavar="DIR", help="every frame as PNG")
    add("--sheet", metavar="FILE.png", help="contact sheet, one row per shot")
    add("--model", default="nano", help="nano (default) or a checkpoint folder")
    add("--seed", default="0", metavar="N", help="noise seed, 0 to 2**63 - 1 (default: 0)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    add("--backend", default="auto", help="auto (default) or a name that `info` lists")
    add("--kernels", metavar="SET", help="kernel set from `info`, such as triton+cudnn")
    add("--profile", default="exact", help=f"{' or '.join(PROFILES)} (default: exact); see `info`")
    add("--dtype", help="float32 or bfloat16 (default: the device's choice)")
    add("--size", metavar="HxW", help="frame size in multiples of 16 (default: the model's)")
    add("--threads", type=int, metavar="N", help="CPU threads of the student (default: torch's)")
    add("--shots", type=int, metavar="N", help="make only the first N shots")
    add("--json", action="store_true", help="one JSON object as the last line of standard output")
    add("-q", "--quiet", action="store_true", help="no progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Film:
    """One film to make and where it goes."""

    name: str
    story: Story | None
    prompts: tuple[str, ...]
    out: Path | None
    frames_dir: Path | None
    sheet: Path | None

    @property
    def captions(self) -> tuple[str, ...]:
        """What the text encoder reads, shot by shot."""
        return self.story.captions if self.story else self.prompts

    @property
    def texts(self) -> tuple[str, ...]:
        """What a person wants to read, shot by shot."""
        return tuple(self.story.shots) if self.story else self.prompts


def run(arguments: argparse.Namespace) -> int:
    """Make the films; see ``configure``."""
    seed = _seed(arguments.seed)
    if arguments.threads is not None:
        check_range("--threads", arguments.threads, 1, 1024)
    profile = find_profile(arguments.profile)
    films = _films(arguments)
    started_s = time.monotonic()
    with Session.open(
        arguments.model,
        seed=seed,
        device=arguments.device,
        backend=arguments.backend,
        kernels=arguments.kernels,
        profile=arguments.profile,
        size=arguments.size,
        dtype=arguments.dtype,
        threads=arguments.threads,
    ) as session:
        if profile.lossy and not arguments.quiet:
            sys.stderr.write(f"note: profile {profile.name} is lossy: {profile.changes}\n")
        blank = session.snapshot()
        reports = []
        for number, film in enumerate(films):
            if number:
                session.restore(blank)
            reports.append(_make(session, film, quiet=arguments.quiet))
        resolved = {k: v for k, v in session.stats.items() if k in _RESOLVED}
    total = {**resolved, "wall_s": round(time.monotonic() - started_s, 3)}
    if len(reports) == 1:
        total |= reports[0]
    else:
        total |= {"frames": sum(report["frames"] for report in reports), "films": reports}
    if arguments.json:
        sys.stdout.write(json.dumps(total) + "\n")
    return 0


_RESOLVED = (
    "model", "profile", "lossy", "decoder", "backend", "kernel_set", "device", "dtype", "size",
    "seed", "threads", "memory_bytes",
)  # fmt: skip


def _make(session: Session, film: _Film, *, quiet: bool) -> dict[str, Any]:
    """Stream one film into its outputs and report."""
    shots_before = len(session.stats["shots"])
    height, width = session.size
    progress = Progress(
        shots=len(film.texts), frames=session.shot_frames * len(film.texts), quiet=quiet
    )
    progress.note(f"{film.name}: {len(film.texts)} shot(s) of {height}x{width} at 16 fps")
    notes = [
        f"shot {shot + 1}: {note}"
        for shot, caption in enumerate(film.captions)
        for note in session.check(caption)
    ]
    for note in notes:
        progress.note(f"note: {note}")
    digest = hashlib.sha256()
    sheet = ContactSheet(film.name.replace("_", " "))
    count = 0
    with ExitStack() as outputs:
        writers: list[VideoWriter | FrameFolder] = []
        if film.out:
            video = VideoWriter(film.out, height=height, width=width)
            writers.append(outputs.enter_context(video))
        if film.frames_dir:
            writers.append(outputs.enter_context(FrameFolder(film.frames_dir)))
        _ask(session, film)
        for frame in session.stream():
            digest.update(frame.pixels.tobytes())
            for writer in writers:
                writer.write(frame.pixels)
            if film.sheet:
                sheet.add(frame, film.texts[frame.shot])
            progress.frame(frame.shot, frame.chunk)
            count += 1
        if film.sheet:
            sheet.save(film.sheet)
    progress.end()
    report = _report(session.stats["shots"][shots_before:], count)
    for path in (film.out, film.frames_dir, film.sheet):
        if path:
            progress.note(f"wrote {path}")
    return {
        "name": film.name,
        **report,
        "frame_rate_hz": FRAME_RATE_HZ,
        "sha256": digest.hexdigest(),
        "notes": notes,
        "out": film.out and str(film.out),
        "frames_dir": film.frames_dir and str(film.frames_dir),
        "sheet": film.sheet and str(film.sheet),
    }


def _ask(session: Session, film: _Film) -> None:
    if film.story:
        session.story(film.story)
        return
    for text in film.prompts:
        session.cut(text)


def _report(shots: Sequence[dict[str, Any]], frames: int) -> dict[str, Any]:
    """Sum up the clocks of a film's shots."""
    seconds = shots[-1]["end_s"] - shots[0]["begin_s"]
    return {
        "frames": frames,
        "fps": round(frames / seconds, 2) if seconds > 0 else None,
        "first_frame_ms": shots[0]["first_frame_ms"],
        "first_frame_before_second_chunk": all(
            shot["first_frame_before_second_chunk"] for shot in shots
        ),
        "shots": list(shots),
    }


def _films(arguments: argparse.Namespace) -> list[_Film]:
    """Read what to make, before any model is loaded."""
    out, frames_dir, sheet = (
        Path(value) if value else None
        for value in (arguments.out, arguments.frames_dir, arguments.sheet)
    )
    if out is None and frames_dir is None and sheet is None:
        out = Path("story.mp4")
    if arguments.prompt:
        if arguments.story:
            raise ConfigError("got a STORY and --prompt, wanted one of them")
        prompts = tuple(check_text(text, "--prompt") for text in arguments.prompt)
        said = Story(shots=prompts, name="--prompt")
        chosen = said.first(len(prompts) if arguments.shots is None else arguments.shots).shots
        return [
            _Film(
                name="prompts", story=None, prompts=tuple(chosen), out=out, frames_dir=frames_dir,
                sheet=sheet,
            )
        ]  # fmt: skip
    stories = load_stories(arguments.story) if arguments.story else [Story.bundled()]
    if arguments.shots is not None:
        stories = [story.first(arguments.shots) for story in stories]
    single = len(stories) == 1
    return [
        _Film(
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


def _seed(text: str) -> int:
    try:
        return check_seed(int(text), "--seed")
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--seed: got {text!r}, wanted an integer from 0 to 2**63 - 1") from error
