"""Which student a file is: told by its name, by a configuration beside it or by the caller."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt import ConfigError, Model, WeightsError
from shotstream_rt.loading.layouts import open_parts
from shotstream_rt.loading.parts import LoadOptions, ModelParts
from shotstream_rt.loading.student_files import RELEASED_FILES, recognise
from shotstream_rt.plan.students import STUDENTS

CASES = [
    ("shotstream", "ckpts/shotstream_merged.pt"),
    ("shotstream", "shotstream_merged.safetensors"),
    ("self-forcing", "checkpoints/self_forcing_dmd.pt"),
    ("self-forcing", "self_forcing_sid.pt"),
    ("longlive", "models/longlive_base.pt"),
    ("rolling-forcing", "checkpoints/rolling_forcing_dmd.pt"),
    ("infinity-rope", "Infinite-Forcing/ema_model.pt"),
    ("causal-forcing", "checkpoints/chunkwise/causal_forcing.pt"),
    ("causal-forcing-framewise", "framewise/causal_forcing.pt"),
    ("causal-forcing-2step", "causal-forcing++/framewise-2step.pt"),
    ("causal-forcing-1step", "causal-forcing++/framewise-1step.pt"),
    ("causal-forcing-long", "chunkwise/longvideo.pt"),
]


@pytest.fixture(scope="module")
def base(layouts: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    layouts.wan(root)
    return root


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A folder with the base model and no student yet."""
    (tmp_path / "wan_models").symlink_to(base / "Wan2.1-T2V-1.3B")
    return tmp_path


def parts(folder: Path, **options: Any) -> tuple[ModelParts, list[str]]:
    chosen = LoadOptions(**options)
    return open_parts(folder, chosen), chosen.notes


def value(found: ModelParts) -> float:
    return float(found.weights()["head.modulation"].flatten()[0])


def save_lora(path: Path, student_state: dict[str, torch.Tensor]) -> None:
    """Adapters of one layer, as PEFT names them, under a trainer's group."""
    weight = student_state["blocks.0.ffn.0.weight"]
    name = "base_model.model.blocks.0.ffn.0.lora_{}.weight"
    halves = {
        name.format("A"): torch.ones(2, weight.shape[1]),
        name.format("B"): torch.ones(weight.shape[0], 2),
    }
    torch.save({"generator_lora": halves, "critic_lora": {}, "step": 3}, path)


