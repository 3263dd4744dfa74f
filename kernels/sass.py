"""Reads machine code: which instructions a cubin has, in which loops, and in what order.

A compiler keeps the meaning of a kernel and not the order in which its source states it, yet the
speed of an attention kernel is that order: exponentials cost nothing only while the matrix unit is
busy. ``read_turns`` answers whether they are. Called by ``compile_check``; needs no GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_LINE = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)((?:\.\w+)*)\s*([^;]*);", re.M
)
_MATRIX = ("HGMMA", "QGMMA")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: within the kernel, bytes.
        stem: ``HGMMA``.
        suffix: ``.64x128x16.F32.BF16``, or nothing.
        operands: as disassembled.
    """

    address: int
    stem: str
    suffix: str
    operands: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a loop around two matrix products does in one turn, from its first product on.

    Attributes:
        logit_products: instructions with both operands in shared memory (Q K^T).
        value_products: instructions with the first operand in registers (P V).
        exponentials: of the whole turn.
        overlapped: those between the last product and the wait for it.
        waits: outstanding groups that each wait for products allows, in order: 1, then 0 is the
            order that overlaps.
        instructions: of the whole turn, branches not always taken included.
    """

    logit_products: int
    value_products: int
    exponentials: int
    overlapped: int
    waits: tuple[int, ...]
    instructions: int


@cache
def disassembler() -> Path | None:
    """Path of ``cuobjdump``, Triton's own first, or ``None``."""
    spec = find_spec("triton")
    if spec is not None and spec.origin is not None:
        own = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
        if own.is_file():
            return own
    found = shutil.which("cuobjdump")
    return None if found is None else Path(found)


def disassemble(cubin: bytes) -> tuple[dict[str, int], list[Instruction]]:
    """Return resource usage by name (``REG``, ``STACK``, ``LOCAL``) and the instructions.

    Raises:
        FileNotFoundError: no disassembler is installed.
    """
    tool = disassembler()
    if tool is None:
        raise FileNotFoundError("cuobjdump: found neither in triton nor on PATH; install triton")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        resources, sass = (
            subprocess.run([tool, option, path], check=True, capture_output=True, text=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    usage = re.findall(r"(\w+):(\d+)", resources.split("Function", 1)[-1])
    return {key: int(value) for key, value in usage}, parse_sass(sass)


def parse_sass(sass: str) -> list[Instruction]:
    """Instructions of a disassembly, in order of address."""
    return [
        Instruction(address=int(address, 16), stem=stem, suffix=suffix, operands=operands.strip())
        for address, stem, suffix, operands in _LINE.findall(sass)
    ]


def count_instructions(instructions: list[Instruction]) -> Counter[str]:
    """Count by stem; wide loads and stores count as ``LDG.128``, ``STG.64`` and so on as well."""
    counts = Counter(instruction.stem for instruction in instructions)
    for instruction in instructions:
        wide = re.search(r"\.(64|128)\b", instruction.suffix)
        if instruction.stem in ("LDG", "STG") and wide:
            counts[instruction.stem + wide.group()] += 1
    return counts


def find_loops(instructions: list[Instruction]) -> list[list[Instruction]]:
    """Instructions of every loop: from the target of a backward branch up to the branch."""
    found = []
    for last, instruction in enumerate(instructions):
        target = re.search(r"0x([0-9a-f]+)$", instruction.operands)
        if instruction.stem != "BRA" or target is None:
            continue
        if int(target.group(1), 16) <= instruction.address:
            begin = int(target.group(1), 16)
            found.append([i for i in instructions[: last + 1] if i.address >= begin])
    return found


def read_turns(instructions: list[Instruction]) -> list[Turn]:
    """Describe every innermost loop that multiplies both from shared memory and from registers."""
    inner: list[list[Instruction]] = []
    # Code that waits is put behind its loop and branches back into it: the smaller one counts.
    for loop in sorted(filter(_multiplies_both, find_loops(instructions)), key=len):
        if not any(_share(loop, other) for other in inner):
            inner.append(loop)
    return [_read_turn(loop) for loop in inner]


def _multiplies_both(loop: list[Instruction]) -> bool:
    return {_from_registers(i) for i in loop if i.stem in _MATRIX} == {True, False}


def _share(loop: list[Instruction], other: list[Instruction]) -> bool:
    return loop[0].address <= other[-1].address and other[0].address <= loop[-1].address


def _from_registers(product: Instruction) -> bool:
    """Whether a product's first operand is in registers."""
    return re.match(r"R\d+, R\d+", product.operands) is not None


def _read_turn(loop: list[Instruction]) -> Turn:
    # Compilers start a loop anywhere; a turn starts at the first product from shared memory.
    starts = [
        n for n, i in enumerate(loop) if i.stem in _MATRIX and not _from_registers(i)
    ]  # fmt: skip
    turn = loop[starts[0] :] + loop[: starts[0]]
    products = [n for n, i in enumerate(turn) if i.stem in _MATRIX]
    waits = [
        (n, int(i.operands.rpartition(",")[2].strip(), 16))
        for n, i in enumerate(turn)
        if i.stem == "WARPGROUP" and ".DEPBAR" in i.suffix
    ]
    exponentials = [n for n, i in enumerate(turn) if i.stem == "MUFU" and ".EX2" in i.suffix]
    whole = [n for n, outstanding in waits if outstanding == 0]
    end = whole[0] if whole else 0
    return Turn(
        logit_products=sum(not _from_registers(turn[n]) for n in products),
        value_products=sum(_from_registers(turn[n]) for n in products),
        exponentials=len(exponentials),
        overlapped=sum(products[-1] < n < end for n in exponentials),
        waits=tuple(outstanding for _, outstanding in waits),
        instructions=len(turn),
    )
