"""Released checkpoints: one file of a known student, and the base model's files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from shotstream_rt.errors import WeightsError
from shotstream_rt.plan.students import find_student

from ..model.captions import TextEncoder
from ..model.codec import LatentCodec
from ..model.lazy_tensors import LazyTensors
from ..model.scaled_fp8 import dequantised
from . import diffusers_base
from .base_files import BaseFiles, find_base
from .fit import check_channels
from .parts import LoadOptions, ModelParts
from .student_files import StudentFile, adapter_of, choose_student, looked_for, recognise
from .student_weights import StudentWeights, open_student
from .wan_config import apply_wan_config, read_wan_config

_ROOTS_ABOVE = 3


def open_released_folder(
    folder: Path, options: LoadOptions, more_roots: Sequence[Path] = ()
) -> ModelParts:
    """Open the one student below a folder.

    Args:
        folder: holds a student's file, and the base model's files in one of their layouts.
        options: see ``LoadOptions``.
        more_roots: folders where the base model's files are looked for after this one.

    Raises:
        ConfigError: no student has the name in ``options``.
        WeightsError: files are missing, or nothing tells which student a file is.
    """
    chosen = choose_student(folder, options.student)
    if chosen is None:
        transformer = diffusers_base.find_transformer(folder)
        if transformer is not None:
            chosen = recognise(transformer, options.student)
    roots = (folder, *more_roots)
    if chosen is None:
        missing = ""
        try:
            find_base(roots)
        except WeightsError as error:
            missing = f"; {error}"
        raise WeightsError(
            f"{folder}: missing a student: {looked_for()}, or a file of another name with "
            f"student=NAME (looked in this folder and three levels below){missing}"
        )
    return _parts(folder, chosen, roots, options)


def open_released_file(
    path: Path, options: LoadOptions, more_roots: Sequence[Path] = ()
) -> ModelParts:
    """Open a student by the path of its file.

    Args:
        path: the file.
        options: see ``LoadOptions``.
        more_roots: folders where the base model's files are looked for after those above the file.

    Raises:
        ConfigError: no student has the name in ``options``.
        WeightsError: files are missing, or nothing tells which student the file is.
    """
    above = path.absolute().parents[:_ROOTS_ABOVE]
    return _parts(path.parent, recognise(path, options.student), (*above, *more_roots), options)


def _parts(
    folder: Path, chosen: StudentFile, roots: Sequence[Path], options: LoadOptions
) -> ModelParts:
    base = find_base(roots)
    settings = {} if base.model_config is None else read_wan_config(base.model_config)
    lora = options.lora if options.lora is not None else chosen.adapter
    opened = _opened(chosen, settings.get("num_heads"), lora, options)
    model = opened.config
    if base.model_config is not None:
        model = apply_wan_config(model, settings, base.model_config)
    check_channels(model, str(chosen.path))
    known = find_student(chosen.student)
    _take_notes(chosen, opened, options)

    def weights() -> LazyTensors:
        return open_student(
            chosen.path, model, ema=options.ema, lora=lora, groups=chosen.groups
        ).tensors

    return ModelParts(
        folder=folder,
        places=tuple(roots),
        latents="wan",
        config=known.stream(model),
        weights=weights,
        source=str(chosen.path),
        codec=lambda dtype: _codec(base, options, dtype),
        text=lambda: _text(base, model.text_len, options),
        student=known.name,
    )


def _opened(
    chosen: StudentFile, heads: int | None, lora: str | Path | None, options: LoadOptions
) -> StudentWeights:
    return open_student(
        chosen.path, num_heads=heads, ema=options.ema, lora=lora, groups=chosen.groups
    )


def _take_notes(chosen: StudentFile, opened: StudentWeights, options: LoadOptions) -> None:
    """Write down what of a file was chosen without having been asked for."""
    add = options.notes.append
    if opened.note is not None:
        add(opened.note)
    if options.student is None and chosen.told_by != "its name":
        add(f"{chosen.path}: run as {chosen.student}, as {chosen.told_by} says")
    if chosen.named not in (None, chosen.student):
        add(f"{chosen.path}: its name is that of {chosen.named}; run as {chosen.student}, as asked")
    if opened.group is not None and opened.group != chosen.groups[0] and not options.ema:
        add(f"{chosen.path}: has no group {chosen.groups[0]!r}; took {opened.group!r}")
    if opened.average_left and options.student is None and len(chosen.groups) == 1:
        add(
            f"{chosen.path}: has a running average beside what was taken, which the released file "
            f"of {chosen.student} has not; if it is another student's, say student=NAME"
        )
    usual = adapter_of(chosen.student)
    if usual is not None and chosen.adapter is None and options.lora is None:
        add(
            f"{chosen.path}: run without a LoRA; {chosen.student} is released as a base and "
            f"{usual}, so give lora=FILE unless they are merged in this file"
        )
    if chosen.adapter is not None and options.lora is None:
        add(f"{chosen.path}: with {chosen.adapter.name}, which belongs to it")
    elif chosen.adapter is not None:
        add(f"{chosen.path}: with the LoRA asked for in place of {chosen.adapter.name}")


def _codec(base: BaseFiles, options: LoadOptions, dtype: torch.dtype) -> LatentCodec:
    from ..model.checkpoint import load_checkpoint, load_folder
    from ..model.wan_vae.codec import WanCodec

    raw = load_folder(base.vae) if base.vae.is_dir() else load_checkpoint(base.vae)
    tensors = options.progress.watch("codec", raw)
    return WanCodec.from_state(tensors, device=options.device, dtype=dtype, source=str(base.vae))


def _text(base: BaseFiles, text_len: int, options: LoadOptions) -> TextEncoder:
    from ..model.umt5.text_encoder import UMT5TextEncoder

    def prepare(tensors: LazyTensors) -> LazyTensors:
        whole, note = dequantised(tensors, str(base.text_encoder))
        if note is not None:
            options.notes.append(note)
        return options.progress.watch("text", whole)

    return UMT5TextEncoder.from_files(
        base.text_encoder, base.tokenizer,
        text_len=text_len, device=options.device, prepare=prepare,
    )  # fmt: skip
