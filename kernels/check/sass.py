"""Reads machine code: which instructions a cubin has, in which loops, and in what order.

A compiler keeps the meaning of a kernel, not the order of its source, and the speed of an attention
kernel depends on that order: exponentials cost no time only while the matrix unit is busy.
``read_turns`` tells how many of them run then. Called by ``compile_check``; needs no GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_LINE = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z0-9_]+)((?:\.\w+)*)\s*([^;]*);", re.M
)
_SCHEDULING = re.compile(r"\s+[&?]\w+.*$")
"""What some disassemblers print after the operands: the barriers and the stalls of a slot."""
_MATRIX = ("HGMMA", "QGMMA")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: within the kernel, bytes.
        guard: predicate that decides whether it is executed, ``!P0``, or nothing.
        stem: ``HGMMA``.
        suffix: ``.64x128x16.F32.BF16``, or nothing.
        operands: as disassembled, without notes on scheduling.
    """

    address: int
    guard: str
    stem: str
    suffix: str
    operands: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One iteration (turn) of a loop around two matrix products, from its first product on.

    Attributes:
        logit_products: instructions with both operands in shared memory (Q K^T).
        value_products: instructions with the first operand in registers (P V).
        exponentials: of the whole iteration.
        overlapped: those between the last product and the wait for it.
        waits: outstanding groups that each wait for products allows, in order: 1, then 0 is the
            order that overlaps.
        instructions: of the whole iteration, branches that are not always taken included.
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
        Instruction(
            address=int(address, 16),
            guard=guard,
            stem=stem,
            suffix=suffix,
            operands=_SCHEDULING.sub("", operands).strip(),
        )
        for address, guard, stem, suffix, operands in _LINE.findall(sass)
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
    """Instructions of every loop, up to the branch back to its beginning.

    A branch back makes a loop if it cannot be reached but through its target (the target dominates
    it): code that is seldom needed, such as a wait that fails at first, stands after all else and
    branches back as well. The loop is what can reach the branch without leaving through the target.
    """
    following = _successors(instructions)
    leading: list[list[int]] = [[] for _ in instructions]
    for n, next_ones in enumerate(following):
        for m in next_ones:
            leading[m].append(n)
    dominators = _immediate_dominators(following, leading)
    found = []
    for last, next_ones in enumerate(following):
        for first in next_ones:
            if first <= last and _dominates(dominators, first, last):
                inside = {first}
                waiting = [last]
                while waiting:
                    n = waiting.pop()
                    if n not in inside:
                        inside.add(n)
                        waiting += leading[n]
                found.append([instructions[n] for n in sorted(inside) if n <= last])
    return found


def _branch_target(instruction: Instruction) -> int | None:
    target = re.search(r"0x([0-9a-f]+)$", instruction.operands)
    return int(target[1], 16) if instruction.stem == "BRA" and target else None


def _successors(instructions: list[Instruction]) -> list[list[int]]:
    """Indices of the instructions that may come next, by index."""
    place = {instruction.address: n for n, instruction in enumerate(instructions)}
    following = []
    for n, instruction in enumerate(instructions):
        target = _branch_target(instruction)
        # A branch on a uniform predicate has it as its first operand.
        always = not instruction.guard and "," not in instruction.operands
        ends = instruction.stem in ("EXIT", "RET") or target is not None
        next_ones = [] if ends and always else [n + 1]
        if target is not None:
            next_ones.append(place[target])
        following.append([m for m in next_ones if m < len(instructions)])
    return following


def _immediate_dominators(following: list[list[int]], leading: list[list[int]]) -> dict[int, int]:
    """For each index that can be reached from the first: the last one that every way to it passes.

    Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm", 2001.
    """
    order = _postorder(following)
    rank = {n: i for i, n in enumerate(order)}
    found = {0: 0}
    changed = True
    while changed:
        changed = False
        for n in reversed(order[:-1]):
            known = [m for m in leading[n] if m in found]
            new = known[0]
            for other in known[1:]:
                while new != other:
                    if rank[new] < rank[other]:
                        new = found[new]
                    else:
                        other = found[other]
            if found.get(n) != new:
                found[n], changed = new, True
    return found


def _postorder(following: list[list[int]]) -> list[int]:
    """Indices that can be reached from the first, each after those that a search finds from it."""
    order = []
    seen = {0}
    path = [(0, iter(following[0]))]
    while path:
        n, rest = path[-1]
        m = next((m for m in rest if m not in seen), None)
        if m is None:
            order.append(n)
            path.pop()
        else:
            seen.add(m)
            path.append((m, iter(following[m])))
    return order


