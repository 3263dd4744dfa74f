"""The commands that train nano's codec."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import AddCommand, Command


def add_commands(add: AddCommand) -> dict[str, Command]:
    """Declare the commands; returns what runs each."""
    train = add("train-codec", "train the codec on drawn clips, resumable")
    train.add_argument("--run", type=Path, default=Path("runs/codec"), help="folder of checkpoints")
    train.add_argument("--start", type=Path, help="weights to start from (default: none)")
    train.add_argument("--minutes", type=float, required=True, help="wall time in total")
    train.add_argument("--freeze-encoder", action="store_true",
                       help="train the decoder alone: latents and students stay valid")  # fmt: skip
    train.add_argument("--rough-share", type=float, default=0.0,
                       help="share of clips whose latents are as wrong as a student's: steadier "
                       "pictures from a student for a little less detail")  # fmt: skip
    train.add_argument("--keep-latents", type=float, default=0.0,
                       help="weight of the distance from the latents that the codec begins with: "
                       "the encoder learns and students stay valid (0: off; try 0.05)")  # fmt: skip
    train.add_argument("--rate", type=float, default=2e-3,
                       help="learning rate (default: 2e-3; 1e-3 from good weights)")  # fmt: skip
    train.add_argument("--clip-frames", type=int, default=5, help="frames of a clip, 1 + 4k")
    graft = add("graft-codec", "give a codec another one's decoder; its latents stay")
    graft.add_argument("--encoder", type=Path, required=True, help="codec whose latents stay")
    graft.add_argument("--decoder", type=Path, required=True, help="codec whose decoder is taken")
    graft.add_argument("--out", type=Path, required=True, help="file to write")
    return {"train-codec": _train, "graft-codec": _graft}


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from ..codec import train_codec
    from ..codec.codec_state import CodecConfig

    recipe = CodecConfig(
        freeze_encoder=options.freeze_encoder, rough_share=options.rough_share,
        keep_latents=options.keep_latents, clip_frames=options.clip_frames, rate=options.rate,
    )  # fmt: skip
    return train_codec.train_codec(options.run, options.start, options.minutes, recipe)


def _graft(options: argparse.Namespace) -> dict[str, Any]:
    from ..codec.graft_codec import graft_codec

    return graft_codec(options.encoder, options.decoder, options.out)
