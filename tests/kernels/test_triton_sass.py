"""Reading machine code, and that the sm_90 attention has its exponentials below its products."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shotstream_rt.kernels import sass

HEAD = ["HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT"] * 2
SECOND = ["HGMMA.64x128x16.F32.BF16 R88, R152, gdesc[UR12], R88"] * 3
SOFTMAX = ["FMNMX R1, R24, R25, !PT", "MUFU.EX2 R2, R3", "@!P0 MUFU.EX2 R2, R4", "MUFU.RCP R5, R5"]
WAIT_ONE, WAIT_ALL = "WARPGROUP.DEPBAR.LE gsb0, 0x1 ", "WARPGROUP.DEPBAR.LE gsb0, 0x0 "


def listing(*groups: list[str] | str, branch_to: int | None = None) -> list[sass.Instruction]:
    """Instructions at 0, 16, ...; at the end a branch back to one of them."""
    lines = [line for group in groups for line in ([group] if isinstance(group, str) else group)]
    if branch_to is not None:
        lines.append(f"@P1 BRA 0x{16 * branch_to:x}")
    text = [f"        /*{16 * n:04x}*/   {line} ;  /* 0x0 */" for n, line in enumerate(lines)]
    return sass.parse_sass("\n".join(['\t.headerflags\t@"EF_CUDA_SM90"', *text]))


def test_lines_are_taken_apart() -> None:
    (first, second) = listing("@!UP0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64+0x10]", "EXIT")
    assert (first.stem, first.suffix) == ("LDG", ".E.128.CONSTANT")
    assert first.operands.startswith("R4,")
    assert (second.stem, second.suffix, second.address) == ("EXIT", "", 16)
    counts = sass.count_instructions([first, second])
    assert counts == {"LDG": 1, "LDG.128": 1, "EXIT": 1}


def test_an_overlapped_turn() -> None:
    code = listing("MOV R1, R2", HEAD, SECOND, WAIT_ONE, SOFTMAX, WAIT_ALL, "FMUL R88, R88, R6",
                   branch_to=1)  # fmt: skip
    (turn,) = sass.read_turns(code)
    assert (turn.logit_products, turn.value_products) == (2, 3)
    assert (turn.exponentials, turn.overlapped) == (2, 2)
    assert turn.waits == (1, 0)
    assert turn.instructions == len(code) - 1


def test_a_wait_above_the_exponentials_is_seen() -> None:
    (turn,) = sass.read_turns(listing(HEAD, SECOND, WAIT_ONE, WAIT_ALL, SOFTMAX, branch_to=0))
    assert turn.overlapped == 0
    assert turn.exponentials == 2


def test_products_one_after_the_other_are_seen() -> None:
    (turn,) = sass.read_turns(listing(HEAD, WAIT_ALL, SOFTMAX, SECOND, WAIT_ALL, branch_to=0))
    assert turn.waits == (0, 0)
    assert turn.overlapped == 0


def test_a_turn_starts_at_its_first_product_wherever_the_loop_does() -> None:
    straight = listing(HEAD, SECOND, WAIT_ONE, SOFTMAX, WAIT_ALL, branch_to=0)
    rotated = listing(SOFTMAX, WAIT_ALL, HEAD, SECOND, WAIT_ONE, branch_to=0)
    assert sass.read_turns(rotated) == sass.read_turns(straight)


def test_loops_without_both_products_and_outer_loops_are_left_out() -> None:
    assert sass.read_turns(listing(HEAD, WAIT_ALL, SOFTMAX, branch_to=0)) == []
    assert sass.read_turns(listing(HEAD, SECOND, WAIT_ONE, WAIT_ALL)) == []
    inner = [*HEAD, *SECOND, WAIT_ONE, *SOFTMAX, WAIT_ALL, "@P1 BRA 0x10"]
    outer = listing("NOP", inner, "NOP", branch_to=0)
    (turn,) = sass.read_turns(outer)
    assert turn.instructions == len(inner)


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="compiles; the plain run does it"
)
@pytest.mark.parametrize(
    "name,registers",
    [
        ("dual_attention_hopper", 168),
        pytest.param("dual_attention_hopper_ping_pong", 168, marks=pytest.mark.slow),
        pytest.param("dual_attention_qk8_hopper", 168, marks=pytest.mark.slow),
        pytest.param("dual_attention_fp8_hopper", 168, marks=pytest.mark.slow),
    ],
)
def test_exponentials_run_under_the_second_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, registers: int
) -> None:
    pytest.importorskip("triton.experimental.gluon", reason="triton with Gluon is not installed")
    if sass.disassembler() is None:
        pytest.skip("no cuobjdump, neither in triton nor on PATH")
    from shotstream_rt.kernels.compile_cases import compile_cases
    from shotstream_rt.kernels.compile_check import compile_case, inspect_case

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (case,) = (case for case in compile_cases(90) if case.name == name)
    compiled = compile_case(case, 90)
    report = inspect_case(case, 90, compiled)
    assert report.failures == []
    assert report.registers == registers
    assert report.num_warps == 12
    usage, code = sass.disassemble(compiled.asm["cubin"])
    assert usage["STACK"] == usage["LOCAL"] == 0
    turns = sass.read_turns(code)
    assert len(turns) == 2, "one loop for each consumer"
    for turn in turns:
        assert turn.waits == (1, 0)
        # 64 queries by 128 keys by 4 warps of 32, and the rescaling of two rows.
        assert turn.overlapped == 64 + 2
        small = name.split("_")[2]
        assert turn.logit_products == (8 if small == "hopper" else 4)
        assert turn.value_products == (4 if small == "fp8" else 8)
    # What moves 8-bit weights between threads, or repacks them, would be here.
    loops = [loop for loop in sass.find_loops(code) if len(loop) in {t.instructions for t in turns}]
    counts = [sass.count_instructions(loop) for loop in loops]
    assert all(count["SHFL"] <= 8 and count["PRMT"] == 0 for count in counts)
