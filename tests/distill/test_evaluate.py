"""Detectors and the whole evaluation: the ruler itself is measured first."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream_distill.evaluation import evaluate as evaluation
from shotstream_distill.evaluation.context_swap import (
    ContextSwap,
    correlation_within,
    hue_donor,
    swap_estimates,
    tint_donor,
    tint_shift,
)
from shotstream_distill.evaluation.detectors import Detector, majority, name_color
from shotstream_distill.evaluation.evaluate import EvaluationConfig, evaluate, measure_ceilings
from shotstream_distill.evaluation.film import drawn_films, held_out_seeds, told
from shotstream_distill.evaluation.identity import IdentitySpace
from shotstream_distill.evaluation.judge import (
    Judge,
    frame_change,
    meaning,
    pairwise,
    position_error,
)
from shotstream_distill.evaluation.records import FilmRecord, RecordBook
from shotstream_distill.evaluation.text_table import report_lines
from shotstream_distill.evaluation.tune_detector import score_pictures
from shotstream_distill.world.characters import PALETTE
from shotstream_distill.world.render import render_shot
from shotstream_distill.world.story import make_story
from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.model.nano.vocabulary import SPECIES


@pytest.fixture
def drawn_model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model that draws perfectly, and whose context is not swapped; lists what was made."""
    made: list[str] = []

    def source(
        name: str, model: str, threads: int = 1, profile: str = "exact",
        captions: str = "story", dtype: str | None = None,
    ) -> Any:  # fmt: skip
        draw = drawn_films()

        def make(story: Any, number: int) -> torch.Tensor:
            made.append(f"{name} {number}")
            return draw(story, number)

        return make

    class NoSwap:
        def __init__(
            self, model: str, detector: Detector, profile: str = "exact", dtype: str | None = None
        ) -> None:
            pass

        def measure(self, story: Any, number: int) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(evaluation, "film_source", source)
    monkeypatch.setattr(evaluation, "ContextSwap", NoSwap)
    return made


def test_a_perfect_model_scores_full_marks(drawn_model: list[str], tmp_path: Path) -> None:
    from PIL import Image

    sheet = tmp_path / "sheet.png"
    report = evaluate(EvaluationConfig(stories=2, shots=2, sheet=sheet))
    for name in ("place", "framing", "species", "color", "action"):
        assert report["scores"][name]["value"] == 1, name
    assert report["cuts"]["counts"] == {"hits": 2, "missed": 0, "false": 0}
    assert report["returns"]["right"]["value"] == 1
    for name in ("jitter", "sharpness", "latent_std"):
        assert report["means"][name]["value"] == pytest.approx(1, abs=0.02), name
    assert report["means"]["intra_subject"]["value"] > 0.9
    assert report["pairs"]["subject"]["value"] > 0.8
    assert len(report["by_shot"]) == 2
    assert "position" not in report["means"]
    json.dumps(report)
    assert any("drift" in line for line in report_lines(report))
    assert Image.open(sheet).size[0] > 2 * 160


