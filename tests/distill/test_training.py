"""The loops: they learn, stop in time, resume, and their product loads."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path

import pytest
import torch

from shotstream_distill.__main__ import main
from shotstream_distill.nano.flow import FlowTrainer
from shotstream_distill.nano.losses import (
    auxiliary_loss,
    coarse_error,
    motion_error,
    roughen,
    subject_weights,
)
from shotstream_distill.nano.recipe import NANO_MODEL, DistillConfig, Stage, TrainConfig
from shotstream_distill.nano.ship import ship
from shotstream_distill.nano.trajectory import TrajectoryTrainer, unconditional
from shotstream_distill.world.bank import LatentBank, Layout
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.nano.vocabulary import TOKENS

SMALL = dataclasses.replace(NANO_MODEL, dim=48, ffn_dim=96, num_heads=2, num_layers=3)
"""Nano's shape in every interface, at a small part of its cost."""
FRAMES = Layout(batch=2, context=2, group_frames=1, groups=2)
CHUNKS = Layout(batch=1, context=6, group_frames=3, groups=1, chunks=2)
QUICK = TrainConfig(model=SMALL, stages=(Stage(share=1.0, layouts=(FRAMES,)),), warmup_steps=2)


def test_the_loss_falls_on_one_batch(bank: LatentBank, tmp_path: Path, seeded: int) -> None:
    trainer = FlowTrainer(QUICK, tmp_path, bank)
    batch = bank.sample(FRAMES, random.Random(0))
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        flow, aux = trainer.loss(batch)
        (flow + 0.1 * aux).backward()
        trainer.state.apply(1.0, 0.9)
        losses.append(flow.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_killed_run_goes_on(bank: LatentBank, tmp_path: Path) -> None:
    steps = []
    for duration_s in (1.0, 1.5, 1.0):
        trainer, ticks = FlowTrainer(QUICK, tmp_path, bank), itertools.count()
        trainer._clock = lambda ticks=ticks: next(ticks) / 8  # read twice in each step
        trainer.train(duration_s)
        steps.append(trainer.state.step)
    assert 0 < steps[0] < steps[1] == steps[2]


def test_the_auxiliary_loss_prefers_the_truth(bank: LatentBank) -> None:
    batch = bank.sample(FRAMES, random.Random(3))
    size, frames = batch.target.shape[:2]
    blank = torch.zeros(size, frames, 13, 12, 20)
    told = blank.clone()
    for who in (0, 1):
        for row in range(size):
            label = int(batch.labels[row, who])
            told[row, :, 1 + label] += 8 * batch.maps[row, :, who, 0]
    told[:, :, 0] += 8 * (1 - batch.maps[:, :, :, 0].amax(2))
    assert auxiliary_loss(told, batch) < auxiliary_loss(blank, batch)


def test_weights_average_one_and_favour_characters(bank: LatentBank) -> None:
    batch = bank.sample(FRAMES, random.Random(4))
    weights = subject_weights(batch, 3.0)
    covered = batch.maps[:, :, :, 0].amax(2).unsqueeze(2)
    assert torch.isclose(weights.mean(), torch.tensor(1.0))
    assert weights[covered > 0.9].min() > weights[covered == 0].max()


def test_roughening_spares_half(bank: LatentBank, seeded: int) -> None:
    batch = bank.sample(dataclasses.replace(FRAMES, batch=16), random.Random(5))
    changed = (roughen(batch, 0.2) != batch.shared).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 16


def test_distillation_learns_where_the_walk_ends(
    bank: LatentBank, tmp_path: Path, seeded: int
) -> None:
    teacher = FlowTrainer(QUICK, tmp_path, bank).state.averaged()
    # A head that answers: at the start it is zero and every walk would stand still.
    teacher["head.head.weight"] = torch.randn_like(teacher["head.head.weight"]) * 0.02
    trainer = TrajectoryTrainer(DistillConfig(model=SMALL), tmp_path, bank, teacher)
    batch = bank.sample(CHUNKS, random.Random(6))
    losses = []
    for _ in range(4):
        torch.manual_seed(1)
        trainer._rng.common.seed(1)
        loss = trainer.loss(batch)
        loss.backward()
        trainer.state.apply(0.3, 0.5)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_later_chunks_are_guided_less(bank: LatentBank, tmp_path: Path) -> None:
    teacher = FlowTrainer(QUICK, tmp_path, bank).state.averaged()
    config = DistillConfig(model=SMALL, guidance=2.5, later_guidance=1.5)
    trainer = TrajectoryTrainer(config, tmp_path, bank, teacher)
    layouts = {(2.5,) * 3 + (1.5,) * 3: dataclasses.replace(CHUNKS, groups=2),
               (2.5,) * 6: dataclasses.replace(CHUNKS, chunks=1, groups=2)}  # fmt: skip
    for wanted, layout in layouts.items():
        batch = bank.sample(layout, random.Random(9))
        weights = trainer._guidance(batch)
        assert weights.shape == (1, 6, 1, 1, 1)
        assert tuple(weights.flatten().tolist()) == wanted


def test_motion_error_sees_what_a_frame_error_hides() -> None:
    still = torch.ones(1, 6, 1, 2, 2)
    moving = still * torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]).view(1, 6, 1, 1, 1)
    one = torch.ones(())
    assert motion_error(still, one, 3) == 0
    assert motion_error(moving, one, 3) == 4
    assert motion_error(moving, one, 1) == 0
    # Between groups there is no neighbour: one constant within each of them costs nothing.
    assert motion_error(torch.cat((still[:, :3], -still[:, :3]), 1), one, 3) == 0
    only_left = torch.tensor([2.0, 0.0]).expand(1, 6, 1, 2, 2)
    assert motion_error(moving, only_left, 3) == 4


