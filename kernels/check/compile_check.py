"""Compiles every Triton kernel for every architecture without a GPU and reads the result.

``python -m shotstream_rt.kernels.check.compile_check [--arch 90 ...] [--kernel NAME ...] [--json]``
checks the machine code: spills, registers and shared memory within budget, tensor-core and 16-byte
memory instructions where they belong, asynchronous products that are not serialised, exponentials
that run during products. Exit code 1 if a kernel fails, 2 for a user's mistake.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from ..tuning import ARCHITECTURES
from .case import CompileCase
from .compile_cases import compile_cases
from .sass import (
    Instruction,
    count_instructions,
    count_overlaps,
    count_waits,
    disassemble,
    read_turns,
    spills_in_loops,
)

SHARED_BYTES = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
"""Most dynamic shared memory of one program, by compute capability (CUDA programming guide)."""

REGISTERS_PER_SM = 65536

SPILL_BYTES = {
    # Addresses of keys, values and result, computed before the loop over keys and needed again
    # after it. 10 registers a thread, stored and loaded once: 9 MB a call through the first-level
    # cache, for 1.2 TFLOP. The forms that do not spill load one block of keys ahead, not two.
    ("dual_attention", 120): 40,
    # One address, stored before the loop over 12 frames and loaded after it: 16 bytes a thread,
    # which reads and writes more than that in every frame. ptxas stops at 72 registers by itself,
    # so that seven programs share a multiprocessor.
    **{("rms_silu_first_384", capability): 8 for capability in (80, 86, 89)},
}
"""Most bytes that a thread may spill outside of loops, by case and capability; other cases: none.

All by ptxas 13 (Triton 3.7); ptxas 12.8 (Triton 3.6) spills nowhere. In a loop no spill is allowed.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledCase:
    """What Triton made of a case.

    Attributes:
        asm: every stage by name; ``cubin`` is the machine code, ``ptx`` what it was made of.
        metadata: Triton's own: warps, shared memory and so on.
        ptxas_log: what the assembler said.
    """

    asm: dict[str, Any]
    metadata: Any
    ptxas_log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileReport:
    """What the compiler made of one case.

    Attributes:
        kernel: name of the case.
        capability: 90 for sm_90.
        registers: per thread.
        spill_bytes: stack and local memory of a thread.
        shared_bytes: dynamic shared memory of a program.
        num_warps: after compilation.
        cubin_bytes: size of the machine code file.
        instructions: how often each kind of instruction occurs.
        failures: budgets that were exceeded, in words; empty if all is well.
    """

    kernel: str
    capability: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    num_warps: int
    cubin_bytes: int
    instructions: dict[str, int]
    failures: list[str]


