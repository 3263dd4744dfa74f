"""Where an attention launch cuts its keys so that no multiprocessor waits for the last wave.

The tiles of a chunk do not fill the GPU evenly: 37 x 12 tiles on 132 multiprocessors are 3.36 waves
and take the time of 4. Whole waves keep whole tiles; each tile that is left is cut by keys among
several programs, and ``merge_splits`` joins their parts. Plain integers: no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_SPLITS = 12
"""More parts than this cost more to merge than they save."""

_START_BLOCKS = 4
"""Time of a program before and after its loop, in blocks of keys."""

_PART_BLOCKS = 0.018
"""Time the whole GPU needs to write and read a part, in blocks of keys: 30 ns to 1.7 us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySplit:
    """Plan of one launch: ``whole`` programs with a tile each, then ``splits`` to each other tile.

    Attributes:
        tiles: tiles of all heads.
        whole: tiles whose keys stay in one program.
        splits: programs of each other tile; 1 if there are none.
    """

    tiles: int
    whole: int
    splits: int

    @property
    def cut(self) -> int:
        """Tiles that are cut."""
        return self.tiles - self.whole

    @property
    def parts(self) -> int:
        """Programs that write parts."""
        return self.cut * self.splits

    @property
    def programs(self) -> int:
        """Programs of the launch."""
        return self.whole + self.parts


def plan_key_split(tiles: int, key_blocks: int, multiprocessors: int) -> KeySplit:
    """Choose the plan with the shortest last wave.

    Args:
        tiles: blocks of queries times heads, at least 1.
        key_blocks: blocks of keys, at least 1.
        multiprocessors: programs that run at once.
    """
    whole = tiles // multiprocessors * multiprocessors
    cut = tiles - whole
    best = min(
        range(1, min(MOST_SPLITS, key_blocks) + 1),
        key=lambda splits: _tail_blocks(cut, splits, key_blocks, multiprocessors),
    )
    if best == 1 or cut == 0:
        return KeySplit(tiles=tiles, whole=tiles, splits=1)
    return KeySplit(tiles=tiles, whole=whole, splits=best)


def _tail_blocks(cut: int, splits: int, key_blocks: int, multiprocessors: int) -> float:
    """How long the tiles after the last whole wave take, in blocks of keys."""
    waves = -(-cut * splits // multiprocessors)
    merge = _PART_BLOCKS * cut * splits if splits > 1 else 0.0
    return waves * (-(-key_blocks // splits) + _START_BLOCKS) + merge
