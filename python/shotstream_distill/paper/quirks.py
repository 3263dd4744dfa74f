"""Deviations of the original's training from its description, each a switch; off by default.

Read by the stages; data only. ``docs/train.md`` explains each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """Switches; ``True`` is the original's behaviour.

    Attributes:
        caption_by_flag: choose a frame's caption by its shot flag, so that the target of a first
            shot, or of one whose context was dropped, reads the second shot's caption.
        last_caption_only: teacher training reads the target's caption for context frames too
            (the released teacher configuration).
        attached_caches: gradients flow through cached keys into the chunks before, although those
            keys have the values of the clean pass.
        refresh_noise: the clean pass of a rollout sees a little noise (the grid's last level),
            which inference does not add.
        rounded_times: training times are rounded to bfloat16 (238 distinct ones).
        history_from_exit: the film that later shots see is made of the trained rollout itself,
            which may have stopped at an early, blurred step; otherwise it is rolled out to the end.
        single_caption: every frame of every stage reads the target's caption, for a student that
            streams with ``multi_caption`` off; an ablation of the paper.
    """

    caption_by_flag: bool = False
    last_caption_only: bool = False
    attached_caches: bool = False
    refresh_noise: bool = False
    rounded_times: bool = False
    history_from_exit: bool = False
    single_caption: bool = False
