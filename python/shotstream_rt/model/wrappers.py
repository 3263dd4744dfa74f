"""Names that training tools put around a network's own, and how to take them off.

A network saved from inside another one (data parallel, compiled, sharded, a trainer's or another
tool's class) has all its tensors under longer names. Called where a network's file is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.printable import printable

from .lazy_tensors import LazyTensors, listing

_ANYWHERE = frozenset({
    "_orig_mod",  # torch.compile
    "module", "_forward_module",  # data parallel, Lightning
    "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_wrapped_module",
})  # fmt: skip
"""Parts of a name that no network here has itself, wherever they stand."""

_IN_FRONT = frozenset({
    "model", "base_model", "generator", "student", "diffusion_model", "transformer", "denoiser",
    "net", "network", "dit", "vae", "first_stage_model", "text_encoder",
})  # fmt: skip
"""Parts that are taken off the front of a name, as often as they stand there."""


def without_wrappers(
    state: Mapping[str, Tensor], source: str, anchors: Sequence[str] = ()
) -> LazyTensors:
    """Return tensors under the network's own names; reads no data.

    Args:
        state: tensors under the file's names.
        source: the file, named in errors.
        anchors: names that tell the network. If none of them is there, and exactly one other name
            ends with one of them, what stands in front of it is taken off all names.

    Raises:
        WeightsError: two tensors end up under one name, or several networks are in the file.
    """
    entries = LazyTensors.of(state).entries
    bare = {name: _bare(name, anchors) for name in entries}
    fronts = {
        short[: -len(anchor)]: name
        for name, short in bare.items()
        for anchor in anchors
        if short.endswith(f".{anchor}")
    }
    if fronts and not any(short in anchors for short in bare.values()):
        if len(fronts) > 1:
            raise WeightsError(
                f"{source}: got {len(fronts)} networks under {listing(sorted(fronts))}, wanted one;"
                " save the one to use in a file of its own"
            )
        front = next(iter(fronts))
        bare = {name: short.removeprefix(front) for name, short in bare.items()}
    return renamed(LazyTensors(entries), bare, source)


def renamed(tensors: LazyTensors, names: Mapping[str, str], source: str) -> LazyTensors:
    """Return tensors under other names.

    Args:
        tensors: all of them.
        names: old name to new name, for every tensor.
        source: the file, named in errors.

    Raises:
        WeightsError: two tensors end up under one name.
    """
    found: dict[str, str] = {}
    for name, new in names.items():
        if new in found:
            raise WeightsError(
                f"{source}: tensor {printable(new, 120)!r} appears twice, as "
                f"{printable(found[new], 120)!r} and as {printable(name, 120)!r}"
            )
        found[new] = name
    return LazyTensors({new: tensors.entries[name] for new, name in found.items()})


def _bare(name: str, anchors: Sequence[str]) -> str:
    if name in anchors:
        return name
    parts = [part for part in name.split(".") if part not in _ANYWHERE]
    front = 0
    while front < len(parts) - 1 and parts[front] in _IN_FRONT:
        front += 1
    return ".".join(parts[front:])
