"""``python -m shotstream_rt``: see ``shotstream_rt.cli``."""

import gc
import sys

from shotstream_rt import env
from shotstream_rt.cli import main

if __name__ == "__main__":
    env.wait_briefly()  # the commands import torch later
    code = main()
    # The process ends, so nothing of its memory needs to be collected. Python would go through all
    # objects of torch once more, which takes half a second between Ctrl-C and the prompt.
    gc.freeze()
    sys.exit(code)
