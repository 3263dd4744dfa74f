"""Device code of attention on sm_90: one warp loads, two warpgroups multiply and exponentiate.

A program owns a tile of 128 queries of one head and walks blocks of keys from last to first. Its
warps have three roles, each with its own registers (Gluon's ``warp_specialize``):

* the producer asks the copy engine (TMA) for blocks of K and V into two rings in shared memory and
  sleeps on barriers in between;
* two consumers own 64 queries each. In iteration ``i`` a consumer issues ``S_i = Q K_i^T`` and
  ``O += P_(i-1) V_(i-1)`` to the matrix unit, waits for ``S_i`` alone, and makes ``P_i`` of it
  while the second product still runs. That order is what hides the exponentials.

Tiles that would fill the last wave of programs only in part are cut by keys (``key_split``): their
programs write float32 parts with the log2 of their sums, which ``merge_splits`` joins.

With ``SPANS`` every head reads its own ranges of the keys, from a table, first to last: pruned
history. Then each block may be partial, so each is masked; and no tile is cut.

Precisions: all bfloat16; with ``QK8``, keys in e4m3 and queries rounded to it, per row, on the way
in; with ``PV8`` on top, values and weights in e4m3 as well. Then values are stored transposed, as
matrix units read 8-bit operands along the keys only; keys lie in the row order of
``reference.dual_attention_fp8``, with which a weight is in the register where the second product
wants it; and sums of eight blocks are added in float32 in shared memory, because the matrix unit
keeps sums of 8-bit products to about 14 bits.

Layouts: Q ``[queries, N D]``, K ``[keys, N D]``, V ``[keys, N D]`` or ``[N D, keys]``, as
descriptors, which read zeros past their end; OUT ``[queries, N, D]`` by pointer. Launched by
``hopper_launch``.

Sources: Shah et al., "FlashAttention-3", 2024 (roles, order of products).
"""

from __future__ import annotations

from typing import no_type_check

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from .hopper_weights import CONSUMER_ROWS, issue_values, pack, weigh
from .span_walk import TABLE_ROW, first_block, next_block, span_blocks

TILE = tl.constexpr(128)
"""Queries of a program."""

WIDTH = tl.constexpr(128)
"""Features of a head."""

_NEVER = tl.constexpr(-1e30)
"""Logit of a key that does not exist."""

_CHAIN = tl.constexpr(8)
"""Blocks of keys whose 8-bit products are added up in the matrix unit."""

