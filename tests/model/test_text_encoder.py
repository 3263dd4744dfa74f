"""Prompts to padded embeddings, with a small tokenizer trained on the fly."""

import io
import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.model.captions import CaptionSet, TextEncoder
from shotstream_rt.model.umt5.network import umt5_from_state
from shotstream_rt.model.umt5.text_encoder import UMT5TextEncoder
from shotstream_rt.model.umt5.tokenizer import PromptTokenizer, clean_prompt

TEXT_LEN = 12
TEXTS = [
    "a red cat walks on the beach at sunset", "a close-up of two friends laughing",
    "wide shot of a city street in the rain", "the dog runs after a ball in the park",
]  # fmt: skip

pytest.importorskip("tokenizers", reason="the text extra is not installed")
pytest.importorskip("ftfy", reason="the text extra is not installed")
pytest.importorskip("transformers", reason="the text extra is not installed")


@pytest.fixture(scope="module")
def fast_folder(tmp_path_factory):
    """A unigram tokenizer.json like umT5's: <pad> 0, </s> 1, <unk> 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder = tmp_path_factory.mktemp("fast")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.enable_padding(length=TEXT_LEN)  # as shipped files may have it on
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def piece_folder(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece", reason="not installed")
    folder = tmp_path_factory.mktemp("piece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=model, vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture
def state(random_umt5):
    return random_umt5(vocab=80, dim=16, inner=16, ffn_dim=24, heads=2, layers=2)


@pytest.fixture
def network(state):
    return umt5_from_state(state)


@pytest.fixture
def encoder(network, fast_folder):
    return UMT5TextEncoder(network, PromptTokenizer(fast_folder, TEXT_LEN))


@pytest.mark.parametrize(("text", "cleaned"), [
    ("  a\tred\n\n cat ", "a red cat"),
    ("cats &amp;amp; dogs", "cats & dogs"),
    ("&lt;b&gt; 5 &gt; 3", "<b> 5 > 3"),
    ("schÃ¶n", "schön"),
    ("a\u3000b\u00a0c", "a b c"),
    ("", ""),
])  # fmt: skip
def test_prompts_are_cleaned_as_wan_does(text, cleaned):
    assert clean_prompt(text) == cleaned


def test_tokens_are_those_of_transformers(fast_folder):
    import transformers

    peer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(fast_folder / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    tokenizer = PromptTokenizer(fast_folder, TEXT_LEN)
    for text in [*TEXTS, "", "a", "a cat " * 20]:
        row = peer(clean_prompt(text), padding="max_length", truncation=True, max_length=TEXT_LEN)
        wanted = [i for i, kept in zip(row["input_ids"], row["attention_mask"], strict=True)
                  if kept]  # fmt: skip
        assert list(tokenizer(text).ids) == wanted


@pytest.mark.parametrize("kind", ["fast", "piece"])
def test_truncation_keeps_the_end_token_and_is_reported(kind, request):
    tokenizer = PromptTokenizer(request.getfixturevalue(f"{kind}_folder"), TEXT_LEN)
    short, long = tokenizer("a cat"), tokenizer("a red cat " * 10)
    assert short.ids[-1] == 1
    assert (short.dropped, short.dropped_text) == (0, "")
    assert len(long.ids) == TEXT_LEN
    assert long.ids[-1] == 1
    assert long.dropped > 0
    assert "cat" in long.dropped_text
    assert tokenizer("").ids == (1,)
    assert tokenizer("a ☃ cat").unknown > 0


def test_rows_are_zero_past_their_length(encoder):
    rows, lengths = encoder.encode([*TEXTS[:2], "a"])
    assert rows.shape == (3, TEXT_LEN, 16)
    assert isinstance(encoder, TextEncoder)
    assert (encoder.text_len, encoder.text_dim) == (TEXT_LEN, 16)
    for row, length in zip(rows, lengths, strict=True):
        assert 1 <= length <= TEXT_LEN
        assert bool((row[length:] == 0).all())
        assert bool((row[:length] != 0).any(dim=-1).all())


def test_a_prompt_does_not_depend_on_its_companions(encoder, network, fast_folder):
    together, _ = encoder.encode(TEXTS)
    fresh = UMT5TextEncoder(network, PromptTokenizer(fast_folder, TEXT_LEN))
    alone, _ = fresh.encode([TEXTS[2]])
    assert torch.equal(alone[0], together[2])


def test_a_prompt_is_encoded_once(encoder, network):
    calls = []
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    first, _ = encoder.encode(["a cat", "a dog"])
    first.fill_(7.0)  # the caller owns what it got
    second, _ = encoder.encode(["a dog", "a cat", "a cat"])
    hook.remove()
    assert len(calls) == 2
    assert not bool((second == 7.0).any())
    assert torch.equal(second[1], second[2])


def test_the_cache_is_bounded(encoder):
    for number in range(100):
        encoder.encode([f"a cat {number}"])
    assert len(encoder._cache) <= 64


def test_results_are_moved_and_cast(network, fast_folder):
    encoder = UMT5TextEncoder(
        network, PromptTokenizer(fast_folder, TEXT_LEN),
        output_device="cpu", output_dtype=torch.bfloat16,
    )  # fmt: skip
    rows, _ = encoder.encode(["a cat"])
    assert rows.dtype == torch.bfloat16


def test_notes_name_what_is_lost(encoder):
    assert encoder.check("a cat") == []
    (note,) = encoder.check("a red cat " * 10)
    assert "too long for 12" in note
    assert "cat" in note
    (note,) = encoder.check("☃")
    assert "vocabulary" in note


@pytest.mark.parametrize("prompts", [[], "a cat", [3]])
def test_wrong_prompts_are_refused(encoder, prompts):
    with pytest.raises(ConfigError, match="wanted"):
        encoder.encode(prompts)


def sharded(folder, state, suffix, write):
    """Lay ``state`` out as a Hugging Face folder of two shards."""
    folder.mkdir()
    names = sorted(state)
    for shard, part in (("a", names[::2]), ("b", names[1::2])):
        write({name: state[name] for name in part}, folder / f"{shard}.{suffix}")
    stem = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[suffix]
    index = {name: f"{'ab'[place % 2]}.{suffix}" for place, name in enumerate(names)}
    (folder / f"{stem}.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_files_and_folders_load_alike(state, network, fast_folder, tmp_path):
    torch.save(state, tmp_path / "t5.pth")
    save_file(state, tmp_path / "t5.safetensors")
    theirs = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.save_pretrained(tmp_path / "saved")
    rows = [
        UMT5TextEncoder.from_files(path, fast_folder, text_len=TEXT_LEN).encode(TEXTS[:1])[0]
        for path in (
            tmp_path / "t5.pth", tmp_path / "t5.safetensors", tmp_path / "saved",
            sharded(tmp_path / "tensors", theirs, "safetensors", save_file),
            sharded(tmp_path / "pickles", theirs, "bin", torch.save),
        )
    ]  # fmt: skip
    assert rows[0].dtype == torch.bfloat16
    for row in rows[1:]:
        assert torch.equal(row, rows[0])


def test_damaged_indices_are_refused(fast_folder, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for text in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        with pytest.raises(WeightsError, match=r"index\.json: not a readable index"):
            UMT5TextEncoder.from_files(tmp_path, fast_folder)
    index.write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    with pytest.raises(WeightsError, match=rf"{tmp_path.name}/secret\.safetensors: is missing"):
        UMT5TextEncoder.from_files(tmp_path, fast_folder)


def test_a_missing_transformers_is_told_before_any_weights_are_read(
    fast_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"transformers.*pip install 'shotstream_rt\[text\]'"):
        UMT5TextEncoder.from_files(tmp_path / "nothing.pth", fast_folder)


def test_missing_files_are_named(tmp_path, fast_folder):
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        PromptTokenizer(tmp_path)
    with pytest.raises(WeightsError, match="Hugging"):
        UMT5TextEncoder.from_files(tmp_path, fast_folder)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="not a readable tokenizer"):
        PromptTokenizer(tmp_path)


def test_caption_sets_select_append_and_move():
    rows = torch.arange(24.0).reshape(3, 4, 2)
    captions = CaptionSet(embeddings=rows, lengths=(1, 2, 4))
    assert captions.select([2, 0]).lengths == (4, 1)
    assert torch.equal(captions.select([2, 0]).embeddings, rows[[2, 0]])
    joined = captions.append(captions.select([1]))
    assert len(joined) == 4
    assert joined.lengths == (1, 2, 4, 2)
    assert captions.to(dtype=torch.bfloat16).embeddings.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="same encoder"):
        captions.append(CaptionSet(embeddings=torch.zeros(1, 4, 3), lengths=(1,)))
    with pytest.raises(ConfigError, match="one length per caption"):
        CaptionSet(embeddings=rows, lengths=(1, 2)).checked()
    with pytest.raises(ConfigError, match="lengths"):
        CaptionSet(embeddings=rows, lengths=(1, 2, 5)).checked()


def test_normalisation_tables_of_trainers_pass_and_damaged_ones_do_not(piece_folder):
    from shotstream_rt.model.umt5.charsmap import charsmap_of_sentencepiece, check_charsmap

    table = charsmap_of_sentencepiece((piece_folder / "spiece.model").read_bytes())
    assert len(table) > 100_000  # NFKC
    check_charsmap(table)
    for damaged, told in (
        (b"", "0 bytes"),
        (b"\0\0\0\0", "a trie of 0"),
        (b"\xff\xff\xff\x7f" + table[4:], "a trie of"),
        (table[:4] + b"\xff" * 4 + table[8:], "pointed at"),
        (table[: 4 + int.from_bytes(table[:4], "little")], "points at no text"),
    ):
        with pytest.raises(ValueError, match=told):
            check_charsmap(damaged)


@pytest.mark.parametrize("inside", [False, True])
def test_a_tokenizer_with_a_damaged_table_is_refused(inside, fast_folder, tmp_path):
    data = json.loads((fast_folder / "tokenizer.json").read_text())
    damaged = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAEAAAA="}
    data["normalizer"] = {"type": "Sequence", "normalizers": [damaged]} if inside else damaged
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not a readable tokenizer .*pointed"):
        PromptTokenizer(tmp_path)


def test_a_tokenizer_whose_numbers_the_table_lacks_is_refused(fast_folder, tmp_path):
    state = {
        name: torch.zeros(shape)
        for name, shape in {
            "token_embedding.weight": (8, 16), "norm.weight": (16,),
            **{f"blocks.0.{name}.weight": shape for name, shape in {
                "norm1": (16,), "norm2": (16,), "attn.q": (16, 16), "attn.k": (16, 16),
                "attn.v": (16, 16), "attn.o": (16, 16), "pos_embedding.embedding": (32, 2),
                "ffn.gate.0": (8, 16), "ffn.fc1": (8, 16), "ffn.fc2": (16, 8),
            }.items()},
        }.items()
    }  # fmt: skip
    save_file(state, tmp_path / "umt5.safetensors")
    with pytest.raises(WeightsError, match="wanted less than 8, the rows of the table"):
        UMT5TextEncoder.from_files(tmp_path / "umt5.safetensors", fast_folder)
