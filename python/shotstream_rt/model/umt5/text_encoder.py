"""umT5 as the session's text encoder: prompts in, padded caption embeddings out.

Made by the session when a released model is opened. May live on another device than the student: on
the CPU it costs no GPU memory, and only new captions cost time. Results go to ``output_device``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from shotstream_rt.errors import ConfigError, WeightsError

from ..checkpoint import load_checkpoint, load_folder
from ..lazy_tensors import LazyTensors
from .network import umt5_from_state
from .tokenizer import EMBEDDED_TOKENIZER, PromptTokenizer, text_library

_CACHED_PROMPTS = 32
_SHOWN_CHARACTERS = 40


class UMT5TextEncoder:
    """The ``TextEncoder`` of the released models. Not thread-safe; calls must not overlap.

    Args:
        network: transformers' encoder, weights in place, on the device and in the dtype to
            compute with.
        tokenizer: its ``text_len`` is this encoder's.
        output_device: where embeddings go; ``None`` leaves them where they are computed.
        output_dtype: what they are cast to; ``None`` keeps the network's.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: PromptTokenizer,
        *,
        output_device: torch.device | str | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        table = network.get_parameter("shared.weight")
        self._network = network
        self._tokenizer = tokenizer
        self._device = table.device
        self._text_dim = table.shape[1]
        self._output_device = torch.device(output_device or table.device)
        self._output_dtype = output_dtype or table.dtype
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def from_files(
        cls,
        weights: str | Path,
        tokenizer: str | Path,
        *,
        text_len: int = 512,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = torch.bfloat16,
        output_device: torch.device | str | None = None,
        output_dtype: torch.dtype | None = None,
        prepare: Callable[[LazyTensors], LazyTensors] | None = None,
    ) -> UMT5TextEncoder:
        """Open from disk.

        Args:
            weights: the released ``.pth``, a safetensors file, or a Hugging Face folder.
            tokenizer: folder of umT5's tokenizer, or a file of weights that carries it, as
                ComfyUI's do.
            text_len: positions of a caption.
            device: where to compute.
            dtype: to compute in; ``None`` keeps the file's.
            output_device: see the class.
            output_dtype: see the class.
            prepare: returns the tensors to use in place of the file's.

        Raises:
            WeightsError: a file is missing, damaged or not umT5's.
            ConfigError: a library of the ``text`` extra is not installed.
        """
        path = Path(weights)
        # First what fails fast: the library and the tokenizer.
        text_library("transformers")
        words = Path(tokenizer)
        if words.is_file():
            opened = PromptTokenizer.inside(load_checkpoint(words), words, text_len)
        else:
            opened = PromptTokenizer(words, text_len)
        state = load_folder(path) if path.is_dir() else load_checkpoint(path)
        if EMBEDDED_TOKENIZER in state:
            state = LazyTensors({k: v for k, v in state.entries.items() if k != EMBEDDED_TOKENIZER})
        if prepare is not None:
            state = prepare(state)
        network = umt5_from_state(state, device=device, dtype=dtype, source=str(path))
        rows = network.get_parameter("shared.weight").shape[0]
        if opened.largest_id >= rows:
            raise WeightsError(
                f"{tokenizer}: got token numbers up to {opened.largest_id}, wanted less "
                f"than {rows}, the rows of the table in {path}; take the tokenizer of this encoder"
            )
        return cls(network, opened, output_device=output_device, output_dtype=output_dtype)

    @property
    def text_dim(self) -> int:
        """Width of an embedding."""
        return self._text_dim

    @property
    def text_len(self) -> int:
        """Positions of every caption, padding included."""
        return self._tokenizer.text_len

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Encode prompts; each new one costs a pass over its own tokens only.

        Args:
            prompts: at least one text.

        Returns:
            ``[N, text_len, text_dim]`` on the output device, zero at and past each length; and the
            lengths, end-of-sequence token included.

        Raises:
            ConfigError: no prompt, or one that is not text.
        """
        if isinstance(prompts, str) or not prompts:
            raise ConfigError(f"prompts: got {prompts!r}, wanted a list of at least one text")
        rows = [self._row(prompt) for prompt in prompts]
        padded = torch.zeros(
            len(rows), self.text_len, self.text_dim,
            device=self._output_device, dtype=self._output_dtype,
        )  # fmt: skip
        for place, row in zip(padded, rows, strict=True):
            place[: len(row)] = row
        return padded, [len(row) for row in rows]

    def check(self, prompt: str) -> list[str]:
        """Return notes a user should see: text that does not fit, unknown characters."""
        tokens = self._tokenizer(prompt)
        notes = []
        if tokens.dropped:
            lost = tokens.dropped_text[:_SHOWN_CHARACTERS]
            ellipsis = "..." if len(tokens.dropped_text) > _SHOWN_CHARACTERS else ""
            notes.append(
                f"prompt is {tokens.dropped} token(s) too long for {self.text_len}: its end is "
                f"dropped from {lost + ellipsis!r}"
            )
        if tokens.unknown:
            notes.append(f"{tokens.unknown} token(s) of the prompt are not in the vocabulary")
        return notes

    def _row(self, prompt: str) -> Tensor:
        """Return one prompt's embedding ``[T, text_dim]``, from the cache where possible."""
        row = self._cache.get(prompt)
        if row is None:
            ids = torch.tensor([self._tokenizer(prompt).ids], dtype=torch.long, device=self._device)
            row = self._network(input_ids=ids).last_hidden_state[0]
            row = row.to(self._output_device, self._output_dtype)
            self._cache[prompt] = row
            if len(self._cache) > _CACHED_PROMPTS:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(prompt)
        return row
