"""Gives a codec the decoder of another one: its latents, and so every student's, stay as they are.

Called by ``python -m shotstream_distill graft-codec``. The latents of a codec trained further are
nearly a linear map of those before, so its decoder needs a new first layer only. That layer is
solved for by least squares, on drawn clips. ``train-codec`` then starts from there.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.model.nano.codec import NanoCodecNet

from .clips import draw_clip, stack

_CLIPS, _CLIP_FRAMES = 240, 9
_RIDGE = 1e-4
"""Of the mean square of an input; neighbouring cells are alike, their weights shall stay small."""


def _features(net: NanoCodecNet, frames: Tensor) -> Tensor:
    """Return the decoder's input for clips before normalisation, ``[B * F, C, h, w]``."""
    latents = net.encode(frames).flatten(0, 1)
    return latents * net.latent_std.view(-1, 1, 1) + net.latent_mean.view(-1, 1, 1)


@torch.no_grad()
def fit_entry(kept: NanoCodecNet, given: NanoCodecNet, *, clips: int, seed: int = 0) -> float:
    """Solve for the first layer of a decoder, in place.

    Args:
        kept: codec whose latents are read.
        given: codec whose decoder is to read them; its ``decoder_in`` is replaced.
        clips: drawn to fit on.
        seed: of the clips.

    Returns:
        Share of the variance of that layer's output that the new one gives, at most 1.
    """
    rng = random.Random(seed)
    out, inputs = given.decoder_in.weight.shape[0], given.decoder_in.weight[0].numel() + 1
    squares = torch.zeros(inputs, inputs, dtype=torch.float64)
    products = torch.zeros(inputs, out, dtype=torch.float64)
    total, cells = torch.zeros(out, dtype=torch.float64), 0
    wanted_squared = 0.0
    for _ in range(clips):
        frames = stack([draw_clip(rng, _CLIP_FRAMES)])[0]
        patches = F.unfold(_features(kept, frames), 3, padding=1)
        patches = torch.cat((patches, torch.ones_like(patches[:, :1])), 1)
        read = patches.transpose(1, 2).flatten(0, 1).double()
        wanted = given.decoder_in(_features(given, frames))
        wanted = wanted.flatten(2).transpose(1, 2).flatten(0, 1).double()
        squares += read.T @ read
        products += read.T @ wanted
        total += wanted.sum(0)
        cells += len(wanted)
        wanted_squared += float(wanted.square().sum())
    ridge = _RIDGE * squares.diagonal().mean() * torch.eye(inputs, dtype=torch.float64)
    solved = torch.linalg.solve(squares + ridge, products)
    missed = wanted_squared - 2 * (solved * products).sum() + (solved * (squares @ solved)).sum()
    variance = wanted_squared - float(total.square().sum()) / cells
    entry = given.decoder_in
    entry.load_state_dict({"weight": solved[:-1].T.reshape_as(entry.weight), "bias": solved[-1]})
    return 1 - float(missed) / variance


def graft_codec(encoder: Path, decoder: Path, out: Path) -> dict[str, float]:
    """Write a codec of one file's latents and another one's decoder; returns ``explained``.

    Args:
        encoder: codec whose latents stay.
        decoder: codec whose decoder is taken.
        out: file to write.

    Raises:
        WeightsError: a file is missing or does not fit.
    """
    kept, given = NanoCodecNet.load(encoder), NanoCodecNet.load(decoder)
    explained = fit_entry(kept, given, clips=_CLIPS)
    state = kept.state_dict()
    grafted = {name: value for name, value in state.items() if not name.startswith("decoder")}
    grafted |= {n: v for n, v in given.state_dict().items() if n.startswith("decoder")}
    partial = out.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in grafted.items()}, str(partial))
    partial.replace(out)
    return {"explained": round(explained, 4)}