def test_history_is_filmed_by_the_student(bank: LatentBank, tmp_path: Path, seeded: int) -> None:
    teacher = FlowTrainer(QUICK, tmp_path, bank).state.averaged()
    teacher["head.head.weight"] = torch.randn_like(teacher["head.head.weight"]) * 0.02
    batch = bank.sample(dataclasses.replace(CHUNKS, groups=2), random.Random(9))
    batch = dataclasses.replace(batch, shared=batch.shared.clone())
    films = {}
    for share in (0.0, 1.0):
        config = DistillConfig(model=SMALL, own_history=share)
        trainer = TrajectoryTrainer(config, tmp_path, bank, teacher)
        torch.manual_seed(4)
        with torch.no_grad():
            films[share] = trainer._with_own_history(batch)
    assert torch.equal(films[0.0], batch.shared)
    assert torch.equal(films[1.0][:, :6], batch.shared[:, :6])
    # What the data went on with has no part in it.
    batch.shared[:, 6:] = 7.0
    torch.manual_seed(4)
    with torch.no_grad():
        again = trainer._with_own_history(batch)
    assert torch.equal(again, films[1.0])
    assert not torch.equal(again[:, 6:9], batch.shared[:, 6:9])


def test_the_unguided_side_looks_like_a_first_shot(bank: LatentBank) -> None:
    batch = bank.sample(CHUNKS, random.Random(8))
    blind, shared = unconditional(batch, batch.shared)
    assert (shared[:, :6] == 0).all()
    assert torch.equal(shared[:, 6:], batch.shared[:, 6:])
    assert (blind.flags[:, :6] == 0).all()
    assert (blind.flags[:, 6:] == 1).all()


def test_the_product_loads(bank: LatentBank, tmp_path: Path, codec_file: Path) -> None:
    trainer = FlowTrainer(QUICK, tmp_path, bank)
    trainer.state.save(tmp_path / "flow.pt")
    folder = tmp_path / "student"
    ship(tmp_path / "flow.pt", folder, SMALL, codec_file, {"note": "test"})
    assert {p.name for p in folder.iterdir()} == {
        "student.json", "student.safetensors", "text.safetensors", "codec.safetensors",
    }  # fmt: skip
    bundle = Model.open(folder, device="cpu")
    assert bundle.config.model == SMALL
    assert bundle.text.text_dim == SMALL.text_dim
    bundle.close()
    assert json.loads((folder / "student.json").read_text())["lineage"]["note"] == "test"


def test_words_that_were_not_trained_stay_unknown(
    bank: LatentBank, tmp_path: Path, codec_file: Path
) -> None:
    FlowTrainer(QUICK, tmp_path, bank).state.save(tmp_path / "flow.pt")
    folder = tmp_path / "student"
    ship(tmp_path / "flow.pt", folder, SMALL, codec_file, {}, words=len(TOKENS) - 3)
    bundle = Model.open(folder, device="cpu")
    notes = bundle.text.check("a red cat in a forest at midnight")
    bundle.close()
    assert any("at midnight" in note for note in notes)


def test_commands_report_and_refuse(
    tmp_path: Path, codec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make-bank", "--bank", str(tmp_path / "bank"), "--codec", str(codec_file),
                 "--shards", "1", "--stories", "1", "--json"]  # fmt: skip
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bank"]
    missing = ["ship-nano", "--checkpoint", str(tmp_path / "none.pt"), "--out", str(tmp_path)]
    assert main(missing) == 2
    assert "none.pt" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["no-such-command"])
    assert caught.value.code == 2


def test_coarse_errors_count_more_than_detail() -> None:
    shape = (2, 3, 16, 12, 20)
    offset = torch.full(shape, 0.1)
    checks = torch.ones(shape)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = -1
    checks = 0.1 * (checks - checks.mean())
    nobody = torch.zeros(2, 3, 2, 12, 20)
    assert coarse_error(checks, nobody) < 1e-9
    assert torch.isclose(coarse_error(offset, nobody), torch.tensor(0.01 * (4 + 16)))
    assert torch.equal(coarse_error(offset), coarse_error(offset, nobody))
    somebody = nobody.clone()
    somebody[0, 1, 0, 3:6, 5:8] = 1
    off_coat = torch.zeros_like(checks)
    off_coat[0, 1, :, 3:6, 5:8] = 0.1
    more = coarse_error(off_coat, somebody) - coarse_error(off_coat, nobody)
    assert torch.isclose(more, torch.tensor(0.01 * 16))
    somebody[0, 1, 0, 3:6, 6:8] = 0  # three cells are nobody
    assert torch.equal(coarse_error(off_coat, somebody), coarse_error(off_coat, nobody))
