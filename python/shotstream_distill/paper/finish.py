"""The end of a run: the last student as a folder the runtime loads, and proof that it streams.

Called by ``python -m shotstream_distill run`` after the last stage.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.session import Session
from shotstream_rt.story import Story

from ..common.product import load_product, write_whole
from ..nano.ship import ship
from .run import Run

_CHUNK_FRAMES = 9
"""Pictures of a shot's first chunk of three latent frames."""


def ship_run(run: Run, folder: Path) -> None:
    """Write the last stage's product as a student folder.

    Args:
        run: finished.
        folder: where to.
    """
    config, last = run.config, run.config.stages[-1]
    codec = Path(config.codec) if config.codec else NANO_FOLDER / "codec.safetensors"
    lineage: dict[str, Any] = {"run": config.to_dict(), "stage": last.name}
    ship(run.product(last.name), folder, config.stream.model, codec, lineage, stream=config.stream)


def save_released(run: Run, path: Path) -> None:
    """Write the last stage's product as the original's releases are: what ``--model`` folders hold.

    Args:
        run: finished, on films.
        path: ``shotstream_merged.pt`` to write.
    """
    weights = load_product(run.product(run.config.stages[-1].name))
    write_whole(path, {"generator": {f"model.{name}": value for name, value in weights.items()}})


def stream_chunk(folder: Path) -> int:
    """Open a session on a student folder and read one chunk of the bundled story.

    Returns:
        Frames read.
    """
    story = Story.bundled().first(1)
    with Session.open(str(folder), seed=0, device="cpu") as session:
        return sum(1 for _ in islice(session.story(story), _CHUNK_FRAMES))
