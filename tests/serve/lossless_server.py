"""The command ``serve``, with pictures that go through the codec as they are.

A real process, for tests that look at the pictures: ``python -m tests.serve.lossless_server``.
"""

from __future__ import annotations

import sys
from functools import partial

from shotstream_rt.cli import main
from shotstream_rt.serve import live_film
from shotstream_rt.serve.fragments import FragmentEncoder

if __name__ == "__main__":
    live_film.FragmentEncoder = partial(FragmentEncoder, crf=0)  # type: ignore[misc,assignment]
    sys.exit(
        main(["serve", "--port", "0", "--threads", "1", "--capacity", "9", "--json", *sys.argv[1:]])
    )
