"""Device code: a walk over the keys that a head reads, block by block.

They stand in the head's row of a ``span_table``: ``head, begin, end`` and two more pairs, which
are ``(0, 0)`` for none.
"""

from __future__ import annotations

from typing import no_type_check

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

TABLE_ROW = tl.constexpr(7)
"""Numbers of a head in the table."""


@gluon.jit
@no_type_check
def span_blocks(SPAN, BLOCK_K: gl.constexpr):
    """Blocks that a head reads; ``SPAN`` points at its row."""
    blocks = gl.cdiv(gl.load(SPAN + 2) - gl.load(SPAN + 1), BLOCK_K)
    blocks += gl.cdiv(gl.load(SPAN + 4) - gl.load(SPAN + 3), BLOCK_K)
    return blocks + gl.cdiv(gl.load(SPAN + 6) - gl.load(SPAN + 5), BLOCK_K)


@gluon.jit
@no_type_check
def first_block(SPAN):
    """Where a walk over a head's spans begins: first key, end of its span, and the spans left."""
    token, end = gl.load(SPAN + 1), gl.load(SPAN + 2)
    return token, end, gl.load(SPAN + 3), gl.load(SPAN + 4), gl.load(SPAN + 5), gl.load(SPAN + 6)


@gluon.jit
@no_type_check
def next_block(token, end, begin_1, end_1, begin_2, end_2, BLOCK_K: gl.constexpr):
    """Step to the next block, of the same span or of the next one; returns the first six moved on.

    Args:
        token: first key of the block at hand.
        end: end of its span.
        begin_1: first key of the next span, ``(0, 0)`` for none.
        end_1: its end.
        begin_2: of the span after that.
        end_2: likewise.
        BLOCK_K: keys of a block.
    """
    token += BLOCK_K
    leaves = token >= end
    token = gl.where(leaves, begin_1, token)
    end = gl.where(leaves, end_1, end)
    begin_1 = gl.where(leaves, begin_2, begin_1)
    end_1 = gl.where(leaves, end_2, end_1)
    return token, end, begin_1, end_1, begin_2, end_2
