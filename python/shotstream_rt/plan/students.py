"""The students of the Wan2.1-T2V-1.3B family that the runtime plays, each with its own settings.

They share one network; what differs is the schedule, what the cache keeps, and what a cut and a
changed prompt do. The settings are those of each student's own inference code: a checkpoint that
runs with another student's plays a film, but not its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ..checks import check_one_of
from ..config import (
    CacheConfig,
    ModelConfig,
    RolloutConfig,
    ScheduleConfig,
    ShotConfig,
    StreamConfig,
)

_FOUR_STEPS = (1000, 750, 500, 250)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownStudent:
    """One student.

    Attributes:
        name: as users say it.
        title: of the work.
        source: where its settings are from.
        cut: what a cut does, one line.
        prompt: what a changed prompt does, one line.
        extend: what going on past the usual length does, one line.
        start: which given frames a shot can begin with, one line.
        cache: what is kept.
        shot: lengths and captions.
        schedule: noise levels.
        rollout: order of passes.
    """

    name: str
    title: str
    source: str
    cut: str
    prompt: str
    extend: str
    start: str
    cache: CacheConfig
    shot: ShotConfig = field(
        default_factory=lambda: ShotConfig(multi_caption=False, shot_phase=False)
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(denoising_steps=_FOUR_STEPS, shift=5.0)
    )
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def stream(self, model: ModelConfig) -> StreamConfig:
        """Return the whole configuration for a network of this shape."""
        return StreamConfig(
            model=model, cache=self.cache, shot=self.shot, schedule=self.schedule,
            rollout=self.rollout,
        )  # fmt: skip

    def describe(self) -> dict[str, str]:
        """Return what directions do, as plain JSON types."""
        return {
            "title": self.title,
            "source": self.source,
            "cut": self.cut,
            "prompt": self.prompt,
            "extend": self.extend,
            "start": self.start,
        }


def _shot(frames: int, chunk: int = 3) -> ShotConfig:
    return ShotConfig(chunk_frames=chunk, shot_frames=frames, multi_caption=False, shot_phase=False)


_NEW_FILM = "begins a new film: nothing of the shot before is kept"
_STEERS_ALONE = (
    "replaces the captions from the next chunk on and keeps all keys; its authors do not do this"
)
_ROLLS_ABSOLUTE = (
    "only the newest 21 latent frames are read from then on; a shot ends at 1024 latent frames, "
    "where rotary positions end"
)
_STARTS = "goes on from a clip of whole chunks: 9, 21, 33, ... frames"
_STARTS_FROM_ANY = "goes on from a picture, or a clip of 5, 9, 13, ... frames"
_NO_START = "is refused: its authors define none; with a strength, a shot is made from a clip"
_NO_END = "goes on for any length: positions are numbered within the window"

SHOTSTREAM = KnownStudent(
    name="shotstream",
    title="ShotStream",
    source="arXiv 2603.25746",
    cut="begins a shot that sees up to six frames of the shots before it",
    prompt="replaces the captions from the next chunk on; keys are kept",
    extend=_ROLLS_ABSOLUTE,
    start=(
        "is refused: it sees frames it did not make as context; with a strength, a shot is made "
        "from a clip"
    ),
    cache=CacheConfig(),
    shot=ShotConfig(),
    schedule=ScheduleConfig(),
)

SELF_FORCING = KnownStudent(
    name="self-forcing",
    title="Self Forcing",
    source="github.com/guandeh17/Self-Forcing, commit 33593df3",
    cut=_NEW_FILM,
    prompt=_STEERS_ALONE,
    extend=_ROLLS_ABSOLUTE,
    start=_STARTS,
    cache=CacheConfig(context_frames=0),
    shot=_shot(21),
)

LONGLIVE = KnownStudent(
    name="longlive",
    title="LongLive 1.0",
    source="github.com/NVlabs/LongLive, commit e52d9ef6 (branch v1.0)",
    cut=_NEW_FILM,
    prompt=(
        "computes the keys of all frames that are held anew with the new text, in one pass, and "
        "goes on; the sink keeps the first text once it is further back than the window"
    ),
    extend="goes on as before; a shot ends at 1024 latent frames, where rotary positions end",
    start=_NO_START,
    cache=CacheConfig(context_frames=0, window_frames=12, sink_frames=3),
    shot=_shot(120),
    rollout=RolloutConfig(prompt="recache", start="refused"),
)

ROLLING_FORCING = KnownStudent(
    name="rolling-forcing",
    title="Rolling Forcing",
    source="github.com/TencentARC/RollingForcing, commit a1477d09",
    cut=_NEW_FILM,
    prompt=(
        "is refused: the chunks in flight carry the text they began with, and its authors define "
        "no change; cut instead"
    ),
    extend=_NO_END,
    start="is refused: its authors define none, and its window has no single step to enter at",
    cache=CacheConfig(
        context_frames=0, window_frames=21, sink_frames=3, key_rotation="on_read", numbering="slot"
    ),
    shot=_shot(126),
    schedule=ScheduleConfig(denoising_steps=(1000, 800, 600, 400, 200), shift=5.0),
    rollout=RolloutConfig(policy="rolling", prompt="refused", start="refused"),
)

INFINITY_ROPE = KnownStudent(
    name="infinity-rope",
    title="Infinity-RoPE",
    source="github.com/yesiltepe-hidir/infinity-rope, commit 63d7b84f",
    cut=(
        "keeps all keys, and places the first chunk of the new shot far away in time (rotary "
        "position 45)"
    ),
    prompt="replaces the captions from the next chunk on; keys are kept",
    extend=_NO_END,
    start=f"{_STARTS}; the caches begin anew",
    cache=CacheConfig(
        context_frames=0, window_frames=6, sink_frames=1, key_rotation="on_read", numbering="slot"
    ),
    shot=_shot(42),
    rollout=RolloutConfig(cut="keep"),
)

CAUSAL_FORCING = replace(
    SELF_FORCING,
    name="causal-forcing",
    title="Causal Forcing, chunks of three latent frames",
    source="github.com/thu-ml/Causal-Forcing, commit 1fc7bbc1",
)

CAUSAL_FORCING_FRAMES = replace(
    CAUSAL_FORCING,
    name="causal-forcing-framewise",
    title="Causal Forcing, frame by frame",
    start=_STARTS_FROM_ANY,
    shot=_shot(21, chunk=1),
)

CAUSAL_FORCING_TWO = replace(
    CAUSAL_FORCING_FRAMES,
    name="causal-forcing-2step",
    title="Causal Forcing++, two steps, four for the first frame",
    schedule=ScheduleConfig(denoising_steps=(1000, 500), first_steps=_FOUR_STEPS, shift=5.0),
)

CAUSAL_FORCING_ONE = replace(
    CAUSAL_FORCING_FRAMES,
    name="causal-forcing-1step",
    title="Causal Forcing++, one step, four for the first frame",
    schedule=ScheduleConfig(denoising_steps=(1000,), first_steps=_FOUR_STEPS, shift=5.0),
)

CAUSAL_FORCING_LONG = replace(
    ROLLING_FORCING,
    name="causal-forcing-long",
    title="Causal Forcing, long video: Rolling Forcing's window with four steps",
    source=CAUSAL_FORCING.source,
    schedule=ScheduleConfig(denoising_steps=_FOUR_STEPS, shift=5.0),
)

STUDENTS: Mapping[str, KnownStudent] = MappingProxyType(
    {
        student.name: student
        for student in (
            SHOTSTREAM,
            SELF_FORCING,
            LONGLIVE,
            ROLLING_FORCING,
            INFINITY_ROPE,
            CAUSAL_FORCING,
            CAUSAL_FORCING_FRAMES,
            CAUSAL_FORCING_TWO,
            CAUSAL_FORCING_ONE,
            CAUSAL_FORCING_LONG,
        )
    }
)
"""Every student by name."""


def find_student(name: str) -> KnownStudent:
    """Return the student of a name.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    check_one_of("student", name, tuple(STUDENTS))
    return STUDENTS[name]
