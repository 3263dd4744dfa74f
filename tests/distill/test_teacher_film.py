"""Films of a many-step teacher: the sampler, its context, and how it is measured and compared."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_distill.__main__ import main
from shotstream_distill.common.product import save_product, start_weights
from shotstream_distill.common.sequence import Captions
from shotstream_distill.evaluation.against import compare_records, paired_ratio
from shotstream_distill.evaluation.cuts import CutCount
from shotstream_distill.evaluation.evaluate import EvaluationConfig, evaluate
from shotstream_distill.evaluation.examinee import Examinee
from shotstream_distill.evaluation.facts import CharacterFacts, ShotFacts
from shotstream_distill.evaluation.records import FilmRecord, RecordBook, ShotRecord
from shotstream_distill.evaluation.teacher_film import TeacherConfig, TeacherFilms, causal_shot
from shotstream_distill.paper.film import Film
from shotstream_distill.paper.network import TrainNet
from shotstream_distill.paper.sampler import sample_states
from shotstream_distill.paper.shot_batch import Conditioning, condition
from shotstream_distill.paper.text_side import NanoText
from shotstream_distill.world.captions import story_captions
from shotstream_distill.world.story import make_story
from shotstream_rt.config import ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.text import NanoTextEncoder, NanoTextNet, caption_ids
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.story import Story

TINY = ModelConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=128, text_len=64,
    latent_height=4, latent_width=6,
)  # fmt: skip
STREAM = StreamConfig(model=TINY, shot=ShotConfig(shot_frames=6))
FRONT, CHUNK, SHIFT = 6, 3, 3.0
CAPTIONS = Story(
    global_caption="A red cat and a blue bird on a beach. ",
    shots=("Wide shot: the red cat jumps.", "Close-up: the blue bird dances."),
).captions


def tiny_net(dtype: torch.dtype = torch.float64) -> TrainNet:
    torch.manual_seed(0)
    net = TrainNet(TINY).to(dtype)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.requires_grad_(False)


def sides() -> Conditioning:
    generator = torch.Generator().manual_seed(5)
    embeddings = torch.randn(2, 2, 5, 128, generator=generator, dtype=torch.float64)
    embeddings[1] = 0
    context = torch.randn(2, FRONT, 16, 4, 6, generator=generator, dtype=torch.float64)
    context[1] = 0
    return Conditioning(
        context=context,
        captions=Captions(
            embeddings=embeddings, lengths=torch.tensor([[5, 5], [0, 0]]), text_len=64
        ),
        caption_index=torch.tensor([[0] * FRONT + [1]] * 2),
        flags=torch.tensor([[0] * FRONT + [1]] * 2),
    )


def chunks(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    shape = (1, CHUNK, 16, 4, 6)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def alone(told: Conditioning, row: int) -> Conditioning:
    rows = slice(row, row + 1)
    captions = told.captions
    return Conditioning(
        context=told.context[rows],
        captions=dataclasses.replace(
            captions, embeddings=captions.embeddings[rows], lengths=captions.lengths[rows]
        ),
        caption_index=told.caption_index[rows],
        flags=told.flags[rows],
    )


def by_one_pass(net: TrainNet, told: Conditioning, noise: Tensor, history: Tensor) -> Tensor:
    """One Euler step from pure noise for the chunk after ``history``, without any cache."""
    times = torch.zeros(1, FRONT + history.shape[1] + CHUNK)
    times[:, -CHUNK:] = 1000
    groups = [FRONT, *[CHUNK] * (history.shape[1] // CHUNK), CHUNK]
    flow, _ = net(told.whole(torch.cat((history, noise), 1), times, groups))
    made: Tensor = noise - flow[:, -CHUNK:]
    return made


def rel(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("guidance", "row"), [(1.0, 0), (0.0, 1)])
def test_one_step_of_one_side_is_a_direct_prediction(guidance: float, row: int) -> None:
    net, told, noise = tiny_net(), sides(), chunks()
    made = causal_shot(net, told, noise, steps=1, shift=SHIFT, guidance=guidance)
    first = by_one_pass(net, alone(told, row), noise[0], noise[0][:, :0])
    second = by_one_pass(net, alone(told, row), noise[1], first)
    assert rel(made, torch.cat((first, second), 1)) < 1e-6
    assert rel(by_one_pass(net, alone(told, 1 - row), noise[0], noise[0][:, :0]), first) > 1e-3


def test_guidance_leads_away_from_the_plain_side() -> None:
    net, told, noise = tiny_net(), sides(), chunks(1)
    plain, none, strong = (
        causal_shot(net, told, noise, steps=1, shift=SHIFT, guidance=g) for g in (0.0, 1.0, 2.5)
    )
    assert rel(strong, plain + 2.5 * (none - plain)) < 1e-6


def test_each_side_keeps_its_own_history() -> None:
    """With guidance 2.5 the second chunk mixes two flows, each over its own cache."""
    net, told, noise = tiny_net(), sides(), chunks()
    made = causal_shot(net, told, noise, steps=1, shift=SHIFT, guidance=2.5)
    first = made[:, :CHUNK]
    given, free = (by_one_pass(net, alone(told, row), noise[1], first) for row in (0, 1))
    assert rel(made[:, CHUNK:], free + 2.5 * (given - free)) < 1e-6


class StandIn:
    """Latents to pictures and back, without any learning; remembers what it encoded."""

    dtype = torch.float32
    latent_channels, spatial_stride, temporal_stride = 16, 8, 4

    def __init__(self) -> None:
        self.encoded: list[Tensor] = []

    def decode_full(self, latents: Tensor) -> Tensor:
        frames = latents[0, :, :3].repeat_interleave(4, 0)[3:]
        return torch.nn.functional.interpolate(frames, scale_factor=8.0)[None].tanh()

    def encode_frames(self, frames: Tensor) -> Tensor:
        self.encoded.append(frames)
        return torch.nn.functional.avg_pool2d(frames, 8).repeat(1, 6, 1, 1)[:, :16]


def stand_in() -> Any:
    return StandIn()


def teacher(codec: Any, *, bidirectional: bool = False, steps: int = 2) -> TeacherFilms:
    torch.manual_seed(1)
    text = NanoText(NanoTextNet().requires_grad_(False))
    net = tiny_net(torch.float32)
    examinee = Examinee(net=net, text=text, stream=STREAM, bidirectional=bidirectional)
    return TeacherFilms(examinee, codec, steps=steps, guidance=2.5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_seed_is_one_film(bidirectional: bool) -> None:
    films = teacher(stand_in(), bidirectional=bidirectional)
    first, again, other = (films.make(CAPTIONS, seed) for seed in (3, 3, 4))
    assert first.shape == (2, 21, 3, 32, 48)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_second_shot_follows_frames_encoded_again() -> None:
    codec = stand_in()
    films = teacher(codec)
    made = films.make(CAPTIONS, 3)
    (seen,) = codec.encoded  # nobody sees the last shot
    assert torch.equal(seen, made[0][[0, 4, 8, 10, 12, 16, 20]])
    # By hand: the same second shot from the same context, and another one without any.
    examinee = films._teacher
    words = caption_ids(CAPTIONS)[0][None]
    film = Film(codec, STREAM, words, 6)
    film.remember_frames([made[0]])
    batch = film.batch()
    assert batch.shots == (1,)
    assert float(batch.context.abs().min()) > 0
    doubled = dataclasses.replace(
        batch, context=torch.cat([batch.context] * 2), words=torch.cat([words] * 2),
        shots=(1, 1), context_shots=torch.cat([batch.context_shots] * 2),
    )  # fmt: skip
    for dropped, same in (([False, True], True), ([True, True], False)):
        captions = examinee.text.captions(doubled.words, [False, True])
        told = condition(doubled, captions, dropped=dropped, quirks=examinee.quirks)
        noise = [PhiloxNoise(3).draw(1, chunk, 0, (1, CHUNK, 16, 4, 6)) for chunk in range(2)]
        shift = STREAM.schedule.shift
        shot = causal_shot(examinee.net, told, noise, steps=2, shift=shift, guidance=2.5)
        assert torch.equal(codec.decode_full(shot)[0], made[1]) == same


def test_the_plain_side_has_neither_text_nor_context() -> None:
    films = teacher(stand_in())
    film = Film(stand_in(), STREAM, caption_ids(CAPTIONS)[0][None], 6)
    film.remember_frames([torch.rand(21, 3, 32, 48)])
    told = films._sides(film.batch())
    assert told.captions.lengths.tolist()[1] == [0, 0]
    assert min(told.captions.lengths.tolist()[0]) > 5
    assert float(told.captions.embeddings[1].abs().max()) == 0
    assert float(told.context[1].abs().max()) == 0
    assert told.flags.tolist() == [[0] * 6 + [1]] * 2
    assert told.caption_index[0].tolist() == [0] * 6 + [1]


def test_the_bidirectional_form_is_the_sampler_of_trajectories() -> None:
    films = teacher(stand_in(), bidirectional=True)
    made = films.make(CAPTIONS[:1], 3)
    examinee, words = films._teacher, caption_ids(CAPTIONS[:1])[0][None]
    batch = Film(stand_in(), STREAM, words, 6).batch()
    captions = examinee.text.captions(words, [False])
    told = condition(batch, captions, dropped=[False], quirks=examinee.quirks)
    plain = told.replaced(examinee.text.unconditional(words))
    noise = [PhiloxNoise(3).draw(0, chunk, 0, (1, CHUNK, 16, 4, 6)) for chunk in range(2)]
    *_, shot = sample_states(
        examinee.net, told, plain, torch.cat(noise, 1), steps=2, guidance=2.5,
        shift=STREAM.schedule.shift, context_clean=True,
    )  # fmt: skip
    assert torch.equal(made[0], stand_in().decode_full(shot)[0])


def test_captions_are_embedded_as_a_session_embeds_them() -> None:
    global_caption, texts = story_captions(make_story(900_000_000, 3))
    captions = Story(global_caption=global_caption, shots=tuple(texts)).captions
    torch.manual_seed(0)
    net = NanoTextNet().requires_grad_(False)
    wanted, lengths = NanoTextEncoder(net).encode(captions)
    found = NanoText(net).captions(caption_ids(captions)[0][None], [False])
    assert found.lengths[0].tolist() == lengths
    torch.testing.assert_close(found.embeddings[0], wanted[:, : max(lengths)])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student folder without a student, and a teacher's checkpoint of that shape."""
    folder = tmp_path_factory.mktemp("small")
    model = dataclasses.replace(TINY, latent_height=12, latent_width=20)
    stream = StreamConfig(model=model)
    StudentManifest(stream=stream, codec={}, text={}).write(folder / "student.json")
    shutil.copy(NANO_FOLDER / "codec.safetensors", folder / "codec.safetensors")
    weights = start_weights("random", model, text=True, seed=0)
    save_product(folder / "flow.pt", weights, steps=0, train_s=0, stage="x")
    return folder, folder / "flow.pt"


