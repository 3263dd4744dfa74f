"""How each convolution of a chip is chosen, as it was measured there once: a file of the cache.

``convolutions.json`` in the cache folder has an entry for each chip, torch and cuDNN, with one line
for each shape. Read and written by ``measured_convolution.py``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from shotstream_rt import env
from shotstream_rt.errors import OutputError

from ..outputs import atomic_file

FILE = "convolutions.json"
SCHEMA_VERSION = 1
WORTH = 0.97
"""A search is taken if its pick needs at most this share of the time that the guess needs."""

_log = logging.getLogger("shotstream_rt.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredChoice:
    """How one convolution is chosen.

    Attributes:
        search: let cuDNN time its algorithms; otherwise the one it guesses is taken.
        heuristic_ms: median time of the guess.
        search_ms: median time of what a search picked.
    """

    search: bool
    heuristic_ms: float
    search_ms: float

    @classmethod
    def between(cls, heuristic_ms: float, search_ms: float) -> MeasuredChoice:
        """Take the faster way; the guess where the search gains less than 3 %."""
        search = search_ms <= WORTH * heuristic_ms
        return cls(search=search, heuristic_ms=heuristic_ms, search_ms=search_ms)


class ConvolutionChoices:
    """The choices of one chip, torch and cuDNN, from a file that those of others share.

    A file that cannot be read, or written, costs the measurements again; it is told in the log.

    Args:
        path: of the file; it need not exist.
        owner: which chip and libraries, as text.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._path, self._owner = path, owner
        self._known = self._read().get(owner, {})

    @classmethod
    def of(cls, device: torch.device) -> ConvolutionChoices:
        """Read the choices of a GPU from the cache folder.

        Raises:
            ConfigError: the cache folder cannot be made out.
        """
        chip, cudnn = torch.cuda.get_device_name(device), torch.backends.cudnn.version()
        return cls(env.cache_dir() / FILE, f"{chip}, torch {torch.__version__}, cuDNN {cudnn}")

    def find(self, shape: str) -> MeasuredChoice | None:
        """Return how a shape's convolution is chosen, or ``None`` if it was not measured yet."""
        return self._known.get(shape)

    def keep(self, shape: str, choice: MeasuredChoice) -> None:
        """Note a choice, in the file too.

        Other processes may write the file between the reading and the writing here: then a choice
        is measured once more.
        """
        self._known[shape] = choice
        chips = self._read()
        self._known = chips[self._owner] = {**chips.get(self._owner, {}), **self._known}
        content = {
            "schema_version": SCHEMA_VERSION,
            "chips": {
                owner: {shape: asdict(choice) for shape, choice in sorted(shapes.items())}
                for owner, shapes in sorted(chips.items())
            },
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path) as part:
                part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        except (OSError, OutputError) as error:
            _log.warning("convolutions are measured again next time: %s", error)

    def _read(self) -> dict[str, dict[str, MeasuredChoice]]:
        try:
            content = json.loads(self._path.read_text("utf-8"))
            if content["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version {content['schema_version']!r}")
            return {
                owner: {shape: _choice(values) for shape, values in shapes.items()}
                for owner, shapes in content["chips"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s: convolutions are measured again: %s", self._path, error)
            return {}


def _choice(values: Any) -> MeasuredChoice:
    search, times = values["search"], (values["heuristic_ms"], values["search_ms"])
    if not isinstance(search, bool):
        raise ValueError(f"search: got {search!r}, wanted true or false")
    return MeasuredChoice(search=search, heuristic_ms=float(times[0]), search_ms=float(times[1]))
