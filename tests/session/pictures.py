"""Small pictures, and what a test left on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def picture(number: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (min(8 * number, 255), 90, 200)
    return pixels


def everything_under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))
