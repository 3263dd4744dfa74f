"""The command ``serve``, with pictures that go through the codec as they are.

A real process, for tests that look at the pictures: ``python -m tests.serve.lossless_server``.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from shotstream_rt.cli import main
from shotstream_rt.serve import live_film
from shotstream_rt.serve.fragments import FragmentEncoder


def without_loss() -> None:
    """Let the films of this process be encoded without loss."""
    live_film.FragmentEncoder = partial(FragmentEncoder, crf=0)  # type: ignore[misc,assignment]


if __name__ == "__main__":
    if "--ray" in sys.argv:
        from shotstream_rt.serve import ray_stations

        class LosslessServer(ray_stations.DeviceServer):
            """A server in a process of Ray's, which has to be told too."""

            def __init__(self, fleet: Any) -> None:
                without_loss()
                super().__init__(fleet)

        ray_stations.DeviceServer = LosslessServer  # type: ignore[misc]
    without_loss()
    sys.exit(
        main(["serve", "--port", "0", "--threads", "1", "--capacity", "9", "--json", *sys.argv[1:]])
    )
