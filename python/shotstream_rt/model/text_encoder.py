"""umT5 as the session's text encoder: prompts in, padded caption embeddings out.

Made by the session when a released model is opened. May live on another device than the student: on
the CPU it costs no GPU memory, and only new captions cost time. Results go to ``output_device``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from shotstream_rt.errors import ConfigError, WeightsError

from .tokenizer import PromptTokenizer, text_library
from .umt5 import umt5_from_state
from .weights import load_checkpoint

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
    ) -> UMT5TextEncoder:
        """Open from disk.

        Args:
            weights: the released ``.pth``, a safetensors file, or a Hugging Face folder.
            tokenizer: folder of umT5's tokenizer.
            text_len: positions of a caption.
            device: where to compute.
            dtype: to compute in; ``None`` keeps the file's.
            output_device: see the class.
            output_dtype: see the class.

        Raises:
            WeightsError: a file is missing, damaged or not umT5's.
            ConfigError: a library of the ``text`` extra is not installed.
        """
        # First what fails quickly.
        opened = PromptTokenizer(tokenizer, text_len)
        text_library("transformers")
        path = Path(weights)
        state = _folder_state(path) if path.is_dir() else load_checkpoint(path)
        network = umt5_from_state(state, device=device, dtype=dtype, source=str(path))
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
            ids = torch.tensor([self._tokenizer(prompt).ids], device=self._device)
            row = self._network(input_ids=ids).last_hidden_state[0]
            row = row.to(self._output_device, self._output_dtype)
            self._cache[prompt] = row
            if len(self._cache) > _CACHED_PROMPTS:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(prompt)
        return row


def _folder_state(folder: Path) -> dict[str, Tensor]:
    """Read a Hugging Face folder: one file, or the shards its index lists."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            state: dict[str, Tensor] = {}
            for file in _shards(index):
                state.update(load_checkpoint(file))
            return state
        if (folder / name).is_file():
            return load_checkpoint(folder / name)
    raise WeightsError(
        f"{folder}: got no model.safetensors or pytorch_model.bin and no index of either, wanted a "
        "Hugging Face umT5 folder"
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        # Only names: an index must not lead out of its folder.
        return [index.parent / Path(name).name for name in sorted(names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not a readable index of shards ({error})") from error
