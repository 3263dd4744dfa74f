"""Frozen configuration objects: what a session computes, never how fast.

Called by the session, the commands, the bench and the trainers. Pure data: no torch, no I/O beyond
JSON text, no device probing. Unknown keys are rejected, derived values are properties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from .config_object import ConfigObject, is_int, is_number, require
from .errors import ConfigError
from .history import HistoryPolicy
from .printable import listed

KeyRotation = Literal["on_write", "on_read"]
Numbering = Literal["original", "slot"]
Policy = Literal["chunks", "rolling"]
ContextChoice = Literal["dynamic", "first", "first_last"]

_MOST_CACHED = 1 << 38
"""Keys and values of one film, 512 GB in bfloat16; the released model has 2**32 at its own size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(ConfigObject):
    """Shape of a student (or teacher): the Wan2.1 text-to-video transformer.

    Source: Wan2.1-T2V-1.3B ``config.json``; ``latent_height``/``latent_width`` are the resolution
    (480x832 pixels are 60x104 latents). With ``cache_indicator`` one learned vector is added to the
    tokens of context frames and another to those of the shot's own: what the paper compares the
    shot phase with; released students have none.
    """

    PATCH: ClassVar[tuple[int, int, int]] = (1, 2, 2)
    MOST: ClassVar[dict[str, int]] = {
        "dim": 16384, "ffn_dim": 65536, "num_heads": 512, "num_layers": 256, "text_dim": 16384,
        "text_len": 4096, "freq_dim": 4096, "in_dim": 256, "out_dim": 256,
    }  # fmt: skip
    """Largest values: several times those of Wan2.1's 14B model, and far from what would take hours
    or fill the memory before a file could be found to be wrong."""

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
        require(isinstance(self.cache_indicator, bool), "ModelConfig.cache_indicator",
                self.cache_indicator, "true or false")  # fmt: skip
        for name, most in self.MOST.items():
            value = getattr(self, name)
            require(is_int(value, 1, most), f"ModelConfig.{name}", value,
                    f"an integer from 1 to {most}")  # fmt: skip
        require(is_number(self.eps, 1e-12, 0.1), "ModelConfig.eps", self.eps,
                "a number from 1e-12 to 0.1")  # fmt: skip
        require(self.dim % self.num_heads == 0 and (self.dim // self.num_heads) % 2 == 0,
                "ModelConfig.num_heads", self.num_heads,
                f"a divisor of dim {self.dim} that leaves an even head size")  # fmt: skip
        require(self.head_dim >= 6, "ModelConfig.num_heads", self.num_heads, "a head size >= 6")
        require(self.freq_dim % 2 == 0, "ModelConfig.freq_dim", self.freq_dim, "an even number")
        for name in ("latent_height", "latent_width"):
            value = getattr(self, name)
            require(is_int(value, 2, 2048) and value % 2 == 0, f"ModelConfig.{name}", value,
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
class CacheConfig(ConfigObject):
    """The dual KV cache, in latent frames.

    Without context frames (0) every shot forgets the ones before it, as a single-shot model does.
    ``window_frames`` is the capacity of the local cache including its sink; ``None`` keeps the
    whole shot. With ``key_rotation="on_read"`` local keys are stored before rotation and numbered
    anew at every pass (the original's ``use_wo_rope_cache``); with ``numbering="slot"`` queries are
    numbered as the keys of their own slots are, so that a chunk always stands right behind what it
    reads, while ``original`` stops counting queries where the original does. ``context_choice``
    says which frames of past shots are context: ``dynamic`` as the original, or only the ``first``
    of each shot, or the ``first_last`` ones, repeated until the context is full.
    """

    UNLESS_DEFAULT: ClassVar[tuple[str, ...]] = ("numbering",)

    context_frames: int = 6
    sink_frames: int = 0
    window_frames: int | None = None
    key_rotation: KeyRotation = "on_write"
    context_choice: ContextChoice = "dynamic"
    numbering: Numbering = "original"

    def __post_init__(self) -> None:
        require(is_int(self.context_frames, 0, 512), "CacheConfig.context_frames",
                self.context_frames, "an integer from 0 to 512")  # fmt: skip
        require(is_int(self.sink_frames, 0, 512), "CacheConfig.sink_frames", self.sink_frames,
                "an integer from 0 to 512")  # fmt: skip
        require(self.window_frames is None or is_int(self.window_frames, 1, 512),
                "CacheConfig.window_frames", self.window_frames, "None or 1 to 512")  # fmt: skip
        require(self.key_rotation in ("on_write", "on_read"), "CacheConfig.key_rotation",
                self.key_rotation, "'on_write' or 'on_read'")  # fmt: skip
        require(self.context_choice in ("dynamic", "first", "first_last"),
                "CacheConfig.context_choice", self.context_choice,
                "'dynamic', 'first' or 'first_last'")  # fmt: skip
        require(self.numbering in ("original", "slot"), "CacheConfig.numbering", self.numbering,
                "'original' or 'slot'")  # fmt: skip
        require(self.numbering == "original" or self.key_rotation == "on_read",
                "CacheConfig.numbering", self.numbering,
                "'original' where keys are rotated on_write")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotConfig(ConfigObject):
    """How a film is cut into shots and chunks, in latent frames."""

    chunk_frames: int = 3
    shot_frames: int = 21
    multi_caption: bool = True
    shot_phase: bool = True

    def __post_init__(self) -> None:
        require(is_int(self.chunk_frames, 1, 512), "ShotConfig.chunk_frames", self.chunk_frames,
                "an integer from 1 to 512")  # fmt: skip
        require(is_int(self.shot_frames, 1, 1000) and self.shot_frames % self.chunk_frames == 0,
                "ShotConfig.shot_frames", self.shot_frames,
                f"a multiple of chunk_frames {self.chunk_frames} up to 1000")  # fmt: skip
        for name in ("multi_caption", "shot_phase"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"ShotConfig.{name}", value, "true or false")

    @property
    def chunks(self) -> int:
        """Chunks of one shot."""
        return self.shot_frames // self.chunk_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig(ConfigObject):
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
        first_steps: the steps of a shot's first chunk, where it has its own; empty: it has none.
    """

    UNLESS_DEFAULT: ClassVar[tuple[str, ...]] = ("first_steps",)

    denoising_steps: tuple[float, ...] = (1000, 740, 500, 260)
    shift: float = 8.0
    warp: bool = True
    context_noise: float = 0.0
    carry_renoise: bool = False
    first_steps: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(isinstance(self.warp, bool), "ScheduleConfig.warp", self.warp, "true or false")
        for name, least in (("denoising_steps", 1), ("first_steps", 0)):
            steps = getattr(self, name)
            require(isinstance(steps, tuple) and least <= len(steps) <= 1000
                    and all(is_number(s, 0.01, 1000) for s in steps)
                    and list(steps) == sorted(set(steps), reverse=True),
                    f"ScheduleConfig.{name}", steps,
                    f"{least} to 1000 falling numbers from 0.01 to 1000")  # fmt: skip
            require(not self.warp or all(float(s).is_integer() for s in steps),
                    f"ScheduleConfig.{name}", steps,
                    "integers: with warp they index the 1000-entry grid")  # fmt: skip
        require(is_number(self.shift, 0.01, 100), "ScheduleConfig.shift", self.shift,
                "a number from 0.01 to 100")  # fmt: skip
        require(is_number(self.context_noise, 0, 1000),
                "ScheduleConfig.context_noise", self.context_noise,
                "a timestep in [0, 1000]")  # fmt: skip
        require(isinstance(self.carry_renoise, bool), "ScheduleConfig.carry_renoise",
                self.carry_renoise, "true or false")  # fmt: skip

    @property
    def num_steps(self) -> int:
        """Denoising steps per chunk."""
        return len(self.denoising_steps)

    def shortened(self) -> ScheduleConfig:
        """Return the same steps for a shot's first chunk, and two of them for the others.

        Raises:
            ConfigError: there are two steps or fewer, or the first chunk has its own already.
        """
        steps = self.denoising_steps
        require(len(steps) > 2 and not self.first_steps, "ScheduleConfig.denoising_steps", steps,
                "three or more, for the first chunk too: only those can be shortened")  # fmt: skip
        later = (steps[0], steps[len(steps) // 2])
        return dataclasses.replace(self, denoising_steps=later, first_steps=steps)

    @property
    def most_steps(self) -> int:
        """Denoising steps of the chunk that has the most."""
        return max(len(self.denoising_steps), len(self.first_steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig(ConfigObject):
    """Which frames are denoised together, and what directions do to the caches.

    Attributes:
        policy: ``chunks``: one chunk after the other, each through all steps. ``rolling``: as many
            chunks as there are steps at once, each a step ahead of the next; every pass ends one.
        first_frames: latent frames of a shot's first chunk; ``None``: as many as of any other.
        cut: ``renew``: a cut begins with empty caches (and the context, if there is one). ``keep``:
            caches are kept, and the first chunk after the cut is placed at ``cut_position``.
        cut_position: rotary position of that chunk's first frame.
        prompt: ``captions``: a changed prompt replaces the captions, and keys are kept.
            ``recache``: it also computes the keys of all held frames anew. ``refused``: a running
            shot keeps its prompt.
        renew_sink: a recache makes the oldest frames that are held the sink, instead of keeping the
            shot's first ones.
        start: ``frames``: a shot may begin with frames that are given. ``refused``: it may not.
            One with context frames never does: it sees given pictures there.
    """

    UNLESS_DEFAULT: ClassVar[tuple[str, ...]] = ("start",)

    policy: Policy = "chunks"
    first_frames: int | None = None
    cut: Literal["renew", "keep"] = "renew"
    cut_position: int = 45
    prompt: Literal["captions", "recache", "refused"] = "captions"
    renew_sink: bool = False
    start: Literal["frames", "refused"] = "frames"

    def __post_init__(self) -> None:
        choices = {
            "policy": ("chunks", "rolling"),
            "cut": ("renew", "keep"),
            "prompt": ("captions", "recache", "refused"),
            "renew_sink": (False, True),
            "start": ("frames", "refused"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            require(any(value is k or (isinstance(k, str) and value == k) for k in known),
                    f"RolloutConfig.{name}", value,
                    " or ".join(repr(k) for k in known))  # fmt: skip
        require(self.first_frames is None or is_int(self.first_frames, 1, 512),
                "RolloutConfig.first_frames", self.first_frames, "None or 1 to 512")  # fmt: skip
        require(is_int(self.cut_position, 0, 1023), "RolloutConfig.cut_position",
                self.cut_position, "an integer from 0 to 1023")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig(ConfigObject):
    """All that decides the numbers: model, cache, shot, schedule and rollout.

    ``history`` is there in a profile that prunes it; without, every head reads everything.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    shot: ShotConfig = field(default_factory=ShotConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    history: HistoryPolicy | None = None

    def __post_init__(self) -> None:
        if self.history is not None:
            self.history.check(self.model.num_layers, self.model.num_heads)
        model = self.model
        values = 2 * model.num_layers * self.arena_frames * model.tokens_per_frame * model.dim
        require(values <= _MOST_CACHED, "StreamConfig", f"a cache of {values} values",
                f"at most {_MOST_CACHED}: fewer latents, context or window frames")  # fmt: skip
        capacity, chunk = self.local_frames, self.shot.chunk_frames
        require(capacity - self.cache.sink_frames >= chunk, "CacheConfig.window_frames",
                self.cache.window_frames,
                f">= sink_frames {self.cache.sink_frames} + chunk_frames {chunk}")  # fmt: skip
        require(not self.schedule.carry_renoise or chunk > 1, "ScheduleConfig.carry_renoise",
                True, f"false where ShotConfig.chunk_frames is {chunk}")  # fmt: skip
        first = self.rollout.first_frames
        require(not self.schedule.carry_renoise or first is None, "ScheduleConfig.carry_renoise",
                True, f"false where RolloutConfig.first_frames is {first}")  # fmt: skip
        require(first is None or first <= chunk, "RolloutConfig.first_frames", first,
                f"None or at most ShotConfig.chunk_frames {chunk}")  # fmt: skip
        require(self.rollout.cut == "renew" or self.cache.numbering == "slot",
                "RolloutConfig.cut", self.rollout.cut,
                "'renew', or CacheConfig.numbering 'slot'")  # fmt: skip
        if self.rollout.policy == "rolling":
            self._check_rolling()

    def _check_rolling(self) -> None:
        """Refuse settings for which the rolling window is not defined."""
        cache, rollout, chunk = self.cache, self.rollout, self.shot.chunk_frames
        least = (self.schedule.num_steps + 1) * chunk
        for name, got, wanted in (
            ("CacheConfig.context_frames", cache.context_frames, 0),
            ("CacheConfig.sink_frames", cache.sink_frames, chunk),
            ("CacheConfig.key_rotation", cache.key_rotation, "on_read"),
            ("RolloutConfig.first_frames", rollout.first_frames, None),
            ("RolloutConfig.cut", rollout.cut, "renew"),
            ("RolloutConfig.prompt", rollout.prompt, "refused"),
            ("ScheduleConfig.first_steps", self.schedule.first_steps, ()),
            ("ScheduleConfig.carry_renoise", self.schedule.carry_renoise, False),
            ("StreamConfig.history", self.history, None),
        ):
            require(got == wanted, name, got, f"{wanted!r} with policy 'rolling'")
        require(self.local_frames % chunk == 0 and self.local_frames >= least,
                "CacheConfig.window_frames", cache.window_frames,
                f"a multiple of chunk_frames {chunk} from {least}: policy 'rolling'")  # fmt: skip

    @property
    def local_frames(self) -> int:
        """Capacity of the local cache in latent frames, sink included."""
        return self.cache.window_frames or self.shot.shot_frames

    @property
    def arena_frames(self) -> int:
        """Slots of one layer's arena in latent frames: context, then local.

        A rolling window has its anchor and the chunks that are still noisy beside what it keeps.
        """
        frames = self.cache.context_frames + self.local_frames
        if self.rollout.policy == "rolling":
            frames += self.schedule.num_steps * self.shot.chunk_frames
        return frames

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StreamConfig:
        """Build from nested JSON objects; see ``ConfigObject.from_dict``."""
        parts: dict[str, type[ConfigObject] | type[HistoryPolicy]] = {
            "model": ModelConfig, "cache": CacheConfig, "shot": ShotConfig,
            "schedule": ScheduleConfig, "rollout": RolloutConfig,
            "history": HistoryPolicy}  # fmt: skip
        require(isinstance(data, Mapping), "StreamConfig", data, "a JSON object")
        unknown = sorted(map(str, set(data) - set(parts)))
        if unknown:
            raise ConfigError(f"StreamConfig: unknown key(s) {listed(unknown)}")
        return cls(**{k: parts[k].from_dict(v) for k, v in data.items()})  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain JSON types."""
        data = {k: getattr(self, k).to_dict() for k in ("model", "cache", "shot", "schedule")}
        if self.rollout != RolloutConfig():
            data["rollout"] = self.rollout.to_dict()
        return data if self.history is None else {**data, "history": self.history.to_dict()}