@pytest.mark.parametrize(("student", "name"), CASES)
def test_released_names_tell(
    student: str, name: str, folder: Path, save_student: Callable[..., Path],
    student_state: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(student_state, path)
    elif student in ("shotstream", "longlive", "causal-forcing"):
        save_student(path, generator=1.0)
    else:
        save_student(path, fragments=True, generator=0.5, generator_ema=1.0)
    if student == "longlive":
        save_lora(path.with_name("lora.pt"), student_state)
    for place in (folder, path):
        found, _ = parts(place)
        assert found.student == student
        assert found.config == STUDENTS[student].stream(found.config.model)
        assert found.source == str(path)
        assert value(found) == value_of(student_state)
    assert {found for found, _ in CASES} == {known.student for known in RELEASED_FILES}


def value_of(state: dict[str, torch.Tensor]) -> float:
    return float(state["head.modulation"].flatten()[0])


def test_every_student_has_a_released_file() -> None:
    assert {known.student for known in RELEASED_FILES} == set(STUDENTS)


@pytest.mark.parametrize("name", ["model.pt", "sf/my_download.pt", "ema_model.pt",
                                  "causal_forcing.pt", "self_forcing_dmd (1).pt"])  # fmt: skip
def test_a_renamed_student_is_refused_and_told_how(
    name: str, folder: Path, save_student: Callable[..., Path]
) -> None:
    path = save_student(folder / name, generator_ema=1.0)
    for place in (folder, path):
        with pytest.raises(WeightsError) as caught:
            Model.open(place, device="cpu")
        message = str(caught.value)
        assert path.name in message
        assert all(student in message for student in STUDENTS)
        assert "student=NAME" in message
        assert "--student NAME" in message
    found, notes = parts(folder, student="self-forcing")
    assert (found.student, notes) == ("self-forcing", [])
    assert found.config.schedule.shift == 5.0
    assert found.config.cache.context_frames == 0


def test_another_trainers_file_under_shotstreams_name_is_refused(
    folder: Path, save_student: Callable[..., Path]
) -> None:
    save_student(folder / "ckpts/shotstream_merged.pt", generator_ema=1.0)
    with pytest.raises(
        WeightsError, match=r"got generator_ema, step, wanted a group .*'generator'"
    ):
        parts(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", json.dumps({"student": "self-forcing"})),
        ("config.yaml", "student: self-forcing\n"),
        (
            "model.yaml",
            "denoising_step_list: [1000, 750, 500, 250]\nnum_frame_per_block: 3\n"
            "model_kwargs:\n  timestep_shift: 5.0\n",
        ),
    ],
)
def test_a_configuration_beside_it_tells(
    name: str, text: str, folder: Path, save_student: Callable[..., Path]
) -> None:
    if not name.endswith("json"):
        pytest.importorskip("yaml", reason="PyYAML is not installed")
    path = save_student(folder / "run" / "model.pt", generator_ema=1.0)
    path.with_name(name).write_text(text, "utf-8")
    found, notes = parts(folder)
    assert found.student == "self-forcing"
    assert len(notes) == 1
    assert "run as self-forcing, as " in notes[0]
    assert name in notes[0]


SETTINGS = {
    "shotstream": "denoising_step_list: [1000, 740, 500, 260]\nnum_frame_per_block: 3\n"
    "multi_caption: true\n",
    "longlive": "denoising_step_list: [1000, 750, 500, 250]\nnum_frame_per_block: 3\n"
    "model_kwargs: {timestep_shift: 5.0, local_attn_size: 12, sink_size: 3}\n",
    "rolling-forcing": "denoising_step_list: [1000, 800, 600, 400, 200]\nnum_frame_per_block: 3\n"
    "model_kwargs: {timestep_shift: 5.0}\n",
    "causal-forcing-framewise": "denoising_step_list: [1000, 750, 500, 250]\n"
    "num_frame_per_block: 1\nmodel_kwargs: {timestep_shift: 5.0}\n",
    "causal-forcing-2step": "denoising_step_list: [1000, 500]\nnum_frame_per_block: 1\n"
    "denoising_step_list_first_chunk: [1000, 750, 500, 250]\nmodel_kwargs: {timestep_shift: 5.0}\n",
}


@pytest.mark.parametrize("student", SETTINGS)
def test_settings_beside_it_tell(student: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "model.yaml").write_text(SETTINGS[student], "utf-8")
    assert recognise(tmp_path / "model.pt", None).student == student


_ENDLESS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]\n" for n in range(1, 12)
)
"""A few lines that stand for more words than fit on any disk."""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "denoising_step_list: [1000, 500, 100]\n",
            r"settings in config\.yaml .* no known student",
        ),
        ("denoising_step_list: nonsense\n", "no known student"),
        ("student: dall-e\n", r"config\.yaml: student: got 'dall-e', wanted one of shotstream"),
        ("student: [1\n", r"config\.yaml: not a readable configuration"),
        ("x: !!timestamp 3\n", r"config\.yaml: not a readable configuration"),
        (f"{_ENDLESS}student: *a11\n", r"config\.yaml: student: got list, wanted one of"),
        ("seed: 3\n", "no configuration is beside it"),
    ],
)
def test_configurations_that_do_not_tell(text: str, told: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "config.yaml").write_text(text, "utf-8")
    with pytest.raises(WeightsError, match=told):
        recognise(tmp_path / "model.pt", None)


