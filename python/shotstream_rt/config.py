"""Frozen configuration objects: what a session computes, never how fast.

Called by the session, the commands, the bench and the trainers. Pure data: no torch, no I/O beyond
JSON text, no device probing. Unknown keys are rejected, derived values are properties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from .errors import ConfigError
from .history import HistoryPolicy

KeyRotation = Literal["on_write", "on_read"]
ContextChoice = Literal["dynamic", "first", "first_last"]
T = TypeVar("T", bound="_Config")


def _require(ok: bool, name: str, got: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"{name}: got {got!r}, wanted {wanted}")


def _is_int(value: object, low: int, high: int = 2**31 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


class _Config:
    """JSON in and out, unknown keys rejected."""

    __slots__ = ()

    @classmethod
    def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
        """Build from a JSON object.

        Raises:
            ConfigError: an unknown or missing key, or a value out of range.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - set(fields))
        if unknown:
            raise ConfigError(
                f"{cls.__name__}: unknown key(s) {', '.join(unknown)}; known: {', '.join(fields)}"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        data = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(_Config):
    """Shape of a student (or teacher): the Wan2.1 text-to-video transformer.

    Source: Wan2.1-T2V-1.3B ``config.json``; ``latent_height``/``latent_width`` are the resolution
    (480x832 pixels are 60x104 latents). With ``cache_indicator`` one learned vector is added to the
    tokens of context frames and another to those of the shot's own: what the paper compares the
    shot phase with; released students have none.
    """

    PATCH: ClassVar[tuple[int, int, int]] = (1, 2, 2)

    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    in_dim: int = 16
    out_dim: int = 16
    eps: float = 1e-6
    latent_height: int = 60
    latent_width: int = 104
    cache_indicator: bool = False

    def __post_init__(self) -> None:
        _require(isinstance(self.cache_indicator, bool), "ModelConfig.cache_indicator",
                 self.cache_indicator, "true or false")  # fmt: skip
        for name in ("dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "text_len",
                     "freq_dim", "in_dim", "out_dim"):  # fmt: skip
            value = getattr(self, name)
            _require(_is_int(value, 1, 1 << 20), f"ModelConfig.{name}", value, "an integer >= 1")
        _require(self.dim % self.num_heads == 0 and (self.dim // self.num_heads) % 2 == 0,
                 "ModelConfig.num_heads", self.num_heads,
                 f"a divisor of dim {self.dim} that leaves an even head size")  # fmt: skip
        _require(self.head_dim >= 6, "ModelConfig.num_heads", self.num_heads, "a head size >= 6")
        _require(self.freq_dim % 2 == 0, "ModelConfig.freq_dim", self.freq_dim, "an even number")
        for name in ("latent_height", "latent_width"):
            value = getattr(self, name)
            _require(_is_int(value, 2, 2048) and value % 2 == 0, f"ModelConfig.{name}", value,
                     "an even integer from 2 to 2048 (pixels / 8; patches are 2x2)")  # fmt: skip

    @property
    def head_dim(self) -> int:
        """Features per attention head."""
        return self.dim // self.num_heads

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns of one latent frame."""
        return self.latent_height // 2, self.latent_width // 2

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        rows, columns = self.grid
        return rows * columns


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig(_Config):
    """The dual KV cache, in latent frames.

    Without context frames (0) every shot forgets the ones before it, as a single-shot model does.
    ``window_frames`` is the capacity of the local cache including its sink; ``None`` keeps the
    whole shot. With ``key_rotation="on_read"`` local keys are stored before rotation and numbered
    anew at every pass (the original's ``use_wo_rope_cache``). ``context_choice`` says which frames
    of past shots are context: ``dynamic`` as the original, or only the ``first`` of each shot, or
    the ``first_last`` ones, repeated until the context is full.
    """

    context_frames: int = 6
    sink_frames: int = 0
    window_frames: int | None = None
    key_rotation: KeyRotation = "on_write"
    context_choice: ContextChoice = "dynamic"

    def __post_init__(self) -> None:
        _require(_is_int(self.context_frames, 0, 512), "CacheConfig.context_frames",
                 self.context_frames, "an integer from 0 to 512")  # fmt: skip
        _require(_is_int(self.sink_frames, 0, 512), "CacheConfig.sink_frames", self.sink_frames,
                 "an integer from 0 to 512")  # fmt: skip
        _require(self.window_frames is None or _is_int(self.window_frames, 1, 512),
                 "CacheConfig.window_frames", self.window_frames, "None or 1 to 512")  # fmt: skip
        _require(self.key_rotation in ("on_write", "on_read"), "CacheConfig.key_rotation",
                 self.key_rotation, "'on_write' or 'on_read'")  # fmt: skip
        _require(self.context_choice in ("dynamic", "first", "first_last"),
                 "CacheConfig.context_choice", self.context_choice,
                 "'dynamic', 'first' or 'first_last'")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotConfig(_Config):
    """How a film is cut into shots and chunks, in latent frames."""

    chunk_frames: int = 3
    shot_frames: int = 21
    multi_caption: bool = True
    shot_phase: bool = True

    def __post_init__(self) -> None:
        _require(_is_int(self.chunk_frames, 1, 512), "ShotConfig.chunk_frames", self.chunk_frames,
                 "an integer from 1 to 512")  # fmt: skip
        _require(_is_int(self.shot_frames, 1, 1000) and self.shot_frames % self.chunk_frames == 0,
                 "ShotConfig.shot_frames", self.shot_frames,
                 f"a multiple of chunk_frames {self.chunk_frames} up to 1000")  # fmt: skip
        for name in ("multi_caption", "shot_phase"):
            value = getattr(self, name)
            _require(isinstance(value, bool), f"ShotConfig.{name}", value, "true or false")

    @property
    def chunks(self) -> int:
        """Chunks of one shot."""
        return self.shot_frames // self.chunk_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig(_Config):
    """The few-step flow-matching schedule (``schedule.py`` makes the tables).

    Attributes:
        denoising_steps: falling, of a grid of 1000.
        shift: of the noise levels towards the noisy end.
        warp: look the steps up in the shifted grid; else they are timesteps as they stand.
        context_noise: timestep of clean passes.
        carry_renoise: a chunk's first frame goes back to each noise level with the noise that the
            frame before it went back with. Every chunk's noise is as independent as ever, but
            what it leaves in the picture no longer changes all at once where a chunk begins. The
            original draws all noise anew.
    """

    denoising_steps: tuple[float, ...] = (1000, 740, 500, 260)
    shift: float = 8.0
    warp: bool = True
    context_noise: float = 0.0
    carry_renoise: bool = False

    def __post_init__(self) -> None:
        steps = self.denoising_steps
        _require(isinstance(steps, tuple) and 1 <= len(steps) <= 1000
                 and all(isinstance(s, int | float) and 0 < s <= 1000 for s in steps)
                 and list(steps) == sorted(set(steps), reverse=True),
                 "ScheduleConfig.denoising_steps", steps,
                 "1 to 1000 falling numbers in (0, 1000]")  # fmt: skip
        _require(isinstance(self.shift, int | float) and 0 < self.shift <= 100,
                 "ScheduleConfig.shift", self.shift, "a number in (0, 100]")  # fmt: skip
        _require(not self.warp or all(float(s).is_integer() for s in steps),
                 "ScheduleConfig.denoising_steps", steps,
                 "integers: with warp they index the 1000-entry grid")  # fmt: skip
        _require(isinstance(self.context_noise, int | float) and 0 <= self.context_noise <= 1000,
                 "ScheduleConfig.context_noise", self.context_noise,
                 "a timestep in [0, 1000]")  # fmt: skip
        _require(isinstance(self.carry_renoise, bool), "ScheduleConfig.carry_renoise",
                 self.carry_renoise, "true or false")  # fmt: skip

    @property
    def num_steps(self) -> int:
        """Denoising steps per chunk."""
        return len(self.denoising_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig(_Config):
    """All that decides the numbers: model, cache, shot and schedule.

    ``history`` is there in a profile that prunes it; without, every head reads everything.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    shot: ShotConfig = field(default_factory=ShotConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    history: HistoryPolicy | None = None

    def __post_init__(self) -> None:
        if self.history is not None:
            self.history.check(self.model.num_layers, self.model.num_heads)
        capacity, chunk = self.local_frames, self.shot.chunk_frames
        _require(capacity - self.cache.sink_frames >= chunk, "CacheConfig.window_frames",
                 self.cache.window_frames,
                 f">= sink_frames {self.cache.sink_frames} + chunk_frames {chunk}")  # fmt: skip
        _require(not self.schedule.carry_renoise or chunk > 1, "ScheduleConfig.carry_renoise",
                 True, f"false where ShotConfig.chunk_frames is {chunk}")  # fmt: skip

    @property
    def local_frames(self) -> int:
        """Capacity of the local cache in latent frames, sink included."""
        return self.cache.window_frames or self.shot.shot_frames

    @property
    def arena_frames(self) -> int:
        """Slots of one layer's arena in latent frames: context, then local."""
        return self.cache.context_frames + self.local_frames

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StreamConfig:
        """Build from nested JSON objects; see ``_Config.from_dict``."""
        parts: dict[str, type[_Config] | type[HistoryPolicy]] = {
            "model": ModelConfig, "cache": CacheConfig, "shot": ShotConfig,
            "schedule": ScheduleConfig, "history": HistoryPolicy}  # fmt: skip
        unknown = sorted(set(data) - set(parts))
        if unknown:
            raise ConfigError(f"StreamConfig: unknown key(s) {', '.join(unknown)}")
        return cls(**{k: parts[k].from_dict(v) for k, v in data.items()})  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain JSON types."""
        data = {k: getattr(self, k).to_dict() for k in ("model", "cache", "shot", "schedule")}
        return data if self.history is None else {**data, "history": self.history.to_dict()}
