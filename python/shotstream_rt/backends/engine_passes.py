"""Exported passes, loaded: bound to a model's weights and ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ManifestError, WeightsError
from ..export.engine_tensors import digest_of
from ..export.manifest import MAKE_THEM, MANIFEST_FILE, EngineManifest, ExportedPass

Tensors = Mapping[str, Tensor]


class PassRun(Protocol):
    """A loaded pass as one film runs it."""

    def __call__(self, inputs: Tensors, outputs: Tensors) -> None:
        """Run it.

        Args:
            inputs: contiguous tensors by the graph's names, without what it was loaded with.
            outputs: likewise; written in place.
        """
        ...


LoadPass = Callable[[bytes, ExportedPass, Tensors, int], Callable[[], PassRun]]
"""Loads a graph with its weights, for a number of threads; what it gives makes a run for each film.
"""


def bind_weights(
    manifest: EngineManifest, state: Tensors, dtype: torch.dtype, source: str
) -> dict[str, Tensor]:
    """Take every weight that a pass has as an input.

    Args:
        manifest: says which.
        state: tensors by the passes' names, and what else the manifest has a digest of.
        dtype: what they are cast to.
        source: names the checkpoint in errors.

    Raises:
        WeightsError: one is missing or has another shape.
        ManifestError: it is another than was exported.
    """
    wanted = {port.name: port.shape for entry in manifest.passes for port in entry.weights}
    weights = {}
    for name, shape in wanted.items():
        if name not in state:
            raise WeightsError(f"{source}: no tensor {name}, which the engines need")
        weight = state[name]
        if tuple(weight.shape) != shape:
            raise WeightsError(
                f"{source}: {name}: got shape {tuple(weight.shape)}, the engines want {shape}"
            )
        weights[name] = weight.detach().to("cpu", dtype).contiguous()
    for bound in manifest.tensors:
        if bound.sha256 is not None:
            found = weights.get(bound.name, state.get(bound.name))
            if found is None:
                raise WeightsError(f"{source}: no tensor {bound.name}, which the engines need")
            manifest.check_tensor(bound, digest_of(found.to(dtype)), source)
    return weights


def load_passes(
    manifest: EngineManifest, folder: Path, weights: Tensors, load: LoadPass, threads: int,
    rows: Mapping[str, Tensors] | None = None,
) -> dict[str, Callable[[], PassRun]]:  # fmt: skip
    """Load every graph with its own weights.

    Args:
        manifest: of the folder.
        folder: where the files are.
        weights: of all passes; those that are not among them stay inputs.
        load: loads one.
        threads: that the library computes with.
        rows: by pass, tensors of its own; likewise. Then a pass has all of its rows.

    Raises:
        ManifestError: a file is missing or was changed, or is not what the manifest says.
    """
    made = {}
    for entry in manifest.passes:
        held = {**weights, **(rows or {}).get(entry.name, {})}
        own = {port.name: held[port.name] for port in entry.inputs if port.name in held}
        for port in entry.inputs:
            if rows is not None and port.role == "modulation" and port.name not in own:
                raise ManifestError(
                    f"{folder / entry.file}: {port.name}: time {entry.time} has no such row; "
                    f"export again with `{MAKE_THEM}`"
                )
        made[entry.name] = load(manifest.read_file(folder, entry), entry, own, threads)
    return made


def check_ports(
    entry: ExportedPass, weights: Tensors, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Require that a loaded graph has the inputs and results that the manifest says.

    Args:
        entry: of the manifest.
        weights: inputs that it was loaded with.
        inputs: names of the others.
        outputs: names of its results.

    Raises:
        ManifestError: it has not.
    """
    wanted = {port.name for port in (*entry.inputs, *entry.outputs)} - weights.keys()
    if odd := wanted ^ {*inputs, *outputs}:
        raise ManifestError(
            f"{entry.file}: {', '.join(sorted(odd))}: in the graph or in {MANIFEST_FILE}, and not "
            f"in the other one; export again with `{MAKE_THEM}`"
        )
