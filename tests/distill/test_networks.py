"""Training of the codec and of the detector: they start from less, learn, and their files load."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_distill.__main__ import main
from shotstream_distill.codec import train_codec as codec_training
from shotstream_distill.codec.clips import draw_clip, stack
from shotstream_distill.codec.codec_state import CodecConfig, CodecState
from shotstream_distill.codec.measured import HEADROOM, measure_features
from shotstream_distill.codec.student_errors import overdrive, rough_latents, wild_cells
from shotstream_distill.codec.train_codec import train_codec
from shotstream_distill.common.warm_start import warm_start
from shotstream_distill.evaluation import tune_detector as detector_training
from shotstream_distill.evaluation.detectors import Detector, Segmenter
from shotstream_distill.evaluation.tune_detector import (
    Truth,
    detection_loss,
    draw_batch,
    draw_recoded,
    score_pictures,
)
from shotstream_distill.world.render import render_shot
from shotstream_distill.world.story import make_story
from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.model.nano.codec import CausalBlock, CodecDepths, NanoCodec, NanoCodecNet
from shotstream_rt.model.nano.vocabulary import TIMES

QUICK = CodecConfig(bank=2, batch=1)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Judge on next to nothing, train on little; leave float arithmetic as it was."""
    monkeypatch.setattr(codec_training, "JUDGED_CLIPS", 1)
    monkeypatch.setattr(detector_training, "JUDGED_SHOTS", 2)
    monkeypatch.setattr(detector_training, "_BATCH", 4)
    yield
    torch.set_flush_denormal(False)


