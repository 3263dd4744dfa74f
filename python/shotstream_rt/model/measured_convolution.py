"""Convolutions chosen by measurement: cuDNN's search where it beats cuDNN's guess.

cuDNN has many algorithms for a convolution. torch takes the one that a heuristic guesses, or, told
to by ``torch.backends.cudnn.benchmark``, times some and takes the fastest. That setting is the
whole process's, so it is changed for single calls and put back; and torch keeps, for each thread,
what the first call of a shape took, whatever the setting is later. So each way is timed in a thread
of its own, and the way to take holds for the first call that a recording thread makes.

What a search picks may differ from process to process, and with it the last bits of frames: this is
asked for (``SHOTSTREAM_CONVOLUTIONS=measured``), and only shapes that gain by it are searched.
"""

from __future__ import annotations

import logging
import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from shotstream_rt.kernels.sets.decoder_set import convolve

from .convolution_choices import ConvolutionChoices, MeasuredChoice

RUNS = 7
"""Timed runs of each way; the median counts."""

Measure = Callable[[Tensor, Tensor, "Tensor | None", tuple[int, ...]], MeasuredChoice]

_log = logging.getLogger("shotstream_rt.model")
_setting = threading.Lock()
"""Held while the process's setting is not the host's: two threads would put back the other's."""


class MeasuredConvolution:
    """The library's convolution, each shape by the way that was the faster one on this chip.

    For one decoder and the thread that records it. The first call of a shape may measure, which
    synchronises the device; later ones add nothing.

    Args:
        choices: what was measured before, and where it is noted.
        measure: times both ways.
    """

    def __init__(self, choices: ConvolutionChoices, measure: Measure | None = None) -> None:
        self._choices, self._measure = choices, measure or measure_convolution
        self._begun: set[str] = set()

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]
    ) -> Tensor:
        """Convolve; see ``kernels.sets.decoder_set.convolve``.

        Args:
            x: ``[B, C, H, W]`` or ``[B, C, F, H, W]``.
            weight: ``[O, C, K, K]`` or ``[O, C, T, K, K]``.
            bias: ``[O]``; ``None`` for none.
            padding: zeros at either end of each axis after the channels.
        """
        shape = describe(x, weight, padding)
        if shape in self._begun:
            return convolve(x, weight, bias, padding)
        choice = self._choices.find(shape)
        if choice is None:
            choice = self._measure(x, weight, bias, padding)
            _log.info(
                "convolution %s: guessed %.3f ms, searched %.3f ms",
                shape, choice.heuristic_ms, choice.search_ms,
            )  # fmt: skip
            self._choices.keep(shape, choice)
        with searching(choice.search):
            y = convolve(x, weight, bias, padding)
        self._begun.add(shape)
        return y


def describe(x: Tensor, weight: Tensor, padding: tuple[int, ...]) -> str:
    """Name a convolution by all that its choice depends on, except the chip and the libraries.

    Args:
        x: ``[B, C, ...]``.
        weight: ``[O, C, ...]``.
        padding: zeros at either end of each axis after the channels.
    """
    kind = str(x.dtype)[6:]
    if x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
        kind = "tf32"
    sizes = ("x".join(map(str, sizes)) for sizes in (x.shape, weight.shape, padding))
    return "{} {} by {} padded {}".format(kind, *sizes)


@contextmanager
def searching(wanted: bool) -> Iterator[None]:
    """Let cuDNN search, or not, in the body; the host's setting is put back behind it."""
    with _setting:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = wanted
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


def measure_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]
) -> MeasuredChoice:
    """Time a convolution on a GPU both ways.

    Args:
        x: ``[B, C, ...]``, on the GPU.
        weight: ``[O, C, ...]``.
        bias: ``[O]``; ``None`` for none.
        padding: zeros at either end of each axis after the channels.

    Cost: some milliseconds to some hundred; synchronises the device.
    """

    def median_ms(search: bool) -> float:
        # What a thread is in (device, inference mode) does not pass on to others.
        with torch.inference_mode(), torch.cuda.device(x.device):
            with searching(search):
                convolve(x, weight, bias, padding)
            times: list[float] = []
            for _ in range(RUNS):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                convolve(x, weight, bias, padding)
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end))
        return statistics.median(times)

    torch.cuda.synchronize(x.device)
    took = []
    for search in (False, True):
        with ThreadPoolExecutor(1) as fresh:
            took.append(fresh.submit(median_ms, search).result())
    return MeasuredChoice.between(*took)
