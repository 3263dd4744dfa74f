"""Workloads: declared recipes of what is measured, as data.

The JSON files are ``bench/workloads`` of the repository. A workload says what is computed; how it
is run (backend, type, threads) is asked for beside it, and both enter the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.plan.students import STUDENTS

from .hardware import slug

Kind = Literal["student", "film", "interactive", "serve", "kernels"]
KINDS: tuple[Kind, ...] = ("student", "film", "interactive", "serve", "kernels")

_RECIPE_KEYS = {
    "student": {"stream", "text_tokens", "seed", "shots"},
    "film": {"model", "story", "seed", "shots"},
    "interactive": {"model", "story", "seed", "asks", "queue_chunks"},
    "serve": {
        "model", "story", "seed", "sessions", "viewers", "seconds", "cut_every_s",
        "start_buffer_s", "policies", "capacity",
    },
    "kernels": {
        "frames", "rows", "columns", "heads", "head_dim", "ffn_dim", "cached_frames",
        "latent_channels",
    },
}  # fmt: skip

DEFAULT_TOLERANCE = 1.15
"""Ratio to a baseline that is still accepted where a workload names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A declared recipe.

    Attributes:
        id: file name and name in records.
        version: counted up whenever the recipe changes.
        kind: ``student`` (passes of the student alone, random weights), ``film`` (a session, from
            prompts to frames), ``interactive`` (a session that is directed while it is shown),
            ``serve`` (a server that is watched) or ``kernels`` (shapes for ``bench/``).
        title: one line for people.
        recipe: what is computed; see ``bench/workloads``.
        tolerance: by metric, the largest accepted ratio to a baseline in the worse direction;
            ``default`` serves the metrics not named.
    """

    id: str
    version: int
    kind: Kind
    title: str
    recipe: Mapping[str, Any]
    tolerance: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"workload {self.id}: kind: got {self.kind!r}, wanted one of {', '.join(KINDS)}"
            )
        keys = _RECIPE_KEYS[self.kind]
        if set(self.recipe) != keys:
            raise ConfigError(
                f"workload {self.id}: recipe: got {', '.join(sorted(self.recipe))}, wanted exactly "
                f"{', '.join(sorted(keys))}"
            )

    def tolerance_of(self, metric: str) -> float:
        """Return the accepted ratio of a metric; positions share the one of their stem."""
        default = self.tolerance.get("default", DEFAULT_TOLERANCE)
        return self.tolerance.get(metric, self.tolerance.get(metric.split(".")[0], default))

    def fingerprint(self, requested: Mapping[str, Any]) -> str:
        """Return a digest of the recipe and of what was asked for (not of what was resolved)."""
        declared = {
            "id": self.id,
            "version": self.version,
            "recipe": self.recipe,
            "requested": dict(requested),
        }
        text = json.dumps(declared, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_recipe(self, **changes: Any) -> Workload:
        """Return the workload with recipe values replaced; its id tells that it was changed."""
        changed = {key: value for key, value in changes.items() if self.recipe[key] != value}
        if not changed:
            return self
        marks = "-".join(f"{key}-{slug(str(value))}" for key, value in sorted(changed.items()))
        return replace(self, id=f"{self.id}-{marks}", recipe={**self.recipe, **changed})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Workload:
        """Build from a JSON object.

        Raises:
            ConfigError: unknown or missing keys, or another schema version.
        """
        values = dict(data)
        version = values.pop("schema_version", None)
        if version != 1:
            raise ConfigError(f"workload: schema_version: got {version!r}, wanted 1")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"workload: {error}") from error


def bundled_workloads() -> dict[str, Workload]:
    """Return the declared workloads by id."""
    folder = resources.files(__package__).joinpath("recipes")
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    texts = (folder.joinpath(name).read_text("utf-8") for name in files)
    workloads = (Workload.from_dict(json.loads(text)) for text in texts)
    return {workload.id: workload for workload in workloads}


def find_workload(name: str) -> Workload:
    """Return a declared workload.

    Raises:
        ConfigError: no workload has this id.
    """
    known = bundled_workloads()
    if name not in known:
        raise ConfigError(f"workload: got {name!r}, wanted one of {', '.join(known)}")
    return known[name]


def student_workload(
    name: str | Path, *, shots: int, text_tokens: int = 100, model: ModelConfig | None = None
) -> Workload:
    """Declare a run of a student's passes with random weights.

    Args:
        name: a student of ``plan.students.STUDENTS``, with its own settings at its released size;
            or a JSON file with keys of ``ModelConfig``, which has ShotStream's settings.
        shots: shots of the film.
        text_tokens: real tokens of each caption, at most the student's ``text_len``.
        model: another size for a student by name.

    Raises:
        ConfigError: the file cannot be read or does not describe a student.
    """
    if str(name) in STUDENTS:
        stream = STUDENTS[str(name)].stream(model or ModelConfig())
        label, title = f"student-{name}", f"student passes of {name}, random weights"
    else:
        stream = StreamConfig(model=_model_in(Path(name)))
        label = "student"
        title = f"student passes at the shape of {Path(name).name}, random weights"
    size = stream.model
    return Workload(
        id=f"{label}-{size.dim}x{size.num_layers}-{size.latent_height}x{size.latent_width}",
        version=1,
        kind="student",
        title=title,
        recipe={
            "stream": stream.to_dict(),
            "text_tokens": min(text_tokens, size.text_len),
            "seed": 0,
            "shots": shots,
        },
        tolerance={},
    )


def _model_in(path: Path) -> ModelConfig:
    """Read a student's shape from a JSON file."""
    known = f"; wanted a file, or one of {', '.join(STUDENTS)}"
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a student's JSON: {error}{known}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: got {type(data).__name__}, wanted a JSON object of ModelConfig")
    try:
        return ModelConfig.from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