def clips() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One clip, its middle only: time is for steps, not for pixels."""
    frames, masks = draw_clip(random.Random(0), 5)
    return [(frames[..., 32:64, 64:96], masks[..., 32:64, 64:96])]


def test_the_codec_learns_its_clips(seeded: int) -> None:
    trainer = CodecState(dataclasses.replace(QUICK, rate=0.01), None, 0)
    held = clips()
    losses = [trainer.learn(held, 1.0) for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_killed_codec_run_goes_on(tmp_path: Path, few: None) -> None:
    first = train_codec(tmp_path, None, 0.01, QUICK)
    assert first["steps"] >= 1
    again = train_codec(tmp_path, None, 0.03, QUICK)
    assert again["steps"] > first["steps"]
    NanoCodec.load(tmp_path / "codec.safetensors")


def test_a_shallow_codec_starts_a_deep_one(tmp_path: Path, seeded: int) -> None:
    """The blocks it lacks begin as the identity: the first pictures are the same."""
    depths = CodecDepths(encoder_quarter=1, encoder_eighth=2, decoder_eighth=2, decoder_quarter=1)
    shallow, path = NanoCodecNet(depths), tmp_path / "codec.safetensors"
    save_file(shallow.state_dict(), str(path))
    trainer = CodecState(QUICK, path, 0)
    clip = torch.rand(1, 5, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(trainer.net.encode(clip), shallow.encode(clip))


def test_wild_latents_do_not_grow_in_the_decoder(seeded: int) -> None:
    """What clean pictures need fits into the limits, all but the headroom; no more ever passes."""
    net, held = NanoCodecNet(), clips()
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    latents = net.encode(stack(held)[0])
    unlimited, _ = net.decode(latents, None)
    measure_features(net, held)
    limits = [value for name, value in net.named_buffers() if name.endswith("limit")]
    written = [limit.clone() for limit in limits]
    excess: list[float] = []

    def note(block: CausalBlock, inputs: tuple[torch.Tensor, ...]) -> None:
        # What is mixed went through silu, which makes no magnitude larger.
        assert block.limit is not None
        channels = len(block.limit)
        radius = (inputs[0][:, :channels] / block.limit.view(-1, 1, 1)).square().mean(1)
        excess.append(float(radius.max()) - 1)

    for module in net.modules():
        if isinstance(module, CausalBlock) and module.limit is not None:
            module.mix.register_forward_pre_hook(
                lambda _, inputs, block=module: note(block, inputs)
            )

    def decoded_distance(share: float) -> float:
        """Relative distance to the unlimited decoder, with limits at a share of what is needed."""
        for limit, measured in zip(limits, written, strict=True):
            limit.copy_(measured * share / HEADROOM)
        return float((net.decode(latents, None)[0] - unlimited).norm() / unlimited.norm())

    with torch.no_grad():
        net.decode(1000 * latents, None)
        # One percent of margin: at 1.0 the largest feature lies on its limit, and how a
        # processor rounds would decide whether it is scaled.
        assert decoded_distance(1.01) <= 2e-6  # a chain of convolutions in float32
        assert decoded_distance(0.99) >= 1e-3
    assert max(excess) <= 1e-5


def test_a_frozen_encoder_keeps_its_latents(codec_file: Path) -> None:
    trainer = CodecState(dataclasses.replace(QUICK, freeze_encoder=True), codec_file, 0)
    begun = load_file(str(codec_file))
    held = clips()
    for _ in range(3):
        trainer.learn(held, 1.0)
    made = trainer.averaged(held).state_dict()
    changed = {name for name, value in made.items() if not torch.equal(value, begun[name])}
    assert changed
    assert all(name.startswith("decoder") for name in changed)
    with pytest.raises(ConfigError, match="--start"):
        CodecState(dataclasses.replace(QUICK, freeze_encoder=True), None, 0)


def test_regions_are_overdriven_and_others_stay(seeded: int) -> None:
    latents = torch.randn(2, 3, 16, 12, 20)
    made = overdrive(latents, torch.tensor([1.0, 1.6]).view(2, 1, 1, 1))
    assert torch.equal(made[0], latents[0])
    factors = (made[1] / latents[1])[:, 0]
    assert 0.8 <= float(factors.min()) < 1.1 < 1.3 < float(factors.max()) <= 1.6
    torch.testing.assert_close(factors[0], factors[2])


def test_kept_latents_move_less(codec_file: Path) -> None:
    """Held to its first latents, an encoder learns but stays near them."""
    held = clips()
    moved: dict[float, float] = {}
    for weight in (1e-6, 30.0):
        config = dataclasses.replace(QUICK, keep_latents=weight, rough_share=0.5)
        trainer = CodecState(config, codec_file, 0)
        for _ in range(6):
            trainer.learn(held, 1.0)
        moved[weight] = trainer.moved(trainer.net, held)
        made, begun = trainer.averaged(held).state_dict(), load_file(str(codec_file))
        assert torch.equal(made["latent_std"], begun["latent_std"].float())
    assert 0 < moved[30.0] < 0.7 * moved[1e-6]
    with pytest.raises(ConfigError, match="keep_latents"):
        CodecState(dataclasses.replace(QUICK, keep_latents=1.0), None, 0)


def test_the_command_trains_the_codec_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[object] = []

    def note(
        run: Path, start: Path | None, minutes: float, config: CodecConfig
    ) -> dict[str, float]:
        told.extend((run, start, minutes, config.freeze_encoder))
        return {"steps": 1.0}

    monkeypatch.setattr(codec_training, "train_codec", note)
    start = tmp_path / "codec.safetensors"
    arguments = ["train-codec", "--run", str(tmp_path), "--start", str(start), "--minutes", "3"]
    assert main([*arguments, "--freeze-encoder", "--json"]) == 0
    assert told == [tmp_path, start, 3.0, True]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"steps": 1.0}


@pytest.mark.parametrize("through_codec", [False, True], ids=["drawn", "codec"])
def test_the_detector_is_trained_into_a_file_that_loads(
    through_codec: bool, tmp_path: Path, few: None, codec_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, start = tmp_path / "tuned.safetensors", tmp_path / "start.safetensors"
    before_times = {n: v for n, v in Segmenter().state_dict().items() if not n.startswith("time.")}
    save_file(before_times, str(start))
    codec = ["--codec", str(codec_file)] if through_codec else []
    arguments = ["tune-detector", "--minutes", "0.02", "--start", str(start), "--out", str(out)]
    assert main([*arguments, *codec, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["steps"] >= 1
    sources = ["drawn", "codec"] if through_codec else ["drawn"]
    assert list(report["before"]) == list(report["after"]) == sources
    assert "time" in report["after"]["drawn"]
    Detector.load(out)


def test_the_detector_learns_one_batch(seeded: int, few: None) -> None:
    frames, truth = draw_batch(random.Random(1))
    net = Segmenter()
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = detection_loss(net(frames), truth)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_timeless_frames_teach_no_time(seeded: int) -> None:
    story = next(s for s in map(make_story, range(99)) if s.setting.time is None)
    frames, masks = render_shot(story, 0, [0, 8])
    net = Segmenter()
    detection_loss(net(frames), Truth.of([(story, 0, masks)])).backward()
    assert net.time.weight.grad is None or not net.time.weight.grad.any()
    assert net.place.weight.grad is not None
    assert net.place.weight.grad.any()


@pytest.mark.parametrize("draw", [draw_batch, draw_recoded], ids=["drawn", "codec"])
def test_truth_belongs_to_the_frames(
    draw: Callable[..., tuple[torch.Tensor, Truth]], codec_file: Path, few: None
) -> None:
    others = [NanoCodec.load(codec_file)] if draw is draw_recoded else []
    frames, truth = draw(random.Random(3), *others)
    assert frames.shape == (4, 3, 96, 160)
    assert truth.masks.shape == (4, 96, 160)
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert truth.scenes.shape == (4, 3)
    assert set(truth.scenes[:, 2].tolist()) <= {-1, *range(len(TIMES))}
    assert not frames.is_inference()
    assert torch.equal(truth.flipped().masks[..., 0], truth.masks[..., -1])


def test_scores_name_all_facts(codec_file: Path) -> None:
    scores = score_pictures(Segmenter(), 3, NanoCodec.load(codec_file))
    assert set(scores) == {"place", "time", "framing", "color", "species", "accessory"}


def test_a_start_may_lack_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    net = Segmenter()
    with pytest.raises(WeightsError, match="no file"):
        warm_start(net, path, "detector", lambda *_: False)
    state = net.state_dict()
    del state["time.bias"], state["place.bias"]
    save_file(state, str(path))
    with pytest.raises(WeightsError, match=r"lacks \['place.bias'\]"):
        warm_start(net, path, "detector", lambda name, _: name.startswith("time."))
    warm_start(net, path, "detector", lambda name, _: name.endswith(".bias"))
    state["out.weight"] = torch.zeros(1)
    save_file(state, str(path))
    with pytest.raises(WeightsError, match="does not fit"):
        warm_start(net, path, "detector", lambda *_: True)


def test_rough_latents_err_as_a_student_does() -> None:
    generator = torch.Generator().manual_seed(1)
    level = torch.full((1, 1, 1, 1, 1), 0.4)
    error = rough_latents(torch.zeros(4, 3, 16, 12, 20), level, generator)
    assert float(error.std()) == pytest.approx(0.4, rel=0.02)
    # What three latents have in common: a third of white noise's variance and more.
    kept = error.mean(1).var() / error.var()
    assert float(kept) == pytest.approx(0.3 + 0.7 / 3, rel=0.05)
    clean = torch.randn(1, 2, 16, 3, 3)
    assert torch.equal(rough_latents(clean, 0 * level), clean)


def test_wild_cells_are_few_and_far_off() -> None:
    generator = torch.Generator().manual_seed(6)
    level = torch.full((4, 1, 1, 1, 1), 0.4)
    moved = wild_cells(torch.zeros(4, 3, 16, 12, 20), level, generator)
    wild = (moved != 0).any(2)
    assert 0.02 < wild.float().mean() < 0.04
    assert 1.1 < moved[wild[:, :, None].expand_as(moved)].std() < 1.3
    clean = torch.randn(4, 2, 16, 12, 20, generator=generator)
    assert torch.equal(wild_cells(clean, 0 * level), clean)
