"""How exactly the oracle multiplies: in full float32, or in tf32 for a quick check on a GPU.

In full float32 the oracle of a shot at the released shape takes longer than the measurement. A
tf32 product is right to about 3e-4, a hundredth of what bfloat16 latents are allowed to be off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .options import BenchOptions
from .oracle import REFERENCE_NAME


@contextmanager
def oracle_products(options: BenchOptions, dtype: torch.dtype) -> Iterator[str]:
    """Set the precision of the enclosed oracle's products; gives its name for the record.

    Args:
        options: of the run; a quick one on a GPU takes tf32.
        dtype: of the measured passes; float32 ones are always checked in float32.
    """
    on_gpu = options.torch_device().type == "cuda"
    if not (options.quick and on_gpu and dtype != torch.float32):
        yield REFERENCE_NAME
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield f"{REFERENCE_NAME} with tf32 products"
    finally:
        torch.set_float32_matmul_precision(before)
