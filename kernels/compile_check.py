"""Compiles every Triton kernel for every architecture without a GPU and reads the result.

``python -m shotstream_rt.kernels.compile_check [--arch 90 ...] [--kernel NAME ...] [--json]``
checks the machine code: no spills, registers and shared memory within budget, tensor-core and
16-byte memory instructions where they belong. Exit code 1 if a kernel fails, 2 for a user's
mistake.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from .compile_cases import CompileCase, compile_cases
from .sass import Instruction, count_instructions, disassemble, read_turns
from .tuning import ARCHITECTURES

SHARED_BYTES = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
"""Most dynamic shared memory of one program, by compute capability (CUDA programming guide)."""

REGISTERS_PER_SM = 65536


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
    """Types, constants and promises by which the launcher would compile for the sample values."""
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


def compile_case(case: CompileCase, capability: int) -> Any:
    """Compile one case for one architecture."""
    signature, constants, attributes = specialise(case)
    language = GluonASTSource if case.kernel.is_gluon() else ASTSource
    source = language(fn=case.kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=case.options)


def inspect_case(case: CompileCase, capability: int, compiled: Any | None = None) -> CompileReport:
    """Compile one case, unless it was, and hold it against its budgets."""
    compiled = compiled or compile_case(case, capability)
    usage, code = disassemble(compiled.asm["cubin"])
    instructions = count_instructions(code)
    metadata = compiled.metadata
    spilled = usage["STACK"] + usage["LOCAL"]
    failures = []
    if spilled or instructions["STL"]:
        failures.append(f"spills {spilled} bytes in {instructions['STL']} stores, wanted none")
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


def _overlap_failures(allowed: int, code: list[Instruction]) -> list[str]:
    """What keeps a consumer's exponentials from running under its second product."""
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
        prog="python -m shotstream_rt.kernels.compile_check",
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
