"""Estimates a run's memory: every stage's step on the meta device, where tensors hold no data.

Called by ``run --dry-run``. Networks, optimisers and one micro-batch exist as shapes only; what a
backward pass would have to keep is counted as autograd asks for it. The figure is an estimate: it
leaves out allocator slack, workspaces, the codec and the text encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.loading.student_weights import student_shapes
from shotstream_rt.model.nano.codec import NanoCodec, NanoCodecNet

from ..common.processes import Processes
from ..common.product import Weights
from ..common.sequence import Captions
from ..common.step_rng import StepRng
from .dmd import ScoreMatch
from .learner import Learner
from .run_config import RunConfig
from .shot_batch import ShotBatch, Words, condition
from .stage_config import DmdConfig, OdeConfig, PairsConfig, TeacherConfig, TrainedConfig
from .stage_services import StageServices

_GIB = 2**30


class _Shapes:
    """Data without numbers."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def shots(self, rng: StepRng, count: int, frames: int) -> ShotBatch:
        """Return third shots after two others, on the meta device.

        Args:
            rng: as of a source with data; nothing is drawn.
            count: shots.
            frames: latent frames of each.
        """
        model, front = self._config.stream.model, self._config.stream.cache.context_frames
        latent = (model.in_dim, model.latent_height, model.latent_width)
        return ShotBatch(
            context=torch.empty(count, front, *latent, device="meta"),
            target=torch.empty(count, frames, *latent, device="meta"),
            words=(("",) * 3,) * count,
            shots=(2,) * count,
            context_shots=torch.tensor([[i * 2 // front for i in range(front)]] * count),
        )

    def stories(self, rng: StepRng, count: int, shots: int) -> Words:
        """Return blank captions.

        Args:
            rng: as of a source with data; nothing is drawn.
            count: stories.
            shots: captions of each.
        """
        return (("",) * shots,) * count


class _Blank:
    """Captions without numbers, half as long as they may be."""

    def __init__(self, config: RunConfig) -> None:
        self._model = config.stream.model

    def captions(self, words: Words, dropped: object) -> Captions:
        """Return shapes."""
        return self._made(len(words), len(words[0]))

    def unconditional(self, words: Words) -> Captions:
        """Return shapes."""
        return self._made(len(words), 1)

    def _made(self, count: int, rows: int) -> Captions:
        width = self._model.text_len // 2
        return Captions(
            embeddings=torch.empty(count, rows, width, self._model.text_dim, device="meta"),
            lengths=torch.full((count, rows), width, device="meta"),
            text_len=self._model.text_len,
        )


@contextmanager
def _kept_bytes() -> Iterator[list[int]]:
    """Count the bytes that autograd keeps for the way back, each piece of memory once."""
    seen: dict[int, Tensor] = {}
    total = [0]

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and id(tensor) not in seen:
            seen[id(tensor)] = tensor  # held, so that no other tensor gets its id
            total[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total


def dry_run(config: RunConfig) -> dict[str, Any]:
    """Estimate the memory of every stage of a run, in bytes on one device.

    Returns:
        Per stage: parameters, gradients and optimiser state, frozen networks, activations.
    """
    # The codec and text are not estimated; any codec gives the protocol's strides.
    codec = NanoCodec(NanoCodecNet())
    services = StageServices(
        config=config, processes=Processes(device=torch.device("meta")), source=_Shapes(config),
        codec=codec, text=_Blank(config),
    )  # fmt: skip
    report: dict[str, Any] = {}
    for stage in config.stages:
        if isinstance(stage, PairsConfig):
            continue
        assert isinstance(stage, TrainedConfig)
        report[stage.name] = _estimate(services, stage)
    _print(config, report)
    return {"bytes": report}


def _estimate(services: StageServices, config: TrainedConfig) -> dict[str, int]:
    """Estimate one stage. Blocks are alike, so two small depths give the bytes of any depth."""
    one, two = (_count(_of_depth(services, layers), config) for layers in (1, 2))
    more = services.config.stream.model.num_layers - 1
    return {name: one[name] + more * (two[name] - one[name]) for name in one}


def _of_depth(services: StageServices, layers: int) -> StageServices:
    """Return the same for a network of another depth."""
    config = services.config
    model = dataclasses.replace(config.stream.model, num_layers=layers)
    stream = dataclasses.replace(config.stream, model=model)
    return dataclasses.replace(services, config=dataclasses.replace(config, stream=stream))


def _blank_weights(config: RunConfig) -> Weights:
    shapes = student_shapes(config.stream.model)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _count(services: StageServices, config: TrainedConfig) -> dict[str, int]:
    """Take a step of a stage as shapes and count its bytes."""
    from .teacher_stage import TeacherStage

    weights = _blank_weights(services.config)
    rng = StepRng(0, config.name, 0, device="meta")
    batch = services.source.shots(rng, config.batch, config.frames)
    frozen = 0
    with _kept_bytes() as kept:
        if isinstance(config, TeacherConfig):
            stage = TeacherStage(services, config, weights)
            learners = stage.learners
            loss = stage.loss(0, rng).loss
        elif isinstance(config, OdeConfig):
            net = services.trainable(weights)
            learners = {
                "student": Learner({"": net}, config.optimizer, services.processes, weights)
            }
            told = condition(
                batch, services.text_side({}).captions(batch.words, []),
                quirks=services.config.quirks,
                dropped=[False] * config.batch,
            )  # fmt: skip
            groups = (told.context_frames, *services.plan(config.frames).groups)
            frames = told.context_frames + config.frames
            times = torch.empty(config.batch, frames, device="meta")
            loss = net(told.whole(batch.target, times, groups))[0].sum()
        else:
            assert isinstance(config, DmdConfig)
            match = ScoreMatch(services, config, weights, weights)
            learners = match.learners
            text = services.text_side({})
            told = condition(
                batch, text.captions(batch.words, []), quirks=services.config.quirks,
                dropped=[False] * config.batch,
            )  # fmt: skip
            plain = told.unguided(text.unconditional(batch.words), config.guides)
            plan = services.plan(config.frames)
            loss = match.step(config.critic_warmup, told, plain, plan, rng)[0].loss
            width = torch.empty((), dtype=services.compute).element_size()
            frozen = width * sum(w.numel() for w in weights.values())
    trained = sum(m.numel() for learner in learners.values() for m in learner.masters)
    networks = sum(learner.working_bytes() for learner in learners.values())
    assert loss.device.type == "meta"
    parts = {
        "networks": networks,
        "masters_gradients_moments": trained * 4 * 4,
        "frozen_networks": frozen,
        "activations": kept[0],
    }
    return {**parts, "trained_parameters": trained, "total": sum(parts.values())}


def _print(config: RunConfig, report: dict[str, dict[str, int]]) -> None:
    precision = config.precision + (", recomputing" if config.recompute else "")
    print(f"{config.name}: memory of one process alone, {precision}; sharding divides all")  # noqa: T201
    print("  but activations by the number of processes")  # noqa: T201
    for name, parts in report.items():
        told = ", ".join(
            f"{key.replace('_', ' ')} {value / _GIB:.2f} GiB"
            for key, value in parts.items()
            if key != "trained_parameters"
        )
        print(f"  {name:12} {parts['trained_parameters'] / 1e6:.1f} M trained: {told}")  # noqa: T201
