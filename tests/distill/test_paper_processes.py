"""Two processes: sharded gradients are the whole ones, and a run goes through all stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shotstream_distill.common.product import load_product
from shotstream_distill.paper.run_config import PRESETS

WORKER = """
import json, sys
from pathlib import Path
import torch
from torch.distributed.tensor import DTensor
from shotstream_distill.common.sequence import Captions
from shotstream_distill.paper import data_sources, trainer
from shotstream_distill.common.step_rng import StepRng
from shotstream_distill.paper.network import TrainNet
from shotstream_distill.common.processes import join, leave, shard, whole
from shotstream_distill.paper.quirks import Quirks
from shotstream_distill.paper.rollout import RolloutPlan, roll_out
from shotstream_distill.paper.run import Run
from shotstream_distill.paper.run_config import RunConfig
from shotstream_distill.paper.shot_batch import Conditioning
from shotstream_rt.config import ModelConfig, ScheduleConfig
from shotstream_rt.plan.schedule import Schedule

class Codec:
    temporal_stride = 4
    def encode_frames(self, frames):
        return torch.nn.functional.avg_pool2d(frames, 8).repeat(1, 6, 1, 1)[:, :16]
    def decode_full(self, latents):
        frames = latents[0, :, :3].float().repeat_interleave(4, 0)[3:]
        return torch.nn.functional.interpolate(frames, scale_factor=8)[None]

data_sources._codec = lambda config, device: Codec()
trainer._JUDGED_DRAWS = 1
torch.set_num_threads(1)
model = ModelConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=6,
                    latent_height=4, latent_width=4)
plan = RolloutPlan(schedule=Schedule.from_config(ScheduleConfig()), frames=6, chunk_frames=3,
                   quirks=Quirks(attached_caches=True))

def told(rank):
    rng = StepRng(0, "told", 0, rank=rank)
    return Conditioning(
        context=rng.normal(1, 6, 16, 4, 4), flags=torch.tensor([[0, 0, 0, 0, 0, 0, 1]]),
        captions=Captions(embeddings=rng.normal(1, 2, 4, 8), lengths=torch.tensor([[4, 4]]),
                          text_len=6),
        caption_index=torch.tensor([[0, 0, 0, 0, 0, 0, 1]]),
    )

def net(recompute):
    torch.manual_seed(0)
    return TrainNet(model, recompute=recompute)

def loss(net, rank):
    shot = roll_out(net, told(rank), plan, StepRng(0, "roll", 0, rank=rank), exit_step=1,
                    gradients=True)
    return shot.square().mean()

with join("cpu") as processes:
    mine = net(True)
    shard(mine, mine.blocks, processes, compute=torch.float32)
    loss(mine, processes.rank).backward()
    alone = net(False)
    ((loss(alone, 0) + loss(alone, 1)) / 2).backward()
    wanted = {n: p.grad for n, p in alone.named_parameters()}
    for name, parameter in mine.named_parameters():
        assert isinstance(parameter, DTensor), name
        torch.testing.assert_close(whole(parameter.grad), wanted[name], rtol=1e-4, atol=1e-6)
    run = Run(RunConfig.read(sys.argv[1]), Path(sys.argv[2]), processes)
    report = run.go()
    if processes.leads:
        print(json.dumps(report))
leave(0)
"""


@pytest.mark.slow
def test_two_processes_train_as_one(
    bank_folder: Path, codec_file: Path, tmp_path: Path, free_port: int
) -> None:
    data = json.loads((PRESETS / "nano-smoke.json").read_text("utf-8"))
    data["stream"]["model"].update(dim=24, ffn_dim=32, num_heads=2, num_layers=1)
    data["data"] = {"kind": "bank", "path": str(bank_folder)}
    data.update(codec=str(codec_file), must_fall=False, precision="bfloat16", recompute=True)
    for stage in data["stages"]:
        stage["batch"] = 1
        if stage["kind"] == "ode_pairs":
            stage.update(pairs=3, sample_steps=4)
        else:
            stage["steps"] = 2
        if "critic_warmup" in stage:
            stage["critic_warmup"] = 1
    data["stages"][4].update(lora_rank=2)
    preset = tmp_path / "tiny.json"
    preset.write_text(json.dumps(data), encoding="utf-8")
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(preset), str(tmp_path / "run")],
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
    report = json.loads(outcomes[0][0].splitlines()[-1])
    assert list(report) == ["teacher", "pairs", "ode", "intra-shot", "inter-shot"]
    product = load_product(tmp_path / "run" / "inter-shot.pt")
    assert product["blocks.0.self_attn.q.weight"].shape == (24, 24)
    assert all(torch.isfinite(value).all() for value in product.values())
    assert len(list((tmp_path / "run" / "pairs").glob("*.pt"))) == 3
    saved = torch.load(tmp_path / "run" / "inter-shot.resume.pt", weights_only=True)
    assert saved["world"] == 2
    assert len(saved["memories"]) == 2
