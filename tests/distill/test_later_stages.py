"""The table of later stages: how a row is run, and once all rows in a chain."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shotstream_distill.__main__ import main
from shotstream_distill.common.product import load_product
from shotstream_distill.nano.later_stages import stages
from shotstream_distill.nano.later_stages.fact_reader import FactReader
from shotstream_distill.nano.later_stages.stages import STAGES, StageInputs, run_stage
from shotstream_rt import Session
from shotstream_rt.errors import ConfigError


class Recorder:
    """A stage's loop that only remembers what it was told."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def train(self, duration_s: float) -> None:
        self.seconds.append(duration_s)

    def write_product(self, path: Path) -> dict[str, Any]:
        path.write_text("weights")
        return {"right": 0.5}


@pytest.mark.parametrize("name", STAGES)
def test_every_row_is_run_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, given = Recorder(), []

    def make(inputs: StageInputs, processes: object) -> Recorder:
        given.append(inputs)
        return recorder

    monkeypatch.setitem(stages.STAGES, name, replace(STAGES[name], trainer=make))
    arguments = [name, "--run", str(tmp_path / "run"), "--bank", str(tmp_path), "--minutes", "2"]
    if STAGES[name].needs_reader:
        arguments += ["--reader", "some.safetensors"]
    assert main([*arguments, "--start", "other"]) == 0
    product = tmp_path / "run" / STAGES[name].product
    assert recorder.seconds == [120]
    assert product.read_text() == "weights"
    assert given[0] == StageInputs(
        run=tmp_path / "run", bank=tmp_path, start="other",
        reader=Path("some.safetensors") if STAGES[name].needs_reader else None,
    )  # fmt: skip
    assert run_stage(name, given[0], 2) == {"product": str(product), "right": 0.5}


def test_a_file_that_is_no_reader_is_refused(
    codec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["reward-nano", "--run", str(tmp_path), "--bank", str(tmp_path), "--minutes", "1"]
    assert main([*common, "--reader", str(tmp_path / "none.safetensors")]) == 2
    assert "train-reader" in capsys.readouterr().err
    assert main([*common, "--reader", str(codec_file)]) == 2
    assert "no reader of this version" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="reader: got none"):
        run_stage("choose-nano", StageInputs(run=tmp_path, bank=tmp_path), 1)


def test_a_reader_needs_a_shard_for_its_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ["train-reader", "--bank", str(tmp_path), "--minutes", "1", "--run", str(tmp_path)]
    assert main(alone) == 2
    assert "two shards" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.later_stages
def test_all_stages_follow_each_other(
    bank_folder: Path, codec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reader, then four students, each from the one before; the last one streams."""
    bank = tmp_path / "bank"
    bank.mkdir()
    for name in ("L_a.pt", "L_b.pt"):
        shutil.copyfile(next(bank_folder.glob("L_*.pt")), bank / name)
    start, reader = "nano", tmp_path / "train-reader" / "reader.safetensors"
    for name, stage in STAGES.items():
        run = tmp_path / name
        arguments = [name, "--run", str(run), "--bank", str(bank), "--json"]
        arguments += ["--reader", str(reader)] if stage.needs_reader else []
        arguments += [] if name == "train-reader" else ["--start", start]
        steps = [0]
        for minutes in ("0.01", "0.05"):  # the second run goes on where the first one stopped
            assert main([*arguments, "--minutes", minutes]) == 0
            (checkpoint,) = (
                path for path in run.glob("*.pt") if path.name not in ("student.pt", "judge.pt")
            )
            steps.append(torch.load(checkpoint, weights_only=True)["step"])
        assert steps == sorted(set(steps))
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert report["product"] == str(run / stage.product)
        if name == "train-reader":
            assert set(report["right"]) == {"0.1", "0.3", "0.5"}
            assert all(0 <= x <= 1 for row in report["right"].values() for x in row.values())
            FactReader().load_state_dict(load_file(str(reader)))
            continue
        start = report["product"]
        assert all(value.isfinite().all() for value in load_product(Path(start)).values())
    folder = tmp_path / "student"
    assert main(["ship-nano", "--checkpoint", start, "--out", str(folder)]) == 0
    with Session.open(str(folder), seed=0, device="cpu") as session:
        session.cut("a red cat in a forest")
        frames = list(islice(session.stream(), 3))
    assert len(frames) == 3
