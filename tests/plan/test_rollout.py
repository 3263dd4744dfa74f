"""What a film's passes read under each policy, against lists of frames kept by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shotstream_rt.abandonment import never
from shotstream_rt.config import (
    CacheConfig,
    ModelConfig,
    RolloutConfig,
    ScheduleConfig,
    ShotConfig,
    StreamConfig,
)
from shotstream_rt.errors import ConfigError
from shotstream_rt.held_frames import _SPARE_CHUNKS
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.plan.policy import PassPlan, policy_of
from shotstream_rt.plan.schedule import CLEAN, COMMIT, Schedule
from shotstream_rt.plan.students import STUDENTS, find_student
from shotstream_rt.shot_inputs import ShotInputs

MODEL = ModelConfig(
    dim=12, ffn_dim=8, num_heads=1, num_layers=1, text_dim=4, text_len=2, latent_height=2,
    latent_width=2,
)  # fmt: skip
CAPTION = CaptionSet(embeddings=torch.zeros(1, 2, 4), lengths=(2,))
NO_CONTEXT = torch.zeros(1, 0, 16, 2, 2)


class Pass(NamedTuple):
    """One pass: frames and positions of its queries, and position of each key by frame."""

    frames: list[int]
    queries: list[int]
    keys: dict[int, int]
    levels: tuple[int, ...]


class NotedFilm:
    """Computes nothing; notes what every pass would read. A slot never written is a KeyError."""

    def __init__(self) -> None:
        self.device, self.dtype, self.abandoned = torch.device("cpu"), torch.float32, never
        self.passes: list[Pass] = []
        self.changes = 0
        self._held: dict[int, tuple[int, int]] = {}
        self._plan: PassPlan | None = None

    def prepare_captions(self, captions: CaptionSet) -> None:
        raise AssertionError("nobody asked for it")

    def begin_shot(self, captions: CaptionSet) -> None:
        self.changes = 0

    def change_captions(self, captions: CaptionSet) -> None:
        self.changes += 1

    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        assert latents.shape[1] == plan.frames == len(captions)
        if plan.chunk is None:
            self._held = {slot: (slot - plan.frames, slot) for slot in plan.writes}
            return
        self._note(plan, plan.levels[0])

    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        assert noise.shape[2] == plan.frames
        self._plan = plan

    def denoise(self, step: int) -> Tensor:
        assert self._plan is not None
        self._note(self._plan, self._plan.levels[step])
        return torch.zeros(1, self._plan.frames, 16, 2, 2)

    def commit(self) -> None:
        assert self._plan is not None
        plan = self._plan.clean or self._plan
        self._note(plan, (COMMIT,) * plan.frames)

    def keep(self, slots: Sequence[int] | None = None) -> Callable[[], None]:
        held = dict(self._held)

        def put_back() -> None:
            self._held = dict(held)

        return put_back

    def poison(self) -> None: ...

    def close(self) -> None: ...

    def _note(self, plan: PassPlan, levels: tuple[int, ...]) -> None:
        first = plan.end - plan.chunks.count(plan.chunks[0])
        frames = list(range(first, first + plan.frames))
        queries = [place.frame for place in plan.positions]
        self._held.update(zip(plan.writes, zip(frames, queries, strict=True), strict=True))
        keys = {}
        for slot in (slot for begin, end in plan.reads[0] for slot in range(begin, end)):
            frame, position = self._held[slot]
            placed = plan.read_positions[slot] if plan.read_positions else None
            keys[frame] = position if placed is None else placed.frame
        self.passes.append(Pass(frames, queries, keys, levels))


def film_of(config: StreamConfig) -> tuple[Pipeline, NotedFilm]:
    film = NotedFilm()
    return Pipeline(config, film), film


def chunkwise(window: int, sink: int, chunk: int, **rollout: object) -> StreamConfig:
    on_read = rollout.pop("by_slot", False)
    return StreamConfig(
        model=MODEL,
        cache=CacheConfig(
            context_frames=0, window_frames=window, sink_frames=sink,
            key_rotation="on_read" if on_read else "on_write",
            numbering="slot" if on_read else "original",
        ),
        shot=ShotConfig(chunk_frames=chunk, shot_frames=chunk, multi_caption=False),
        schedule=ScheduleConfig(denoising_steps=(1000,)),
        rollout=RolloutConfig(**rollout),  # type: ignore[arg-type]
    )  # fmt: skip


@st.composite
def films(draw: st.DrawFn) -> tuple[StreamConfig, int, list[str]]:
    """A configuration, the frames of a given start, and what happens in front of each chunk."""
    chunk, sink = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    window = sink + chunk + draw(st.integers(0, 8))
    by_slot = draw(st.booleans())
    first = draw(st.sampled_from([None, 1]))
    config = chunkwise(
        window, sink, chunk, by_slot=by_slot, first_frames=first,
        prompt=draw(st.sampled_from(["captions", "recache"])), renew_sink=draw(st.booleans()),
        cut=draw(st.sampled_from(["renew", "keep"])) if by_slot else "renew",
    )  # fmt: skip
    start = draw(st.sampled_from([0, first or chunk, (first or chunk) + chunk]))
    whole = st.sampled_from(["", "", "", "prompt", "cut"])
    return config, start, draw(st.lists(whole, min_size=1, max_size=9))


@given(film=films())
def test_passes_read_what_a_list_of_frames_holds(
    film: tuple[StreamConfig, int, list[str]],
) -> None:
    config, start, events = film
    window, sink = config.local_frames, config.cache.sink_frames
    length, rollout = config.shot.chunk_frames, config.rollout
    first_length, by_slot = rollout.first_frames or length, config.cache.numbering == "slot"
    held: list[int] = []
    wanted: list[tuple[list[int], list[int], dict[int, int]]] = []

    def read(frames: range, at: int | None = None) -> None:
        """Append frames, evict behind the sink, and note what a pass over them reads."""
        held.extend(frame for frame in frames if frame not in held)
        while len(held) > window:
            del held[sink]
        places = {frame: index if by_slot else frame for index, frame in enumerate(held)}
        if at is not None:
            places |= {frame: at + index for index, frame in enumerate(frames)}
        wanted.append((list(frames), [places[frame] for frame in frames], places))

    pipeline, noted = film_of(config)
    given_start = torch.zeros(1, start, 16, 2, 2) if start else None
    pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0, given=given_start))
    next_frame, count, number = 0, first_length, 0
    while next_frame < start:
        read(range(next_frame, next_frame + count))
        next_frame, count, number = next_frame + count, length, number + 1
    shot, kept_cut = 0, False
    for event in events:
        if event == "cut":
            shot, number = shot + 1, 0
            kept_cut = rollout.cut == "keep" and next_frame > 0
            pipeline.begin_shot(ShotInputs(shot, NO_CONTEXT, [], CAPTION, 0))
            if not kept_cut:
                held.clear()
                next_frame, count = 0, first_length
        if event == "prompt":
            pipeline.change_captions(CAPTION)
            if rollout.prompt == "recache" and next_frame:
                whole = rollout.renew_sink or next_frame <= window
                oldest = max(0, next_frame - window) if whole else next_frame - (window - sink)
                if whole:
                    held.clear()
                read(range(oldest, next_frame))
        at = rollout.cut_position if kept_cut and number == 0 else None
        for _ in range(2):  # the denoising pass and the clean one
            read(range(next_frame, next_frame + count), at)
        pipeline.run_chunk(number, PhiloxNoise(1))
        pipeline.commit()
        next_frame, number, count = next_frame + count, number + 1, length
    assert [(p.frames, p.queries, p.keys) for p in noted.passes] == wanted


@given(
    steps=st.integers(1, 5), length=st.integers(1, 3), wider=st.integers(0, 4),
    more=st.integers(0, 14),
)  # fmt: skip
def test_a_rolling_window_reads_a_gapless_run(
    steps: int, length: int, wider: int, more: int
) -> None:
    chunks, window = steps + more, (steps + 1 + wider) * length
    config = rolling(steps, length, window)
    pipeline, noted = film_of(config)
    pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0, chunks=chunks))
    for chunk in range(chunks):
        latents = pipeline.run_chunk(chunk, PhiloxNoise(1))
        assert latents.shape[1] == length
        pipeline.commit()
    wanted = []
    for number in range(chunks + steps - 1):
        oldest, newest = max(0, number - steps + 1), min(chunks - 1, number)
        own = range(oldest * length, (newest + 1) * length)
        levels = tuple(number - frame // length for frame in own)
        keys = {frame: frame for frame in own}
        if oldest:
            more_clean = min((oldest - 1) * length, window - len(own) - length)
            clean = range(own.start - more_clean, own.start)
            keys |= {frame: frame for frame in clean}
            keys |= {frame: clean.start - length + frame for frame in range(length)}
        run = sorted(keys.values())
        assert run == list(range(run[0], run[0] + len(keys)))
        assert len(keys) <= window
        wanted.append(Pass(list(own), list(own), keys, levels))
        if number >= steps - 1:
            own = range(own.start, own.start + length)
            newest_first = [*range(length), *range(length, own.stop)][-window:]
            keys = {frame: frame for frame in newest_first}
            wanted.append(Pass(list(own), list(own), keys, (COMMIT,) * length))
    assert noted.passes == wanted


def rolling(steps: int, length: int, window: int) -> StreamConfig:
    return StreamConfig(
        model=MODEL,
        cache=CacheConfig(
            context_frames=0, window_frames=window, sink_frames=length, key_rotation="on_read",
            numbering="slot",
        ),
        shot=ShotConfig(chunk_frames=length, shot_frames=length, multi_caption=False),
        schedule=ScheduleConfig(denoising_steps=tuple(range(1000, 1000 - steps * 100, -100))),
        rollout=RolloutConfig(policy="rolling", prompt="refused"),
    )  # fmt: skip


def test_a_window_without_an_end_stays_full_for_any_length() -> None:
    config = find_student("rolling-forcing").stream(MODEL)
    pipeline, noted = film_of(config)
    pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0))
    for chunk in range(3 * config.shot.chunks):
        pipeline.run_chunk(chunk, PhiloxNoise(1))
        pipeline.commit()
    assert all(len(p.frames) in (3, 15) and len(p.keys) == 21 for p in noted.passes[40:])
    # One span more would be refused by the kernel that reads spans.
    assert all(len(policy_of(config).chunk(0, c, 0).reads[0]) <= 3 for c in range(60))


def test_a_rolling_window_refuses_what_it_does_not_define() -> None:
    pipeline, _ = film_of(rolling(3, 2, 8))
    pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0))
    with pytest.raises(ConfigError, match="cut instead"):
        pipeline.change_captions(CAPTION)
    with pytest.raises(ConfigError, match="given start"):
        pipeline.begin_shot(
            ShotInputs(0, NO_CONTEXT, [], CAPTION, 0, given=torch.zeros(1, 2, 16, 2, 2))
        )
    pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0, chunks=2))
    with pytest.raises(ConfigError, match="at least 3"):
        pipeline.run_chunk(0, PhiloxNoise(1))


def test_a_given_start_ends_where_a_chunk_ends() -> None:
    pipeline, _ = film_of(chunkwise(9, 0, 3, first_frames=1))
    for frames in (2, 3, 5):
        with pytest.raises(ConfigError, match="wanted 1 and then a multiple of 3"):
            given_start = torch.zeros(1, frames, 16, 2, 2)
            pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0, given=given_start))


def test_a_first_chunk_may_have_its_own_steps() -> None:
    schedule = ScheduleConfig(denoising_steps=(1000, 500), first_steps=(1000, 750, 250), shift=5.0)
    pipeline, noted = film_of(replace(chunkwise(9, 0, 3), schedule=schedule))
    pipeline.begin_shot(
        ShotInputs(0, NO_CONTEXT, [], CAPTION, 0, given=torch.zeros(1, 3, 16, 2, 2))
    )
    for chunk in range(1, 4):  # the given frames are chunk 0
        pipeline.run_chunk(chunk, PhiloxNoise(1))
        pipeline.commit()
    levels = Schedule.from_config(schedule).levels
    told = [levels[p.levels[0]].time for p in noted.passes]
    usual = [1000.0, pytest.approx(833.33, abs=0.01), 0.0]
    assert told == [0.0, 1000.0, 937.5, 625.0, 0.0, *usual, *usual]
    assert [p.levels[0] for p in noted.passes[:1]] == [CLEAN]
    assert pipeline._noise.buffer.shape[0] == 3


def test_a_prompt_changes_nothing_else_where_keys_are_kept() -> None:
    pipeline, noted = film_of(find_student("infinity-rope").stream(MODEL))
    pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0))
    pipeline.run_chunk(0, PhiloxNoise(1))
    before = len(noted.passes)
    pipeline.change_captions(CAPTION)
    assert (noted.changes, len(noted.passes)) == (1, before)


def test_a_kept_cut_commits_what_it_reads() -> None:
    """A session leaves out a shot's last clean pass; where the caches are kept it is needed."""
    pipeline, noted = film_of(find_student("infinity-rope").stream(MODEL))
    pipeline.begin_shot(ShotInputs(0, NO_CONTEXT, [], CAPTION, 0))
    pipeline.run_chunk(0, PhiloxNoise(1))
    pipeline.begin_shot(ShotInputs(1, NO_CONTEXT, [], CAPTION, 0))
    assert noted.passes[-1].levels == (COMMIT,) * 3
    pipeline.commit()
    pipeline.run_chunk(0, PhiloxNoise(1))
    assert noted.passes[-1].keys == {0: 0, 1: 1, 2: 2, 3: 45, 4: 46, 5: 47}


def test_every_student_plays_three_times_its_usual_length() -> None:
    for student in STUDENTS.values():
        config = student.stream(MODEL)
        pipeline, noted = film_of(config)
        context = torch.zeros(1, config.cache.context_frames, 16, 2, 2)
        pipeline.begin_shot(ShotInputs(0, context, [0] * context.shape[1], CAPTION, 1))
        for chunk in range(3 * config.shot.chunks):
            pipeline.run_chunk(chunk, PhiloxNoise(1))
            pipeline.commit()
        if pipeline._held is not None:
            held = sum(latents.shape[1] for _, latents in pipeline._held._chunks)
            spare = (_SPARE_CHUNKS + 1) * config.shot.chunk_frames
            assert config.local_frames <= held < config.local_frames + spare
        assert set(noted.passes[-1].frames) <= set(noted.passes[-1].keys)


def test_an_unknown_student_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="self-forcing"):
        find_student("self_forcing_dmd")
    assert {"cut", "prompt", "extend"} <= set(find_student("longlive").describe())
