"""``calibrate``: choose which heads profile ``fast`` prunes; measure what a profile costs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shotstream_rt.bench.fidelity import Fidelity

_EXAMPLES = """\
Writes history.json beside the model's weights. It is refused, here and when it is read, if frames
are less than 30 dB or latents more than 0.25 away from profile exact, over all films together.
With --profile nothing is chosen or written: that profile is measured in the same way, and the
command fails where it does not pass.

Examples:
  python -m shotstream_rt calibrate nano
  python -m shotstream_rt calibrate /models/shotstream --device cuda --shots 3
  python -m shotstream_rt calibrate nano --profile fp8-attention
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("model", help="nano, a checkpoint folder or a student's file")
    parser.add_argument(
        "--student", metavar="NAME", help="whose settings the file is run with; see `info`"
    )
    parser.add_argument(
        "--ema", action="store_true", help="calibrate the running average of a trainer's checkpoint"
    )
    parser.add_argument("--story", help="story file (default: the bundled one)")
    parser.add_argument("--shots", type=int, default=3, help="shots of it to make (default 3)")
    parser.add_argument("--films", type=int, default=3, help="films of the story (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="first film's noise seed (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--profile", help="measure this profile, write nothing")
    parser.add_argument("--out", type=Path, help="file to write (default: beside the weights)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of standard output"
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write and print."""
    from shotstream_rt.bench.history_calibration import calibrate_history, measure_profile
    from shotstream_rt.checks import check_range, check_seed
    from shotstream_rt.errors import ConfigError
    from shotstream_rt.loading.history_file import HISTORY_FILE
    from shotstream_rt.loading.layouts import open_parts
    from shotstream_rt.loading.load_model import Model
    from shotstream_rt.loading.parts import LoadOptions
    from shotstream_rt.loading.placement import resolve_device
    from shotstream_rt.profiles import find_profile
    from shotstream_rt.story import Story
    from shotstream_rt.terminal import tell, tell_json

    check_range("--films", arguments.films, 1, 1000)
    check_seed(arguments.seed, "--seed")
    story = Story.bundled() if arguments.story is None else Story.from_json(arguments.story)
    story = story.first(arguments.shots)
    folder = open_parts(arguments.model, LoadOptions(student=arguments.student)).folder
    path = folder / HISTORY_FILE if arguments.out is None else arguments.out
    profile = None if arguments.profile is None else find_profile(arguments.profile)
    if profile is None:
        _check_target(path, folder / HISTORY_FILE, arguments.story)
    elif arguments.out is not None:
        raise ConfigError(f"--out: got {arguments.out}, but --profile writes no file; leave it out")
    bundle = Model.open(
        arguments.model, device=arguments.device, backend="eager", ema=arguments.ema,
        student=arguments.student,
        # On a CPU in float32, so that every CPU finds the same; it need not be fast.
        dtype="float32" if resolve_device(arguments.device).type == "cpu" else None,
    )  # fmt: skip
    try:
        if profile is not None:
            told = measure_profile(
                bundle, profile, story, seed=arguments.seed, films=arguments.films
            )
            return _tell_measured(profile.name, told, as_json=arguments.json)
        found = calibrate_history(bundle, story, seed=arguments.seed, films=arguments.films)
    finally:
        bundle.close()
    found.write(path)
    if arguments.json:
        report = {
            "file": str(path),
            "share": found.share,
            "policy": found.policy.to_dict(),
            "frames_psnr_db": found.frames_psnr_db,
            "latents_rel_l2": found.latents_rel_l2,
        }
        tell_json(report)
        return 0
    tell(
        f"{path}: {found.share:.0%} of the heads read the context and {found.policy.recent_frames} "
        f"recent frames; frames {found.frames_psnr_db} dB, latents {found.latents_rel_l2} from "
        "exact"
    )
    return 0


def _tell_measured(profile: str, found: Fidelity, *, as_json: bool) -> int:
    """Print what a profile costs; 1 where that is more than the gate allows.

    Args:
        profile: its name.
        found: distance to ``exact``.
        as_json: as an object.
    """
    from shotstream_rt.loading.history_file import (
        MAX_LATENTS_REL_L2,
        MIN_FRAMES_PSNR_DB,
        passes_gate,
    )
    from shotstream_rt.terminal import tell, tell_json

    assert found.frames_psnr_db is not None
    passed = passes_gate(found.frames_psnr_db, found.latents_rel_l2)
    latents = round(found.latents_rel_l2, 4)
    if as_json:
        tell_json({
            "profile": profile, "passed": passed, "shots": found.shots, "latents_rel_l2": latents,
            "frames_psnr_db": found.frames_psnr_db, "frames_mean_grey": found.frames_mean_grey,
        })  # fmt: skip
        return 0 if passed else 1
    tell(
        f"profile {profile} {'passes' if passed else 'DOES NOT PASS'}: {found.shots} shots, frames "
        f"{found.frames_psnr_db} dB (at least {MIN_FRAMES_PSNR_DB}), latents {latents} from exact "
        f"(at most {MAX_LATENTS_REL_L2})"
    )
    return 0 if passed else 1


def _check_target(path: Path, usual: Path, story: str | None) -> None:
    """Look at where the file goes before the model is loaded.

    Args:
        path: where it goes.
        usual: where it goes by itself, beside the model's weights.
        story: the story file that is read, if one is.

    Raises:
        OutputError: nothing can be written there.
        ConfigError: it would take the place of the story or of a file of the model.
    """
    from shotstream_rt.errors import ConfigError
    from shotstream_rt.outputs import check_file_target

    real = check_file_target(path, ending=".json")
    if story is not None and real == Path(os.path.realpath(story)):
        raise ConfigError(f"--out: {path} is the story that is read; choose another name")
    beside_the_weights = real.parent == Path(os.path.realpath(usual.parent))
    if beside_the_weights and real.exists() and real.name != usual.name:
        raise ConfigError(f"--out: {path} is a file of the model; choose another name")
