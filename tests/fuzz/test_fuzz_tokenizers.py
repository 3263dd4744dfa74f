"""Damaged tokenizer files: their tables and texts, in both formats."""

from __future__ import annotations

import base64
import io
import json

import pytest

from shotstream_rt.model.umt5.charsmap import charsmap_of_sentencepiece
from shotstream_rt.model.umt5.tokenizer import PromptTokenizer

for library in ("tokenizers", "sentencepiece", "ftfy"):
    pytest.importorskip(library, reason="the text extra is not installed")

TEXTS = ["a red cat walks on the beach", "two friends laugh", "a city street in the rain"]
PROMPTS = ("A red cat \u00e9\ufb01", "\u732b\u3000x", "")


@pytest.fixture(scope="module")
def piece() -> bytes:
    """A ``spiece.model`` with the table of NFKC in it."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 8), model_writer=model, vocab_size=50, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def use(folder):
    tokenizer = PromptTokenizer(folder, 8)
    for prompt in PROMPTS:
        tokenizer(prompt)


@pytest.mark.parametrize("part", ["table", "settings"])
def test_fast_tokenizers(part, piece, surface, tmp_path):
    table = charsmap_of_sentencepiece(piece)
    vocabulary = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -2.0]]
    vocabulary += [[letter, -3.0] for letter in "abcdeinorstx"]
    good = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": ""},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
        "post_processor": None,
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": False},
    }  # fmt: skip

    def attempt(mutator):
        if part == "table":
            damaged = mutator.data(table)
            good["normalizer"]["precompiled_charsmap"] = base64.b64encode(damaged).decode()
            (tmp_path / "tokenizer.json").write_text(json.dumps(good))
        else:
            good["normalizer"]["precompiled_charsmap"] = base64.b64encode(table).decode()
            (tmp_path / "tokenizer.json").write_bytes(mutator.text(good))
        use(tmp_path)

    surface.run(attempt, 40)


@pytest.mark.parametrize("part", ["begin", "anywhere"])
def test_sentencepiece(part, piece, surface, tmp_path):
    path = tmp_path / "spiece.model"
    table = piece.find(charsmap_of_sentencepiece(piece))

    def attempt(mutator):
        if part == "begin":  # the vocabulary
            path.write_bytes(mutator.data(piece[:table]) + piece[table:])
        else:
            path.write_bytes(mutator.data(piece))
        use(tmp_path)

    surface.run(attempt, 40)
