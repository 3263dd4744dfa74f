"""Prompts to umT5's token numbers.

Called by ``text_encoder.py``. The tokenizer libraries are imported when a tokenizer is opened,
never before.

Source: Wan2.1's tokenizer wrapper ("whitespace" cleaning; one end-of-sequence token, kept when a
prompt is cut to length).
"""

from __future__ import annotations

import base64
import html
import importlib
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.inputs import parse_json, read_bytes, read_text
from shotstream_rt.printable import printable

from ..lazy_tensors import LazyTensors
from .charsmap import charsmap_of_sentencepiece, check_charsmap

_MAX_BYTES = 128 << 20
"""umT5's own files have 17 and 5 megabytes."""
EMBEDDED_TOKENIZER = "spiece_model"
"""Tensor of bytes in which ComfyUI's files carry ``spiece.model``."""
_PROBE = "A red cat, 3 km away - \u00e9\u00c5\ufb01 \u732b\uff01 \U0001f431"
_END = "</s>"
_UNKNOWN = "<unk>"


@dataclass(frozen=True, slots=True)
class Tokens:
    """One prompt's tokens.

    Attributes:
        ids: token numbers, the end-of-sequence token last.
        dropped: how many tokens did not fit.
        dropped_text: their text, or its beginning.
        unknown: how many tokens are not in the vocabulary.
    """

    ids: tuple[int, ...]
    dropped: int
    dropped_text: str
    unknown: int


