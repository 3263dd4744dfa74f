"""What the commands' declarations share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

AddCommand = Callable[[str, str], argparse.ArgumentParser]
"""Declares a command by name and one line of help; returns its parser."""

Command = Callable[[argparse.Namespace], dict[str, Any]]
"""Runs a command; returns its report of plain JSON types."""


def codec_file(options: argparse.Namespace) -> Path:
    """Return the codec's file that was named, or the shipped one."""
    from shotstream_rt.loading.project_layout import NANO_FOLDER

    return options.codec or NANO_FOLDER / "codec.safetensors"
