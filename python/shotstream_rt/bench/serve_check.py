"""Whether what a server shows is the right film, and what encoding it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from shotstream_rt.errors import ShotStreamError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.serve.fragments import FragmentDecoder, FragmentEncoder
from shotstream_rt.session import Session

from .record import Correctness
from .serve_player import PlayerLog

Pictures = Sequence[NDArray[np.uint8]]

_MOST_REL_L2 = 0.08
"""Distance at most of frames that went through the codec to the frames as they were made. Those of
another seed are several times as far away."""
_ENCODES = 4
"""Times that the frames are encoded; the first time does not count."""


def film_alone(model: Model, text: str, *, seed: int, threads: int | None, frames: int) -> Pictures:
    """Return the first frames of a film that nobody serves, uint8 ``[H, W, 3]`` each.

    Args:
        model: what makes it.
        text: its first shot.
        seed: noise seed.
        threads: CPU threads.
        frames: how many.
    """
    with Session(model, seed=seed, threads=threads, at_end="extend") as session:
        session.cut(text)
        return [frame.pixels.copy() for frame in islice(session.stream(), frames)]


def compare_served(log: PlayerLog, wanted: Pictures) -> Correctness:
    """Compare the first frames that a player got with the film as it is made alone.

    Args:
        log: of a player that kept them.
        wanted: the film's first frames; as many as came are compared.

    Raises:
        ShotStreamError: the player lost some of them, or it is another model's film.
    """
    count = min(len(log.fragments), len(wanted))
    if not count or list(log.numbers[:count]) != list(range(count)):
        raise ShotStreamError(
            "serve: the first player lost some of the first frames, so that the film cannot be "
            "checked; try fewer sessions or viewers"
        )
    decoder = FragmentDecoder(log.head, log.rate_hz)
    shown = [pixels for data in log.fragments[:count] for _, pixels in decoder.decode(data)]
    got = np.stack(shown).astype(np.float64)
    want = np.stack(wanted[:count]).astype(np.float64)
    if got.shape != want.shape:
        raise ShotStreamError(
            f"serve: got frames {got.shape[1:3]}, wanted {want.shape[1:3]}: the server plays "
            "another model or size; name it with --model"
        )
    error = got - want
    rel_l2 = float(np.linalg.norm(error) / np.linalg.norm(want))
    mse = float((error**2).mean())
    return Correctness(
        reference="the same film made alone, before the codec",
        rel_l2=rel_l2,
        max_abs_err=float(np.abs(error).max()),
        psnr_db=round(10 * math.log10(255**2 / mse), 3) if mse else math.inf,
        tolerance=_MOST_REL_L2,
        passed=rel_l2 <= _MOST_REL_L2,
    )


def encodes_ms(pictures: Pictures, rate_hz: int) -> list[float]:
    """Return the CPU milliseconds that encoding each frame takes, as the server does it.

    Args:
        pictures: uint8 ``[H, W, 3]`` each.
        rate_hz: frames per second.
    """
    height, width = pictures[0].shape[:2]
    found: list[float] = []
    for _ in range(_ENCODES):
        encoder = FragmentEncoder(height=height, width=width, frame_rate_hz=rate_hz)
        times = []
        for picture in pictures:
            begun_ns = time.thread_time_ns()
            encoder.encode(picture, key=False)
            times.append((time.thread_time_ns() - begun_ns) / 1e6)
        encoder.close()
        found += times
    return found[len(pictures) :]