def _dominates(dominators: dict[int, int], first: int, last: int) -> bool:
    """Whether every way to ``last`` passes ``first``; False if ``last`` cannot be reached."""
    while last in dominators and last > 0 and last != first:
        last = dominators[last]
    return last == first and last in dominators


def read_turns(instructions: list[Instruction]) -> list[Turn]:
    """Describe every innermost loop that multiplies both from shared memory and from registers."""
    both = filter(_multiplies_both, find_loops(instructions))
    return [_read_turn(loop) for loop in _innermost(both)]


def count_waits(instructions: list[Instruction]) -> list[tuple[int, int]]:
    """Waits for asynchronous products, and products, of every innermost loop that multiplies.

    A product is a run of instructions, one per 16 or 32 features or keys, that add to the same
    registers and read their first operand from the same kind of place.
    """
    loops = filter(_multiplies, find_loops(instructions))
    return [(sum(map(_is_wait, loop)), _count_products(loop)) for loop in _innermost(loops)]


def count_overlaps(instructions: list[Instruction]) -> list[tuple[int, int]]:
    """Exponentials, and those that run during a product, of every innermost loop that multiplies.

    A product runs from its first instruction to the wait that lets its group through.
    """
    loops = filter(_multiplies, find_loops(instructions))
    return [_count_overlaps(loop) for loop in _innermost(loops)]


def _count_overlaps(loop: list[Instruction]) -> tuple[int, int]:
    exponentials = overlapped = 0
    closed, is_open = 0, False
    # Products that run when an iteration begins are those that the one before left running, so
    # the loop is read twice and the second round counts.
    for counts in (False, True):
        for instruction in loop:
            if instruction.stem in _MATRIX:
                ends = "gsb0" in instruction.operands
                closed, is_open = closed + ends, not ends
            elif instruction.stem == "WARPGROUP":
                closed, is_open = closed + is_open, False
                if _is_wait(instruction):
                    closed = min(closed, _groups_left(instruction))
            elif counts and _is_exponential(instruction):
                exponentials += 1
                overlapped += is_open or closed > 0
    return exponentials, overlapped


def spills_in_loops(instructions: list[Instruction]) -> int:
    """How many loads and stores of spilled registers are in a loop, and run in every iteration."""
    addresses = {
        instruction.address
        for loop in find_loops(instructions)
        for instruction in loop
        if instruction.stem in ("LDL", "STL")
    }
    return len(addresses)


def _innermost(loops: Iterable[list[Instruction]]) -> list[list[Instruction]]:
    """Return the loops that share no code with a smaller one."""
    inner: list[list[Instruction]] = []
    for loop in sorted(loops, key=len):
        if not any(_share(loop, other) for other in inner):
            inner.append(loop)
    return inner


def _multiplies(loop: list[Instruction]) -> bool:
    return any(i.stem in _MATRIX for i in loop)


def _count_products(loop: list[Instruction]) -> int:
    products, last = 0, None
    for instruction in loop:
        if instruction.stem not in _MATRIX:
            continue
        here = (instruction.operands.partition(",")[0], _from_registers(instruction))
        # The first instruction of a product without a start adds to the register of zeros.
        products += here != last or ", RZ," in instruction.operands
        last = here
    return products


def _is_wait(instruction: Instruction) -> bool:
    return instruction.stem == "WARPGROUP" and ".DEPBAR" in instruction.suffix


def _groups_left(wait: Instruction) -> int:
    return int(wait.operands.rpartition(",")[2].strip(), 16)


def _is_exponential(instruction: Instruction) -> bool:
    return instruction.stem == "MUFU" and ".EX2" in instruction.suffix


def _multiplies_both(loop: list[Instruction]) -> bool:
    return {_from_registers(i) for i in loop if i.stem in _MATRIX} == {True, False}


def _share(loop: list[Instruction], other: list[Instruction]) -> bool:
    return loop[0].address <= other[-1].address and other[0].address <= loop[-1].address


def _from_registers(product: Instruction) -> bool:
    """Whether a product's first operand is in registers."""
    return re.match(r"R\d+, R\d+", product.operands) is not None


def _read_turn(loop: list[Instruction]) -> Turn:
    # Compilers start a loop anywhere; here it starts at the first product from shared memory.
    starts = [
        n for n, i in enumerate(loop) if i.stem in _MATRIX and not _from_registers(i)
    ]  # fmt: skip
    turn = loop[starts[0] :] + loop[: starts[0]]
    products = [n for n, i in enumerate(turn) if i.stem in _MATRIX]
    waits = [(n, _groups_left(i)) for n, i in enumerate(turn) if _is_wait(i)]
    exponentials = [n for n, i in enumerate(turn) if _is_exponential(i)]
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
