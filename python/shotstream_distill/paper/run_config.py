"""A whole run as data: what is trained, on what, in which stages.

Read by ``python -m shotstream_distill run``; presets are JSON files of this shape in ``presets/``.
Nothing here touches a device or a file but the preset itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError

from ..common.config_json import build, plain, read_named, require
from .quirks import Quirks
from .stage_config import PairsConfig, StageConfig

PRESETS = Path(__file__).resolve().parents[1] / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where shots come from.

    Attributes:
        kind: ``drawn`` draws stories of the nano world into the run's folder, ``bank`` reads shards
            made before, ``films`` reads the original's CSV, JSON and MP4.
        path: the bank's folder or the CSV; unused for ``drawn``.
        stories: stories to draw.
        whole_shots: draw whole shots instead of their first 21 frames.
        first_seed: seed of the first story drawn.
    """

    kind: Literal["drawn", "bank", "films"]
    path: str = ""
    stories: int = 16
    whole_shots: bool = False
    first_seed: int = 0

    def __post_init__(self) -> None:
        require((self.kind == "drawn") != bool(self.path), "path", self.path,
                "nothing for drawn stories, a path for a bank or films")  # fmt: skip
        require(self.stories > 0, "stories", self.stories, "a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The text encoder.

    Attributes:
        kind: ``nano`` is the small encoder, trained along with teachers; ``umt5`` is frozen.
        path: folder of the released encoder's files, for ``umt5``.
        negative_prompt: the unconditional side of guidance; empty means no caption at all.
    """

    kind: Literal["nano", "umt5"]
    path: str = ""
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        require((self.kind == "umt5") == bool(self.path), "path", self.path,
                "a folder for umt5, nothing for nano")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run.

    Attributes:
        name: of the run; also the default folder's.
        stream: model, cache, shot and schedule of the student that ships.
        data: training shots.
        text: captions.
        start: ``random``, ``nano`` (the shipped one) or a checkpoint: weights of the first stage.
        codec: folder or file of the codec; empty is the shipped nano codec.
        precision: of activations and working weights; masters are always float32.
        recompute: forget activations inside blocks (less memory, a third more time).
        context_clean: teachers and critics are told time 0 for context frames instead of the
            target's time (the original tells the target's).
        quirks: the original's oddities.
        seed: of everything.
        log_s: seconds between progress lines.
        checkpoint_s: seconds between checkpoints.
        sheet_steps: steps between sample sheets.
        gate: what a failed gate does after a stage.
        must_fall: fail if a stage's judged loss did not fall.
        stages: in order.
    """

    name: str
    stream: StreamConfig
    data: DataConfig
    text: TextConfig
    stages: tuple[StageConfig, ...]
    start: str = "random"
    codec: str = ""
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    context_clean: bool = False
    quirks: Quirks = field(default_factory=Quirks)
    seed: int = 0
    log_s: float = 30.0
    checkpoint_s: float = 300.0
    sheet_steps: int = 500
    gate: Literal["off", "warn", "stop"] = "warn"
    must_fall: bool = False

    def __post_init__(self) -> None:
        require(len(self.stages) > 0, "stages", self.stages, "at least one")
        seen: dict[str, StageConfig] = {}
        for stage in self.stages:
            where = f"stage {stage.name!r}"
            require(stage.name not in seen, where, "a second one", "names used once")
            for role, wanted in stage.needs().items():
                if wanted or role in ("teacher", "pairs"):
                    require(wanted in seen, f"{where}: {role}", wanted,
                            f"an earlier stage ({', '.join(seen) or 'there is none'})")  # fmt: skip
                    if role == "pairs":
                        require(isinstance(seen[wanted], PairsConfig), f"{where}: pairs", wanted,
                                "a stage of kind ode_pairs")  # fmt: skip
            if stage.frames % self.stream.shot.chunk_frames and stage.kind != "teacher":
                raise ConfigError(
                    f"{where}: frames: got {stage.frames}, wanted a multiple of the chunk's "
                    f"{self.stream.shot.chunk_frames}"
                )
            seen[stage.name] = stage
        films = self.data.kind == "films"
        require(films == (self.text.kind == "umt5"), "text.kind", self.text.kind,
                "umt5 with films, nano with the drawn world")  # fmt: skip
        require(not films or bool(self.codec), "codec", self.codec, "the Wan VAE's file for films")
        require(self.log_s > 0, "log_s", self.log_s, "a positive number")
        require(self.checkpoint_s > 0, "checkpoint_s", self.checkpoint_s, "a positive number")
        require(self.sheet_steps > 0, "sheet_steps", self.sheet_steps, "a positive number")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunConfig:
        """Build from a JSON object.

        Raises:
            ConfigError: naming the field by its path.
        """
        return build(cls, data, "run")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def read(cls, name: str) -> RunConfig:
        """Read a preset by name, or a JSON file by path.

        Raises:
            ConfigError: no such preset or file, not JSON, or not a valid configuration.
        """
        _, data = read_named(name, list(PRESETS.glob("*.json")), "preset")
        return cls.from_dict(data)