def specialise(case: CompileCase) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """Types, constants and divisibility for which the launcher would compile the sample values."""
    signature, constants, attributes = {}, dict(case.constants), {}
    for index, name in enumerate(case.kernel.arg_names):
        value = case.arguments.get(name)
        fixed = name not in case.arguments
        specialised = name not in case.kernel.do_not_specialize
        if isinstance(value, int) and value == 1 and specialised:
            constants[name], fixed = 1, True
        if fixed:
            signature[name] = "constexpr"
        elif isinstance(value, str):
            signature[name] = value
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
        promising = specialised and name not in case.kernel.do_not_specialize_on_alignment
        aligned = isinstance(value, str) and value.startswith("*")
        aligned = aligned or (isinstance(value, int) and value % 16 == 0)
        if aligned and promising and not fixed:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compile_case(case: CompileCase, capability: int) -> CompiledCase:
    """Compile one case for one architecture; always, as Triton's cache keeps no assembler log."""
    signature, constants, attributes = specialise(case)
    language = GluonASTSource if case.kernel.is_gluon() else ASTSource
    source = language(fn=case.kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    # Triton prints the log and does not return it.
    with knobs.nvidia.scope(), knobs.compilation.scope(), redirect_stdout(io.StringIO()) as printed:
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True
        compiled = triton.compile(source, target=target, options=case.options)
    return CompiledCase(asm=compiled.asm, metadata=compiled.metadata, ptxas_log=printed.getvalue())


def inspect_case(
    case: CompileCase, capability: int, compiled: CompiledCase | None = None
) -> CompileReport:
    """Compare a case's machine code with its budgets.

    Args:
        case: what to compile.
        capability: compute capability, 90 for sm_90.
        compiled: the compiled case; ``None`` compiles it.
    """
    compiled = compiled or compile_case(case, capability)
    usage, code = disassemble(compiled.asm["cubin"])
    instructions = count_instructions(code)
    metadata = compiled.metadata
    spilled = usage["STACK"] + usage["LOCAL"]
    failures = spill_failures(spilled, code, SPILL_BYTES.get((case.name, capability), 0))
    failures += serial_failures(compiled.ptxas_log, code)
    if usage["REG"] > case.registers:
        failures.append(f"takes {usage['REG']} registers, wanted at most {case.registers}")
    if usage["REG"] * 32 * metadata.num_warps > REGISTERS_PER_SM:
        failures.append(f"{usage['REG']} registers in {metadata.num_warps} warps do not fit an SM")
    if metadata.shared > SHARED_BYTES[capability]:
        failures.append(
            f"takes {metadata.shared} bytes of shared memory of {SHARED_BYTES[capability]}"
        )
    failures += [f"has no {name}" for name in case.instructions if not instructions[name]]
    if case.late_exponentials is not None:
        failures += _overlap_failures(case.late_exponentials, code)
    if case.exposed_exponentials is not None:
        failures += exposure_failures(code, case.exposed_exponentials)
    fused = len(re.findall(r"\bfma\.", compiled.asm["ptx"]))
    if case.exact and fused:
        failures.append(f"fuses {fused} multiply-adds, wanted none")
    return CompileReport(
        kernel=case.name,
        capability=capability,
        registers=usage["REG"],
        spill_bytes=spilled,
        shared_bytes=metadata.shared,
        num_warps=metadata.num_warps,
        cubin_bytes=len(compiled.asm["cubin"]),
        instructions=dict(instructions),
        failures=failures,
    )


def spill_failures(spilled: int, code: list[Instruction], allowed: int) -> list[str]:
    """Say what is wrong with the registers that a kernel spills to memory.

    Args:
        spilled: bytes of a thread's stack and local memory.
        code: instructions of the kernel.
        allowed: bytes that it may spill outside of loops.
    """
    failures = []
    if spilled > allowed:
        stores = count_instructions(code)["STL"]
        failures.append(f"spills {spilled} bytes in {stores} stores, wanted at most {allowed}")
    inside = spills_in_loops(code)
    if inside:
        failures.append(f"moves spilled registers in {inside} instructions of a loop, wanted none")
    return failures


def serial_failures(ptxas_log: str, code: list[Instruction]) -> list[str]:
    """Say what makes products of sm_90 wait for one another although they could overlap.

    Args:
        ptxas_log: the assembler says so itself, in messages C7510 to C7519.
        code: instructions of the kernel; a loop needs one wait a product at most.
    """
    said = sorted(set(re.findall(r"\((C751\d)\)", ptxas_log)))
    failures = [f"has serialised products, says ptxas ({message})" for message in said]
    for waits, products in count_waits(code):
        if waits > products:
            failures.append(f"waits {waits} times for {products} products in a loop")
    return failures


def exposure_failures(code: list[Instruction], allowed: int) -> list[str]:
    """Say where exponentials run while the matrix unit is idle.

    Args:
        code: instructions of an attention for sm_90.
        allowed: exponentials of an iteration that may run so.
    """
    turns = count_overlaps(code)
    failures = [] if turns else ["has no loop around products"]
    for exponentials, overlapped in turns:
        exposed = exponentials - overlapped
        if not exponentials or exposed > allowed:
            failures.append(
                f"has {exposed} of {exponentials} exponentials of a turn under no product, wanted "
                f"at most {allowed}"
            )
    return failures


def _overlap_failures(allowed: int, code: list[Instruction]) -> list[str]:
    """Say what keeps a consumer's exponentials from running during its second product."""
    turns = read_turns(code)
    if len(turns) != 2:
        return [f"has {len(turns)} loops around both products, wanted one per consumer"]
    late = max(turn.exponentials - turn.overlapped for turn in turns)
    failures = []
    if any(turn.waits != (1, 0) for turn in turns):
        failures.append(f"waits for products in the order {[t.waits for t in turns]}, wanted 1, 0")
    if late > allowed:
        failures.append(f"has {late} exponentials behind the second product's wait")
    return failures


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m shotstream_rt.kernels.check.compile_check",
        description="Compile every Triton kernel without a GPU and check its machine code.",
    )
    parser.add_argument(
        "--arch", type=int, nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES),
        metavar="SM", help="compute capabilities, 90 for sm_90 (default: all)",
    )  # fmt: skip
    parser.add_argument("--kernel", nargs="+", metavar="NAME", help="cases (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    chosen = parser.parse_args(argv)
    known = list(dict.fromkeys(case.name for sm in ARCHITECTURES for case in compile_cases(sm)))
    unknown = sorted(set(chosen.kernel or ()) - set(known))
    if unknown:
        parser.error(f"--kernel: got {', '.join(unknown)}, wanted some of {', '.join(known)}")
    if not all(isinstance(c.kernel, triton.runtime.JITFunction) for c in compile_cases(80)):
        parser.error("TRITON_INTERPRET: got 1, wanted 0: interpreted kernels are not compiled")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    chosen = _arguments(argv)
    reports = []
    for capability in chosen.arch:
        for case in compile_cases(capability):
            if chosen.kernel and case.name not in chosen.kernel:
                continue
            report = inspect_case(case, capability)
            reports.append(report)
            print(  # noqa: T201
                f"sm_{capability:<4}{report.kernel:22}{report.registers:4} registers"
                f"{report.shared_bytes:8} B shared{report.num_warps:4} warps  "
                f"{'; '.join(report.failures) or 'ok'}"
            )
    failed = sum(bool(report.failures) for report in reports)
    if chosen.json:
        summary = {
            "schema_version": 1,
            "triton": triton.__version__,
            "failed": failed,
            "kernels": [asdict(report) for report in reports],
        }
        print(json.dumps(summary))  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
