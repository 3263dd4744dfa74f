"""umT5's encoder against its formulas, written out naively here; names, shapes, refusals."""

import math
import sys

import pytest
import torch

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.model.checkpoint import load_checkpoint, load_folder
from shotstream_rt.model.umt5.network import released_names, umt5_from_state

transformers = pytest.importorskip("transformers", reason="the text extra is not installed")

SIZES = {"vocab": 60, "dim": 24, "inner": 32, "ffn_dim": 40, "heads": 4, "layers": 3}
XXL = {"vocab": 256384, "dim": 4096, "inner": 4096, "ffn_dim": 10240, "heads": 64, "layers": 24}


# The oracle: one caption, released names, one formula of the specification (2.3) per function.


def bucket(offset):
    """Bucket of key index minus query index."""
    distance = abs(offset)
    if distance >= 8:
        # The largest k with distance >= 8 sqrt(2)^k, in integers: no logarithm to round.
        wide = sum(distance**2 >= 64 << k for k in range(1, 8))
        distance = 8 + wide
    return distance + (16 if offset > 0 else 0)


def norm(x, weight):
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()).to(x.dtype) * weight


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(x, weight, heads):
    count, width = len(x), weight["attn.q"].shape[0] // heads
    q, k, v = ((x @ weight[f"attn.{name}"].T).view(count, heads, width) for name in "qkv")
    offsets = torch.tensor([[bucket(key - query) for key in range(count)]
                            for query in range(count)])  # fmt: skip
    bias = weight["pos_embedding.embedding"][offsets]  # [T, T, N]
    rows = []
    for head in range(heads):
        logits = q[:, head] @ k[:, head].T + bias[..., head]
        rows.append(logits.float().softmax(-1).to(x.dtype) @ v[:, head])
    return torch.cat(rows, dim=-1) @ weight["attn.o"].T


def feed_forward(x, weight):
    gate = gelu(x @ weight["ffn.gate.0"].T)
    return (x @ weight["ffn.fc1"].T * gate) @ weight["ffn.fc2"].T


def encode(state, tokens, heads):
    """Embed one caption: int64 ``[T]`` to ``[T, dim]``."""
    x = state["token_embedding.weight"][tokens]
    for layer in range(sum(name.endswith("norm1.weight") for name in state)):
        prefix = f"blocks.{layer}."
        weight = {name.removeprefix(prefix).removesuffix(".weight"): tensor
                  for name, tensor in state.items() if name.startswith(prefix)}  # fmt: skip
        x = x + attention(norm(x, weight["norm1"]), weight, heads)
        x = x + feed_forward(norm(x, weight["norm2"]), weight)
    return norm(x, state["norm.weight"])


def rel_l2(got, wanted):
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


@torch.no_grad()
def embed(network, tokens):
    return network(input_ids=tokens[None]).last_hidden_state[0]


@pytest.fixture
def state(random_umt5):
    return random_umt5(**SIZES)


@pytest.fixture
def peer_state():
    """A whole random umT5 of transformers, decoder and head included: its state dict."""
    torch.manual_seed(5)
    config = transformers.UMT5Config(
        vocab_size=SIZES["vocab"], d_model=SIZES["dim"], d_ff=SIZES["ffn_dim"],
        num_layers=SIZES["layers"], num_heads=SIZES["heads"],
        d_kv=SIZES["inner"] // SIZES["heads"],
    )  # fmt: skip
    return transformers.UMT5ForConditionalGeneration(config).state_dict()


def test_distances_fall_into_the_published_buckets():
    points = {0: 0, -1: 1, 1: 17, -8: 8, -12: 9, -16: 10, -23: 11, -32: 12, -46: 13, -64: 14,
              -91: 15, 128: 31}  # fmt: skip
    assert {offset: bucket(offset) for offset in points} == points


def test_every_distance_falls_into_its_bucket(state):
    network = umt5_from_state(state)
    layer = network.get_submodule("encoder.block.1.layer.0.SelfAttention")
    with torch.no_grad():
        layer.relative_attention_bias.weight.copy_(torch.arange(32.0)[:, None].expand(32, 4))
        got = layer.compute_bias(512, 512)[0, 0]  # the bias now is the bucket
    wanted = [[bucket(key - query) for key in range(512)] for query in range(512)]
    assert torch.equal(got, torch.tensor(wanted, dtype=torch.float32))


@pytest.mark.parametrize("length", [1, 2, 9, 45, 150])
def test_the_released_file_agrees_with_the_formulas(state, length, tmp_path):
    torch.save(state, tmp_path / "t5.pth")
    network = umt5_from_state(load_checkpoint(tmp_path / "t5.pth"))
    tokens = torch.randint(2, SIZES["vocab"], (length,), generator=torch.Generator().manual_seed(1))
    wanted = encode(state, tokens, SIZES["heads"])
    assert rel_l2(embed(network, tokens), wanted) <= 1e-5


def test_a_hugging_face_folder_agrees_with_the_formulas(state, tmp_path):
    umt5_from_state(state).save_pretrained(tmp_path)
    network = umt5_from_state(load_folder(tmp_path))
    tokens = torch.arange(2, 47)
    assert rel_l2(embed(network, tokens), encode(state, tokens, SIZES["heads"])) <= 1e-5


def test_bfloat16_rounds_where_the_formulas_do(state):
    narrow = {name: tensor.bfloat16() for name, tensor in state.items()}
    network = umt5_from_state(state, dtype=torch.bfloat16)
    tokens = torch.arange(2, 47)
    got = embed(network, tokens)
    assert got.dtype == torch.bfloat16
    # A product's sums may be ordered otherwise, and a flipped last bit travels.
    assert rel_l2(got, encode(narrow, tokens, SIZES["heads"])) < 0.01
    assert rel_l2(got, encode(state, tokens, SIZES["heads"])) < 0.03


