from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shotstream_rt.bench.film_run import measure_bundle
from shotstream_rt.bench.measurement import Measurement
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.runner import run
from shotstream_rt.bench.stopwatch import Stopwatch
from shotstream_rt.bench.workloads import Workload
from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.tiny.codec import TinyCodec
from shotstream_rt.model.tiny.network import TinyDecoder


@pytest.fixture
def film() -> Workload:
    return Workload(
        id="film",
        version=1,
        kind="film",
        title="two shots",
        recipe={"model": "tiny", "story": "beach_friends", "seed": 7, "shots": 2},
        tolerance={},
    )


def test_film_gives_every_metric(tiny_bundle: Model, film: Workload) -> None:
    options = BenchOptions(device="cpu", threads=1, warmup=1, repeats=2, full_check=True)
    watch = Stopwatch(torch.device("cpu"))
    measured = measure_bundle(
        tiny_bundle, film, options, watch, load_s=0.5, load_exact=lambda: tiny_bundle,
        save_unchecked=lambda _: None,
    )  # fmt: skip
    assert measured.correctness is not None and measured.correctness.passed
    assert measured.consumer == "fast"
    counts = {metric.name: metric.n for metric in measured.metrics()}
    shots, chunks, frames = 4, 5, 17
    assert counts["first_frame_ms"] == counts["cut_ms"] == shots
    assert counts["shot_s"] == counts["denoise_fps"] == counts["context_encode_ms"] == shots
    assert counts["chunk_ms"] == counts["vae_decode_ms"] == shots * chunks
    assert all(counts[f"chunk_ms.{n + 1}"] == shots for n in range(chunks))
    assert counts["step_ms"] == shots * chunks * 4
    assert counts["frame_interval_ms"] == shots * frames - 2  # no interval before a film's first
    assert counts["worst_chunk_fps"] == shots
    assert counts["e2e_fps"] == counts["steady_fps"] == 2
    assert counts["queue_wait_ms"] >= shots * chunks
    assert counts["prompt_ms"] >= 2
    assert counts["peak_memory_mib"] == counts["startup_s"] == 1
    assert measured.samples["startup_s"][0] > 0.5
    assert all(value >= 0 for values in measured.samples.values() for value in values)


def test_missing_story_is_named(tiny_bundle: Model, film: Workload) -> None:
    watch = Stopwatch(torch.device("cpu"))
    missing = film.with_recipe(story="nowhere.json")
    with pytest.raises(ConfigError, match="nowhere"):
        measure_bundle(
            tiny_bundle, missing, BenchOptions(device="cpu"), watch,
            load_s=0.0, load_exact=lambda: tiny_bundle, save_unchecked=lambda _: None,
        )  # fmt: skip


def test_record_tells_the_profile_and_how_far_its_frames_are(
    make_tiny_model: Callable[..., Model], film: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    exact_bundle = make_tiny_model()
    lossy = make_tiny_model(codec=TinyCodec(exact_bundle.codec, TinyDecoder()))
    asked: list[str] = []

    def load(*_: object, profile: str, **__: object) -> Model:
        asked.append(profile)
        return lossy if profile == "tiny" else exact_bundle

    monkeypatch.setattr(Model, "open", load)
    options = BenchOptions(device="cpu", profile="tiny", threads=1, warmup=0, repeats=1)
    record, _ = run(film.with_recipe(shots=1), options, ["--profile", "tiny"])
    assert asked == ["tiny", "exact"]
    assert record.status == "ok"
    assert record.backend["profile"] == "tiny"
    found = record.fidelity
    assert found is not None
    assert found.latents_rel_l2 == 0  # only the decoder is another
    assert found.frames == 17
    assert found.frames_psnr_db is not None and 0 < found.frames_psnr_db < 40
    assert found.frames_mean_grey is not None and found.frames_mean_grey > 1
    exact = BenchOptions(device="cpu", threads=1, warmup=0, repeats=1)
    assert film.fingerprint(options.requested()) != film.fingerprint(exact.requested())


def test_a_quick_film_is_loaded_once_and_changes_no_captions(
    make_tiny_model: Callable[..., Model], film: Workload
) -> None:
    torch.manual_seed(0)
    lossy = make_tiny_model(codec=TinyCodec(make_tiny_model().codec, TinyDecoder()))
    options = BenchOptions(device="cpu", profile="tiny", threads=1, warmup=0, repeats=1, quick=True)
    early: list[Measurement] = []

    def load_exact() -> Model:
        raise AssertionError("a quick run loads no second model")

    measured = measure_bundle(
        lossy, film.with_recipe(shots=1), options, Stopwatch(torch.device("cpu")),
        load_s=0.0, load_exact=load_exact, save_unchecked=early.append,
    )  # fmt: skip
    assert measured.correctness is not None and measured.correctness.passed
    assert measured.fidelity is None
    assert "prompt_ms" not in measured.samples
    assert [(m.correctness, m.samples["e2e_fps"]) for m in early] == [
        (None, measured.samples["e2e_fps"])
    ]


def test_film_has_its_baseline_too(tiny_bundle: Model, film: Workload) -> None:
    options = BenchOptions(device="cpu", threads=1, warmup=0, repeats=1, baseline=True)
    watch = Stopwatch(torch.device("cpu"))
    measured = measure_bundle(
        tiny_bundle, film, options, watch, load_s=0.0, load_exact=lambda: tiny_bundle,
        save_unchecked=lambda _: None,
    )  # fmt: skip
    metrics = {metric.name: metric for metric in measured.metrics()}
    for name in ("e2e_fps", "first_frame_ms", "cut_ms", "shot_s", "chunk_ms.1"):
        assert metrics[name].ratio is not None, name
    # The plain film shows a shot's first frame after its last one is made.
    assert measured.baseline is not None
    plain = measured.baseline.samples
    for shown_ms, made_s in zip(plain["first_frame_ms"], plain["shot_s"], strict=True):
        assert shown_ms >= 1e3 * made_s
