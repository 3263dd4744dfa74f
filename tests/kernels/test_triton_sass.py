"""Reading machine code, and that the sm_90 attention has its exponentials below its products."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shotstream_rt.kernels.check import sass

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
    assert (first.guard, second.guard) == ("!UP0", "")
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


def test_notes_on_scheduling_are_no_operands() -> None:
    back = "BRA.U UP0, 0x0          &req={4,3,2}     ?trans11"
    (_, branch) = code = listing("NOP", back)
    assert branch.operands == "UP0, 0x0"
    assert sass.find_loops(code) == [code]


def test_a_wait_behind_all_else_is_no_loop_around_what_it_waits_for() -> None:
    # 0x10 goes on to 0x50 if the barrier is not there yet; from there a branch leads back to 0x20.
    code = listing("NOP", "@!P0 BRA 0x50", HEAD, "EXIT", "NOP", "BRA 0x20")
    assert sass.find_loops(code) == []
    # With a branch that repeats the wait, that alone is a loop.
    (loop,) = sass.find_loops(
        listing("NOP", "@!P0 BRA 0x50", HEAD, "EXIT", "NOP", "@!P0 BRA 0x50", "BRA 0x20")
    )
    assert [instruction.address for instruction in loop] == [0x50, 0x60]


def test_code_that_no_turn_runs_is_in_no_loop() -> None:
    # The loop is 0x10 to 0x40; 0x20 leaves it.
    code = listing("NOP", "NOP", "@P0 BRA 0x50", "NOP", "BRA 0x10", "STL [R1], R2", "EXIT")
    (loop,) = sass.find_loops(code)
    assert [instruction.address for instruction in loop] == [0x10, 0x20, 0x30, 0x40]
    assert sass.spills_in_loops(code) == 0
    inside = listing("NOP", "LDL R2, [R1]", "@P0 BRA 0x50", "NOP", "BRA 0x10", "EXIT")
    assert sass.spills_in_loops(inside) == 1


def test_waits_are_counted_against_products() -> None:
    logits = [HEAD[0], "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0"]
    assert sass.count_waits(listing(logits, WAIT_ALL, SOFTMAX, SECOND, branch_to=0)) == [(1, 2)]
    serial = [line for part in (*logits, *SECOND) for line in (part, WAIT_ALL)]
    assert sass.count_waits(listing(serial, branch_to=0)) == [(5, 2)]
    # Both products of a turn in the same registers; each starts at zero.
    start = "HGMMA.64x128x32.F32.E4M3.E4M3 R24, R56, gdesc[UR20], RZ, !UPT"
    added = "HGMMA.64x128x32.F32.E4M3.E4M3 R24, R60, gdesc[UR20], R24"
    shared = [start, added, WAIT_ALL, start, added, WAIT_ALL]
    assert sass.count_waits(listing(shared, branch_to=0)) == [(2, 2)]


PRODUCT = ["HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24"] * 2
CLOSED = [*PRODUCT, "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0"]


@pytest.mark.parametrize(
    "turn,overlapped",
    [
        ([CLOSED, WAIT_ALL, SOFTMAX], 0),
        ([CLOSED, SOFTMAX, WAIT_ALL], 2),
        # Between the instructions of a product: those ahead of it are under way.
        ([PRODUCT, SOFTMAX, CLOSED, WAIT_ALL], 2),
        # Two groups are under way, and the wait lets the first of them through.
        ([CLOSED, "WARPGROUP.ARRIVE", CLOSED, WAIT_ONE, SOFTMAX, WAIT_ALL], 2),
        ([CLOSED, WAIT_ONE, WAIT_ALL, SOFTMAX], 0),
        # Of the turn before: until this turn waits.
        ([SOFTMAX, WAIT_ALL, SOFTMAX, CLOSED], 2),
    ],
)  # fmt: skip
def test_exponentials_are_under_a_product_from_its_start_to_its_wait(
    turn: list[list[str] | str], overlapped: int
) -> None:
    ((exponentials, found),) = sass.count_overlaps(listing(*turn, branch_to=0))
    assert found == overlapped
    assert exponentials == 2 * turn.count(SOFTMAX)


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
    from shotstream_rt.kernels.check.compile_cases import compile_cases
    from shotstream_rt.kernels.check.compile_check import compile_case, inspect_case

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


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="compiles; the plain run does it"
)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dual_attention", "history_attention"])
def test_exponentials_of_the_portable_attention_run_under_its_second_product(name: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    if sass.disassembler() is None:
        pytest.skip("no cuobjdump, neither in triton nor on PATH")
    from shotstream_rt.kernels.check.compile_cases import compile_cases
    from shotstream_rt.kernels.check.compile_check import compile_case, inspect_case

    (case,) = (case for case in compile_cases(90) if case.name == name)
    compiled = compile_case(case, 90)
    assert inspect_case(case, 90, compiled).failures == []
    usage, code = sass.disassemble(compiled.asm["cubin"])
    assert usage["STACK"] == usage["LOCAL"] == 0
    # One wait for each product of eight instructions.
    assert sass.count_waits(code) == [(2, 2)]
    loops = [loop for loop in sass.find_loops(code) if any(i.stem == "HGMMA" for i in loop)]
    assert [sass.count_instructions(loop)["HGMMA"] for loop in loops] == [16]
    ((exponentials, overlapped),) = sass.count_overlaps(code)
    assert exponentials == 64 + 2
    assert overlapped >= exponentials - 2
