"""Compiles a share of the Triton kernels into Triton's cache, for the GPU that is there.

Run by ``build.py``. Where there is a GPU each kernel is loaded, too, for that makes Triton build
its launcher, a small C module per signature, and keep it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from shotstream_rt.kernels.check.compile_cases import compile_cases
from shotstream_rt.kernels.check.compile_check import compile_case


def main(argv: Sequence[str] | None = None) -> int:
    """Compile; exit code 1 if a kernel failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every N-th case from I on")
    parser.add_argument("--arch", type=int, metavar="SM", help="default: of the first GPU")
    parser.add_argument("--kernel", nargs="+", metavar="NAME", help="cases (default: all)")
    asked = parser.parse_args(argv)
    capability = asked.arch
    if capability is None:
        major, minor = torch.cuda.get_device_capability()
        capability = 10 * major + minor
    first, every = (int(number) for number in asked.share.split("/"))
    cases = [
        case for case in compile_cases(capability) if not asked.kernel or case.name in asked.kernel
    ]
    failed = 0
    for case in cases[first::every]:
        begun = time.monotonic()
        try:
            compiled = compile_case(case, capability)
            if asked.arch is None:
                torch.cuda.init()
                _ = compiled.run  # a property that loads the kernel
            told = f"{time.monotonic() - begun:.1f} s"
        except Exception as error:  # whatever a compiler raises costs its kernel alone
            failed += 1
            told = f"failed: {type(error).__name__}: {error}".partition("\n")[0]
        sys.stdout.write(f"kernel {case.name} sm_{capability}: {told}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
