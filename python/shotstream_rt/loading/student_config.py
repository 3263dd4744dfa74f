"""A trainer's or an inference script's configuration beside a checkpoint.

It tells which student the checkpoint is: by a key ``student``, or by the settings of its rollout,
if they are those of a known student.

Source: keys of the configuration files of Self Forcing and the codes that grew out of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_rt.errors import WeightsError
from shotstream_rt.inputs import parse_json, read_text
from shotstream_rt.plan.students import STUDENTS, KnownStudent
from shotstream_rt.printable import shown

_ENDINGS = (".yaml", ".yml", ".json")
_COMMON = ("config", "inference", "default_config")
_MAX_BYTES = 1 << 20
_STEPS = "denoising_step_list"


@dataclass(frozen=True, slots=True)
class ConfigBeside:
    """What the configuration beside a file says.

    Attributes:
        student: the name of a known student, or ``None``.
        note: which file told, or why none did.
        common: the settings in a file of a common name told.
    """

    student: str | None
    note: str
    common: bool = False


def config_beside(path: Path) -> ConfigBeside:
    """Return what the configuration beside a checkpoint says.

    Args:
        path: the checkpoint; looked for are ``NAME.yaml``, ``NAME.json``, ``config.yaml`` and their
            like in its folder.

    Raises:
        WeightsError: a configuration is there and cannot be read, or names an unknown student.
    """
    names = [stem + ending for stem in (path.stem, *_COMMON) for ending in _ENDINGS]
    for name in names:
        file = path.with_name(name)
        if not file.is_file():
            continue
        data = _read(file)
        if data is None:
            return ConfigBeside(None, f"{file.name} beside it needs the package PyYAML to be read")
        if "student" in data:
            return ConfigBeside(_named(data["student"], file), f"{file.name} beside it")
        if _STEPS in data:
            student = _by_settings(data)
            if student is None:
                return ConfigBeside(
                    None, f"the settings in {file.name} beside it are no known student's"
                )
            common = file.stem != path.stem
            return ConfigBeside(student, f"the settings in {file.name} beside it", common)
    return ConfigBeside(None, "its name is not a released one, and no configuration is beside it")


def told_otherwise(path: Path, student: str) -> ConfigBeside | None:
    """Return the configuration of a checkpoint that says it is another student, or ``None``.

    Only what is meant for this very file counts: a configuration of its name, or one that names a
    student. Scripts keep their defaults in files of the common names.

    Args:
        path: the checkpoint.
        student: whose file it is by its name.
    """
    try:
        found = config_beside(path)
    except WeightsError:
        return None  # the name is enough, so nothing in it is needed
    if found.student is None or found.common:
        return None
    alike = _settings(STUDENTS[found.student]) == _settings(STUDENTS[student])
    return None if alike else found


def _read(file: Path) -> Mapping[str, Any] | None:
    text = read_text(file, limit_bytes=_MAX_BYTES, what="configuration", error=WeightsError)
    if file.suffix == ".json":
        data = parse_json(text, file, WeightsError)
    else:
        try:
            yaml = importlib.import_module("yaml")
        except ImportError:
            return None
        try:
            data = yaml.safe_load(text)
        except Exception as error:  # a damaged file may raise anything the parser can
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{file}: not a readable configuration ({shown(line)})") from error
    return data if isinstance(data, dict) else {}


def _named(value: object, file: Path) -> str:
    if not isinstance(value, str) or value not in STUDENTS:
        # What is no text may be endlessly long when it is shown: YAML refers to its own parts.
        got = shown(value) if isinstance(value, str) else type(value).__name__
        raise WeightsError(f"{file}: student: got {got}, wanted one of {', '.join(STUDENTS)}")
    return value


def _by_settings(data: Mapping[str, Any]) -> str | None:
    """Return the first known student with the settings of a configuration."""
    own = data.get("model_kwargs")
    network: Mapping[str, Any] = own if isinstance(own, dict) else {}
    window, first = network.get("local_attn_size", -1), data.get("denoising_step_list_first_chunk")
    asked = {
        "steps": _numbers(data[_STEPS]),
        # The networks of this family have this shift where their configuration says none.
        "shift": network.get("timestep_shift", 8.0),
        "chunk": data.get("num_frame_per_block", 1),
        "window": None if window in (-1, None) else window,
        "sink": network.get("sink_size", 0),
        "first_steps": _numbers(first) if first is not None else (),
        "multi_caption": bool(data.get("multi_caption", False)),
        "first_frames": 1 if data.get("independent_first_frame") else None,
        "warp": bool(data.get("warp_denoising_step", True)),
        "context_noise": data.get("context_noise", 0),
        "by_slot": bool(network.get("use_infinite_attention", False)),
        "keeps_sink": bool(data.get("global_sink", True)),
    }
    for student in STUDENTS.values():
        if _settings(student) == asked:
            return student.name
    return None


def _settings(student: KnownStudent) -> dict[str, object]:
    rolling = student.rollout.policy == "rolling"
    return {
        "steps": tuple(map(float, student.schedule.denoising_steps)),
        "shift": student.schedule.shift,
        "chunk": student.shot.chunk_frames,
        # Rolling Forcing's window is fixed in its code.
        "window": None if rolling else student.cache.window_frames,
        "sink": 0 if rolling else student.cache.sink_frames,
        "first_steps": tuple(map(float, student.schedule.first_steps)),
        "multi_caption": student.shot.multi_caption,
        "first_frames": student.rollout.first_frames,
        "warp": student.schedule.warp,
        "context_noise": student.schedule.context_noise,
        # LongLive's other numbering and its other recache; no student is released with them.
        "by_slot": False,
        "keeps_sink": not student.rollout.renew_sink,
    }


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in value):
        return None
    return tuple(float(n) for n in value)
