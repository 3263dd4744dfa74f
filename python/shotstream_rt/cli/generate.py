"""``generate``: films from stories or prompts."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.backends import registry
from shotstream_rt.checks import check_one_of, check_range, check_seed
from shotstream_rt.errors import ConfigError
from shotstream_rt.media.video import FRAME_NAMES
from shotstream_rt.outputs import check_file_target, check_folder_target
from shotstream_rt.printable import shown
from shotstream_rt.profiles import PROFILES, find_profile
from shotstream_rt.session import Session
from shotstream_rt.terminal import say, tell_json

from . import given_start
from .film_outputs import FilmOutputs
from .given_start import StartFile
from .load_progress import LoadLine
from .progress import Progress
from .shot_clocks import ShotClocks
from .wanted_films import WantedFilm, wanted_films

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


def run(arguments: argparse.Namespace) -> int:
    """Make the films; see ``configure``."""
    seed = _seed(arguments.seed)
    if arguments.threads is not None:
        check_range("--threads", arguments.threads, 1, 1024)
    _check_kernels(arguments.kernels)
    films = wanted_films(arguments)
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
    session: Session, film: WantedFilm, start: Mapping[str, Any], *, quiet: bool
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
    shots = ShotClocks(session)
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
    return {
        "name": film.name,
        **shots.report(count),
        "frame_rate_hz": session.frame_rate_hz,
        "sha256": digest.hexdigest(),
        "notes": notes,
        "out": film.out and str(film.out),
        "frames_dir": film.frames_dir and str(film.frames_dir),
        "sheet": film.sheet and str(film.sheet),
    }


def _ask(session: Session, film: WantedFilm, start: Mapping[str, Any]) -> None:
    if film.directions is not None:
        session.replay(film.directions)
        return
    if film.story and not start:
        session.story(film.story)
        return
    whole = film.story.global_caption if film.story else None
    for shot, text in enumerate(film.texts):
        session.cut(text, global_caption=whole, **({} if shot else start))


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
    films: Sequence[WantedFilm],
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


def _seed(text: str) -> int:
    try:
        return check_seed(int(text), "--seed")
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"--seed: got {shown(text)}, wanted an integer from 0 to 2**63 - 1"
        ) from error