def command(small: tuple[Path, Path], *more: str) -> list[str]:
    folder, file = small
    return [
        "evaluate", "--model", str(folder), "--teacher", str(file), "--teacher-steps", "1",
        "--stories", "1", "--shots", "2", "--json", *more,
    ]  # fmt: skip


def test_the_command_measures_a_teacher(
    small: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, sheet = tmp_path / "r.jsonl", tmp_path / "sheet.png"
    call = command(small, "--records", str(records), "--sheet", str(sheet))
    assert main(call) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["teacher"]["steps"] == 1
    assert "causal, 1 steps, guidance 2.5" in report["model"]
    assert report["scores"]["place"]["n"] == 2
    assert "tint" not in report
    assert sheet.is_file()
    # The same again from the records, divided by itself.
    assert main(command(small, "--records", str(records), "--against", str(records))) == 0
    lines = capsys.readouterr().out.splitlines()
    again = json.loads(lines[-1])
    assert again["scores"] == report["scores"]
    assert again["against"]["stories"] == 1
    assert all(row["value"] == 1 for row in again["against"]["figures"].values())
    assert any("stories made by both" in line for line in lines)
    # Records of other options, of a model, and of a teacher do not mix.
    for change in (("--teacher-guidance", "1"), ("--teacher-form", "bidirectional")):
        assert main(command(small, "--records", str(records), *change)) == 2
        assert "belongs to" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="belongs to"):
        evaluate(EvaluationConfig(stories=1, shots=2, records=records))