def test_the_callers_word_goes_before_the_name(
    folder: Path, save_student: Callable[..., Path], student_state: dict[str, torch.Tensor]
) -> None:
    path = save_student(folder / "chunkwise/causal_forcing.pt", generator=1.0, generator_ema=0.5)
    assert parts(path)[0].student == "causal-forcing"
    found, _ = parts(path, student="infinity-rope")
    assert found.student == "infinity-rope"
    assert found.config.cache.window_frames == 6
    assert value(found) == value_of(student_state)  # of the group that this file's student takes
    with pytest.raises(ConfigError, match=r"student: got 'wan', wanted .*self-forcing"):
        parts(path, student="wan")


def test_several_students_are_not_chosen_among(
    folder: Path, save_student: Callable[..., Path]
) -> None:
    save_student(folder / "checkpoints/self_forcing_dmd.pt", generator_ema=1.0)
    save_student(folder / "checkpoints/rolling_forcing_dmd.pt", generator_ema=1.0)
    with pytest.raises(WeightsError, match=r"2 files .*rolling_forcing_dmd\.pt.*self_forcing_dmd"):
        parts(folder)
    assert parts(folder, student="rolling-forcing")[0].student == "rolling-forcing"


def test_groups_are_taken_as_each_student_has_them(
    folder: Path, save_student: Callable[..., Path], student_state: dict[str, torch.Tensor]
) -> None:
    told = value_of(student_state)
    path = save_student(folder / "self_forcing_dmd.pt", generator=2.0, generator_ema=1.0)
    found, notes = parts(folder)
    assert (value(found), notes) == (told, [])
    save_student(path, generator=2.0)
    found, notes = parts(folder)
    assert value(found) == 2 * told
    assert "has no group 'generator_ema'; took 'generator'" in notes[0]
    with pytest.raises(WeightsError, match=r"ema: got generator, step, wanted .*'generator_ema'"):
        parts(folder, ema=True)