def test_a_stopped_evaluation_goes_on(drawn_model: list[str], tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    config = EvaluationConfig(stories=1, shots=1, records=records)
    first = evaluate(config)
    whole = records.read_text("utf-8")
    records.write_text(whole + '{"source": "model", "see', "utf-8")
    assert evaluate(config) == first
    assert drawn_model == ["model 0"]
    with pytest.raises(ConfigError, match="belongs to"):
        evaluate(dataclasses.replace(config, shots=2))


def test_ceilings_are_those_of_true_pictures(drawn_model: list[str]) -> None:
    found = measure_ceilings(EvaluationConfig(stories=1, shots=1))
    assert found["drawn"]["scores"]["place"]["value"] == 1
    assert 0 < found["drawn"]["means"]["position"]["value"] < 5
    assert drawn_model == ["drawn 0", "codec 0"]


def test_a_folder_without_a_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks"):
        evaluate(EvaluationConfig(model=str(tmp_path), stories=1))
    with pytest.raises(ConfigError, match="stories"):
        EvaluationConfig(stories=0)
    with pytest.raises(ConfigError, match="captions: got 'long', wanted one of"):
        EvaluationConfig(captions="long")


def test_films_of_other_captions_are_other_records(drawn_model: list[str], tmp_path: Path) -> None:
    config = EvaluationConfig(stories=1, shots=1, records=tmp_path / "r.jsonl", captions="spare")
    assert evaluate(config)["captions"] == "spare"
    with pytest.raises(ConfigError, match="belongs to"):
        evaluate(dataclasses.replace(config, captions="story"))


def test_a_spare_story_has_all_its_words_in_the_shots() -> None:
    story = make_story(9, 3)
    spare, whole = told(story, "spare"), told(story)
    assert spare.global_caption == ""
    assert whole.global_caption
    assert len(spare.shots) == len(whole.shots) == 3


def test_records_survive_the_disk(tmp_path: Path) -> None:
    story = make_story(9, 1)
    film = drawn_films()(story, 0)
    record = Judge(NANO_FOLDER / "codec.safetensors").judge(story, film)
    book = RecordBook(tmp_path / "r.jsonl", {"model": "x"})
    book.add("model", record)
    again = RecordBook(tmp_path / "r.jsonl", {"model": "x"}).get("model", 9)
    assert again == record
    assert FilmRecord.from_dict(json.loads(json.dumps(record.as_dict()))) == record


def test_the_detector_reads_drawn_frames() -> None:
    detector = Detector.load()
    shares = score_pictures(detector._net, 24)
    assert shares["place"]["value"] == 1
    for name in ("framing", "color", "species"):
        assert shares[name]["value"] > 0.9


def test_one_character_is_nearer_to_itself_than_to_its_double() -> None:
    """The double has the same kind, colour and clothes, but another hue, size and belly.

    Framings are equal here: across framings a double differs less than a character from itself.
    """
    detector, space = Detector.load(), IdentitySpace.load()
    cosines: dict[str, list[float]] = {"itself": [], "double": [], "stranger": []}
    for seed in range(16):
        story = make_story(533_000_000 + seed, 2)
        double = hue_donor(dataclasses.replace(story, seed=900_000_000 + seed))
        shots = tuple(dataclasses.replace(s, framing="medium-shot") for s in story.shots)
        vectors = []
        for one, index, who in ((story, 0, 0), (story, 1, 0), (double, 1, 0), (story, 1, 1)):
            alone = tuple(dataclasses.replace(s, who=who) for s in shots)
            one = dataclasses.replace(one, shots=alone, setting=story.setting)
            sight = detector.see(render_shot(one, index, [24])[0])
            vectors.append(space.subject_vector(sight, 0, one.characters[who].species))
        first = vectors[0]
        assert first is not None
        for kind, other in zip(cosines, vectors[1:], strict=True):
            assert other is not None
            cosines[kind].append(float(first @ other))
    mean = {kind: sum(values) / len(values) for kind, values in cosines.items()}
    assert mean["itself"] > mean["double"]
    assert mean["itself"] > 0.85
    assert mean["stranger"] < 0.3


def test_missing_vectors_count_as_different_and_two_missing_do_not_count() -> None:
    one = torch.tensor([1.0, 0])
    assert pairwise([one, one, None]) == [1.0, 0.0, 0.0]
    assert pairwise([None, None]) == []


def test_positions_are_compared_in_widths_of_the_frame() -> None:
    story = make_story(1, 1)
    shot = story.shots[0]
    _, masks = render_shot(story, 0, [0, 24, 48, 72])
    sight = Detector.load().see(torch.zeros(21, 3, 96, 160))
    drawn = torch.zeros(21, 48, 80, dtype=torch.long)
    drawn[[0, 6, 12, 18]] = ((masks[:, 1::2, 1::2] & 15).long() + 1) // 2
    assert position_error(story, shot, masks, dataclasses.replace(sight, classes=drawn)) == 0
    # A square in the middle, which nothing cuts off when it moves.
    who = shot.cast[0]
    species = SPECIES.index(story.characters[who].species)
    alone = dataclasses.replace(shot, who=who)
    square, there = torch.zeros_like(drawn), torch.zeros_like(masks)
    square[:, 20:30, 30:40] = 1 + species
    there[:, 40:60, 60:80] = 1 + 2 * species + who
    moved = dataclasses.replace(sight, classes=square.roll(4, -1))
    assert position_error(story, alone, there, moved) == pytest.approx(100 * 4 / 80)
    nobody = dataclasses.replace(sight, classes=torch.zeros_like(drawn))
    assert position_error(story, alone, there, nobody) is None


def test_a_shot_means_its_place_and_people() -> None:
    detector = Detector.load()
    made = []
    for seed in (1, 1, 2):
        sight = detector.see(render_shot(make_story(seed), 0, [0, 24])[0])
        made.append(meaning(sight, detector.readings(sight, [0, 1])))
    assert float(made[0] @ made[1]) == pytest.approx(1)
    assert float(made[0] @ made[2]) < 0.9


def test_held_out_stories_of_two_seeds_do_not_overlap() -> None:
    assert not set(held_out_seeds(100, 0)) & set(held_out_seeds(100, 1))


def test_colors_are_named_under_shading() -> None:
    for name, value in PALETTE.items():
        pixels = torch.tensor([list(value)]).repeat(50, 1) * 0.88
        assert name_color(pixels) == name


def test_majority_prefers_the_earliest_on_ties() -> None:
    assert majority(["b", "a", "a", "b"]) == "b"
    assert majority(["a", "b", "b"]) == "b"


def test_still_frames_do_not_change() -> None:
    assert frame_change(torch.ones(4, 3, 8, 8)) == 0


@pytest.mark.parametrize("kind", [Detector, IdentitySpace])
def test_missing_weights_are_named(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file"):
        kind.load(tmp_path / "weights.safetensors")


def test_a_tint_is_read_off_the_background() -> None:
    for seed in range(6):
        story = make_story(seed)
        plain = dataclasses.replace(story.setting, tint=(0.0, 0.0, 0.0))
        expected = render_shot(dataclasses.replace(story, setting=plain), 0, [0, 8])
        frames, _ = render_shot(story, 0, [0, 8])
        shift = tint_shift(frames, *expected)
        wanted = torch.tensor(story.setting.tint)
        assert (shift - wanted).abs().max() < 0.03


def test_differences_between_places_do_not_count() -> None:
    first = torch.tensor([[0.0, 0, 0], [1, 1, 1], [10, 10, 10], [11, 11, 11]])
    second = torch.tensor([[5.0, 5, 5], [6, 6, 6], [0, 0, 0], [1, 1, 1]])
    together = correlation_within(first, second, torch.tensor([0, 0, 1, 1]), torch.arange(4))
    assert math.isclose(together, 1.0, abs_tol=1e-5)


def test_donors_share_what_captions_tell_and_nothing_hidden() -> None:
    story = make_story(900_000_003, 5)
    tint, hue = tint_donor(story), hue_donor(story)
    for donor in (tint, hue):
        assert (donor.setting.place, donor.setting.time) == (
            story.setting.place, story.setting.time,
        )  # fmt: skip
    assert tint.setting.tint != story.setting.tint
    assert hue.setting.tint != story.setting.tint
    for mine, its in zip(story.characters, hue.characters, strict=True):
        assert (mine.species, mine.color) == (its.species, its.color)
        assert mine.hue != its.hue
    assert hue.shots[0].cast == story.shots[1].cast


def test_swaps_are_correlated_with_what_was_given() -> None:
    torch.manual_seed(0)
    records = []
    for index in range(40):
        given, own, noise = torch.randn(3, 3).unbind(0)
        records.append(
            {
                "place": "ab"[index % 2],
                "tint": {
                    "made": (given + 0.3 * noise).tolist(), "blind": noise.tolist(),
                    "given": given.tolist(), "own": own.tolist(),
                },
            }
        )  # fmt: skip
    use = swap_estimates(records, "tint")
    assert use is not None
    assert use.given.value > 0.9
    assert use.given.low > max(use.own.high, use.absent.high)
    plain = use.as_dict()
    assert plain["n"] == 120
    assert plain["intervals"]["given"][0] < plain["given"] < plain["intervals"]["given"][1]
    assert swap_estimates(records, "hue") is None
    assert swap_estimates(records[:5], "tint") is None


def test_a_swap_of_the_shipped_model_is_measured() -> None:
    swap = ContextSwap("nano", Detector.load())
    record = swap.measure(make_story(900_000_001, 2), 0)
    swap.close()
    assert set(record["tint"]) == {"made", "blind", "given", "own"}
    assert all(len(values) == 3 for values in record["tint"].values())
    json.dumps(record)
