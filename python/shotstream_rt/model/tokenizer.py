"""Prompts to umT5's token numbers.

Called by ``text_encoder.py``. The tokenizer libraries are imported when a tokenizer is opened,
never before.

Source: Wan2.1's tokenizer wrapper ("whitespace" cleaning; one end-of-sequence token, kept when a
prompt is cut to length).
"""

from __future__ import annotations

import html
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_rt.errors import ConfigError, WeightsError

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
        self.text_len = text_len
        fast, piece = folder / "tokenizer.json", folder / "spiece.model"
        self._encode: Callable[[str], list[int]]
        self._decode: Callable[[list[int]], str]
        if fast.is_file():
            end, unknown = self._open_fast(fast)
        elif piece.is_file():
            end, unknown = self._open_sentencepiece(piece)
        else:
            raise WeightsError(f"{folder}: got no tokenizer.json or spiece.model, wanted umT5's "
                               "tokenizer folder (google/umt5-xxl)")  # fmt: skip
        if end is None:
            raise WeightsError(f"{folder}: got no {_END} token, wanted umT5's tokenizer")
        self._end: int = end
        self._unknown = unknown

    def __call__(self, prompt: str) -> Tokens:
        """Clean and tokenize one prompt."""
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt: got {type(prompt).__name__}, wanted text")
        ids = self._encode(clean_prompt(prompt))
        kept, dropped = ids[: self.text_len - 1], ids[self.text_len - 1 :]
        return Tokens(
            ids=(*kept, self._end),
            dropped=len(dropped),
            dropped_text=self._decode(dropped) if dropped else "",
            unknown=ids.count(self._unknown) if self._unknown is not None else 0,
        )

    def _open_fast(self, path: Path) -> tuple[int | None, int | None]:
        library = text_library("tokenizers")
        try:
            tokenizer = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise WeightsError(f"{path}: not a readable tokenizer ({error})") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        self._decode = tokenizer.decode
        return tokenizer.token_to_id(_END), tokenizer.token_to_id(_UNKNOWN)

    def _open_sentencepiece(self, path: Path) -> tuple[int | None, int | None]:
        library = text_library("sentencepiece")
        try:
            tokenizer = library.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"{path}: not a readable tokenizer ({error})") from error
        self._encode = tokenizer.encode
        self._decode = tokenizer.decode
        end = tokenizer.eos_id()
        return (end if end >= 0 else None), tokenizer.unk_id()
