"""The number format that training on this CPU computes in.

Called by the trainers of nano, its codec and the detector, and by ``muon``. Masters are float32
whichever it is.
"""

from __future__ import annotations

import functools
import time

import torch

_SIZE = 512
_ROUNDS = 5


def _fastest_s(dtype: torch.dtype) -> float:
    matrix = torch.ones(_SIZE, _SIZE, dtype=dtype)
    times = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - begun)
    return min(times)


@functools.cache
def working_dtype() -> torch.dtype:
    """Return bfloat16 where this CPU multiplies it faster than float32, else float32.

    Measured once (some milliseconds), not asked: with instructions for it bfloat16 is twice as
    fast, without them a quarter as fast (a virtual machine may hide them), and no public function
    of torch tells on every kind of CPU.
    """
    return min((torch.float32, torch.bfloat16), key=_fastest_s)
