"""The offline compiler check, as the command that it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from shotstream_rt.kernels.check import sass
from shotstream_rt.kernels.check.compile_cases import compile_cases
from shotstream_rt.kernels.check.compile_check import (
    SPILL_BYTES,
    exposure_failures,
    serial_failures,
    spill_failures,
)

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="compiles; the plain run does it"
)


def run(folder: Path, *arguments: str, interpret: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "shotstream_rt.kernels.check.compile_check", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.mark.slow
def test_machine_code_is_within_budget(tmp_path: Path) -> None:
    names = ["dual_attention", "qkv_append_rotated", "advance"]
    done = run(tmp_path, "--arch", "80", "90", "--kernel", *names, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["failed"] == 0
    reports = {(r["capability"], r["kernel"]): r for r in summary["kernels"]}
    assert set(reports) == {(arch, name) for arch in (80, 90) for name in names}
    attention = reports[90, "dual_attention"]
    assert attention["spill_bytes"] == 0
    assert attention["registers"] <= 200
    assert attention["instructions"]["HGMMA"] >= 32
    assert attention["instructions"]["UTMALDG"] > 0
    assert reports[80, "dual_attention"]["instructions"]["HMMA"] > 0
    assert reports[90, "qkv_append_rotated"]["instructions"]["STG.128"] == 3


LOOP = ["NOP", "@P0 BRA 0x0"]
STORE = "STL [R1], R2"
PRODUCTS = ["HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24", "WARPGROUP.DEPBAR.LE gsb0, 0x0"]


def listing(*lines: str) -> list[sass.Instruction]:
    return sass.parse_sass(
        "\n".join(f"        /*{16 * n:04x}*/   {line} ;  /* 0x0 */" for n, line in enumerate(lines))
    )


def test_a_spill_within_its_budget_passes_outside_of_loops() -> None:
    outside, inside = listing(*LOOP, STORE), listing(STORE, *LOOP)
    assert spill_failures(40, outside, 40) == []
    assert spill_failures(0, listing(*LOOP), 0) == []
    assert spill_failures(40, outside, 32) == ["spills 40 bytes in 1 stores, wanted at most 32"]
    assert spill_failures(8, outside, 0) != []
    assert spill_failures(8, inside, 8) == [
        "moves spilled registers in 1 instructions of a loop, wanted none"
    ]


def test_every_budget_is_of_a_case() -> None:
    for name, capability in SPILL_BYTES:
        assert name in {case.name for case in compile_cases(capability)}


@pytest.mark.parametrize("message,found", [("C7510", 1), ("C7515", 1), ("C7519", 1), ("C7520", 0)])
def test_what_the_assembler_says_of_products_is_a_failure(message: str, found: int) -> None:
    log = f"ptxas info    : ({message}) Potential Performance Loss: wgmma.mma_async"
    said = serial_failures(f"{log}\nptxas info    : Used 186 registers\n{log}", listing("EXIT"))
    assert len(said) == found
    assert all(message in failure for failure in said)


def test_more_waits_than_products_in_a_loop_are_a_failure() -> None:
    once = listing(*PRODUCTS, "@P0 BRA 0x0")
    assert serial_failures("", once) == []
    twice = listing(*PRODUCTS, *PRODUCTS, "@P0 BRA 0x0")
    assert serial_failures("", twice) == ["waits 2 times for 1 products in a loop"]
    # Outside of loops there is an end to it.
    assert serial_failures("", listing(*PRODUCTS, *PRODUCTS)) == []


def test_exponentials_with_nothing_to_do_for_the_matrix_unit_are_a_failure() -> None:
    exponentials = ["MUFU.EX2 R2, R3"] * 3
    under = listing(PRODUCTS[0], *exponentials, PRODUCTS[1], "@P0 BRA 0x0")
    assert exposure_failures(under, 0) == []
    behind = listing(*PRODUCTS, *exponentials, "@P0 BRA 0x0")
    assert exposure_failures(behind, 3) == []
    assert exposure_failures(behind, 2) == [
        "has 3 of 3 exponentials of a turn under no product, wanted at most 2"
    ]
    assert exposure_failures(listing("EXIT"), 0) == ["has no loop around products"]


def test_every_attention_of_the_arena_on_sm_90_is_held_to_its_overlap() -> None:
    held = {
        case.name
        for case in compile_cases(90)
        if case.late_exponentials is not None or case.exposed_exponentials is not None
    }
    assert {"dual_attention", "history_attention", "dual_attention_hopper"} <= held


@pytest.mark.parametrize(
    "arguments,interpret,message",
    [
        (["--kernel", "nothing"], "0", "nothing"),
        ([], "1", "TRITON_INTERPRET"),
    ],
    ids=["kernel", "interpreted"],
)
def test_mistakes_are_named(
    tmp_path: Path, arguments: list[str], interpret: str, message: str
) -> None:
    done = run(tmp_path, *arguments, interpret=interpret)
    assert done.returncode == 2
    assert message in done.stderr
