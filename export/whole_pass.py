"""Parts of the student's whole passes as pure functions: tensors in, tensors out, nothing kept.

A pass is an opening, one layer after the other and a closing. All layers are alike, so one is
exported and repeated (``stitching.py``). Each is the student's own bound block
(``model/blocks.py``) with attention inside, written with torch calls that have a standard operator.
What a film keeps between passes comes in and goes out: the keys and values that a pass attends to
lie in front of its own arena slots and behind them (two pieces, either may be empty), and its own
keys and values are results.

Weights are the parameters of the parts, in the form that they are multiplied in. A pass's time is
in the rows of modulation, which are made of the weights once, when a model is opened. Its noise
levels are inputs here and become constants of its file.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.sets.kernel_set import TORCH_OPS
from ..model.blocks import BoundBlock, Modulation, fold_patches
from ..model.student import Student
from .block_part import BlockPart
from .product import with_products
from .segment import HeadSegment


def rotate_pairs(x: Tensor, table: Tensor) -> Tensor:
    """Turn every feature pair as ``kernels.reference.rope_shot.rotate`` does, in real numbers.

    Args:
        x: ``[..., T, N, D]``.
        table: float32 ``[T, D / 2, 2]``, cosine and sine.
    """
    cosine, sine = (part.unsqueeze(-2) for part in table.unbind(-1))
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((a * cosine - b * sine, a * sine + b * cosine), -1)
    return turned.flatten(-2).to(x.dtype)


EXPORT_OPS = replace(with_products(TORCH_OPS, "exact"), name="export", rotate=rotate_pairs)
"""Torch's calls that have a standard operator."""


class CaptionOpening(nn.Module):
    """The text MLP.

    Args:
        student: of which the MLP is taken.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, text: Tensor) -> Tensor:
        """Embed a caption: ``[1, text_len, dim]``.

        Args:
            text: ``[1, text_len, text_dim]``, zero rows past the caption's length.
        """
        return self.student.embed_text(text)


class CaptionLayer(BlockPart):
    """Keys and values of one caption, for one layer.

    Args:
        block: of the layer.
    """

    def __init__(self, block: BoundBlock) -> None:
        super().__init__(block, ("cross_kv",), ("cross_norm_k",))

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Give keys and values ``[1, N, text_len, D]``: every later pass reads them head by head.

        Args:
            embedded: ``[1, text_len, dim]``.
        """
        k, v = self.block.caption_kv(embedded)
        return k.transpose(1, 2), v.transpose(1, 2)


class Opening(nn.Module):
    """From latents to what layers read.

    Args:
        student: of which the patch embedding is taken.
        context: frames in front that are context.
    """

    def __init__(self, student: Student, context: int) -> None:
        super().__init__()
        self.student, self.context = student, context

    def forward(self, x: Tensor) -> Tensor:
        """Give tokens ``[1, T, dim]``.

        Args:
            x: latents ``[1, F, C, h, w]``.
        """
        return self.student.embed_patches(x, self.context)


