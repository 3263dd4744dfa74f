"""The Wan VAE against an independent implementation with the same random weights."""

import re

import pytest
import torch

from shotstream_rt.model.wan_vae.codec import WanCodec
from shotstream_rt.model.wan_vae.network import WanVAE

WIDTH = 4


def peer_name(name):
    """Our (the released) parameter name -> the peer's."""
    whole = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
    half, _, rest = name.partition(".")
    if half in whole:
        return f"{whole[half]}.{rest}"
    for ours, theirs in (
        ("conv1.", "conv_in."), ("head.0.", "norm_out."), ("head.2.", "conv_out."),
        ("middle.0.", "mid_block.resnets.0."), ("middle.1.", "mid_block.attentions.0."),
        ("middle.2.", "mid_block.resnets.1."),
    ):  # fmt: skip
        if rest.startswith(ours):
            rest = theirs + rest.removeprefix(ours)
            break
    if match := re.match(r"upsamples\.(\d+)\.(.*)", rest):
        block, place = divmod(int(match[1]), 4)
        kind = "upsamplers.0" if place == 3 else f"resnets.{place}"
        rest = f"up_blocks.{block}.{kind}.{match[2]}"
    rest = re.sub(r"^downsamples\.", "down_blocks.", rest)
    for ours, theirs in (("residual.0.", "norm1."), ("residual.2.", "conv1."),
                         ("residual.3.", "norm2."), ("residual.6.", "conv2."),
                         ("shortcut.", "conv_shortcut.")):  # fmt: skip
        rest = rest.replace(ours, theirs)
    return f"{half}.{rest}"


@pytest.fixture(scope="module")
def pair():
    peer_module = pytest.importorskip("diffusers", reason="the peer is diffusers' Wan VAE")
    torch.manual_seed(5)
    network = WanVAE(WIDTH)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            spread = 0.3
            if name.endswith("weight"):
                spread = tensor[0].numel() ** -0.5
            tensor.copy_(torch.randn_like(tensor) * spread + name.endswith("gamma"))
    peer = peer_module.AutoencoderKLWan(base_dim=WIDTH, z_dim=16).eval()
    state = {peer_name(name): tensor for name, tensor in network.state_dict().items()}
    wanted = {name: tensor.shape for name, tensor in peer.state_dict().items()}
    assert {name: tensor.shape for name, tensor in state.items()} == wanted
    peer.load_state_dict(state)
    # Unit statistics: the peer does not normalise.
    return WanCodec(network, torch.zeros(16), torch.ones(16)), peer


def rel_l2(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


@torch.no_grad()
def test_encode_agrees(pair):
    codec, peer = pair
    clip = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    wanted = peer.encode(clip).latent_dist.mean.transpose(1, 2)
    assert rel_l2(codec.encode_clip(clip), wanted) < 1e-5


@torch.no_grad()
def test_decode_agrees(pair):
    codec, peer = pair
    latents = torch.randn(1, 4, 16, 2, 3)
    wanted = peer.decode(latents.transpose(1, 2)).sample.transpose(1, 2)
    assert rel_l2(codec.decode_full(latents), wanted) < 1e-5
