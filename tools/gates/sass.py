"""Machine code as records: what `nvdisasm` prints of a cubin, parsed into functions and instructions.

SASS words used here and in gates.py: ACQBULK is griddepcontrol.wait, PREEXIT griddepcontrol.launch_dependents, LDG a
load from global memory, `.CONSTANT` its read-only form (ld.global.nc), `.NA` L1::no_allocate, CCTL.*PF a prefetch, STS
and LDS shared memory, BAR a barrier of the block.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from eet_demo.errors import CudaCompileError

REMEDY = "pip install nvidia-cuda-nvdisasm"

_FUNCTION = re.compile(r"^\.text\.(\S+):$")
_LABEL = re.compile(r"^(\.L_\w+):$")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
_TARGET = re.compile(r"`\((\.L_\w+)\)")
_REGISTER = re.compile(r"\b(U?R\d+|URZ|RZ)\b(\.64)?")
_PARAMETER = re.compile(r"c\[0x0\]\[0x([0-9a-f]+)\]")


@dataclass(frozen=True)
class Instruction:
    """One instruction: `opcode` with its modifiers, `operands` as printed, `target` the index it may branch to."""

    address: int
    predicate: str
    opcode: str
    operands: str
    target: int | None = None

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    def has(self, modifier: str) -> bool:
        return modifier in self.opcode.split(".")[1:]

    @property
    def is_load(self) -> bool:
        """A load from global memory into registers."""
        return self.name in ("LDG", "LD")

    @property
    def bytes_a_lane(self) -> int:
        """Bytes that a load moves for one lane."""
        widths = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return next((size for name, size in widths.items() if self.has(name)), 4)

    @property
    def text(self) -> str:
        return " ".join(part for part in (self.predicate, self.opcode, self.operands) if part)


@dataclass(frozen=True)
class Function:
    """A kernel's instructions in order of address."""

    symbol: str
    code: tuple[Instruction, ...]

    def first(self, name: str) -> int | None:
        """Index of the first instruction of that name."""
        return next((i for i, instruction in enumerate(self.code) if instruction.name == name), None)

    def last(self, name: str) -> int | None:
        return next((i for i in reversed(range(len(self.code))) if self.code[i].name == name), None)

    def loops(self) -> list[range]:
        """Spans of instructions from a branch's target back to the branch, shortest first."""
        found = {
            (instruction.target, i)
            for i, instruction in enumerate(self.code)
            if instruction.target is not None and instruction.target <= i and instruction.name == "BRA"
        }
        return sorted((range(start, end + 1) for start, end in found if start != end), key=len)


@dataclass
class _Draft:
    symbol: str
    code: list[tuple[int, str, str, str, str | None]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def finished(self) -> Function:
        return Function(
            self.symbol,
            tuple(
                Instruction(address, predicate, opcode, operands, self.labels.get(label) if label else None)
                for address, predicate, opcode, operands, label in self.code
            ),
        )


def parse(listing: str) -> dict[str, Function]:
    """Functions of an `nvdisasm -c` listing by symbol; subroutines that a kernel calls are part of it."""
    drafts: dict[str, _Draft] = {}
    current: _Draft | None = None
    for line in listing.splitlines():
        if match := _FUNCTION.match(line):
            current = drafts.setdefault(match[1], _Draft(match[1]))
        elif current is None:
            continue
        elif match := _LABEL.match(line):
            current.labels[match[1]] = len(current.code)
        elif match := _INSTRUCTION.match(line):
            target = _TARGET.search(match[4])
            current.code.append((int(match[1], 16), match[2] or "", match[3], match[4], target[1] if target else None))
    return {symbol: draft.finished() for symbol, draft in drafts.items() if draft.code}


@cache
def nvdisasm() -> str:
    """The disassembler's path. Raises CudaCompileError with the remedy where it is missing."""
    from cuda import pathfinder

    found: str | None = pathfinder.find_nvidia_binary_utility("nvdisasm")
    if found is None:
        raise CudaCompileError(f"nvdisasm is missing: {REMEDY}")
    return found


def disassemble(cubin: Path) -> dict[str, Function]:
    """Functions of a cubin by symbol."""
    done = subprocess.run([nvdisasm(), "-c", str(cubin)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CudaCompileError(f"nvdisasm cannot read {cubin}: {done.stderr.strip()}")
    return parse(done.stdout)


def written_registers(instruction: Instruction) -> set[str]:
    """Registers that an instruction writes: its first operand, and the ones after it where it is wide."""
    head = instruction.operands.split(",")[0].strip().removesuffix(".reuse")
    if not re.fullmatch(r"U?R\d+", head):
        return set()
    count = 1
    if instruction.is_load or instruction.name in ("LDS", "LDC", "LDCU", "ULDC", "LDL"):
        count = max(1, instruction.bytes_a_lane // 4)
    elif instruction.has("WIDE") or instruction.has("64"):
        count = 2
    kind, number = head.rstrip("0123456789"), int(head.lstrip("UR"))
    return {f"{kind}{number + i}" for i in range(count)}


def read_registers(instruction: Instruction) -> set[str]:
    """Registers that an instruction reads; of an address `[R2.64]` both halves."""
    operands = instruction.operands.split(",")
    return _registers(",".join(operands[1:] if written_registers(instruction) else operands))


def parameters_behind(function: Function, index: int) -> set[int]:
    """Offsets of the kernel parameters that the address of the load or store at `index` is computed from.

    Follows each register to the definition before it in order of address, past those under another predicate to one
    without; an address that a loop advances leads to where the loop began.
    """
    match = re.search(r"\[([^\]]*)\]", re.sub(r"desc\[[^\]]*\]", "", function.code[index].operands))
    offsets: set[int] = set()
    frontier = {(register, index) for register in _registers(match[1])} if match else set()
    seen: set[tuple[str, int]] = set()
    while frontier:
        register, before = frontier.pop()
        for i in _definitions(function, register, before):
            instruction = function.code[i]
            if (register, i) not in seen and not instruction.is_load:
                seen.add((register, i))
                offsets |= _parameters_in(instruction, register)
                frontier |= {(name, i) for name in read_registers(instruction)}
    return offsets


def _definitions(function: Function, register: str, use: int) -> Iterator[int]:
    """Indices at which `register` may have got the value that the instruction at `use` reads, latest first."""
    condition = function.code[use].predicate
    for i in reversed(range(use)):
        instruction = function.code[i]
        if register in written_registers(instruction):
            yield i
            if instruction.predicate in ("", condition):
                return
        if condition and instruction.operands.startswith(condition.lstrip("@!") + ","):
            condition = ""  # set anew in between: what was done under it before says nothing


def _parameters_in(instruction: Instruction, register: str) -> set[int]:
    """Offsets of the constant bank that the instruction puts into `register`, or computes it from."""
    offsets = {int(match[1], 16) for match in _PARAMETER.finditer(instruction.operands)}
    if instruction.name not in ("LDC", "LDCU", "ULDC"):
        return offsets
    first = re.search(r"\d+", instruction.operands)
    assert first, instruction.text
    return {offset + 4 * (int(register.lstrip("UR")) - int(first[0])) for offset in offsets}


def _registers(text: str) -> set[str]:
    """Names of the registers in a text; `.64` means two."""
    found = set()
    for match in _REGISTER.finditer(text):
        if match[1] not in ("RZ", "URZ"):
            kind, number = match[1].rstrip("0123456789"), int(match[1].lstrip("UR"))
            found |= {f"{kind}{number + i}" for i in range(2 if match[2] else 1)}
    return found
