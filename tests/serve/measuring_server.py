"""The command ``serve``, whose measurement of what its device makes has no end.

A real process: ``python -m tests.serve.measuring_server``. It prints ``measuring`` when it begins.
"""

from __future__ import annotations

import sys
from typing import Any

from shotstream_rt.cli import main
from shotstream_rt.serve import shared_model, throughput


def measure(*arguments: Any) -> None:
    """Say that it begins, then measure."""
    sys.stdout.write("measuring\n")
    sys.stdout.flush()
    throughput.measure(*arguments)


if __name__ == "__main__":
    throughput._MEASURED_CHUNKS = throughput._MEASURED_S = 10**9
    shared_model.measure = measure
    sys.exit(main(["serve", "--port", "0", "--threads", "1", "--json", *sys.argv[1:]]))
