"""What a builder says about a plan: its list of layers and its memory.

What a plan contains is read from this, never from its name or from what was asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ExportError

_LAYERS = "Layers:"
_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+)(?P<rest>.*)$", re.MULTILINE)
_TENSOR = re.compile(r"Dimensions: \[(?P<sides>[\d,]*)\].*?Datatype: (?P<type>\w+)")
_SCRATCH = re.compile(r"Total Activation Memory: (\d+) bytes")
_UNUSED = re.compile(r"^Unused Input: (?P<name>\S+)")
_PRODUCT = re.compile(r"gemm|Fc")
_WAITS = re.compile(r"signal|wait", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLog:
    """What was read.

    Attributes:
        launches: kernels in one call.
        kinds: how many of each kind.
        gemm_types: input types of matrix products, such as ``FP8 x FP8``, and how many have them.
        unused_inputs: inputs that the library dropped.
        waits: launches that synchronise streams of the library's own.
        scratch_bytes: memory that a call needs beside its inputs and results.
    """

    launches: int
    kinds: Mapping[str, int]
    gemm_types: Mapping[str, int]
    unused_inputs: Sequence[str]
    waits: int
    scratch_bytes: int

    @classmethod
    def read(cls, messages: Sequence[str], engine: str) -> BuildLog:
        """Read a detailed log.

        Args:
            messages: of one build.
            engine: named in errors.

        Raises:
            ExportError: there is no list of layers, or it has no layer: then nothing is known of
                the plan, however well the build went.
        """
        lists = [message for message in messages if message.startswith(_LAYERS)]
        layers = [match for message in lists[-1:] for match in _LAYER.finditer(message)]
        if not layers:
            raise ExportError(
                f"export build: {engine}: the builder's log lists no layers ({len(messages)} "
                "messages), so the plan cannot be checked; is another logger of the library alive?"
            )
        scratch = [int(match[1]) for message in messages if (match := _SCRATCH.search(message))]
        if not scratch:
            raise ExportError(
                f"export build: {engine}: the builder's log does not say how much memory a call "
                "needs"
            )
        kinds = Counter(layer["kind"] for layer in layers)
        return cls(
            launches=len(layers),
            kinds=dict(sorted(kinds.items())),
            gemm_types=_gemm_types(layers),
            unused_inputs=tuple(match["name"] for message in messages
                                if (match := _UNUSED.match(message))),
            waits=sum(count for kind, count in kinds.items() if _WAITS.search(kind)),
            scratch_bytes=scratch[-1],
        )  # fmt: skip


def _gemm_types(layers: Sequence[re.Match[str]]) -> dict[str, int]:
    """Types of what products multiply: of their inputs with more than one row and column."""
    found: Counter[str] = Counter()
    for layer in layers:
        if layer["kind"] != "gemm" and not _PRODUCT.search(layer["name"]):
            continue
        inputs = layer["rest"].partition("Constants:")[0]
        types = {
            tensor["type"]
            for tensor in _TENSOR.finditer(inputs)
            if sum(int(side) > 1 for side in tensor["sides"].split(",") if side) > 1
        }
        ordered = sorted(types)
        found[" x ".join(ordered if len(ordered) > 1 else ordered * 2)] += 1
    return dict(sorted(found.items()))