_KEPT_LAYOUT = tl.constexpr(gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
"""Spreads rows over memory banks: a thread holds two neighbours of every eighth column."""

_E4M3_MAX = tl.constexpr(448.0)
_E4M3_HEADROOM = tl.constexpr(8.0)
"""Weights in e4m3 are scaled by 2^8, which keeps those down to 2^-17 of the largest."""


@gluon.jit
@no_type_check
def _barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """Barriers that each complete a phase after ``ARRIVALS`` arrivals."""
    bars = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for index in gl.static_range(COUNT):
        mbarrier.init(bars.index(index), count=ARRIVALS)
    return bars


@gluon.jit
@no_type_check
def _next_place(place, turn, PLACES: gl.constexpr):
    """Step to a ring's next block; the parity of the rounds is the phase of its barriers."""
    place += 1
    if place == PLACES:
        place = 0
        turn ^= 1
    return place, turn


@gluon.jit
@no_type_check
def _load_blocks(
    Q, K, V, SPAN, q_tile, q_ready, k_ring, v_ring, first_query, head, last, count,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr, PV8: gl.constexpr, SPANS: gl.constexpr,
):  # fmt: skip
    """The producer: queries once, then keys and values of every block, in the consumers' order."""
    k_blocks, k_full, k_empty = k_ring
    v_blocks, v_full, v_empty = v_ring
    k_bytes: gl.constexpr = BLOCK_K * WIDTH * k_blocks.dtype.primitive_bitwidth // 8
    v_bytes: gl.constexpr = BLOCK_K * WIDTH * v_blocks.dtype.primitive_bitwidth // 8
    column = head * WIDTH
    mbarrier.expect(q_ready, TILE * WIDTH * 2)
    tma.async_copy_global_to_shared(Q, [first_query, column], q_ready, q_tile.index(0))
    tma.async_copy_global_to_shared(
        Q, [first_query + CONSUMER_ROWS, column], q_ready, q_tile.index(1)
    )
    k_place, k_turn = 0, 1
    v_place, v_turn = 0, 1
    key_place, value_place = last * BLOCK_K, last * BLOCK_K
    end, begin_1, end_1, begin_2, end_2 = 0, 0, 0, 0, 0
    if SPANS:
        key_place, end, begin_1, end_1, begin_2, end_2 = first_block(SPAN)
    # Keys run a block ahead of values, as consumers want them.
    for step in range(0, count + 1):
        if step < count:
            mbarrier.wait(k_empty.index(k_place), k_turn)
            mbarrier.expect(k_full.index(k_place), k_bytes)
            tma.async_copy_global_to_shared(
                K, [key_place, column], k_full.index(k_place), k_blocks.index(k_place)
            )
            k_place, k_turn = _next_place(k_place, k_turn, STAGES)
        if step > 0:
            mbarrier.wait(v_empty.index(v_place), v_turn)
            mbarrier.expect(v_full.index(v_place), v_bytes)
            if PV8:
                tma.async_copy_global_to_shared(
                    V, [column, value_place], v_full.index(v_place), v_blocks.index(v_place)
                )
            else:
                tma.async_copy_global_to_shared(
                    V, [value_place, column], v_full.index(v_place), v_blocks.index(v_place)
                )
            v_place, v_turn = _next_place(v_place, v_turn, STAGES)
        value_place = key_place
        if SPANS:
            key_place, end, begin_1, end_1, begin_2, end_2 = next_block(
                key_place, end, begin_1, end_1, begin_2, end_2, BLOCK_K
            )
        else:
            key_place -= BLOCK_K


@gluon.jit
@no_type_check
def _quantise_queries(q_tile, q8_tile, scale, ROWS: gl.constexpr):
    """Round a consumer's queries to e4m3, each row by its largest; return scales of the logits."""
    SPREAD: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    q = q_tile.load(SPREAD).to(gl.float32)
    row_scale = gl.maximum(gl.max(gl.abs(q), 1), 1e-12) / _E4M3_MAX
    q8_tile.store((q / row_scale[:, None]).to(gl.float8e4nv))
    # The matrix unit reads shared memory by another path, so the writes are fenced.
    fence_async_shared()
    return gl.convert_layout(row_scale * scale, ROWS)


@gluon.jit
@no_type_check
def _with_kept(kept, acc, kept_peak, peak, O: gl.constexpr):
    """Add the sums in shared memory, scaled from their older maximum, to a consumer's."""
    older = gl.convert_layout(gl.exp2(kept_peak - peak), gl.SliceLayout(1, O))
    return acc + kept.load(O) * older[:, None]


@gluon.jit
@no_type_check
def _attend(
    OUT, PARTS, LOG_SUMS, K_SCALES, V_SCALES, SPAN,
    q_tile, q8_tile, q_ready, k_ring, v_ring, turns, kept,
    part, first_query, head, last, count, queries, keys, scale, out_token,
    HALF: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    QK8: gl.constexpr, PV8: gl.constexpr, PING_PONG: gl.constexpr, SPANS: gl.constexpr,
):  # fmt: skip
    """A consumer: queries ``first_query + 64 HALF`` and the 63 after them."""
    S: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_K, 32 if QK8 else 16]
    )
    O: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDTH, 32 if PV8 else 16]
    )
    OPERAND: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O, k_width=4 if PV8 else 2)
    ROWS: gl.constexpr = gl.SliceLayout(1, S)
    OUT_ROWS: gl.constexpr = gl.SliceLayout(1, O)
    HEADROOM: gl.constexpr = _E4M3_HEADROOM if PV8 else 0.0

    k_blocks, k_full, k_empty = k_ring
    v_blocks, v_full, v_empty = v_ring
    mbarrier.wait(q_ready, 0)
    if QK8:
        q = q8_tile.index(HALF)
        key_scale = gl.load(K_SCALES + head) * scale
        row_scale = _quantise_queries(q_tile.index(HALF), q, key_scale, ROWS)
    else:
        q = q_tile.index(HALF)
        row_scale = gl.full([CONSUMER_ROWS], scale, gl.float32, ROWS)
    empty = gl.zeros([CONSUMER_ROWS, BLOCK_K], gl.float32, S)
    acc = gl.zeros([CONSUMER_ROWS, WIDTH], gl.float32, O)

    # The last block of the keys may be partial, and so may any of a head's own spans; no other one
    # needs a mask.
    token, end = last * BLOCK_K, keys
    begin_1, end_1, begin_2, end_2 = 0, 0, 0, 0
    if SPANS:
        token, end, begin_1, end_1, begin_2, end_2 = first_block(SPAN)
    mbarrier.wait(k_full.index(0), 0)
    issued = warpgroup_mma(
        q, k_blocks.index(0).permute((1, 0)), empty, use_acc=False, is_async=True
    )
    logits = warpgroup_mma_wait(num_outstanding=0, deps=(issued,))
    mbarrier.arrive(k_empty.index(0), count=1)
    key = gl.arange(0, BLOCK_K, layout=gl.SliceLayout(0, S))
    if PV8:
        key = key // 16 * 16 + key % 8 // 2 * 4 + key // 8 % 2 * 2 + key % 2
    logits = gl.where((token + key < end)[None, :], logits, _NEVER)
    peak = gl.max(logits, 1) * row_scale
    weights = gl.exp2(logits * row_scale[:, None] - (peak - HEADROOM)[:, None])
    total = gl.sum(weights, 1)
    packed = pack(weights, OPERAND, BLOCK_K, PV8)

    kept_peak = peak
    if PV8:
        kept.index(HALF).store(acc)
    k_place, k_turn = 1 % STAGES, 1 // STAGES
    v_place, v_turn = 0, 0
    mbarrier.wait(k_full.index(k_place), k_turn, pred=count > 1)
    for step in range(1, count):
        if PING_PONG:
            mbarrier.wait(turns.index(HALF), (step - 1) & 1)
        issued = warpgroup_mma(
            q, k_blocks.index(k_place).permute((1, 0)), empty, use_acc=False, is_async=True
        )
        mbarrier.wait(v_full.index(v_place), v_turn)
        added = issue_values(packed, v_blocks.index(v_place), acc, OPERAND, BLOCK_K, PV8)
        if PING_PONG:
            mbarrier.arrive(turns.index(1 - HALF), count=1)
        logits = warpgroup_mma_wait(num_outstanding=1, deps=(issued,))
        mbarrier.arrive(k_empty.index(k_place), count=1)
        if SPANS:
            token, end, begin_1, end_1, begin_2, end_2 = next_block(
                token, end, begin_1, end_1, begin_2, end_2, BLOCK_K
            )
            if token + BLOCK_K > end:
                logits = gl.where((token + key < end)[None, :], logits, _NEVER)

        weights, peak, total, shrink = weigh(logits, peak, total, row_scale, HEADROOM)
        next_packed = pack(weights, OPERAND, BLOCK_K, PV8)

        # The assembler would move the wait for the second product above the exponentials. It moves
        # nothing across the end of a basic block, and this wait, due anyway, ends one.
        k_place, k_turn = _next_place(k_place, k_turn, STAGES)
        mbarrier.wait(k_full.index(k_place), k_turn, pred=step + 1 < count)
        # Using the old weights here keeps the new ones out of registers that are still being read.
        acc, packed, _ = warpgroup_mma_wait(num_outstanding=0, deps=(added, next_packed, packed))
        mbarrier.arrive(v_empty.index(v_place), count=1)
        acc = acc * gl.convert_layout(shrink, OUT_ROWS)[:, None]
        v_place, v_turn = _next_place(v_place, v_turn, STAGES)
        if PV8:  # noqa: SIM102 (known at compile time, the other is not)
            if step % _CHAIN == 0:
                kept.index(HALF).store(_with_kept(kept.index(HALF), acc, kept_peak, peak, O))
                acc, kept_peak = gl.zeros_like(acc), peak

    mbarrier.wait(v_full.index(v_place), v_turn)
    added = issue_values(packed, v_blocks.index(v_place), acc, OPERAND, BLOCK_K, PV8)
    acc = warpgroup_mma_wait(num_outstanding=0, deps=(added,))

    share = 1.0 / total
    if PV8:
        acc = _with_kept(kept.index(HALF), acc, kept_peak, peak, O)
        share = share * gl.load(V_SCALES + head)
    acc = acc * gl.convert_layout(share, OUT_ROWS)[:, None]
    row = HALF * CONSUMER_ROWS + gl.arange(0, CONSUMER_ROWS, layout=OUT_ROWS)
    feature = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, O))
    if part < 0:
        inside = first_query + row < queries
        place = (first_query + row).to(gl.int64) * out_token + head * WIDTH
        rounded = acc.to(OUT.dtype.element_ty)
        gl.store(OUT + place[:, None] + feature[None, :], rounded, mask=inside[:, None])
    else:
        gl.store(PARTS + (part * TILE + row)[:, None] * WIDTH + feature[None, :], acc)
        log_row = HALF * CONSUMER_ROWS + gl.arange(0, CONSUMER_ROWS, layout=ROWS)
        gl.store(LOG_SUMS + part * TILE + log_row, peak - HEADROOM + gl.log2(total))


