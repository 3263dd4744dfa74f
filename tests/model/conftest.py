"""Random umT5 weights under the released names."""

import pytest
import torch


def umt5_shapes(*, vocab, dim, inner, ffn_dim, heads, layers):
    """Every tensor of the released file, written down from the specification (2.3)."""
    shapes = {"token_embedding.weight": (vocab, dim), "norm.weight": (dim,)}
    for layer in range(layers):
        shapes |= {
            f"blocks.{layer}.{name}.weight": shape
            for name, shape in {
                "norm1": (dim,), "norm2": (dim,),
                "attn.q": (inner, dim), "attn.k": (inner, dim), "attn.v": (inner, dim),
                "attn.o": (dim, inner),
                "ffn.gate.0": (ffn_dim, dim), "ffn.fc1": (ffn_dim, dim), "ffn.fc2": (dim, ffn_dim),
                "pos_embedding.embedding": (32, heads),
            }.items()
        }  # fmt: skip
    return shapes


@pytest.fixture(name="umt5_shapes")
def umt5_shapes_fixture():
    return umt5_shapes


@pytest.fixture
def random_umt5():
    """Draw weights of the given sizes that keep activations near one and every part audible."""

    def draw(**sizes):
        generator = torch.Generator().manual_seed(3)
        state = {}
        for name, shape in umt5_shapes(**sizes).items():
            noise = torch.randn(shape, generator=generator)
            if "norm" in name:
                state[name] = 1 + 0.3 * noise
            elif "embedding" in name:
                state[name] = noise
            else:
                state[name] = noise * shape[-1] ** -0.5
        return state

    return draw