@torch.no_grad()
def test_bfloat16_statistics_are_float32(state):
    network = umt5_from_state(state, dtype=torch.bfloat16)
    x = torch.randn(5, SIZES["dim"], generator=torch.Generator().manual_seed(2)).bfloat16()
    weight = state["blocks.0.norm1.weight"].bfloat16()
    layer = network.get_submodule("encoder.block.0.layer.0")
    # Reciprocal root or root and division: at most the last bit.
    torch.testing.assert_close(layer.layer_norm(x), norm(x, weight), rtol=2**-7, atol=0)
    attend = layer.SelfAttention
    wanted = attention(x, {
        name: state[f"blocks.0.{name}.weight"].bfloat16()
        for name in ("attn.q", "attn.k", "attn.v", "attn.o", "pos_embedding.embedding")
    }, SIZES["heads"])  # fmt: skip
    torch.testing.assert_close(attend(x[None])[0][0], wanted, rtol=2**-6, atol=2**-7)


def test_padding_and_mask_would_change_nothing(state):
    network = umt5_from_state(state)
    tokens = torch.arange(2, 11)
    padded, mask = torch.zeros(1, 48, dtype=torch.long), torch.zeros(1, 48, dtype=torch.long)
    padded[0, : len(tokens)] = tokens
    mask[0, : len(tokens)] = 1
    with torch.no_grad():
        whole = network(input_ids=padded, attention_mask=mask).last_hidden_state
    assert rel_l2(whole[0, : len(tokens)], embed(network, tokens)) <= 1e-5


def test_a_full_model_yields_its_encoder(peer_state):
    network = umt5_from_state(peer_state)
    for name, tensor in network.get_submodule("encoder").state_dict().items():
        assert torch.equal(tensor, peer_state[f"encoder.{name}"])


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight", "both"])
def test_the_token_table_is_found_under_either_name(peer_state, kept):
    table = peer_state["shared.weight"]
    names = ("shared.weight", "encoder.embed_tokens.weight")
    for name in names:
        del peer_state[name]
        if kept in (name, "both"):
            peer_state[name] = table.clone()
    network = umt5_from_state(peer_state)
    shared, inner = (network.get_parameter(name) for name in names)
    assert shared is inner
    assert torch.equal(inner, table)


def test_two_different_token_tables_are_refused(peer_state):
    peer_state["encoder.embed_tokens.weight"] = peer_state["shared.weight"] + 1
    with pytest.raises(WeightsError, match=r"t5\.bin.*shared\.weight.*differ"):
        umt5_from_state(peer_state, source="t5.bin")


def test_released_size_has_242_tensors(umt5_shapes):
    shapes = umt5_shapes(**XXL)
    assert len(shapes) == 242
    with torch.device("meta"):
        network = umt5_from_state({name: torch.empty(shape) for name, shape in shapes.items()},
                                  device="meta")  # fmt: skip
    encoder = network.get_submodule("encoder").state_dict()
    names = released_names(XXL["layers"])
    assert len(encoder) == len(names) == 242
    assert {file: tuple(encoder[name].shape) for file, name in names.items()} == shapes
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_680_910_336


def test_the_network_only_infers(state):
    network = umt5_from_state(state)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


LAST = "blocks.2.ffn.fc2.weight"
BIAS = "blocks.0.pos_embedding.embedding.weight"


@pytest.mark.parametrize(("name", "tensor", "message"), [
    (LAST, None, "1 missing"),
    (LAST, torch.zeros(24, 41), "of another shape"),
    (LAST, torch.zeros(24, 40, dtype=torch.int8), "not of a float type"),
    ("blocks.9.norm1.weight", torch.zeros(24), "unexpected"),
    (BIAS, None, "got nothing, wanted a matrix"),
    (BIAS, torch.zeros(32), r"got shape \(32,\), wanted a matrix"),
    (BIAS, torch.zeros(32, 0), r"got shape \(32, 0\), wanted a matrix"),
    (BIAS, torch.zeros(16, 4), "of another shape"),
    ("token_embedding.weight", torch.zeros(()), "wanted a matrix"),
])  # fmt: skip
def test_wrong_weights_are_refused_by_file_and_tensor(state, name, tensor, message):
    state = {key: value for key, value in state.items() if key != name}
    if tensor is not None:
        state[name] = tensor
    with pytest.raises(WeightsError, match=message) as caught:
        umt5_from_state(state, source="t5.pth")
    assert str(caught.value).startswith("t5.pth: ")
    assert name in str(caught.value)


def test_heads_must_divide_the_width(state):
    for layer in range(SIZES["layers"]):
        state[f"blocks.{layer}.pos_embedding.embedding.weight"] = torch.zeros(32, 5)
    with pytest.raises(WeightsError, match=r"t5\.pth: got 5 heads, wanted a divisor of 32"):
        umt5_from_state(state, source="t5.pth")


def test_foreign_files_are_refused(peer_state):
    with pytest.raises(WeightsError, match="is this umT5's encoder"):
        umt5_from_state({"weight": torch.zeros(1)})
    # T5 and mT5 have one bias table for all layers.
    name = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    del peer_state[name]
    with pytest.raises(WeightsError, match=f"1 missing: {name}"):
        umt5_from_state(peer_state)


def test_a_missing_library_is_named(state, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'shotstream_rt\[text\]'"):
        umt5_from_state(state)
