"""``engines.json``: what a folder of exported graphs holds, and for which model it is right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ManifestError
from ..inputs import parse_json, read_text
from ..json_object import from_json
from ..outputs import atomic_file
from ..printable import shown
from .segment import HEAD, OF_BLOCKS

if TYPE_CHECKING:
    from ..config import StreamConfig

FORMAT = "shotstream-engines"
SCHEMA_VERSION = 3
MANIFEST_FILE = "engines.json"
CODEC_FILE = "codec.json"
"""Likewise of the graphs of nano's decoder, beside those of whole passes."""
MAKE_THEM = "python -m shotstream_rt export MODEL --out DIR"
_MAX_BYTES = 64 << 20
BUILD_THEM = "python -m shotstream_rt export build DIR --library rtx --target sm_89,sm_120"
_FILE = re.compile(r"[a-z0-9_]+\.(onnx|plan)")

FORMS = ("passes", "segments", "codec")
"""What a folder's graphs are: the student's whole passes, attention inside, or its blocks' segments
around both attentions; or the nano codec's decoder."""

PRODUCTS = ("exact", "fp8", "int8")
"""What linear layers multiply."""

ROLES = (
    "latents", "noise", "text", "rotation", "cache", "captions", "weight", "tokens", "modulation",
    "pixels", "state",
)  # fmt: skip
"""What an input or a result of a graph is bound to. ``latents``, ``noise``: of the chunk or the
context. ``text``: a caption's embedding. ``rotation``: cosines and sines of positions. ``cache``:
arena slots. ``captions``: keys and values of captions. ``weight``: one of ``tensors``.
``modulation``: a row of a time's. ``tokens``: of segments, between them and attention. ``pixels``:
of a chunk. ``state``: of the decoder, between chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or a result of a pass.

    Attributes:
        name: in the graph.
        role: what it is bound to, one of ``ROLES``.
        dtype: such as ``float32``.
        shape: numbers, and names of lengths that vary.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ManifestError(f"port {self.name}: got role {shown(self.role)}, wanted one of "
                                f"{', '.join(ROLES)}")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedPass:
    """One pass and its file.

    Attributes:
        name: ``captions``, ``context``, ``denoise_0``... or ``commit``.
        file: beside the manifest.
        sha256: of the file.
        time: timestep whose rows of modulation it is bound to; ``None`` for captions.
        sigmas: noise levels that are folded in: the step's own, and the next one's if there is one.
        inputs: in order, weights and rows of modulation behind the others.
        outputs: in order.
    """

    name: str
    file: str
    sha256: str
    time: float | None
    sigmas: tuple[float, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __post_init__(self) -> None:
        _check_file(self.name, self.file)

    @property
    def weights(self) -> tuple[Port, ...]:
        """The inputs that are weights."""
        return tuple(port for port in self.inputs if port.role == "weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTensor:
    """A tensor that engines read and that no time changes.

    Attributes:
        name: of the engines' input, or of the checkpoint's tensor where there is no such input.
        layer: of a segment's block; ``None`` where the name says all.
        sources: the checkpoint's tensors that it is made of.
        operation: how; ``cast`` for nothing but the type.
        shape: as it is bound.
        dtype: likewise.
        sha256: of its bytes; ``None`` if engines take any weights of this shape.
    """

    name: str
    layer: int | None
    sources: tuple[str, ...]
    operation: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One graph built for a GPU.

    Attributes:
        engine: name of the graph.
        file: beside the manifest.
        sha256: of the file.
        library: ``rtx`` or ``tensorrt``.
        version: of the library.
        targets: such as ``sm_89``.
        flags: of the builder.
        launches: kernels in one call.
        kinds: how many of each kind.
        gemm_types: input types of its matrix products, and how many have them.
        scratch_bytes: memory that a call needs beside its inputs and results.
    """

    engine: str
    file: str
    sha256: str
    library: str
    version: str
    targets: tuple[str, ...]
    flags: tuple[str, ...]
    launches: int
    kinds: Mapping[str, int]
    gemm_types: Mapping[str, int]
    scratch_bytes: int

    def __post_init__(self) -> None:
        _check_file(self.engine, self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """Contents of ``engines.json``.

    Attributes:
        version: of this package, which made it.
        form: one of ``FORMS``.
        products: ``exact``, ``fp8`` or ``int8``: what linear layers multiply.
        fits: all of the configuration that the graphs depend on; see ``fit_of``.
        dtype: of weights, activations and caches; in 8-bit products of all but weights.
        opset: of standard operators.
        exporter: versions of the packages that wrote the graphs.
        passes: the graphs; whole passes are in the order in which a shot runs them.
        tensors: that they are bound to, and all others of the student's checkpoint.
        plans: what was built of the graphs.
    """

    version: str
    form: str
    products: str
    fits: Mapping[str, Any]
    dtype: str
    opset: int
    exporter: Mapping[str, str]
    passes: tuple[ExportedPass, ...]
    tensors: tuple[BoundTensor, ...]
    plans: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("form", self.form, FORMS),
            ("products", self.products, PRODUCTS),
        ):
            if value not in known:
                raise ManifestError(f"{name}: got {shown(value)}, wanted {' or '.join(known)}")
        bound = {one.name for one in self.tensors}
        for entry in self.passes:
            if missing := [port.name for port in entry.weights if port.name not in bound]:
                raise ManifestError(f"{entry.name}: {missing[0]}: a weight that is no tensor")

    @classmethod
    def read(cls, folder: Path, file: str = MANIFEST_FILE) -> EngineManifest:
        """Read a folder's manifest.

        Args:
            folder: of the graphs.
            file: its name.

        Raises:
            ManifestError: there is none, or it is of another format or version or has unknown keys.
        """
        path = folder / file
        if not path.is_file():
            raise ManifestError(
                f"{folder}: holds no {file}, wanted a folder of exported passes; make it "
                f"with `{MAKE_THEM}`"
            )
        data = parse_json(read_text(path, limit_bytes=_MAX_BYTES, what="engine manifest"), path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ManifestError(f'{path}: got no "format": "{FORMAT}"; not an engine manifest')
        if data.pop("schema_version", None) != SCHEMA_VERSION:
            raise ManifestError(
                f"{path}: wanted schema_version {SCHEMA_VERSION}; export again with `{MAKE_THEM}`"
            )
        del data["format"]
        try:
            return from_json(cls, data, "manifest")
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}; export again with `{MAKE_THEM}`") from error

    def write(self, folder: Path, file: str = MANIFEST_FILE) -> None:
        """Write it, whole or not at all.

        Args:
            folder: of the graphs.
            file: its name.

        Raises:
            OutputError: it cannot be written.
        """
        head = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
        text = json.dumps({**head, **dataclasses.asdict(self)}, indent=1) + "\n"
        with atomic_file(folder / file) as path:
            path.write_text(text, encoding="utf-8")

    def named(self, name: str) -> ExportedPass:
        """Return a pass.

        Raises:
            ManifestError: there is none of this name.
        """
        for entry in self.passes:
            if entry.name == name:
                return entry
        raise ManifestError(f"{MANIFEST_FILE}: no pass {name!r}; export again with `{MAKE_THEM}`")

    def check_fits(self, config: StreamConfig, dtype: str, source: Path) -> None:
        """Require that the passes are those of a configuration.

        Args:
            config: what is to be run.
            dtype: in which type.
            source: the folder, for messages.

        Raises:
            ManifestError: one setting differs.
        """
        names, own = graph_names(config, self.form), [entry.name for entry in self.passes]
        wanted = {**_flat(fit_of(config, self.form)), "dtype": dtype}
        got = {**_flat(self.fits), "dtype": self.dtype}
        for key in sorted(wanted.keys() | got.keys()):
            if wanted.get(key) != got.get(key):
                raise ManifestError(
                    f"{source / MANIFEST_FILE}: {key}: engines are for {got.get(key)!r}, the model "
                    f"is opened with {wanted.get(key)!r}; export for it with `{MAKE_THEM}` and the "
                    "same --size and --dtype"
                )
        if own != names:
            raise ManifestError(
                f"{source / MANIFEST_FILE}: got graphs {', '.join(own)}, wanted "
                f"{', '.join(names)}; export again with `{MAKE_THEM}`"
            )

    def read_file(self, folder: Path, entry: ExportedPass | Plan) -> bytes:
        """Read a graph or a plan.

        Raises:
            ManifestError: the file is missing or not the one that was written.
        """
        path = folder / entry.file
        again = BUILD_THEM if isinstance(entry, Plan) else MAKE_THEM
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise ManifestError(
                f"{path}: cannot be read ({error.strerror}); make it again with `{again}`"
            ) from error
        found = hashlib.sha256(blob).hexdigest()
        if found != entry.sha256:
            raise ManifestError(
                f"{path}: got sha256 {found[:16]}..., {MANIFEST_FILE} says {entry.sha256[:16]}...: "
                f"the file was changed; make it again with `{again}`"
            )
        return blob

    def check_tensor(self, bound: BoundTensor, found: str, source: str) -> None:
        """Require that a tensor is the one that was exported, if engines are for one model alone.

        Args:
            bound: what the manifest says.
            found: SHA-256 of the tensor that would be bound.
            source: names the weights in errors.

        Raises:
            ManifestError: it is not.
        """
        if bound.sha256 not in (None, found):
            place = "" if bound.layer is None else f"layer {bound.layer}, "
            raise ManifestError(
                f"{source}: {place}{bound.name}: got sha256 {found[:16]}..., {MANIFEST_FILE} says "
                f"{str(bound.sha256)[:16]}...: the engines are for other weights; export again "
                f"with `{MAKE_THEM}`, or for weights of any kind with --any-weights"
            )


