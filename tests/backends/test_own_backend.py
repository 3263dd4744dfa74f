"""A backend written from CONTRIBUTING's list alone: is the contract all that a backend needs?

It keeps each slot's keys and values as tensors of their own, by layer, and attends head by head
with torch's own call. Nothing of ``eager`` is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt import verify
from shotstream_rt.abandonment import never
from shotstream_rt.backends import registry
from shotstream_rt.backends.base import BackendInfo, StudentBackend
from shotstream_rt.backends.registry import BackendEntry
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.runner import run
from shotstream_rt.bench.workloads import Workload
from shotstream_rt.config import ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.kernels.reference import rope_shot
from shotstream_rt.kernels.reference.renoise import renoise, to_x0
from shotstream_rt.kernels.reference.rope_shot import (
    SHOT_PHASE_RAD,
    rope_angles,
    rotate,
)
from shotstream_rt.model.blocks import fold_patches
from shotstream_rt.model.bound_student import TimeTable, by_frame
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.plan.policy import PassPlan, RotaryPosition, SlotRanges
from shotstream_rt.plan.schedule import COMMIT, Schedule
from shotstream_rt.session import Session

GOLDEN = Path(__file__).parents[1] / "golden"


class ListedBackend:
    """Holds the weights."""

    records_passes = False

    def __init__(self, request: BackendRequest) -> None:
        self.config, self.device, self.dtype = request.config, request.device, request.dtype
        self.student = request.student()
        self.info = BackendInfo(
            name="listed", kernel_set=self.student.kernels.name, device=str(request.device),
            dtype=str(request.dtype)[6:], cache_bytes=0, weight_bytes=self.student.nbytes,
        )  # fmt: skip

    def new_film(self) -> ListedFilm:
        return ListedFilm(self)

    def close(self) -> None:
        del self.student


class ListedFilm:
    """Holds what a film writes: by layer and slot, a frame's keys and values."""

    def __init__(self, backend: ListedBackend) -> None:
        self._student, self._config = backend.student, backend.config
        self.device, self.dtype = backend.device, backend.dtype
        self.abandoned = never
        self._schedule = Schedule.from_config(backend.config.schedule)
        self._slots: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in backend.student.blocks]
        self._captions: list[list[tuple[Tensor, Tensor]]] = []
        self._plan: PassPlan | None = None
        self._caption = 0
        self._noise = self._x = self._x0 = torch.empty(0)

    def prepare_captions(self, captions: CaptionSet) -> None:
        pass

    def begin_shot(self, captions: CaptionSet) -> None:
        self.change_captions(captions)

    @torch.inference_mode()
    def change_captions(self, captions: CaptionSet) -> None:
        texts = captions.embeddings.to(self.device, self.dtype)
        self._captions = [
            [block.caption_kv(self._student.edges.embed_text(rows[None])) for rows in texts]
            for block in self._student.blocks
        ]

    @torch.inference_mode()
    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        self._pass(latents, self._table(plan.levels[0]), plan, captions)

    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        carried = self._x[:, self._x.shape[1] - plan.carried :] if plan.carried else noise[0][:, :0]
        self._x = torch.cat((carried, noise[0][:, plan.carried :]), 1)
        self._plan, self._caption, self._noise = plan, caption, noise

    @torch.inference_mode()
    def denoise(self, step: int) -> Tensor:
        assert self._plan is not None
        levels, schedule = self._plan.levels[step], self._schedule.levels
        flow, x0, x = self._chunk(self._x, self._plan, levels), [], []
        for frame, number in enumerate(levels):
            level, own = schedule[number], slice(frame, frame + 1)
            x0.append(to_x0(self._x[:, own], flow[:, own], level.sigma))
            x.append(x0[-1])
            if not level.last:
                noise = self._noise[level.step + 1][:, own]
                x[-1] = renoise(x0[-1], noise, schedule[number + 1].sigma)
        self._x0, self._x = torch.cat(x0, 1), torch.cat(x, 1)
        return self._x0

    @torch.inference_mode()
    def commit(self) -> None:
        assert self._plan is not None
        clean = self._plan.clean or self._plan
        self._chunk(self._x0[:, : clean.frames], clean, (COMMIT,) * clean.frames)

    def keep(self, slots: Sequence[int] | None = None) -> Callable[[], None]:
        slots = [dict(own) for own in self._slots]

        def put_back() -> None:
            self._slots = [dict(own) for own in slots]

        return put_back

    def poison(self) -> None:
        self._slots = [{} for _ in self._slots]  # a slot never written is a KeyError

    def close(self) -> None:
        self.poison()

    def _chunk(self, x: Tensor, plan: PassPlan, levels: Sequence[int]) -> Tensor:
        return self._pass(x, self._table(levels), plan, [self._caption] * plan.frames)

    def _table(self, levels: Sequence[int]) -> TimeTable:
        times = [self._schedule.levels[level].time for level in levels]
        return by_frame([self._student.time_table(time) for time in times])

    def _pass(
        self, latents: Tensor, table: TimeTable, plan: PassPlan, captions: Sequence[int]
    ) -> Tensor:
        student, frames = self._student, len(plan.writes)
        edges, rotation = student.edges, self._rotation(plan.positions)
        x = edges.embed_patches(latents, frames if plan.chunk is None else 0)
        for layer, (block, m) in enumerate(zip(student.blocks, table.layers, strict=True)):
            qkv = block.project(x, m)
            q, k, v = block.split(qkv, rotation)
            if not plan.rotate_keys:
                _, k, _ = block.split(qkv, torch.ones_like(rotation))
            parts = (part[0].chunk(frames) for part in (k, v))
            self._slots[layer].update(zip(plan.writes, zip(*parts, strict=True), strict=True))
            x, q = block.leave_self(x, self._own(q, plan, layer).flatten(2), m)
            own = zip(q[0].chunk(frames), captions, strict=True)
            attended = [attend(one, *self._captions[layer][row]) for one, row in own]
            x = block.leave_cross(x, torch.cat(attended, 1).flatten(2), m)
        patches = edges.head(x, *table.head, student.kernels)
        return fold_patches(patches, self._config.model.grid)

    def _own(self, q: Tensor, plan: PassPlan, layer: int) -> Tensor:
        heads = range(q.shape[2])
        groups = plan.groups[layer] if plan.groups else [0] * len(heads)
        read = [self._read(ranges, plan, layer) for ranges in plan.reads]
        return torch.cat(
            [
                attend(q[0, :, [h]], read[g][0][:, :, [h]], read[g][1][:, :, [h]])
                for h, g in zip(heads, groups, strict=True)
            ],
            2,
        )

    def _read(self, ranges: SlotRanges, plan: PassPlan, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = [], []
        for slot in (slot for begin, end in ranges for slot in range(begin, end)):
            key, value = self._slots[layer][slot]
            place = plan.read_positions[slot] if plan.read_positions else None
            keys.append(key if place is None else rotate(key, self._rotation([place])))
            values.append(value)
        return torch.cat(keys)[None], torch.cat(values)[None]

    def _rotation(self, positions: Sequence[RotaryPosition]) -> Tensor:
        model = self._config.model
        phase = SHOT_PHASE_RAD if self._config.shot.shot_phase else 0.0
        angles = rope_angles(
            [place.frame for place in positions], [place.flag * phase for place in positions],
            model.grid, model.head_dim,
        )  # fmt: skip
        return rope_shot.rotation(angles).to(self.device)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of ``[T, N, D]`` over ``[1, keys, N, D]``: ``[1, T, N, D]``."""
    q, k, v = (x.transpose(1, 2) for x in (q[None], k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = BackendEntry("listed", lambda device: None, ListedBackend)
    monkeypatch.setattr(registry, "ENTRIES", (*registry.ENTRIES, entry))
    yield


@pytest.mark.parametrize(
    "policy", ["window", "on-read", "pruned", "no-context", "recache", "kept", "rolling"]
)
def test_it_plays_the_film_of_the_oracle(
    policy: str,
    requested: Callable[..., BackendRequest],
    policies: dict[str, StreamConfig],
    play: Callable[[StreamConfig, StudentBackend], Tensor],
) -> None:
    config = policies[policy]
    wanted = play(config, registry.resolve("eager", requested(config, "reference")))
    got = play(config, registry.resolve("listed", requested(config, "torch")))
    assert float((got - wanted).norm() / wanted.norm()) < 1e-5


def test_the_bench_measures_and_checks_it() -> None:
    model = ModelConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=6, latent_height=4,
        latent_width=6,
    )  # fmt: skip
    stream = StreamConfig(model=model, shot=ShotConfig(chunk_frames=1, shot_frames=3))
    workload = Workload(
        id="tiny", version=1, kind="student", title="tiny", tolerance={},
        recipe={"stream": stream.to_dict(), "text_tokens": 4, "seed": 3, "shots": 2},
    )  # fmt: skip
    options = BenchOptions(device="cpu", backend="listed", warmup=0, repeats=1, full_check=True)
    record, _ = run(workload, options, [])
    assert record.status == "ok", record.message
    assert record.backend["resolved"] == "listed"
    assert record.correctness is not None and record.correctness.passed
    assert record.metric("step_ms") is not None


def test_golden_films_hold_it_against_the_original() -> None:
    (case,) = (case for case in verify.find(GOLDEN) if case.name.startswith("e_"))
    report = verify.run(case, verify.VerifyOptions(backend="listed", kernels="torch"))
    assert [check for check in report.checks if not check.passed] == []


def test_a_session_streams_from_it() -> None:
    with Session.open("nano", device="cpu", backend="listed", threads=1) as session:
        session.cut("wide shot of a red cat on a beach")
        chunk = next(session.chunks())
        assert session.stats["backend"] == "listed"
    with Session.open("nano", device="cpu", kernels="torch", threads=1) as session:
        session.cut("wide shot of a red cat on a beach")
        wanted = next(session.chunks())
    difference = chunk.pixels.astype(int) - wanted.pixels.astype(int)
    assert abs(difference).mean() < 0.5