class _Layer(BlockPart):
    """What layers of both kinds share.

    Args:
        block: of the layer.
    """

    def __init__(self, block: BoundBlock) -> None:
        super().__init__(
            block, ("qkv", "out", "cross_q", "cross_out", "ffn_up", "ffn_down"),
            ("norm_q", "norm_k", "cross_factor", "cross_offset", "cross_norm_q"),
            Modulation._fields,
        )  # fmt: skip
        self.scale = (block.norm_q.shape[0] // block.heads) ** -0.5

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend over all keys.

        Args:
            q: ``[B, T, N, D]``.
            k: ``[B, N, T, D]``.
            v: like ``k``.

        Returns:
            ``[B, T, dim]``.
        """
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, scale=self.scale)
        return y.transpose(1, 2).flatten(2)


class ContextLayer(_Layer):
    """A layer of the pass over the context frames, each with a caption of its own.

    Args:
        block: of the layer.
        frames: of the context.
    """

    def __init__(self, block: BoundBlock, frames: int) -> None:
        super().__init__(block)
        self.frames = frames

    def forward(
        self, x: Tensor, rotation: Tensor, caption_k: Tensor, caption_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the layer's result like ``x``, and keys and values ``[1, T, N, D]``.

        Args:
            x: ``[1, T, dim]``.
            rotation: float32 ``[T, D / 2, 2]``.
            caption_k: ``[F, N, text_len, D]``, the keys of each frame's caption.
            caption_v: likewise.
        """
        block, m = self.block, self.modulation()
        q, k, v = block.split(block.project(x, m), rotation)
        x, q = block.leave_self(x, self.attend(q, k.transpose(1, 2), v.transpose(1, 2)), m)
        q = q.unflatten(1, (self.frames, -1))[0]
        y = self.attend(q, caption_k, caption_v)
        return block.leave_cross(x, y.flatten(0, 1).unsqueeze(0), m), k, v


class ChunkLayer(_Layer):
    """A layer of a pass over one chunk.

    Args:
        block: of the layer.
        rotate_on_read: keys that chunks leave are stored unrotated.
    """

    def __init__(self, block: BoundBlock, *, rotate_on_read: bool = False) -> None:
        super().__init__(block)
        self.rotate_on_read = rotate_on_read

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        front_k: Tensor,
        front_v: Tensor,
        back_k: Tensor,
        back_v: Tensor,
        caption_k: Tensor,
        caption_v: Tensor,
        own_rotation: Tensor | None = None,
        front_rotation: Tensor | None = None,
        back_rotation: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the layer's result like ``x``, and keys and values ``[1, T, N, D]``.

        Args:
            x: ``[1, T, dim]``.
            rotation: float32 ``[T, D / 2, 2]``, of queries, and of keys as they are stored.
            front_k: ``[1, tokens, N, D]``, keys in front of the pass's own slots.
            front_v: likewise values.
            back_k: keys behind the pass's own slots.
            back_v: likewise values.
            caption_k: ``[1, N, text_len, D]``.
            caption_v: likewise.
            own_rotation: where keys are rotated on read, of the pass's own keys.
            front_rotation: likewise of ``front_k``.
            back_rotation: likewise of ``back_k``.
        """
        block, m = self.block, self.modulation()
        qkv = block.project(x, m)
        q, k, v = block.split(qkv, rotation)
        if self.rotate_on_read:
            plain = EXPORT_OPS.rms_norm(qkv.chunk(3, -1)[1], block.norm_k, block.eps)
            k = plain.unflatten(-1, (block.heads, -1))
        own, front, back = k, front_k, back_k
        if own_rotation is not None and front_rotation is not None and back_rotation is not None:
            own, front = rotate_pairs(own, own_rotation), rotate_pairs(front, front_rotation)
            back = rotate_pairs(back, back_rotation)
        keys, values = torch.cat((front, own, back), 1), torch.cat((front_v, v, back_v), 1)
        x, q = block.leave_self(x, self.attend(q, keys.transpose(1, 2), values.transpose(1, 2)), m)
        return block.leave_cross(x, self.attend(q, caption_k, caption_v), m), k, v


class Closing(nn.Module):
    """From a chunk's tokens to latents.

    Args:
        student: of which the head is taken.
        block: of the same student, for its kernels.
    """

    def __init__(self, student: Student, block: BoundBlock) -> None:
        super().__init__()
        self.head, self.grid = HeadSegment(student.head, block), student.config.grid

    def forward(
        self, x: Tensor, latents: Tensor, noise: Tensor, sigma: Tensor, next_sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give the clean estimate and the next step's input, like ``latents``.

        Args:
            x: tokens ``[1, T, dim]``.
            latents: the step's input ``[1, F, C, h, w]``.
            noise: like ``latents``, that of the next step.
            sigma: float32 ``[]``, this step's noise level.
            next_sigma: float32 ``[]``, the next step's.
        """
        flow = fold_patches(self.head(x), self.grid)
        x0 = (latents.float() - sigma * flow.float()).to(flow.dtype)
        following = (1 - next_sigma) * x0.float() + next_sigma * noise.float()
        return x0, following.to(flow.dtype)