def fit_of(config: StreamConfig, form: str = "passes") -> dict[str, Any]:
    """Return all of a configuration that exported graphs depend on, as plain JSON values.

    How long a shot is, its window and its sink are not among it: a pass takes any prefix. Segments
    do not depend on times and rotations either.

    Args:
        config: of a model.
        form: one of ``FORMS``.
    """
    shapes = {
        "model": config.model.to_dict(),
        "chunk_frames": config.shot.chunk_frames,
        "context_frames": config.cache.context_frames,
    }
    if form != "passes":
        return shapes
    schedule = config.schedule.to_dict()
    del schedule["carry_renoise"]  # a choice of noise, which comes from outside
    return {
        **shapes,
        "key_rotation": config.cache.key_rotation,
        "schedule": schedule,
    }


def graph_names(config: StreamConfig, form: str) -> list[str]:
    """Return the names of a form's graphs, in order.

    Args:
        config: of a model.
        form: one of ``FORMS``.
    """
    context = bool(config.cache.context_frames)
    if form == "codec":
        return ["decode_first", "decode_next"]
    if form == "passes":
        steps = [f"denoise_{step}" for step in range(config.schedule.num_steps)]
        return ["captions", *(["context"] if context else []), *steps, "commit"]
    of_chunk = [f"chunk_{name}" for name in (*OF_BLOCKS, HEAD)]
    return of_chunk + ([f"context_{name}" for name in OF_BLOCKS] if context else [])


def _check_file(name: str, file: str) -> None:
    """Require a name that stays in the folder.

    Args:
        name: of the graph.
        file: of it or of a plan.

    Raises:
        ManifestError: it is another kind of name.
    """
    if not _FILE.fullmatch(file):
        raise ManifestError(f"{name}: file {shown(file)}: wanted a name such as {name}.onnx")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
