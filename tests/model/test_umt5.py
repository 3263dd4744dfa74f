"""The umT5 encoder against transformers' with the same random weights, and its released shape."""

import pytest
import torch

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.umt5 import (
    UMT5Encoder,
    position_buckets,
    released_names,
    umt5_from_state,
)

SIZES = {"vocab": 60, "dim": 24, "inner": 32, "ffn_dim": 40, "heads": 4, "layers": 3}


def peer():
    transformers = pytest.importorskip("transformers", reason="the peer is transformers' umT5")
    torch.manual_seed(3)
    config = transformers.UMT5Config(
        vocab_size=SIZES["vocab"], d_model=SIZES["dim"], d_ff=SIZES["ffn_dim"],
        num_layers=SIZES["layers"], num_heads=SIZES["heads"],
        d_kv=SIZES["inner"] // SIZES["heads"],
    )  # fmt: skip
    network = transformers.UMT5EncoderModel(config).eval()
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if "norm" in name:
                tensor.copy_(1 + 0.3 * torch.randn_like(tensor))
            else:
                tensor.copy_(torch.randn_like(tensor) * tensor.shape[-1] ** -0.5)
            if "relative_attention_bias" in name:
                tensor.copy_(torch.randn_like(tensor))
    return network


def test_distances_fall_into_the_published_buckets():
    buckets = position_buckets(300)
    points = {0: 0, -1: 1, 1: 17, -8: 8, -12: 9, -16: 10, -23: 11, -32: 12, -46: 13, -64: 14,
              -91: 15, 128: 31}  # fmt: skip
    for distance, bucket in points.items():
        assert int(buckets[150, 150 + distance]) == bucket, distance
    assert int(buckets.min()) == 0
    assert int(buckets.max()) == 31


def test_every_distance_falls_into_the_peers_bucket():
    pytest.importorskip("transformers", reason="the peer is transformers' umT5")
    from transformers.models.umt5.modeling_umt5 import UMT5Attention

    attention = peer().encoder.block[0].layer[0].SelfAttention
    assert isinstance(attention, UMT5Attention)
    index = torch.arange(512)
    wanted = attention._relative_position_bucket(index[None] - index[:, None])
    assert torch.equal(position_buckets(512), wanted)


@pytest.mark.parametrize("length", [1, 2, 9, 45])
@torch.no_grad()
def test_it_agrees_with_the_padded_and_masked_peer(length):
    network = peer()
    ours = umt5_from_state(network.state_dict())
    tokens = torch.randint(2, SIZES["vocab"], (length,))
    padded = torch.zeros(1, 48, dtype=torch.long)
    padded[0, :length] = tokens
    mask = (torch.arange(48) < length).long()[None]
    wanted = network(input_ids=padded, attention_mask=mask).last_hidden_state[0, :length]
    got = ours(tokens)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-5


def test_both_namings_give_one_network():
    state = umt5_from_state(peer().state_dict()).state_dict()
    assert set(state) == set(UMT5Encoder(**SIZES).state_dict())
    again = umt5_from_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


def test_a_full_model_yields_its_encoder():
    state = dict(peer().state_dict())
    wanted = set(released_names(state))
    state |= {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(1),
              "lm_head.weight": torch.zeros(1)}  # fmt: skip
    assert set(released_names(state)) == wanted


def test_released_size_has_242_tensors():
    with torch.device("meta"):
        state = UMT5Encoder().state_dict()
    assert len(state) == 242
    assert sum(tensor.numel() for tensor in state.values()) == 5_680_910_336
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["token_embedding.weight"] == (256384, 4096)
    assert shapes["norm.weight"] == (4096,)
    block = {name[len("blocks.23.") :]: shape for name, shape in shapes.items()
             if name.startswith("blocks.23.")}  # fmt: skip
    assert block == {
        "norm1.weight": (4096,), "norm2.weight": (4096,),
        "attn.q.weight": (4096, 4096), "attn.k.weight": (4096, 4096),
        "attn.v.weight": (4096, 4096), "attn.o.weight": (4096, 4096),
        "ffn.gate.0.weight": (10240, 4096), "ffn.fc1.weight": (10240, 4096),
        "ffn.fc2.weight": (4096, 10240), "pos_embedding.embedding.weight": (32, 64),
    }  # fmt: skip


@torch.no_grad()
def test_bfloat16_stays_close():
    state = peer().state_dict()
    tokens = torch.arange(2, 40)
    wanted = umt5_from_state(state)(tokens)
    got = umt5_from_state(state, dtype=torch.bfloat16)(tokens)
    assert got.dtype == torch.bfloat16
    assert float((got.float() - wanted).norm() / wanted.norm()) < 0.03


def test_wrong_weights_are_refused():
    state = UMT5Encoder(**SIZES).state_dict()
    del state["blocks.1.ffn.fc2.weight"]
    with pytest.raises(WeightsError, match=r"t5\.pth.*missing.*blocks\.1\.ffn\.fc2"):
        umt5_from_state(state, source="t5.pth")
    with pytest.raises(WeightsError, match="is this umT5's encoder"):
        umt5_from_state({"weight": torch.zeros(1)})
