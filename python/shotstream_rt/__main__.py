"""``python -m shotstream_rt``: see ``shotstream_rt.cli``."""

import sys

from shotstream_rt.cli import main

if __name__ == "__main__":
    sys.exit(main())