def test_longlive_is_its_base_and_its_lora(
    folder: Path, save_student: Callable[..., Path], student_state: dict[str, torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    path = save_student(folder / "models/longlive_base.pt", generator=1.0)
    with pytest.raises(WeightsError, match=r"lora\.pt: is missing, the LoRA that belongs to"):
        parts(folder)
    save_lora(path.with_name("lora.pt"), student_state)
    found, notes = parts(folder)
    name = "blocks.0.ffn.0.weight"
    # Rank two of ones: every weight grows by two, in float32.
    assert torch.equal(found.weights()[name], student_state[name] + 2.0)
    assert found.weights()[name].dtype == torch.float32
    assert "with lora.pt, which belongs to it" in notes[0]
    other = tmp_path_factory.mktemp("lora") / "mine.pt"
    save_lora(other, {name: student_state[name]})
    found, notes = parts(folder, lora=other)
    assert "with the LoRA asked for in place of lora.pt" in notes[0]


def test_a_folder_without_a_student_lists_the_names(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing a student: shotstream_merged\.pt, self_forc"):
        parts(folder)


@pytest.mark.parametrize("place", ["student.json", "below"])
def test_folders_that_may_not_be_looked_into(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def stat(path: Path, **options: Any) -> Any:
        if path.name == place:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    (tmp_path / "below").mkdir()
    monkeypatch.setattr(Path, "stat", stat)
    told = r"student\.json cannot be read" if place == "student.json" else "missing a student"
    with pytest.raises(WeightsError, match=told):
        Model.open(tmp_path)


def test_a_student_is_not_named_for_a_folder_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"student: got 'longlive'.*student\.json"):
        Model.open("nano", student="longlive")


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("Causal-chunkwise/framewise/causal_forcing.pt", "causal-forcing-framewise"),
        ("framewise/chunkwise/causal_forcing.pt", "causal-forcing"),
        ("infinity-rope/Causal-Forcing/framewise/causal_forcing.pt", "causal-forcing-framewise"),
    ],
)
def test_the_nearest_folder_tells(path: str, student: str, tmp_path: Path) -> None:
    assert recognise(tmp_path / path, None).student == student


_ROLLING = SETTINGS["rolling-forcing"]


@pytest.mark.parametrize(
    ("config", "text", "refused"),
    [
        ("config.yaml", "student: rolling-forcing\n", True),
        ("self_forcing_dmd.json", '{"student": "longlive"}', True),
        ("self_forcing_dmd.yaml", _ROLLING, True),
        # A script's defaults, settings that both students have, and what cannot be read.
        ("default_config.yaml", _ROLLING, False),
        ("config.yaml", "student: self-forcing\n", False),
        ("self_forcing_dmd.yaml", "student: causal-forcing\n", False),
        ("config.yaml", "student: [1\n", False),
    ],
)
def test_a_configuration_that_contradicts_the_name(
    config: str, text: str, refused: bool, tmp_path: Path
) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    path = tmp_path / "self_forcing_dmd.pt"
    (tmp_path / config).write_text(text, "utf-8")
    if refused:
        with pytest.raises(WeightsError, match=rf"name is that of self-forcing, but by .*{config}"):
            recognise(path, None)
    else:
        assert recognise(path, None).student == "self-forcing"
    assert recognise(path, "rolling-forcing").student == "rolling-forcing"


@pytest.mark.parametrize(
    ("student", "more"),
    [
        ("causal-forcing-framewise", "warp_denoising_step: false\n"),
        ("causal-forcing-framewise", "context_noise: 50\n"),
        ("rolling-forcing", "independent_first_frame: true\n"),
        ("longlive", "global_sink: false\n"),
    ],
)
def test_settings_that_differ_in_one_are_no_known_students(
    student: str, more: str, tmp_path: Path
) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "model.yaml").write_text(SETTINGS[student] + more, "utf-8")
    with pytest.raises(WeightsError, match="no known student"):
        recognise(tmp_path / "model.pt", None)


def test_settings_with_keys_numbered_by_slot_are_no_known_students(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    text = SETTINGS["longlive"].replace("3}", "3, use_infinite_attention: true}")
    (tmp_path / "model.yaml").write_text(text, "utf-8")
    with pytest.raises(WeightsError, match="no known student"):
        recognise(tmp_path / "model.pt", None)


def test_what_was_asked_for_against_the_name_is_noted(
    folder: Path, save_student: Callable[..., Path]
) -> None:
    path = save_student(folder / "rolling_forcing_dmd.pt", generator_ema=1.0)
    _, notes = parts(path, student="self-forcing")
    assert len(notes) == 1
    assert "its name is that of rolling-forcing; run as self-forcing, as asked" in notes[0]


def test_half_of_longlive_under_another_name_is_noted(
    folder: Path, save_student: Callable[..., Path], student_state: dict[str, torch.Tensor]
) -> None:
    path = save_student(folder / "base.pt", generator=1.0)
    save_lora(folder / "lora.pt", student_state)
    found, notes = parts(path, student="longlive")
    assert value(found) == value_of(student_state)
    assert len(notes) == 1
    assert "run without a LoRA; longlive is released as a base and lora.pt" in notes[0]
    _, notes = parts(path, student="longlive", lora=folder / "lora.pt")
    assert notes == []


def test_an_average_that_shotstreams_file_has_not_is_noted(
    folder: Path, save_student: Callable[..., Path]
) -> None:
    path = save_student(folder / "shotstream_merged.pt", generator=1.0, generator_ema=0.5)
    found, notes = parts(path)
    assert found.student == "shotstream"
    assert len(notes) == 1
    assert "has a running average beside what was taken" in notes[0]
    assert parts(path, student="shotstream")[1] == []
    assert parts(path, ema=True)[1] == []
