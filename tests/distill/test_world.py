"""Stories, captions and pictures of the drawn world."""

from __future__ import annotations

import dataclasses
import random
import re
from itertools import pairwise

import pytest
import torch

from shotstream_distill.world.captions import free_caption, spare_captions, story_captions
from shotstream_distill.world.characters import MASK_COAT, MASK_HAT, MASK_SCARF
from shotstream_distill.world.render import HEIGHT, WIDTH, render_shot
from shotstream_distill.world.story import BOTH, TIMELESS, make_story
from shotstream_rt.model.nano.vocabulary import PLACES, SPECIES, TIMES, canonical, named


def test_equal_seeds_give_equal_stories() -> None:
    assert make_story(7) == make_story(7)
    assert make_story(7) != make_story(8)


def test_two_characters_differ_in_species_and_color() -> None:
    for seed in range(50):
        first, second = make_story(seed).characters
        assert first.species != second.species
        assert first.color != second.color


def test_two_characters_never_share_a_close_up() -> None:
    shots = [shot for seed in range(200) for shot in make_story(seed).shots]
    assert not [s for s in shots if s.who == BOTH and s.framing == "close-up"]


def test_a_wanted_number_of_shots_is_kept() -> None:
    assert [len(make_story(3, count).shots) for count in (1, 2, 6)] == [1, 2, 6]


def test_a_cut_changes_cast_or_framing() -> None:
    for seed in range(300):
        shots = make_story(seed, 5).shots
        for before, after in pairwise(shots):
            assert (before.who, before.framing) != (after.who, after.framing)


def test_captions_use_known_words_only() -> None:
    rng = random.Random(0)
    for seed in range(60):
        story = make_story(seed)
        global_caption, texts = story_captions(story)
        for index, text in enumerate(texts):
            forms = [f"{global_caption}shot{index}:{text}", free_caption(story, index, rng)]
            forms.append(spare_captions(story)[1][index])
            for form in forms:
                assert canonical(form)[1] == []
                assert re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", form) is None


def test_free_captions_leave_out_coats_that_were_seen_only() -> None:
    rng, bare = random.Random(0), 0
    for seed in range(60):
        story = make_story(seed, 4)
        for index, shot in enumerate(story.shots):
            seen = {who for earlier in story.shots[:index] for who in earlier.cast}
            cast = named(canonical(free_caption(story, index, rng))[0])
            for who, one in zip(shot.cast, cast, strict=True):
                assert one.color in ((), (story.characters[who].color,))
                assert one.color or who in seen
                assert one.color or not one.worn
                bare += not one.color
    assert 20 < bare < 120


def test_the_spare_form_describes_everyone_once() -> None:
    for seed in range(40):
        story = make_story(seed, 5)
        seen: set[int] = set()
        texts = spare_captions(story)[1]
        for index, shot in enumerate(story.shots):
            tokens, _ = canonical(texts[index])
            assert (story.setting.place in tokens) == (index == 0)
            assert shot.framing in tokens
            assert shot.action in tokens
            for who, one in zip(shot.cast, named(tokens), strict=True):
                character = story.characters[who]
                assert one.species == character.species
                assert one.color == (() if who in seen else (character.color,))
                assert bool(one.worn) == (who not in seen and character.accessory is not None)
            seen.update(shot.cast)


def test_the_story_form_names_all_that_is_asked_for() -> None:
    story = make_story(4)
    global_caption, texts = story_captions(story)
    for index, shot in enumerate(story.shots):
        tokens, _ = canonical(f"{global_caption}shot{index}:{texts[index]}")
        told, shot_tokens = tokens[: tokens.index(".")], tokens[tokens.index(".") + 1 :]
        assert story.setting.place in told
        assert shot.framing in shot_tokens
        assert shot.action in shot_tokens
        assert len(named(told)) == len(shot.cast)
        for who, one in zip(sorted(shot.cast), named(told), strict=True):
            character = story.characters[who]
            assert character.species in shot_tokens
            assert character.color in shot_tokens
            assert (one.species, one.color) == (character.species, (character.color,))
            worn = ("with", character.accessory_color, character.accessory)
            assert one.worn == (worn if character.accessory else ())


