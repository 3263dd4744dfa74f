"""From a model's name or folder to everything a session needs.

Called by ``Session.open``, the commands and the bench. Three layouts: ``nano`` inside the package,
a folder with ``student.json``, and the folder of the released ShotStream checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shotstream_rt.checks import check_one_of
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import BackendUnavailableError, ConfigError, WeightsError
from shotstream_rt.profiles import EXACT, Profile, find_profile

if TYPE_CHECKING:
    from shotstream_rt.pipeline import Pipeline

    from .captions import TextEncoder
    from .codec import LatentCodec

_log = logging.getLogger("shotstream_rt.model")

DTYPES = ("float32", "bfloat16")
MANIFEST_FILE = "student.json"
STUDENT_FILE = "student.safetensors"
NANO_FOLDER = Path(__file__).parent.parent / "nano"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelBundle:
    """A loaded model.

    Attributes:
        name: as asked for.
        config: all that decides the numbers.
        pipeline: the student's hot path.
        codec: frames to latents and back.
        text: captions to embeddings.
        device: where the student runs.
        info: what was resolved (model, device, backend, dtype, bytes), plain JSON values.
        release: frees what the garbage collector would not.
    """

    name: str
    config: StreamConfig
    pipeline: Pipeline
    codec: LatentCodec
    text: TextEncoder
    device: torch.device
    info: Mapping[str, Any] = field(default_factory=dict)
    release: Callable[[], None] = lambda: None

    @property
    def profile(self) -> str:
        """Name of the profile it was opened with."""
        return str(self.info.get("profile", EXACT.name))

    def close(self) -> None:
        """Free caches and device memory."""
        self.release()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Parts:
    """What a layout gives, before a backend is built on it.

    ``latents`` says whose latents the codec reads, ``wan`` or ``nano``.
    """

    folder: Path
    latents: str
    config: StreamConfig
    student: Mapping[str, Tensor]
    source: str
    codec: Callable[[], LatentCodec]
    text: Callable[[], TextEncoder]


def load_model(
    model: str | Path = "nano",
    *,
    device: str = "auto",
    backend: str = "auto",
    kernels: str | None = None,
    profile: str = "exact",
    size: tuple[int, int] | str | None = None,
    dtype: str | None = None,
) -> ModelBundle:
    """Load a model and build its pipeline.

    Args:
        model: ``nano``, a folder with ``student.json``, or a released checkpoint's folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        backend: ``auto`` or a backend's name.
        kernels: ``auto``, or a kernel set with its parts; see ``backends.registry.resolve``.
        profile: a name of ``profiles.PROFILES``.
        size: frame height and width in pixels, multiples of 16; default: the model's own.
        dtype: ``float32`` or ``bfloat16``; default: bfloat16 on a GPU, else float32.

    Raises:
        ConfigError: an argument is not usable.
        WeightsError: a checkpoint file is missing or broken.
        ManifestError: ``student.json`` or ``history.json`` is broken, of another version, or made
            for other weights.
        BackendUnavailableError: the device or the backend cannot be used here.
    """
    from shotstream_rt.backends import registry
    from shotstream_rt.pipeline import Pipeline

    from .history_file import read_history
    from .student import Student
    from .tiny_decoder import TinyCodec
    from .weights import load_into

    chosen = find_profile(profile)
    check_one_of("backend", backend, registry.names())
    place = resolve_device(device)
    if dtype is not None:
        check_one_of("dtype", dtype, DTYPES)
    kind = _dtype(dtype, place)
    wanted = None if size is None else parse_size(size)
    parts = _open_parts(model, place, kind)
    tiny_file = _tiny_file(chosen, parts, model)
    config = parts.config if wanted is None else _resized(parts.config, *wanted)
    history = read_history(parts.folder) if chosen.prunes_history else None
    with torch.device("meta"):
        student = Student(config.model)
    load_into(student, parts.student, source=parts.source, device=place, dtype=kind)
    if history is not None:
        history.check(student)
        config = dataclasses.replace(config, history=history.policy)
    built = registry.resolve(
        backend, student, config, place, kernels=kernels, lossy_parts=chosen.kernel_parts
    )
    codec, text = parts.codec(), parts.text()
    if tiny_file is not None:
        codec = TinyCodec.load(tiny_file, codec, device=place, dtype=kind)
    codec = _by_chunks(codec, config, built.info.name)
    height, width = codec.pixel_size(config.model.latent_height, config.model.latent_width)
    pipeline = Pipeline(config, built)
    info = {
        "model": str(model),
        "profile": chosen.name,
        "lossy": chosen.lossy,
        "pruned_heads": None if history is None else history.share,
        "decoder": parts.latents if tiny_file is None else tiny_file.name,
        "decoder_kernels": getattr(codec, "kernel_set", "torch"),
        "backend_requested": backend,
        "backend": built.info.name,
        **{k: v for k, v in dataclasses.asdict(built.info).items() if k != "name"},
        "size": [height, width],
    }
    _log.info("opened %s", json.dumps(info))
    if chosen.lossy:
        _log.info("profile %s is lossy: %s", chosen.name, chosen.changes)
    return ModelBundle(
        name=str(model),
        config=config,
        pipeline=pipeline,
        codec=codec,
        text=text,
        device=place,
        info=info,
        release=pipeline.close,
    )


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` takes a GPU where there is one.

    Raises:
        ConfigError: not a device's name.
        BackendUnavailableError: no such device here.
    """
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device: got {name!r}, wanted auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise BackendUnavailableError(
            f"device {name}: torch sees {count} CUDA device(s); use cpu or auto"
        )
    return torch.device("cuda", index)


