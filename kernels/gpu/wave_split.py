"""Where a product cuts tiles along its inner axis so that no multiprocessor idles in a last wave.

A product of 37 x 6 tiles on 132 multiprocessors takes two waves for 1.68. Here each program has its
share of whole tiles, and of the tiles that are left, ``group - 1`` are shared by ``group``
programs: each of these tiles is begun by one program and ended by the next. Plain integers.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_IN_A_GROUP = 8
"""With more, a program's share is nearly a tile, and nothing is saved."""


LARGEST_SHARE = 0.9
"""A plan is worth it if it takes at most this share of the waves it saves: the library's product
may be faster by some per cent."""

LEAST_SAVED_BLOCKS = 12
"""And if it saves at least so many steps along the inner axis, of 0.7 us on an H200: clearing the
marks, and writing and reading the sums of cut tiles, takes about 4 us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveSplit:
    """Plan of one launch: ``waves`` whole tiles a program, and ``cut`` tiles cut in two.

    Attributes:
        tiles: of the product.
        programs: of the launch, each on a multiprocessor of its own.
        waves: whole tiles of a program; 0 only if there are no more tiles than programs.
        group: programs that share ``group - 1`` tiles; 1 if no tile is cut.
    """

    tiles: int
    programs: int
    waves: int
    group: int

    @property
    def cut(self) -> int:
        """Tiles that are cut in two."""
        return self.tiles - self.waves * self.programs if self.group > 1 else 0

    @property
    def length(self) -> float:
        """How long the launch takes, in times of a whole tile."""
        if self.group > 1:
            return self.waves + (self.group - 1) / self.group
        return float(-(-self.tiles // self.programs))


def worth_cutting(split: WaveSplit, inner_blocks: int) -> bool:
    """Return whether a plan is faster than one that cuts nothing, by enough to count on it.

    Args:
        split: the plan.
        inner_blocks: steps along a tile's inner axis.
    """
    waves = -(-split.tiles // split.programs)
    saved_blocks = (waves - split.length) * inner_blocks
    return split.length <= LARGEST_SHARE * waves and saved_blocks >= LEAST_SAVED_BLOCKS


def plan_wave_split(tiles: int, inner_blocks: int, multiprocessors: int) -> WaveSplit:
    """Choose the plan with the shortest last wave.

    A tile's second half goes on from the sums of the first, so it has to wait for them: while a
    program works on its whole tiles. Without these nothing is cut.

    Args:
        tiles: of the product, at least 1.
        inner_blocks: steps along a tile's inner axis, at least 1; each part of a tile has one.
        multiprocessors: programs that run at once.
    """
    waves, left = divmod(tiles, multiprocessors)
    if waves and left:
        for group in range(2, min(MOST_IN_A_GROUP, inner_blocks) + 1):
            if -(-left // (group - 1)) * group <= multiprocessors:
                return WaveSplit(tiles=tiles, programs=multiprocessors, waves=waves, group=group)
    programs = min(tiles, multiprocessors)
    return WaveSplit(tiles=tiles, programs=programs, waves=-(-tiles // programs), group=1)
