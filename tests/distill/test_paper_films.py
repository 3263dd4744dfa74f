"""The original's dataset format: read whole, and named when broken."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream_distill.common.processes import Processes
from shotstream_distill.common.product import save_product, start_weights
from shotstream_distill.common.sequence import Captions
from shotstream_distill.common.step_rng import StepRng
from shotstream_distill.paper.film_files import read_films, read_frames
from shotstream_distill.paper.film_shots import FilmShots, target_frames
from shotstream_distill.paper.finish import save_released
from shotstream_distill.paper.inter_shot_stage import InterShotStage
from shotstream_distill.paper.ode_pairs import make_pairs
from shotstream_distill.paper.ode_stage import OdeStage
from shotstream_distill.paper.run import Run
from shotstream_distill.paper.run_config import RunConfig
from shotstream_distill.paper.shot_batch import Words
from shotstream_distill.paper.stage_services import StageServices
from shotstream_distill.paper.teacher_stage import TeacherStage
from shotstream_distill.paper.text_side import FrozenText, NanoText
from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.student_weights import open_student
from shotstream_rt.media.video import VideoWriter
from shotstream_rt.model.nano.codec import NanoCodec, NanoCodecNet
from shotstream_rt.model.nano.text import NanoTextNet
from shotstream_rt.model.nano.vocabulary import TOKEN_IDS

RANGES = [[0, 9], [10, 22], [24, 45]]  # with gaps, which the original gets wrong
HEIGHT, WIDTH = 32, 48


def film(folder: Path, name: str = "a", frames: int = 45) -> dict[str, str]:
    """One film: frame n is a picture of brightness 5 n."""
    with VideoWriter(folder / f"{name}.mp4", height=HEIGHT, width=WIDTH, crf=0) as writer:
        for number in range(frames):
            writer.write(np.full((HEIGHT, WIDTH, 3), 5 * number, np.uint8))
    story = {"global_caption": "A day.", "shot1": "one", "shot2": "two", "shot3": "three"}
    (folder / f"{name}.json").write_text(json.dumps(story), encoding="utf-8")
    return {"shot_num_from_caption": "3", "json_path": f"{name}.json",
            "frame_number": str(RANGES), "video_path": f"{name}.mp4"}  # fmt: skip


def table(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "films.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def codec() -> NanoCodec:
    torch.manual_seed(0)
    return NanoCodec(NanoCodecNet())


MODEL = ModelConfig(
    dim=16, ffn_dim=16, num_heads=1, num_layers=1, text_dim=8, text_len=12, latent_height=4,
    latent_width=6,
)  # fmt: skip


def test_frames_come_by_number_and_size(tmp_path: Path) -> None:
    film(tmp_path)
    frames = read_frames(tmp_path / "a.mp4", [40, 0, 7], (16, 24))
    assert frames.shape == (3, 3, 16, 24)
    levels = (frames.mean((1, 2, 3)) + 1) * 127.5
    torch.testing.assert_close(levels, torch.tensor([200.0, 0.0, 35.0]), atol=3.0, rtol=0)


def test_strides_fill_the_shot() -> None:
    assert target_frames(24, 45, 9) == list(range(24, 42, 2))
    assert target_frames(0, 9, 9) == list(range(9))
    with pytest.raises(ConfigError, match="wanted at least 9"):
        target_frames(0, 8, 9)


def test_samples_follow_absolute_ranges(tmp_path: Path) -> None:
    path = table(tmp_path, [film(tmp_path)])
    source = FilmShots(path, codec(), model=MODEL, context_frames=6)
    batch = source.shots(StepRng(0, "t", 0), 2, 3)
    assert batch.shots == (2, 2)
    assert batch.context_shots.tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    assert batch.target.shape == (2, 3, 16, 4, 6)
    picked = [0, 4, 8, 10, 15, 21]  # rounded on the frames of shots laid end to end
    frames = read_frames(tmp_path / "a.mp4", picked, (HEIGHT, WIDTH))
    torch.testing.assert_close(batch.context[0], codec().encode_frames(frames))
    assert batch.words[0] == ("A day.shot0:one", "A day.shot1:two", "A day.shot2:three")
    assert source.stories(StepRng(0, "t", 0), 1, 2) == (("A day.shot0:one", "A day.shot1:two"),)
    with pytest.raises(ConfigError, match="no film of the data has that many"):
        source.stories(StepRng(0, "t", 0), 1, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_number": "[[0, 9"}, "wanted a list of"),
        ({"frame_number": "[]"}, "non-empty ranges"),
        ({"frame_number": "[[0, 9], [5, 12]]"}, "rising"),
        ({"frame_number": "__import__('os')"}, "wanted a list of"),
        ({"json_path": "none.json"}, "no such story file"),
        ({"frame_number": "[[0,1],[1,2],[2,3],[3,4]]"}, "wanted 4 shots"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = table(tmp_path, [{**film(tmp_path, frames=1), **change}])
    with pytest.raises(ConfigError, match=r"films\.csv:2") as caught:
        read_films(path)
    assert message in str(caught.value)


def test_broken_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such table"):
        read_films(tmp_path / "none.csv")
    path = tmp_path / "films.csv"
    path.write_text("json_path,frame_number\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no column video_path"):
        read_films(path)
    path.write_text("json_path,frame_number,video_path\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no rows"):
        read_films(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_films(path)


def test_broken_videos_are_named(tmp_path: Path) -> None:
    film(tmp_path, frames=12)
    with pytest.raises(ConfigError, match="got no frame 44"):
        read_frames(tmp_path / "a.mp4", [0, 44], (32, 48))
    with pytest.raises(ConfigError, match=r"none\.mp4"):
        read_frames(tmp_path / "none.mp4", [0], (32, 48))
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ConfigError, match="cannot be decoded"):
        read_frames(tmp_path / "a.mp4", [0], (32, 48))


def test_a_broken_film_is_passed_over_and_a_broken_set_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [film(tmp_path, "a"), film(tmp_path, "b", frames=12)]
    source = FilmShots(table(tmp_path, rows), codec(), model=MODEL, context_frames=6)
    source.shots(StepRng(3, "t", 0), 4, 3)
    assert "b.mp4" in caplog.text
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match="in a row cannot be read"):
        source.shots(StepRng(1, "t", 0), 1, 3)


class Letters:
    """A text encoder that knows letters."""

    text_dim, text_len = 8, 12

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, list[int]]:
        out = torch.zeros(len(prompts), self.text_len, self.text_dim)
        lengths = [min(len(p), self.text_len) for p in prompts]
        for row, prompt in enumerate(prompts):
            for column in range(lengths[row]):
                out[row, column, ord(prompt[column]) % 8] = 1.0
        return out, lengths

    def check(self, prompt: str) -> list[str]:
        return []


def test_frozen_captions_keep_lengths_and_drops() -> None:
    side = FrozenText(Letters(), "bad", "cpu")
    words: Words = (("ab", "abcd"), ("abc",))
    told: Captions = side.captions(words, [False, True])
    assert told.lengths.tolist() == [[2, 4], [0, 0]]
    assert told.embeddings[1].abs().sum() == 0
    assert side.unconditional(words).lengths.tolist() == [[3], [3]]


def test_an_encoder_from_before_drops_later_words() -> None:
    text = NanoText(NanoTextNet(TOKEN_IDS["by-day"]))
    later = TOKEN_IDS["at-sunset"]
    words = torch.tensor([[[3, later, 9, 0]], [[3, 9, 0, 0]]])
    told = text.captions(words, [False, False])
    assert told.lengths.tolist() == [[2], [2]]
    torch.testing.assert_close(told.embeddings[0], told.embeddings[1])


def test_the_full_size_stages_take_real_steps_at_reduced_width(tmp_path: Path) -> None:
    config = RunConfig.read("wan-1.3b")
    stages = tuple(
        dataclasses.replace(
            stage, frames=3, **({"pairs": 2} if stage.kind == "ode_pairs" else {"steps": 2}),
            **({"lora_rank": 2} if stage.kind == "inter_shot" else {}),
        )
        for stage in config.stages
    )  # fmt: skip
    stream = dataclasses.replace(config.stream, model=MODEL)
    config = dataclasses.replace(config, stream=stream, stages=stages, log_s=1e6)
    made = codec()
    services = StageServices(
        config=config, processes=Processes(), codec=made, text=FrozenText(Letters(), "bad", "cpu"),
        source=FilmShots(
            table(tmp_path, [film(tmp_path)]), made, model=MODEL, context_frames=6
        ),
    )  # fmt: skip
    weights = start_weights("random", MODEL, text=False, seed=0)
    weights["head.head.weight"] = torch.randn_like(weights["head.head.weight"]) * 0.05
    teacher, pairs, ode, _, inter = stages
    make_pairs(services, pairs, weights, tmp_path / "pairs")  # type: ignore[arg-type]
    inter = dataclasses.replace(inter, shots=1)  # type: ignore[call-arg]
    for stage in (
        TeacherStage(services, teacher, weights),  # type: ignore[arg-type]
        OdeStage(services, ode, weights, tmp_path / "pairs", 2),  # type: ignore[arg-type]
        InterShotStage(services, inter, weights, weights),  # type: ignore[arg-type]
    ):
        for step in range(2):
            outcome = stage.loss(step, StepRng(0, "x", step))
            outcome.loss.backward()
            norm = stage.learners[outcome.learner].step(1.0)
            assert 0 < norm < float("inf")
        assert set(stage.product()) == set(weights)
    run = Run(config, tmp_path / "run", Processes())
    save_product(run.product("inter-shot"), weights, steps=2, train_s=0.0, stage="inter-shot")
    save_released(run, tmp_path / "shotstream_merged.pt")
    released = open_student(tmp_path / "shotstream_merged.pt", MODEL).tensors
    assert all(torch.equal(released[name], value) for name, value in weights.items())
