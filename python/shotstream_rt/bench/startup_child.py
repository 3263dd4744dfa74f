"""One cold start, timed from inside: the process that ``bench startup`` starts again and again.

Imports nothing of weight before its first look at the clock. The last line of its output is JSON:
the moments at which each stage was over, on a clock that its parent shares.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

if __name__ == "__main__":
    _BEGUN_NS = time.monotonic_ns()


def _play(asked: dict[str, Any], moments: list[tuple[str, int]]) -> int:
    """Open a model and a session as a program does, and read one shot."""
    import torch

    from shotstream_rt.bench.random_checkpoint import resolve_model
    from shotstream_rt.loading.load_model import Model
    from shotstream_rt.loading.placement import resolve_device
    from shotstream_rt.session import Session
    from shotstream_rt.terminal import tell_json

    def over(stage: str) -> None:
        moments.append((stage, time.monotonic_ns()))

    over("import shotstream_rt")
    device = resolve_device(asked["device"])
    if device.type == "cuda":
        torch.zeros(1, device=device)
        torch.cuda.synchronize(device)
        over("start the GPU")
    model = Model.open(
        resolve_model(asked["model"]), device=asked["device"], backend=asked["backend"],
        kernels=asked["kernels"], profile=asked["profile"], dtype=asked["dtype"],
    )  # fmt: skip
    over("load the model")
    with model, Session(model, seed=7, threads=asked["threads"]) as session:
        over("open a session")
        session.cut(asked["text"])
        chunks = session.chunks()
        next(chunks)
        over("first chunk")
        steady = [time.monotonic_ns(), *(time.monotonic_ns() for _ in chunks)]
        tell_json({"moments": moments, "chunks": steady, "info": session.stats})
    return 0


def main(argv: list[str], begun_ns: int) -> int:
    """Time a cold start.

    Args:
        argv: what is asked for, as one JSON object.
        begun_ns: when this process began to run its program.
    """
    moments = [("start Python", begun_ns)]
    import torch  # noqa: F401

    moments.append(("import torch", time.monotonic_ns()))
    from shotstream_rt.terminal import run_command

    return run_command(["--json"], lambda: _play(json.loads(argv[0]), moments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _BEGUN_NS))