def parse_size(size: tuple[int, int] | str) -> tuple[int, int]:
    """Return frame height and width in pixels.

    Raises:
        ConfigError: not two multiples of 16 from 16 to 4096 (latents are 8 times smaller and the
            student reads them in 2x2 patches).
    """
    values: tuple[Any, ...] = tuple(size) if not isinstance(size, str) else ()
    if isinstance(size, str) and (match := re.fullmatch(r"(\d+)[xX](\d+)", size.strip())):
        values = int(match[1]), int(match[2])
    usable = len(values) == 2 and all(
        isinstance(v, int) and not isinstance(v, bool) and 16 <= v <= 4096 and v % 16 == 0
        for v in values
    )
    if not usable:
        raise ConfigError(
            f"size: got {size!r}, wanted height x width in multiples of 16, such as 480x832"
        )
    return values[0], values[1]


def available_models() -> dict[str, str]:
    """Return the models that are here without a download: name to folder."""
    return {"nano": str(NANO_FOLDER)} if (NANO_FOLDER / MANIFEST_FILE).is_file() else {}


def _dtype(name: str | None, device: torch.device) -> torch.dtype:
    if name is None:
        name = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _resized(config: StreamConfig, height: int, width: int) -> StreamConfig:
    model = dataclasses.replace(config.model, latent_height=height // 8, latent_width=width // 8)
    return dataclasses.replace(config, model=model)


def _open_parts(model: str | Path, device: torch.device, dtype: torch.dtype) -> _Parts:
    if not isinstance(model, str | Path) or not str(model):
        raise ConfigError(f"model: got {model!r}, wanted 'nano' or a folder")
    folder = NANO_FOLDER if model == "nano" else Path(model).expanduser()
    if not folder.is_dir():
        raise WeightsError(f"model {model}: no such folder; wanted 'nano' or a checkpoint folder")
    if (folder / MANIFEST_FILE).is_file():
        return _project_parts(folder, device, dtype)
    if model == "nano":
        raise WeightsError(f"model nano: {folder} holds no {MANIFEST_FILE}; reinstall the package")
    return _released_parts(folder, device, dtype)


def _tiny_file(profile: Profile, parts: _Parts, model: str | Path) -> Path | None:
    """Return the tiny decoder's file if the profile takes one."""
    from .released import find_tiny_decoder

    if profile.decoder == "codec" or (profile.decoder == "small" and parts.latents != "wan"):
        return None
    if parts.latents != "wan":
        raise ConfigError(
            f"profile {profile.name}: the tiny decoder reads latents of the Wan VAE, model {model} "
            f"has latents of kind {parts.latents}; use a profile that keeps the decoder, such as "
            "exact"
        )
    return find_tiny_decoder(parts.folder)


def _by_chunks(codec: LatentCodec, config: StreamConfig, backend: str) -> LatentCodec:
    """Record the decoding too where the student's passes are recorded; else leave it as it is."""
    from .chunk_decoder import ChunkCodec, ChunkShape, ProgrammableCodec

    if not isinstance(codec, ProgrammableCodec) or codec.device.type != "cuda":
        return codec
    if backend == "eager":
        return codec
    from shotstream_rt.backends.cuda_graph import GraphCapture

    model, device = config.model, codec.device
    shape = ChunkShape(
        frames=config.shot.chunk_frames, height=model.latent_height, width=model.latent_width
    )
    return ChunkCodec(codec, shape, lambda: GraphCapture(device, urgent=True))


def _project_parts(folder: Path, device: torch.device, dtype: torch.dtype) -> _Parts:
    from shotstream_rt.manifest import StudentManifest

    from .weights import student_state

    manifest = StudentManifest.read(folder / MANIFEST_FILE)
    path = folder / STUDENT_FILE
    return _Parts(
        folder=folder,
        latents=str(manifest.codec.get("kind")),
        config=manifest.stream,
        student=student_state(path, manifest.stream.model),
        source=str(path),
        codec=lambda: _codec(folder, manifest.codec, device, dtype),
        text=lambda: _text(folder, manifest.text, manifest.stream, device),
    )


def _codec(
    folder: Path, entry: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> LatentCodec:
    kind, path = entry.get("kind"), folder / str(entry.get("file"))
    if kind == "nano":
        from .nano_codec import NanoCodec

        return NanoCodec.load(path, device)
    if kind == "wan":
        from .vae import WanCodec
        from .weights import load_checkpoint

        state = load_checkpoint(path)
        return WanCodec.from_state(state, device=device, dtype=dtype, source=str(path))
    raise WeightsError(f"{folder / MANIFEST_FILE}: codec kind {kind!r}, wanted nano or wan")


def _text(
    folder: Path, entry: Mapping[str, Any], config: StreamConfig, device: torch.device
) -> TextEncoder:
    kind = entry.get("kind")
    if kind == "nano":
        from .nano_text import NanoTextEncoder

        return NanoTextEncoder.load(folder / str(entry.get("file")), device)
    if kind == "umt5":
        from .text_encoder import UMT5TextEncoder

        weights = folder / str(entry.get("file", entry.get("folder")))
        tokenizer = folder / str(entry.get("tokenizer", entry.get("folder")))
        return UMT5TextEncoder.from_files(
            weights, tokenizer, text_len=config.model.text_len, device=device
        )
    raise WeightsError(f"{folder / MANIFEST_FILE}: text kind {kind!r}, wanted nano or umt5")


def _released_parts(folder: Path, device: torch.device, dtype: torch.dtype) -> _Parts:
    from .released import find_release
    from .text_encoder import UMT5TextEncoder
    from .vae import WanCodec
    from .weights import infer_model_config, load_checkpoint, student_state

    release = find_release(folder)
    state = student_state(release.student)
    heads = None
    if release.model_config is not None:
        heads = _json_object(release.model_config).get("num_heads")
    model = infer_model_config(state, num_heads=heads, source=str(release.student))

    def codec() -> LatentCodec:
        tensors = load_checkpoint(release.vae)
        return WanCodec.from_state(tensors, device=device, dtype=dtype, source=str(release.vae))

    def text() -> TextEncoder:
        return UMT5TextEncoder.from_files(
            release.text_encoder, release.tokenizer, text_len=model.text_len, device=device
        )

    return _Parts(
        folder=folder,
        latents="wan",
        config=StreamConfig(model=model),
        student=state,
        source=str(release.student),
        codec=codec,
        text=text,
    )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: got {type(data).__name__}, wanted a JSON object")
    return data
