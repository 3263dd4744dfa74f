"""What a run needs before its first step: data, codec and text encoder, as its configuration says.

Called by the run and the dry run's tests. Films need the released Wan VAE and umT5; the nano world
needs nothing that is not in the package.
"""

from __future__ import annotations

from pathlib import Path

import torch

from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.model.codec import LatentCodec
from shotstream_rt.model.nano.codec import NanoCodec

from ..common.processes import Processes
from ..world.make_bank import LONG_LATENTS, SHORT_LATENTS, make_bank
from .nano_shots import NanoShots
from .run_config import RunConfig
from .stage_services import ShotSource, StageServices
from .text_side import FrozenText, TextSide


def make_services(config: RunConfig, folder: Path, processes: Processes) -> StageServices:
    """Put together what all stages share.

    Args:
        config: the run.
        folder: the run's; drawn stories go there.
        processes: who takes part.

    Raises:
        ConfigError: data that does not fit.
        WeightsError: a codec or encoder file that is missing or broken.
    """
    codec = _codec(config, processes.device)
    text: TextSide | None = None
    if config.text.kind == "umt5":
        from shotstream_rt.loading.wan_base import TEXT_FILE, TOKENIZER_FOLDER
        from shotstream_rt.model.umt5.text_encoder import UMT5TextEncoder

        folder = Path(config.text.path)
        encoder = UMT5TextEncoder.from_files(
            folder / TEXT_FILE, folder / TOKENIZER_FOLDER, text_len=config.stream.model.text_len,
            device=processes.device, output_device="cpu",
        )  # fmt: skip
        text = FrozenText(encoder, config.text.negative_prompt, processes.device)
    return StageServices(
        config=config, processes=processes, codec=codec, text=text,
        source=_source(config, folder, processes, codec),
    )  # fmt: skip


def codec_file(config: RunConfig) -> Path:
    """Return the codec's file."""
    return Path(config.codec) if config.codec else NANO_FOLDER / "codec.safetensors"


def _codec(config: RunConfig, device: torch.device) -> LatentCodec:
    if config.text.kind == "nano":
        return NanoCodec.load(codec_file(config), device=device)
    from shotstream_rt.model.checkpoint import load_checkpoint
    from shotstream_rt.model.wan_vae.codec import WanCodec

    path = codec_file(config)
    # The original trains on latents of a float32 codec.
    return WanCodec.from_state(load_checkpoint(path), device=device, source=str(path))


def _source(
    config: RunConfig, folder: Path, processes: Processes, codec: LatentCodec
) -> ShotSource:
    data, frames = config.data, max(stage.frames for stage in config.stages)
    if data.kind == "films":
        from .film_shots import FilmShots

        return FilmShots(
            Path(data.path), codec, model=config.stream.model,
            context_frames=config.stream.cache.context_frames,
        )  # fmt: skip
    if data.kind == "bank":
        return NanoShots(Path(data.path), frames, config.stream.cache.context_choice)
    bank, length = folder / "bank", LONG_LATENTS if data.whole_shots else SHORT_LATENTS
    if frames > length:
        raise ConfigError(
            f"frames: got {frames}, and drawn shots have {length} latent frames; set "
            "data.whole_shots or shorten the stages"
        )
    if processes.leads and not any(bank.glob("*.pt")):
        make_bank(
            bank, codec_file(config), shards=1, stories=data.stories, first_seed=data.first_seed,
            long=data.whole_shots,
        )  # fmt: skip
    processes.wait()
    return NanoShots(bank, frames, config.stream.cache.context_choice)
