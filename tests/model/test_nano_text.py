"""The nano text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.captions import TextEncoder
from shotstream_rt.model.nano.text import TEXT_DIM, TEXT_LEN, NanoTextEncoder, NanoTextNet
from shotstream_rt.model.nano.vocabulary import TOKEN_IDS, TOKENS


@pytest.fixture
def encoder(seeded: int) -> NanoTextEncoder:
    return NanoTextEncoder(NanoTextNet())


def test_it_is_a_text_encoder(encoder: NanoTextEncoder) -> None:
    assert isinstance(encoder, TextEncoder)
    assert (encoder.text_dim, encoder.text_len) == (TEXT_DIM, TEXT_LEN)


def test_rows_past_the_length_are_zero(encoder: NanoTextEncoder) -> None:
    embeddings, lengths = encoder.encode(["a red cat", "a red cat jumps on a beach"])
    assert embeddings.shape == (2, TEXT_LEN, TEXT_DIM)
    assert lengths == [2, 4]
    for row, length in zip(embeddings, lengths, strict=True):
        assert (row[:length].abs().sum(-1) > 0).all()
        assert (row[length:] == 0).all()


def test_a_caption_does_not_depend_on_its_company(encoder: NanoTextEncoder) -> None:
    alone, _ = encoder.encode(["a red cat"])
    among, _ = encoder.encode(["a red cat", "a blue robot with a pink hat dances in a forest"])
    torch.testing.assert_close(among[0], alone[0])


def test_synonyms_and_story_form_meet(encoder: NanoTextEncoder) -> None:
    first, _ = encoder.encode(["A red cat on a beach. shot2:Wide shot: the red cat jumps."])
    second, _ = encoder.encode(["crimson kitty at the seaside. wide view, crimson kitty hops"])
    assert torch.equal(first, second)


def test_no_known_word_is_an_empty_caption(encoder: NanoTextEncoder) -> None:
    embeddings, lengths = encoder.encode(["xyzzy"])
    assert lengths == [0]
    assert (embeddings == 0).all()


def test_a_long_prompt_is_cut_and_noted(encoder: NanoTextEncoder) -> None:
    prompt = "red cat " * 40
    assert encoder.encode([prompt])[1] == [TEXT_LEN]
    assert any("cut" in note for note in encoder.check(prompt))


def test_check_names_unknown_words_once(encoder: NanoTextEncoder) -> None:
    (note,) = encoder.check("a dragon and a cat and a dragon")
    assert note.count("dragon") == 1
    assert encoder.check("a red cat on a beach") == []
    assert any("no known word" in note for note in encoder.check("hello"))


def test_notes_show_other_scripts_and_stay_short(encoder: NanoTextEncoder) -> None:
    (note,) = encoder.check("a red cat with a зонт \u202eevil")
    assert "does not know: зонт, evil" in note
    notes = encoder.check(" ".join(f"w{'x' * n}" for n in range(140)) + " " + "猫" * 5000)
    assert "and 91 more" in notes[0]
    assert all(len(note) < 5000 for note in notes)


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file"):
        NanoTextEncoder.load(tmp_path / "text.safetensors")
    save_file({"positions": torch.zeros(1)}, str(tmp_path / "text.safetensors"))
    with pytest.raises(WeightsError, match="does not fit"):
        NanoTextEncoder.load(tmp_path / "text.safetensors")


def test_weights_from_before_the_times_of_day_load(tmp_path: Path, seeded: int) -> None:
    """Words beyond their table are unknown words, whatever the table of this version holds."""
    path = tmp_path / "text.safetensors"
    save_file(NanoTextNet(TOKEN_IDS["by-day"]).state_dict(), str(path))
    encoder = NanoTextEncoder.load(path)
    told, lengths = encoder.encode(["a red cat on a beach at sunset", "a red cat on a beach"])
    assert lengths == [3, 3]
    torch.testing.assert_close(told[0], told[1])  # a row's sums may depend on its place in a batch
    (note,) = encoder.check("a red cat on a beach at sunset")
    assert "does not know: at sunset" in note


def test_weights_of_a_later_vocabulary_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    save_file(NanoTextNet(len(TOKENS) + 1).state_dict(), str(path))
    with pytest.raises(WeightsError, match="does not fit"):
        NanoTextEncoder.load(path)