@gluon.jit(do_not_specialize=["queries", "keys", "whole_tiles", "splits"])
@no_type_check
def attention_kernel(
    Q, K, V, OUT, PARTS, LOG_SUMS, K_SCALES, V_SCALES, TABLE,
    queries, keys, whole_tiles, splits, scale, out_token,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    QK8: gl.constexpr, PV8: gl.constexpr, PING_PONG: gl.constexpr, SPANS: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr, PRODUCER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Attend: ``whole_tiles`` programs with a tile each, ``splits`` programs for each other tile.

    Args:
        Q: descriptor of the queries, ``[queries, N * D]``.
        K: descriptor of the keys, ``[keys, N * D]``.
        V: descriptor of the values, ``[keys, N * D]``; with ``PV8`` ``[N * D, keys]``.
        OUT: pointer to the result, ``[queries, N, D]``.
        PARTS: pointer to float32 parts of cut tiles, ``[tiles, splits, 128, D]``.
        LOG_SUMS: pointer to their float32 log2 sums, ``[tiles, splits, 128]``.
        K_SCALES: pointer to float32 ``[N]``; read with ``QK8``.
        V_SCALES: pointer to float32 ``[N]``; read with ``PV8``.
        TABLE: pointer to int32 ``[N, 7]``, ``head, begin, end`` and two more pairs, ``(0, 0)`` for
            none; the heads in the order in which their programs begin; read with ``SPANS``.
        queries: number of queries.
        keys: number of keys to attend to.
        whole_tiles: tiles whose keys stay in one program.
        splits: programs of each other tile.
        scale: factor on the logits, in units of log2.
        out_token: elements from one token of ``OUT`` to the next.
        BLOCK_K: keys of one loop iteration.
        STAGES: blocks of keys, and of values, in shared memory at once.
        QK8: keys are e4m3, and queries are rounded to it.
        PV8: values are e4m3 and stored transposed.
        PING_PONG: the two consumers issue their products alternately.
        SPANS: every head reads its own spans of the keys; all tiles are whole, all bfloat16.
        CONSUMER_REGISTERS: registers of a thread that multiplies.
        PRODUCER_REGISTERS: registers of a thread that loads.
    """
    q_tile = gl.allocate_shared_memory(Q.dtype, [2, CONSUMER_ROWS, WIDTH], Q.layout)
    q8_tile = q_tile
    if QK8:
        q8_tile = gl.allocate_shared_memory(K.dtype, [2, CONSUMER_ROWS, WIDTH], K.layout)
    k_blocks = gl.allocate_shared_memory(K.dtype, [STAGES, BLOCK_K, WIDTH], K.layout)
    v_rows: gl.constexpr = WIDTH if PV8 else BLOCK_K
    v_columns: gl.constexpr = BLOCK_K if PV8 else WIDTH
    v_blocks = gl.allocate_shared_memory(V.dtype, [STAGES, v_rows, v_columns], V.layout)
    kept = q_tile
    if PV8:
        kept = gl.allocate_shared_memory(gl.float32, [2, CONSUMER_ROWS, WIDTH], _KEPT_LAYOUT)
    q_bars = _barriers(1, 1)
    k_full, k_empty = _barriers(STAGES, 1), _barriers(STAGES, 2)
    v_full, v_empty = _barriers(STAGES, 1), _barriers(STAGES, 2)
    turns = _barriers(2, 1)
    # The copy engine must see the barriers it will signal.
    fence_async_shared()
    if PING_PONG:
        mbarrier.arrive(turns.index(0), count=1)

    # Neighbouring programs share a head, so its blocks come from the second-level cache.
    tiles_per_head, blocks = gl.cdiv(queries, TILE), gl.cdiv(keys, BLOCK_K)
    program = gl.program_id(0)
    tile, part, begin, end = program, -1, 0, blocks
    if program >= whole_tiles:
        part = program - whole_tiles
        tile = whole_tiles + part // splits
        begin = blocks * (part % splits) // splits
        end = blocks * (part % splits + 1) // splits
    first_query, head = tile % tiles_per_head * TILE, tile // tiles_per_head
    last, count, span = end - 1, end - begin, TABLE
    if SPANS:
        span = TABLE + head * TABLE_ROW
        head, count = gl.load(span), span_blocks(span, BLOCK_K)

    q_ready = q_bars.index(0)
    k_ring, v_ring = (k_blocks, k_full, k_empty), (v_blocks, v_full, v_empty)
    gl.warp_specialize([
        (_attend, (
            OUT, PARTS, LOG_SUMS, K_SCALES, V_SCALES, span,
            q_tile, q8_tile, q_ready, k_ring, v_ring, turns, kept,
            part, first_query, head, last, count, queries, keys, scale, out_token,
            0, BLOCK_K, STAGES, QK8, PV8, PING_PONG, SPANS,
        )),
        (_attend, (
            OUT, PARTS, LOG_SUMS, K_SCALES, V_SCALES, span,
            q_tile, q8_tile, q_ready, k_ring, v_ring, turns, kept,
            part, first_query, head, last, count, queries, keys, scale, out_token,
            1, BLOCK_K, STAGES, QK8, PV8, PING_PONG, SPANS,
        )),
        (_load_blocks, (
            Q, K, V, span, q_tile, q_ready, k_ring, v_ring, first_query, head, last, count,
            BLOCK_K, STAGES, PV8, SPANS,
        )),
    ], [4, 4], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
