"""``generate``: films from stories or prompts."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.backends import registry
from shotstream_rt.checks import check_one_of, check_range, check_seed, check_text
from shotstream_rt.errors import ConfigError
from shotstream_rt.film.replay import read_directions, shot_texts
from shotstream_rt.media.video import FRAME_NAMES
from shotstream_rt.outputs import check_ending, check_file_target, check_folder_target
from shotstream_rt.printable import shown
from shotstream_rt.profiles import PROFILES, find_profile
from shotstream_rt.session import Session
from shotstream_rt.story import Story, load_stories
from shotstream_rt.terminal import say, tell_json

from . import given_start
from .film_outputs import FilmOutputs
from .given_start import StartFile
from .load_progress import LoadLine
from .progress import Progress

_EXAMPLES = """\
STORY is a JSON file {"global_caption": ..., "shot1": ..., "shot2": ...}, a CSV table with the
columns json_path and frame_number (one film per row), a film.json with the directions of a film
that was made before, or nothing: then the bundled story is played. Of a film.json, the model, its
options and the seed are those of the film.

Examples:
  python -m shotstream_rt generate
  python -m shotstream_rt generate my_story.json --out my_film.mp4 --sheet my_film.png
  python -m shotstream_rt generate -p "a red cat walks right on a beach" -p "close-up of a red cat"
  python -m shotstream_rt generate test_set.csv --out films/film.mp4 --json
  python -m shotstream_rt generate film.json --out again.mp4
  python -m shotstream_rt generate story.json --model /checkpoints/shotstream --device cuda
  python -m shotstream_rt generate -p "a blue cat walks" --video cat.mp4 --strength 0.5
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("story", nargs="?", metavar="STORY", help="story JSON or table CSV; default: bundled story")
    add("-p", "--prompt", action="append", metavar="TEXT", help="a shot in free words; repeatable")
    add("--out", metavar="FILE.mp4", help="the film (default: story.mp4, unless other outputs)")
    add("--frames-dir", metavar="DIR", help="every frame as PNG, in a folder of their own")
    add("--sheet", metavar="FILE.png", help="contact sheet, one row per shot")
    add("--model", default="nano", help="nano (default), a checkpoint folder or a student's file")
    add("--student", metavar="NAME", help="whose settings the file is run with; see `info`")
    add("--lora", metavar="FILE|DIR", help="LoRA to merge into the student")
    add("--ema", action="store_true", help="take the running average of a trainer's checkpoint")
    add("--seed", default="0", metavar="N", help="noise seed, 0 to 2**63 - 1 (default: 0)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    add("--backend", default="auto", help="auto (default) or a name that `info` lists")
    add("--engines", metavar="DIR", help="what `export` wrote, for onnxruntime or openvino")
    add("--kernels", metavar="SET", help="kernel set from `info`, such as triton+cudnn")
    add("--profile", default="exact", help=f"{' or '.join(PROFILES)} (default: exact); see `info`")
    add("--dtype", help="float32 or bfloat16 (default: what `info` says of the device)")
    add("--size", metavar="HxW", help="frame size in multiples of 16 (default: the model's)")
    add("--threads", type=int, metavar="N", help="CPU threads of the student (default: torch's)")
    given_start.configure(add)
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
    directions: Mapping[str, Any] | None = None

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
    _check_kernels(arguments.kernels)
    films = _films(arguments)
    made = films[0].directions
    if made is not None:
        seed = _take_options(arguments, made)
    start_file = StartFile.of(arguments, films=len(films), replayed=made is not None)
    profile = find_profile(arguments.profile)
    _check_outputs(films, arguments.story, start_file, models=(arguments.model, arguments.lora))
    started_s = time.monotonic()
    with (
        LoadLine(quiet=arguments.quiet) as loading,
        Session.open(
            arguments.model,
            seed=seed,
            device=arguments.device,
            backend=arguments.backend,
            kernels=arguments.kernels,
            profile=arguments.profile,
            size=arguments.size,
            dtype=arguments.dtype,
            lora=arguments.lora,
            ema=arguments.ema,
            engines=arguments.engines,
            threads=arguments.threads,
            student=arguments.student,
            progress=loading,
        ) as session,
    ):
        loading.end()
        if not arguments.quiet:
            for note in session.stats.get("notes", ()):
                say(f"note: {note}")
        if profile.lossy and not arguments.quiet:
            say(f"note: profile {profile.name} is lossy: {profile.changes}")
        start: dict[str, Any] = {}
        if start_file is not None:
            start, note = start_file.read(session)
            if note and not arguments.quiet:
                say(f"note: {note}")
        blank = session.snapshot()
        reports = []
        for number, film in enumerate(films):
            if number:
                session.restore(blank)
            reports.append(_make(session, film, start, quiet=arguments.quiet))
        resolved = {k: v for k, v in session.stats.items() if k in _RESOLVED}
    total = {**resolved, "wall_s": round(time.monotonic() - started_s, 3)}
    if len(reports) == 1:
        total |= reports[0]
    else:
        total |= {"frames": sum(report["frames"] for report in reports), "films": reports}
    if arguments.json:
        tell_json(total)
    return 0


_RESOLVED = (
    "model", "student", "lora", "ema", "profile", "lossy", "decoder", "backend", "kernel_set",
    "device", "dtype", "size", "seed", "threads", "memory_bytes",
)  # fmt: skip


def _make(
    session: Session, film: _Film, start: Mapping[str, Any], *, quiet: bool
) -> dict[str, Any]:
    """Stream one film into its outputs and report; ``start`` is what its first cut also gets."""
    height, width = session.size
    progress = Progress(
        shots=len(film.texts), frames=session.shot_frames * len(film.texts), quiet=quiet
    )
    progress.note(
        f"{film.name}: {len(film.texts)} shot(s) of {height}x{width} at {session.frame_rate_hz} fps"
    )
    notes = [
        f"shot {shot + 1}: {note}"
        for shot, caption in enumerate(film.captions)
        for note in session.check(caption)
    ]
    for note in notes:
        progress.note(f"note: {note}")
    digest = hashlib.sha256()
    shots = _ShotClocks(session)
    count = 0
    title = film.name.replace("_", " ")
    with FilmOutputs(
        film.out, film.frames_dir, film.sheet, title=title, size=session.size,
        frame_rate_hz=session.frame_rate_hz, on_written=lambda path: progress.note(f"wrote {path}"),
    ) as outputs:  # fmt: skip
        _ask(session, film, start)
        for frame in session.stream():
            digest.update(frame.pixels.tobytes())
            outputs.write(frame, film.texts[frame.shot])
            shots.look(frame.shot)
            progress.frame(frame.shot, frame.chunk)
            count += 1
        progress.end()
    report = _report(shots.all(), count)
    return {
        "name": film.name,
        **report,
        "frame_rate_hz": session.frame_rate_hz,
        "sha256": digest.hexdigest(),
        "notes": notes,
        "out": film.out and str(film.out),
        "frames_dir": film.frames_dir and str(film.frames_dir),
        "sheet": film.sheet and str(film.sheet),
    }


class _ShotClocks:
    """The clocks of every shot of one film.

    The session keeps those of its latest shots only, so they are read as the film goes on.

    Args:
        session: its shots from now on are those of the film.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._begun_s = time.perf_counter()
        self._seen: int | None = None
        self._shots: dict[tuple[int, int], dict[str, Any]] = {}

    def look(self, shot: int) -> None:
        """Note which shot the next frame belongs to; where one begins, read the clocks."""
        if shot != self._seen:
            self._seen = shot
            self._read()

    def all(self) -> list[dict[str, Any]]:
        """Return the clocks of every shot, in order."""
        self._read()
        return [self._shots[key] for key in sorted(self._shots)]

    def _read(self) -> None:
        for shot in self._session.stats["shots"]:
            # An earlier film's shots have the same numbers. Times are rounded to microseconds.
            if shot["begin_s"] >= self._begun_s - 1e-6:
                self._shots[shot["shot"], shot["take"]] = shot


def _ask(session: Session, film: _Film, start: Mapping[str, Any]) -> None:
    if film.directions is not None:
        session.replay(film.directions)
        return
    if film.story and not start:
        session.story(film.story)
        return
    whole = film.story.global_caption if film.story else None
    for shot, text in enumerate(film.texts):
        session.cut(text, global_caption=whole, **({} if shot else start))


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
            _Film(
                name="prompts", story=None, prompts=tuple(chosen), out=out, frames_dir=frames_dir,
                sheet=sheet,
            )
        ]  # fmt: skip
    directions = read_directions(arguments.story) if arguments.story else None
    if directions is not None:
        if arguments.shots is not None:
            raise ConfigError("got --shots with a film.json, which is played as it is")
        return [
            _Film(
                name=Path(arguments.story).stem, story=None, prompts=shot_texts(directions),
                out=out, frames_dir=frames_dir, sheet=sheet, directions=directions,
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


def _take_options(arguments: argparse.Namespace, made: Mapping[str, Any]) -> int:
    """Set the options that a film was made with, as far as they are not given; return its seed."""
    options = made["options"]
    arguments.model = made["model"] if arguments.model == "nano" else arguments.model
    arguments.profile = made["profile"]
    arguments.ema = arguments.ema or bool(options.get("ema"))
    arguments.lora = arguments.lora or options.get("lora")
    arguments.dtype = arguments.dtype or options.get("dtype")
    if arguments.size is None and options.get("size") is not None:
        arguments.size = "x".join(map(str, options["size"]))
    arguments.threads = arguments.threads or options.get("threads")
    return check_seed(made["seed"])


def _is_of_a_model(real: Path, models: Sequence[str | None]) -> bool:
    """Tell whether a link leads to a file of a model."""
    is_output = real.suffix.lower() in (".mp4", ".png")
    for name in models:
        if name is None or "\0" in name:
            continue
        place = Path(os.path.realpath(os.path.expanduser(name)))  # noqa: PTH111 (it never raises)
        if real == place or (place in real.parents and not is_output):
            return True
    return False


def _check_kernels(name: str | None) -> None:
    """Refuse kernels that do not exist before a model is loaded, which can take minutes."""
    known = registry.kernel_availability(torch.device("cpu"))
    first, *parts = (name or "auto").split("+")
    check_one_of("--kernels", first, ("auto", *(n for n in known if not n.startswith("+"))))
    for part in parts:
        check_one_of("--kernels", f"+{part}", [n for n in known if n.startswith("+")])


def _check_outputs(
    films: Sequence[_Film],
    story_file: str | None,
    start_file: StartFile | None,
    *,
    models: Sequence[str | None],
) -> None:
    """Look at every file and folder that will be written, before a model is loaded.

    Args:
        films: with their outputs.
        story_file: what the films are read from.
        start_file: pictures that are read.
        models: names, files or folders of what is loaded.

    Raises:
        OutputError: one of them cannot be written.
        ConfigError: two of them are one, or one is a file that is read.
    """
    inputs = {os.path.realpath(film.story.name): "story" for film in films if film.story}
    if story_file is not None:
        inputs[os.path.realpath(story_file)] = "story"
    if start_file is not None:
        inputs[os.path.realpath(start_file.path)] = "clip" if start_file.moves else "picture"
    taken: dict[Path, str] = {}
    folders: dict[Path, str] = {}
    for film in films:
        files = {}
        if film.out is not None:
            files[f"--out {film.out}"] = check_file_target(film.out, ending=".mp4")
        if film.sheet is not None:
            files[f"--sheet {film.sheet}"] = check_file_target(film.sheet, ending=".png")
        for name, real in files.items():
            if (read := inputs.get(str(real))) is not None:
                raise ConfigError(f"{name}: is the {read} that is read; choose another name")
            if _is_of_a_model(real, models):
                raise ConfigError(f"{name}: leads to a file of the model; choose another name")
            if real in taken:
                raise ConfigError(f"{name} and {taken[real]} are one file; choose another name")
            taken[real] = name
        if film.frames_dir is not None:
            real = check_folder_target(film.frames_dir, own=FRAME_NAMES)
            folders[real] = f"--frames-dir {film.frames_dir}"
    for folder, name in folders.items():
        for real, other in taken.items():
            if real == folder or folder in real.parents or real in folder.parents:
                raise ConfigError(
                    f"{other} and {name}: one lies in the other, wanted a folder for frames alone"
                )


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
        raise ConfigError(
            f"--seed: got {shown(text)}, wanted an integer from 0 to 2**63 - 1"
        ) from error