def text_library(name: str) -> Any:
    """Import a library of the ``text`` extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"umT5 needs the Python package {name!r}, which is not installed or cannot be imported "
            f"({error}): pip install 'shotstream_rt[text]'"
        ) from error


def clean_prompt(text: str) -> str:
    """Return ``text`` repaired (mojibake, HTML entities), with single blanks between words.

    Raises:
        ConfigError: ``ftfy`` is not installed (``pip install 'shotstream_rt[text]'``).
    """
    repaired: str = text_library("ftfy").fix_text(text)
    repaired = html.unescape(html.unescape(repaired))
    return re.sub(r"\s+", " ", repaired).strip()


class PromptTokenizer:
    """umT5's tokenizer from its folder.

    Args:
        folder: holds ``tokenizer.json`` (preferred) or ``spiece.model``.
        text_len: most tokens of a prompt, the end-of-sequence token included, ``>= 1``.

    Raises:
        WeightsError: the folder or its files are missing or damaged.
        ConfigError: the library that reads them is not installed.
    """

    def __init__(self, folder: str | Path, text_len: int = 512) -> None:
        folder = Path(folder)
        fast, piece = folder / "tokenizer.json", folder / "spiece.model"
        if fast.is_file():
            self._begin(fast, text_len)
            self._finish(*self._open_fast(fast))
        elif piece.is_file():
            data = read_bytes(piece, limit_bytes=_MAX_BYTES, what="tokenizer", error=WeightsError)
            self._begin(piece, text_len)
            self._finish(*self._open_sentencepiece(data))
        else:
            raise WeightsError(f"{folder}: got no tokenizer.json or spiece.model, wanted umT5's "
                               "tokenizer folder (google/umt5-xxl)")  # fmt: skip

    @classmethod
    def inside(cls, state: LazyTensors, path: Path, text_len: int = 512) -> PromptTokenizer:
        """Open the tokenizer that a file of weights carries.

        Args:
            state: the file's tensors.
            path: the file, for messages.
            text_len: see the class.

        Raises:
            WeightsError: it carries none, or a damaged one.
            ConfigError: the library that reads it is not installed.
        """
        entry = state.entries.get(EMBEDDED_TOKENIZER)
        if entry is None or entry.dtype != torch.uint8 or math.prod(entry.shape) > _MAX_BYTES:
            got = "nothing" if entry is None else f"{entry.dtype} {printable(entry.shape, 80)}"
            raise WeightsError(
                f"{path}: tensor {EMBEDDED_TOKENIZER!r}: got {got}, wanted the bytes of umT5's "
                "spiece.model; put its tokenizer folder (google/umt5-xxl) beside the file"
            )
        self = cls.__new__(cls)
        self._begin(path, text_len)
        self._finish(*self._open_sentencepiece(entry.read().numpy().tobytes()))
        return self

    def _begin(self, path: Path, text_len: int) -> None:
        self._path, self.text_len = path, text_len
        self._encode: Callable[[str], list[int]]
        self._decode: Callable[[list[int]], str]

    def _finish(self, end: int | None, unknown: int | None) -> None:
        if end is None:
            raise WeightsError(f"{self._path}: got no {_END} token, wanted umT5's tokenizer")
        self._end: int = end
        self._unknown = unknown
        with _damage_named(self._path):
            # What a library only finds when it is used is found here, not in a film.
            self._decode(self._encode(_PROBE))

    @property
    def largest_id(self) -> int:
        """Largest token number that it gives."""
        return self._largest_id

    def __call__(self, prompt: str) -> Tokens:
        """Clean and tokenize one prompt."""
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt: got {type(prompt).__name__}, wanted text")
        text = clean_prompt(prompt)
        with _damage_named(self._path):
            ids = self._encode(text)
            kept, dropped = ids[: self.text_len - 1], ids[self.text_len - 1 :]
            lost = self._decode(dropped) if dropped else ""
        return Tokens(
            ids=(*kept, self._end),
            dropped=len(dropped),
            dropped_text=lost,
            unknown=ids.count(self._unknown) if self._unknown is not None else 0,
        )

    def _open_fast(self, path: Path) -> tuple[int | None, int | None]:
        library = text_library("tokenizers")
        text = read_text(path, limit_bytes=_MAX_BYTES, what="tokenizer", error=WeightsError)
        data = parse_json(text, f"{path}: not a readable tokenizer", WeightsError)
        _check_normalizer(data, path)
        with _damage_named(path):
            tokenizer = library.Tokenizer.from_str(text)
            tokenizer.no_padding()
            tokenizer.no_truncation()
            self._largest_id = max(tokenizer.get_vocab().values(), default=0)
            end, unknown = tokenizer.token_to_id(_END), tokenizer.token_to_id(_UNKNOWN)
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        self._decode = tokenizer.decode
        return end, unknown

    def _open_sentencepiece(self, data: bytes) -> tuple[int | None, int | None]:
        library = text_library("sentencepiece")
        with _damage_named(self._path):
            if table := charsmap_of_sentencepiece(data):
                check_charsmap(table)
            tokenizer = library.SentencePieceProcessor(model_proto=data)
            self._largest_id = tokenizer.get_piece_size() - 1
            end, unknown = tokenizer.eos_id(), tokenizer.unk_id()
        self._encode = tokenizer.encode
        self._decode = tokenizer.decode
        return (end if end >= 0 else None), unknown


def _check_normalizer(part: Any, path: Path) -> None:
    """Check every normalisation table in a ``tokenizer.json``.

    Raises:
        WeightsError: the file is no JSON object, or a table leads out of itself.
    """
    if not isinstance(part, dict):
        raise WeightsError(f"{path}: got {type(part).__name__}, wanted a JSON object")
    pending: list[Any] = [part.get("normalizer")]
    while pending:
        found = pending.pop()
        if isinstance(found, list):
            pending += found
        elif isinstance(found, dict):
            pending += [value for value in found.values() if isinstance(value, dict | list)]
            table = found.get("precompiled_charsmap")
            if found.get("type") != "Precompiled" and table is None:
                continue
            try:
                check_charsmap(base64.b64decode(str(table), validate=True))
            except (TypeError, ValueError) as error:
                raise WeightsError(
                    f"{path}: not a readable tokenizer ({printable(error, 200)}); is the download "
                    "complete?"
                ) from error


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for a damaged file into an error that names it.

    One of them ends in a panic of Rust where it did not expect the damage. That is a
    ``BaseException`` by the name of ``PanicException``, of a class that cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise WeightsError(
            f"{path}: not a readable tokenizer ({printable(error, 200)}); is the download complete?"
        ) from error