def test_wrong_teachers_are_named(small: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = small
    with pytest.raises(ConfigError, match="no such checkpoint"):
        TeacherConfig(checkpoint=tmp_path / "none.pt")
    for change in ({"form": "sideways"}, {"steps": 0}, {"guidance": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            TeacherConfig(checkpoint=file, **change)
    chosen = TeacherConfig(checkpoint=file)
    with pytest.raises(ConfigError, match="in no session"):
        EvaluationConfig(teacher=chosen, threads=2)
    with pytest.raises(WeightsError, match="same shape"):
        evaluate(EvaluationConfig(teacher=chosen, stories=1, shots=1))
    shutil.copy(folder / "codec.safetensors", tmp_path / "codec.safetensors")
    StudentManifest(stream=STREAM, codec={}, text={}).write(tmp_path / "student.json")
    with pytest.raises(ConfigError, match="drawn world"):
        evaluate(EvaluationConfig(model=str(tmp_path), teacher=chosen, stories=1))


def record(seed: int, places: list[bool]) -> FilmRecord:
    someone = CharacterFacts(
        who=0, seen_species="cat", seen_color="red", species=True, color=True, accessory=True
    )  # fmt: skip
    shots = tuple(
        ShotRecord(
            facts=ShotFacts(place=place, time=None, framing=True, characters=(someone,)),
            asked_action="jumps", actions=("jumps",), figures={},
        )
        for place in places
    )  # fmt: skip
    return FilmRecord(seed=seed, shots=shots, pairs={}, cuts=CutCount(hits=1, missed=0, false=0))


def test_ratios_are_paired_by_story() -> None:
    """Hard stories are hard for both: pairing takes their spread out."""
    shares = [[True, True]] * 10 + [[True, False]] * 10 + [[False, True]] * 10
    films = [record(seed, places) for seed, places in enumerate(shares)]
    same = paired_ratio(films, films, "place")
    assert (same.estimate.value, same.estimate.low, same.estimate.high) == (1, 1, 1)
    assert same.within == "yes"
    half = paired_ratio(films, [record(f.seed, [True, True]) for f in films], "place")
    assert half.estimate.value == pytest.approx(2 / 3)
    assert half.within == "no"
    assert half.estimate.low < 2 / 3 < half.estimate.high


def test_only_like_records_are_compared(tmp_path: Path) -> None:
    ruler = {"detector": "d", "shots": 2}
    book = RecordBook(tmp_path / "r.jsonl", {**ruler, "model": "x"})
    for seed in range(4):
        book.add("model", record(seed, [True, True]))
        book.add("drawn", record(seed, [False, False]))
    mine = [record(seed, [True, seed > 2]) for seed in (2, 3, 9)]
    found = compare_records(mine, tmp_path / "r.jsonl", ruler)
    assert found["stories"] == 2
    assert found["figures"]["place"]["value"] == pytest.approx(0.75)
    assert found["figures"]["place"]["within"] == "open"
    assert "direction" not in found["figures"]  # nobody was asked to walk
    with pytest.raises(ConfigError, match="measured with shots"):
        compare_records(mine, tmp_path / "r.jsonl", {**ruler, "shots": 5})
    with pytest.raises(ConfigError, match="shares no story"):
        compare_records(mine[2:], tmp_path / "r.jsonl", ruler)
    with pytest.raises(ConfigError, match="no such file"):
        compare_records(mine, tmp_path / "none.jsonl", ruler)


def test_a_real_codec_fits_the_protocol() -> None:
    """The stand-in above is called as the shipped codec is."""
    codec = NanoCodec.load(NANO_FOLDER / "codec.safetensors")
    frames = codec.decode_full(torch.zeros(1, 2, 16, 4, 6))[0]
    assert frames.shape == (5, 3, 32, 48)
    assert codec.encode_frames(frames).shape == (5, 16, 4, 6)
