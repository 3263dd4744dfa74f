"""Bundles on disk: what is built, what is refused, and the command that does it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles; the plain run does it", allow_module_level=True)

from shotstream_rt.errors import ManifestError  # noqa: E402
from shotstream_rt.kernels.aot import __main__ as command  # noqa: E402
from shotstream_rt.kernels.aot import build as building  # noqa: E402
from shotstream_rt.kernels.aot.bundle import read_machine_code  # noqa: E402
from shotstream_rt.kernels.aot.check import check_bundle  # noqa: E402
from shotstream_rt.kernels.aot.cubin import CubinError, read_cubin  # noqa: E402
from shotstream_rt.kernels.aot.manifest import FILE, BundleManifest  # noqa: E402
from shotstream_rt.kernels.check import compile_check  # noqa: E402
from shotstream_rt.kernels.check.compile_cases import compile_cases  # noqa: E402
from shotstream_rt.kernels.tuning import ARCHITECTURES  # noqa: E402

CASES = {
    ("rms_norm", 80),
    ("rms_norm", 90),
    ("advance", 90),
    ("dual_attention", 90),
    ("dual_attention_hopper", 90),
    ("merge_splits", 90),
}


def entry_of(folder: Path, name: str, capability: int = 90) -> Any:
    entries = BundleManifest.read(folder).kernels
    return next(e for e in entries if (e.name, e.capability) == (name, capability))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / FILE
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_manifest_says_what_was_built(built: Path) -> None:
    manifest = BundleManifest.read(built)
    assert {(e.name, e.capability) for e in manifest.kernels} == CASES
    assert manifest.triton == triton.__version__
    assert set(manifest.ptxas) == {"sm_80", "sm_90"}
    assert manifest.architectures == (80, 90)
    attention = entry_of(built, "dual_attention")
    assert attention.kernel == "gpu.dual_attention._attention_tma_kernel"
    assert (attention.num_warps, attention.num_ctas, attention.spill_bytes) == (8, 1, 0)
    assert attention.shared_bytes > 48 * 1024
    assert [d.data_type for d in attention.descriptors] == [9, 9, 9]
    assert {argument.type for argument in attention.arguments[:3]} == {"tensordesc<bf16[128, 128]>"}
    norm = entry_of(built, "rms_norm")
    assert [(a.name, a.divisible) for a in norm.arguments] == [
        ("X", True), ("WEIGHT", True), ("OUT", True), ("row_stride", True), ("eps", False),
    ]  # fmt: skip
    assert json.loads(norm.constants) == {"BLOCK": 2048, "WIDTH": 1536}
    for entry in manifest.kernels:
        assert entry.registers > 0
        assert (built / entry.file).stat().st_size == entry.cubin_bytes


def test_machine_code_is_of_its_architecture(built: Path) -> None:
    for entry in BundleManifest.read(built).kernels:
        cubin = read_cubin(read_machine_code(built, entry))
        assert cubin.capability == entry.capability
        assert list(cubin.parameters) == [entry.symbol]


def test_machine_code_names_no_file_of_the_builder(built: Path) -> None:
    for path in built.glob("*/*.cubin"):
        assert str(Path(building.__file__).parents[2]).encode() not in path.read_bytes()
        assert b".debug_line" not in path.read_bytes()


def test_manifest_survives_reading_and_writing(bundle: Path, tmp_path: Path) -> None:
    manifest = BundleManifest.read(bundle)
    manifest.write(tmp_path)
    assert BundleManifest.read(tmp_path) == manifest


def test_every_bit_of_the_header_counts() -> None:
    with pytest.raises(CubinError, match="at the start"):
        read_cubin(b"not machine code")
    with pytest.raises(CubinError, match="cut off"):
        read_cubin(b"\x7fELF\x02")


def test_cut_machine_code_is_told(built: Path) -> None:
    data = (built / entry_of(built, "rms_norm").file).read_bytes()
    for length in (63, 64, len(data) // 2, len(data) - 1):
        with pytest.raises(CubinError, match="cut off"):
            read_cubin(data[:length])


def damage_none(folder: Path) -> None:
    (folder / FILE).unlink()


def damage_half(folder: Path) -> None:
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text[: len(text) // 2])


def change(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda data: data.update(values))


def change_entry(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda data: data["kernels"][0].update(values))


@pytest.mark.parametrize(
    "damage,message",
    [
        (damage_none, "manifest.json: cannot be read as JSON .*build it again"),
        (damage_half, "manifest.json: cannot be read as JSON .*build it again"),
        (change(format="zip"), "not a bundle of kernels"),
        (change(schema_version=2), "got schema_version 2, wanted 1; build it again"),
        (change(extra=1), r"unknown \['extra'\]"),
        (change(kernels={}), "kernels: got {}, wanted a list"),
        (change(kernels=[1]), r"kernels\[0\]: got int, wanted an object"),
        (change(line_info=1), "line_info: got 1, wanted bool"),
        (change_entry(num_warps="8"), r"kernels\[0\]: num_warps: got '8', wanted int"),
        (change_entry(num_warps=True), "num_warps: got True, wanted int"),
        (change_entry(arguments=[{"name": "X"}]), r"arguments\[0\]: missing \['divisible', 'ty"),
        (change_entry(name="dual_attention"), "sm_90 dual_attention occurs twice|occurs twice"),
        (change_entry(file="../x.cubin"), "wanted one inside the folder"),
        (change_entry(file="/x.cubin"), "wanted one inside the folder"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(
    bundle: Path, damage: Callable[[Path], None], message: str
) -> None:
    if "twice" in message:
        edit(bundle, lambda data: data["kernels"][0].update(capability=90))
    damage(bundle)
    with pytest.raises(ManifestError, match=message):
        BundleManifest.read(bundle)


def test_changed_machine_code_is_refused(bundle: Path) -> None:
    entry = entry_of(bundle, "rms_norm")
    path = bundle / entry.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=r"rms_norm-.*changed since it was built; build it"):
        read_machine_code(bundle, entry)
    path.unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_machine_code(bundle, entry)


def test_machine_code_of_another_kernel_is_refused(bundle: Path) -> None:
    entry = entry_of(bundle, "rms_norm")

    def instead(data: bytes) -> Any:
        (bundle / entry.file).write_bytes(data)
        return dataclasses.replace(entry, cubin_sha256=hashlib.sha256(data).hexdigest())

    older = (bundle / entry_of(bundle, "rms_norm", 80).file).read_bytes()
    with pytest.raises(ManifestError, match="got machine code for sm_80, wanted sm_90"):
        read_machine_code(bundle, instead(older))
    other = (bundle / entry_of(bundle, "advance").file).read_bytes()
    with pytest.raises(ManifestError, match="has no kernel _rms_norm_kernel"):
        read_machine_code(bundle, instead(other))
    shorter = dataclasses.replace(entry, arguments=entry.arguments[:-1])
    (bundle / entry.file).write_bytes(building.build_entry("rms_norm", 90).cubin)
    with pytest.raises(ManifestError, match=r"takes parameters of \(8, .*wanted \(8, 8, 8, 4, 8"):
        read_machine_code(bundle, shorter)


def test_building_again_gives_the_same_bytes(built: Path) -> None:
    entry = entry_of(built, "rms_norm")
    assert building.build_entry("rms_norm", 90).entry == entry


def test_line_info_changes_no_instruction(built: Path) -> None:
    with_lines = building.build_entry("rms_norm", 90, line_info=True)
    assert b".debug_line" in with_lines.cubin
    plain = entry_of(built, "rms_norm")
    assert with_lines.entry.registers == plain.registers
    assert with_lines.entry.arguments == plain.arguments


def test_a_new_bundle_replaces_the_old_one(bundle: Path) -> None:
    before = {path.name for path in bundle.glob("*/*.cubin")}
    stray = bundle / "sm_90" / "old-000000000000.cubin"
    stray.write_bytes(b"old")
    assert building.build(bundle, [("rms_norm", 80)]) is not None
    assert {path.name for path in bundle.glob("*/*.cubin")} < before
    assert [e.name for e in BundleManifest.read(bundle).kernels] == ["rms_norm"]
    assert not list(bundle.rglob(".*"))


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ManifestError, match="exists and is no bundle"):
        building.build(tmp_path, [("rms_norm", 80)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_is_written_when_a_kernel_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = BundleManifest.read(bundle)
    real = building.inspect_case

    def over_budget(*arguments: Any) -> Any:
        return dataclasses.replace(real(*arguments), failures=["spills 8 bytes"])

    monkeypatch.setattr(building, "inspect_case", over_budget)
    arguments = ["build", "--out", str(bundle), "--arch", "90", "--kernel", "rms_norm"]
    assert command.main([*arguments, "--jobs", "1", "--json"]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["failures"] == ["sm_90 rms_norm: spills 8 bytes"]
    assert summary["bundle"] is None
    assert BundleManifest.read(bundle) == before


@pytest.mark.parametrize("allowed,written", [(40, True), (32, False)])
def test_a_spill_is_held_against_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, written: bool
) -> None:
    real = compile_check.disassemble

    def spilling(cubin: bytes) -> Any:
        usage, code = real(cubin)
        return {**usage, "STACK": 40}, code

    monkeypatch.setattr(compile_check, "disassemble", spilling)
    monkeypatch.setitem(compile_check.SPILL_BYTES, ("rms_norm", 90), allowed)
    told: list[building.Built] = []
    manifest = building.build(tmp_path / "new", [("rms_norm", 90)], told=told.append)
    assert (manifest is not None) == (tmp_path / "new" / FILE).exists() == written
    assert [bool(built.failures) for built in told] == [not written]
    assert told[0].entry.spill_bytes == 40


def test_check_finds_what_is_stale(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = check_bundle(bundle)[1]
    left_out = {
        f"sm_{sm} {case.name}: missing"
        for sm in (80, 90)
        for case in compile_cases(sm)
        if (case.name, sm) not in CASES
    }
    assert set(problems) == left_out
    edit(bundle, lambda data: data["kernels"][0].update(source_sha256="0", name="advance"))
    edit(bundle, lambda data: data["kernels"][1].update(options="{}"))
    edit(bundle, lambda data: data["kernels"][2].update(name="gone"))
    found = set(check_bundle(bundle)[1]) - left_out
    names = [(e.capability, e.name) for e in BundleManifest.read(bundle).kernels]
    assert f"sm_{names[2][0]} gone: no such case" in found
    assert any("compiled from another source" in problem for problem in found)
    assert any("compiled for another launch" in problem for problem in found)


def test_commands_look_at_a_bundle(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["inspect", str(built), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CASES) + 1
    shown = json.loads(lines[-1])
    assert {(e["name"], e["capability"]) for e in shown["kernels"]} == CASES
    assert command.main(["check", str(built), "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["entries"] == len(CASES)
    assert command.main(["check", str(built / "sm_90")]) == 1
    assert "error:" in capsys.readouterr().err


def test_every_case_of_every_architecture_is_built_by_default() -> None:
    work = building.cases_of(ARCHITECTURES)
    assert len(work) == len(set(work)) == sum(len(compile_cases(sm)) for sm in ARCHITECTURES)
    assert building.cases_of([80], ["rms_norm"]) == [("rms_norm", 80)]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--kernel", "nothing"], "nothing"),
        (["--arch", "70"], "70"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["build", "--out", str(tmp_path / "new"), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_interpreted_kernels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interpreted = [SimpleNamespace(name="rms_norm", kernel=lambda: None)]
    monkeypatch.setattr(command, "compile_cases", lambda capability: interpreted)
    with pytest.raises(SystemExit) as stopped:
        command.main(["build", "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err


def test_several_workers_build_the_same(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads(jobs: int, mp_context: Any) -> ThreadPoolExecutor:
        assert mp_context.get_start_method() == "spawn"
        assert jobs == 2
        # One at a time, unlike processes: Triton's settings and standard output are shared.
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(building, "ProcessPoolExecutor", threads)
    work = [("rms_norm", 80), ("rms_norm", 90)]
    manifest = building.build(tmp_path / "new", work, jobs=2)
    assert manifest is not None
    assert set(manifest.kernels) < set(BundleManifest.read(built).kernels)


def test_what_a_worker_process_gives_can_be_sent() -> None:
    made = building.build_entry("rms_norm", 90)
    assert pickle.loads(pickle.dumps(made)) == made
