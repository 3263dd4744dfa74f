"""Carries a student over to a codec that was trained further, and to a longer vocabulary.

Called by ``python -m shotstream_distill carry-over``. A codec trained further keeps the meaning of
a latent cell nearly up to a linear map of its channels (measured: 94 % of the variance), so a
student need not begin anew: the map is fitted on drawn clips and folded into the student's first
and last layer. Words that were appended to the vocabulary get small random rows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano_codec import LATENT_CHANNELS, NanoCodec
from shotstream_rt.model.nano_vocabulary import TOKENS

from .paper.product import load_product, save_product
from .train_codec import draw_clip, stack

_EMBEDDING = "text.embedding.weight"
_CLIPS, _CLIP_FRAMES = 48, 9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentMap:
    """New latents as a linear map of the old ones, cell by cell.

    Attributes:
        forward: ``[C, C]``, ``new = forward @ old``; both are normalised, so there is no offset.
        explained: share of the new latents' variance that it gives, at most 1.
    """

    forward: Tensor
    explained: float


@torch.no_grad()
def fit_map(old: Path, new: Path, *, seed: int = 0) -> LatentMap:
    """Fit the map between two codecs' latents on drawn clips.

    Args:
        old: codec the student was trained on.
        new: codec it shall work with.
        seed: of the clips.
    """
    rng = random.Random(seed)
    frames = stack([draw_clip(rng, _CLIP_FRAMES) for _ in range(_CLIPS)])[0].transpose(1, 2)
    cells = []
    for path in (old, new):
        latents = NanoCodec.load(path).encode_clip(frames)
        cells.append(latents.movedim(2, -1).reshape(-1, LATENT_CHANNELS).double())
    solved = torch.linalg.lstsq(cells[0], cells[1]).solution
    missed = (cells[1] - cells[0] @ solved).square().sum() / cells[1].square().sum()
    return LatentMap(forward=solved.T.float(), explained=1 - float(missed))


def carry_over(weights: dict[str, Tensor], latent_map: LatentMap, *, seed: int = 0) -> None:
    """Change a student's weights in place so that it answers new latents as it did old ones.

    Args:
        weights: names and values, as a checkpoint's running average.
        latent_map: of the latents.
        seed: of new words' rows.

    Raises:
        WeightsError: no student's weights, or they know more words than this version.
    """
    wanted = ("patch_embedding.weight", "head.head.weight", "head.head.bias", _EMBEDDING)
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise WeightsError(f"carry-over: got no {missing}, wanted a nano student's checkpoint")
    forward = latent_map.forward
    into = weights["patch_embedding.weight"]
    # The first layer reads old = forward^-1 new.
    back = torch.linalg.inv(forward)
    weights["patch_embedding.weight"] = torch.einsum("dcthw,ce->dethw", into, back)
    # The last layer's rows are (row, column, channel), channels fastest.
    out, bias = weights["head.head.weight"], weights["head.head.bias"]
    channels = len(forward)
    weights["head.head.weight"] = torch.einsum(
        "ec,pcd->ped", forward, out.unflatten(0, (-1, channels))
    ).flatten(0, 1)
    weights["head.head.bias"] = (bias.unflatten(0, (-1, channels)) @ forward.T).flatten()
    table = weights[_EMBEDDING]
    if len(table) > len(TOKENS):
        raise WeightsError(f"carry-over: got {len(table)} words, wanted at most {len(TOKENS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = torch.randn(len(TOKENS) - len(table), table.shape[1]) * 0.3 * table.std()
    weights[_EMBEDDING] = torch.cat((table, fresh))


def carry_over_file(checkpoint: Path, old: Path, new: Path, out: Path) -> dict[str, float]:
    """Read a checkpoint, carry it over and write it; returns ``explained``.

    Args:
        checkpoint: of ``train-nano`` or ``distill-nano``; its running average is taken.
        old: codec it was trained on.
        new: codec it shall work with.
        out: file to write.
    """
    weights, latent_map = load_product(checkpoint), fit_map(old, new)
    carry_over(weights, latent_map)
    save_product(out, weights, steps=0, train_s=0.0, stage="carry-over")
    return {"explained": round(latent_map.explained, 4)}
