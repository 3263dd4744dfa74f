"""One specialisation of one Triton kernel, as data, and the shapes that all cases share.

The shapes are those of the 1.3B student at 480x832: 12 heads of 128, 3 latent frames of 1560 tokens
in a chunk, 27 in the arena, 512 caption tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DIM, FFN_DIM, HEADS, HEAD_DIM, FRAME_TOKENS, CHUNK_FRAMES = 1536, 8960, 12, 128, 1560, 3
QUERIES, KEYS, CAPTION_KEYS = 4680, 42120, 512
LATENTS = 3 * 16 * 60 * 104

Argument = str | int | float
"""A pointer (``*bf16``) or descriptor type, or a sample value of a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCase:
    """One specialisation of one kernel.

    Attributes:
        name: unique among the cases.
        kernel: a ``triton.jit`` function.
        arguments: by name; one that is not here is a compile-time constant.
        constants: compile-time constants by name.
        options: warps, stages and the like.
        registers: most registers that a thread may take.
        instructions: machine instructions that must occur.
        exact: no multiply-add may be fused, for results must equal the host's.
        late_exponentials: of a warp-specialised attention, how many exponentials of an
            iteration may wait for the second product; all others must run during it.
        exposed_exponentials: of an attention for sm_90, how many exponentials of an iteration
            may run while no product does.
    """

    name: str
    kernel: Any
    arguments: dict[str, Argument]
    constants: dict[str, Any]
    options: dict[str, Any]
    registers: int = 255
    instructions: tuple[str, ...] = ()
    exact: bool = False
    late_exponentials: int | None = None
    exposed_exponentials: int | None = None
