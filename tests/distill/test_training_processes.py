"""Two processes train one student: other batches, averaged gradients, the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from shotstream_distill.common.product import load_product

WORKER = """
import json, sys
from pathlib import Path
import torch
from shotstream_distill.world.bank import LatentBank, Layout
from shotstream_distill.nano.flow import FlowTrainer
from shotstream_distill.common.processes import join, leave
from shotstream_distill.nano.recipe import Stage, TrainConfig
from shotstream_rt.config import ModelConfig
from shotstream_rt.model.nano.text import TEXT_DIM, TEXT_LEN

torch.set_num_threads(1)
model = ModelConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=3, text_dim=TEXT_DIM,
                    text_len=TEXT_LEN, latent_height=12, latent_width=20)
layouts = (Layout(batch=1, context=2, group_frames=1, groups=1),
           Layout(batch=1, context=2, group_frames=3, groups=1))
config = TrainConfig(model=model, stages=(Stage(share=1.0, layouts=layouts),))
with join("cpu") as processes:
    trainer = FlowTrainer(config, Path(sys.argv[2]), LatentBank(Path(sys.argv[1])), processes)
    drawn = trainer._rng.own.random()
    trainer.train(1.0)
    total = sum(float(m.double().sum()) for m in trainer.state.masters)
    print(json.dumps({"drawn": drawn, "steps": trainer.state.step, "total": total}))
leave(0)
"""


def test_two_processes_train_one_student(bank_folder: Path, tmp_path: Path, free_port: int) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(bank_folder), str(tmp_path)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        outcomes = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, err) in zip(workers, outcomes, strict=True):
        assert worker.returncode == 0, err[-3000:]
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outcomes)
    assert first["drawn"] != second["drawn"]
    assert first["steps"] == second["steps"] > 0
    assert first["total"] == second["total"]
    assert all(torch.isfinite(v).all() for v in load_product(tmp_path / "flow.pt").values())