@pytest.mark.parametrize("place", PLACES)
def test_pictures_are_functions_of_story_and_frame(place: str) -> None:
    story = make_story(11)
    story = dataclasses.replace(story, setting=dataclasses.replace(story.setting, place=place))
    frames, masks = render_shot(story, 0, [0, 5, 30])
    assert frames.shape == (3, 3, HEIGHT, WIDTH)
    assert masks.shape == (3, HEIGHT, WIDTH)
    assert frames.min() >= 0
    assert frames.max() <= 1
    alone, mask_alone = render_shot(story, 0, [5])
    torch.testing.assert_close(alone[0], frames[1])
    assert torch.equal(mask_alone[0], masks[1])


def test_timeless_places_have_no_time() -> None:
    for seed in range(60):
        setting = make_story(seed).setting
        assert (setting.time is None) == (setting.place in TIMELESS)
        assert setting.time is None or setting.time in TIMES


def test_captions_tell_the_time_unless_it_is_day() -> None:
    rng = random.Random(1)
    for seed in range(60):
        story = make_story(seed)
        asked = {story.setting.time} & {"at-sunset", "at-night"}
        assert set(canonical(story_captions(story)[0])[0]) & set(TIMES) == asked
        assert set(canonical(free_caption(story, 0, rng))[0]) & set(TIMES) == asked


def test_the_evening_is_darker_and_no_other_world() -> None:
    story = next(s for s in map(make_story, range(99)) if s.setting.place == "beach")
    drawn = {}
    for time in TIMES:
        setting = dataclasses.replace(story.setting, time=time)
        drawn[time] = render_shot(dataclasses.replace(story, setting=setting), 0, [8])
    light = {time: float(frames.mean()) for time, (frames, _) in drawn.items()}
    assert light["at-night"] < light["at-sunset"] < light["by-day"]
    masks = [masks for _, masks in drawn.values()]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_masks_name_species_and_character() -> None:
    for seed in range(8):
        story = make_story(seed)
        for index, shot in enumerate(story.shots):
            _, masks = render_shot(story, index, [40])
            found = {int(value) for value in (masks & 15).unique()} - {0}
            allowed = {
                1 + 2 * SPECIES.index(story.characters[who].species) + who for who in shot.cast
            }
            assert found <= allowed
            worn = {story.characters[who].accessory for who in shot.cast}
            if not (masks & MASK_HAT).eq(0).all():
                assert "hat" in worn
            if not (masks & MASK_SCARF).eq(0).all():
                assert "scarf" in worn


def test_coat_pixels_show_the_named_color() -> None:
    from shotstream_distill.evaluation.detectors import name_color

    hits, shots = 0, 0
    for seed in range(20):
        story = make_story(seed)
        shot = story.shots[0]
        if shot.who == BOTH:
            continue
        frames, masks = render_shot(story, 0, [40])
        coat = (masks[0] & MASK_COAT) > 0
        hits += name_color(frames[0][:, coat].T[:600]) == story.characters[shot.who].color
        shots += 1
    assert hits == shots


def test_hidden_tint_shows() -> None:
    story = make_story(2)
    lighter = dataclasses.replace(story.setting, tint=(0.05, 0.05, 0.05))
    darker = dataclasses.replace(story.setting, tint=(-0.05, -0.05, -0.05))
    means = [
        render_shot(dataclasses.replace(story, setting=setting), 0, [0])[0].mean()
        for setting in (lighter, darker)
    ]
    assert means[0] > means[1]
    assert story_captions(dataclasses.replace(story, setting=lighter)) == story_captions(story)
