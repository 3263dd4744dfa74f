"""Which attention the baseline takes, and what a record says of it."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt.bench.baseline import Baseline, baseline_attentions, fastest_baseline
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.plain_student import PlainStudent, attend_by
from shotstream_rt.bench.report import record_table
from shotstream_rt.bench.runner import run
from shotstream_rt.bench.workloads import Workload
from shotstream_rt.config import StreamConfig

QUICK = BenchOptions(device="cpu", warmup=1, repeats=1, quick=True, baseline=True)


def test_a_cpu_has_torchs_own_attention() -> None:
    assert baseline_attentions(torch.device("cpu"), torch.bfloat16, 128) == ["torch"]


@pytest.mark.parametrize(
    ("broken", "wanted"),
    [((), ["cudnn", "flash"]), (("cudnn",), ["flash"]), (("cudnn", "flash"), ["torch"])],
    ids=["both", "no-cudnn", "none"],
)
def test_libraries_that_fail_are_left_out(
    monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...], wanted: list[str]
) -> None:
    baseline = "shotstream_rt.bench.baseline"
    monkeypatch.setattr(f"{baseline}.library_unavailable_reason", lambda *_: None)
    monkeypatch.setattr(
        f"{baseline}._failure", lambda name, *_: "No available kernel" if name in broken else None
    )
    assert baseline_attentions(torch.device("cuda"), torch.bfloat16, 128) == wanted


def test_a_library_that_was_asked_for_runs_or_fails() -> None:
    q = torch.zeros(1, 1, 4, 8)
    with attend_by("cudnn"), pytest.raises(RuntimeError, match="No viable backend"):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    with attend_by("torch"):
        assert torch.nn.functional.scaled_dot_product_attention(q, q, q).shape == q.shape


def test_the_faster_attention_is_the_baseline(tiny_config: StreamConfig) -> None:
    samples = {
        name: {"shot_s": [seconds], "chunk_ms.1": [seconds * 100], "caption_kv_ms": [1.0]}
        for name, seconds in (("flash", 3.0), ("cudnn", 2.0))
    }
    found = fastest_baseline(samples, tiny_config.shot)
    assert (found.attention, found.times_slower) == ("cudnn", {"flash": 1.5})
    assert found.samples["shot_s"] == [2.0]
    assert found.samples["denoise_fps"] == [17 / 2.0]
    assert "caption_kv_ms" not in found.samples  # made elsewhere in the baseline


def test_every_attention_runs_by_turns_and_the_record_names_it(
    tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shotstream_rt.bench.baseline.baseline_attentions", lambda *_: ["torch", "flash"]
    )
    ran: list[str] = []
    whole = PlainStudent._pass

    def noting(self: PlainStudent, *rest: object, **named: object) -> torch.Tensor:
        if ran[-1:] != [self.attention]:
            ran.append(self.attention)
        return whole(self, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(PlainStudent, "_pass", noting)
    record, measured = run(tiny_workload.with_recipe(shots=1), QUICK, [])
    assert record.status == "ok", record.message
    assert ran == ["torch", "flash"] * 2  # a warm-up and a counted run
    assert measured is not None and isinstance(measured.baseline, Baseline)
    told = record.method["baseline"]
    other = {"torch": "flash", "flash": "torch"}[told["attention"]]
    assert list(told["times_slower"]) == [other]
    assert told["times_slower"][other] >= 1
    assert f"attention by {told['attention']} ({other} took" in record_table(record)
    rate = record.metric("denoise_no_commit_fps")
    assert rate is not None and rate.ratio is not None
