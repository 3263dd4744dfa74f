"""``calibrate``: choose and measure which attention heads profile ``fast`` prunes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

_EXAMPLES = """\
Writes history.json beside the model's weights. It is refused, here and when it is read, if frames
are less than 30 dB or latents more than 0.25 away from profile exact, over all films together.

Examples:
  python -m shotstream_rt calibrate nano
  python -m shotstream_rt calibrate /models/shotstream --device cuda --shots 3
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("model", help="nano, or a checkpoint folder")
    parser.add_argument("--story", help="story file (default: the bundled one)")
    parser.add_argument("--shots", type=int, default=3, help="shots of it to make (default 3)")
    parser.add_argument("--films", type=int, default=3, help="films of the story (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="first film's noise seed (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, help="file to write (default: beside the weights)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of standard output"
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write and print."""
    from shotstream_rt.bench.history_calibration import calibrate_history
    from shotstream_rt.model.history_file import HISTORY_FILE
    from shotstream_rt.model.loading import NANO_FOLDER, load_model
    from shotstream_rt.story import Story

    story = Story.bundled() if arguments.story is None else Story.from_json(arguments.story)
    folder = NANO_FOLDER if arguments.model == "nano" else Path(arguments.model).expanduser()
    bundle = load_model(arguments.model, device=arguments.device, backend="eager")
    try:
        found = calibrate_history(
            bundle, story.first(arguments.shots), seed=arguments.seed, films=arguments.films
        )
    finally:
        bundle.close()
    path = arguments.out or folder / HISTORY_FILE
    found.write(path)
    if arguments.json:
        report = {
            "file": str(path),
            "share": found.share,
            "policy": found.policy.to_dict(),
            "frames_psnr_db": found.frames_psnr_db,
            "latents_rel_l2": found.latents_rel_l2,
        }
        sys.stdout.write(json.dumps(report) + "\n")
        return 0
    sys.stdout.write(
        f"{path}: {found.share:.0%} of the heads read the context and {found.policy.recent_frames} "
        f"recent frames; frames {found.frames_psnr_db} dB, latents {found.latents_rel_l2} from "
        "exact\n"
    )
    return 0
