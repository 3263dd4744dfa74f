"""Memory that is lent again when nobody has it."""

from __future__ import annotations

import torch

from shotstream_rt.device.lent_memory import MemoryLender

CPU = torch.device("cpu")


def test_a_piece_is_lent_to_one_at_a_time() -> None:
    lender = MemoryLender(CPU)
    first, second = lender.lend(64), lender.lend(64)
    assert first.piece.data_ptr() != second.piece.data_ptr()
    place = first.piece.data_ptr()
    del first
    assert lender.lend(64).piece.data_ptr() == place  # and it is free again
    third, fourth = lender.lend(64), lender.lend(64)
    assert len({piece.piece.data_ptr() for piece in (second, third, fourth)}) == 3
    assert len(lender) == 3


def test_pieces_are_lent_by_their_size() -> None:
    lender = MemoryLender(CPU)
    lender.lend(64)
    assert len(lender.lend(128).piece) == 128
    assert len(lender) == 2


def test_what_is_laid_in_is_lent_first() -> None:
    lender = MemoryLender(CPU)
    lent = lender.lend(64)
    lender.lay_in(64, 3)
    assert len(lender) == 3
    lender.lay_in(64, 2)
    assert len(lender) == 3
    more = [lender.lend(64), lender.lend(64)]
    assert len(lender) == 3
    more.append(lender.lend(64))
    assert len(lender) == 4
    assert len({piece.piece.data_ptr() for piece in (lent, *more)}) == 4


def test_what_is_lent_outlives_the_lender() -> None:
    lender = MemoryLender(CPU)
    lent = lender.lend(64)
    lender.clear()
    assert not len(lender)
    lent.piece.fill_(7)
    assert lent.piece.tolist() == [7] * 64
