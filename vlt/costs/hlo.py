"""What a compiled program moves, read off its text (XLA's HLO).

A loop's body counts as often as the text says it runs, or once where the text does not say.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"),
    "collective-broadcast",
)
# These move no bytes: they rename other values, or end a move that began elsewhere.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
_FREE |= {"call", "opt-barrier", "after-all", "partition-id", "replica-id", "iota"}

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:body|to_apply|calls)=%?([\w.-]+)")
_NAME = re.compile(r"%([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_KERNEL = 'custom_call_target="tpu_custom_call"'
_ASKED = re.compile(r'"flops":"(\d+)"')
# These read no more of their first operand than they output.
_PICKING = {"gather", "dynamic-slice", "slice"}
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # a memory space other than the device's main memory


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      shape: the result's shape, as text. operands: their names; for a parameter, its number.
      called: names of the computations it calls.
      trips: how often a loop's body runs; 1 where the text does not say.
      operations: those a kernel declares, 2 per multiply-accumulate; None if it is no kernel.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    called: tuple[str, ...]
    trips: int = 1
    operations: int | None = None


Program = dict[str, list[Instruction]]  # by computation's name; the entry's is ''


def parse(text: str) -> Program:
    """Parses a module's text into its computations."""
    program: Program = {}
    current: list[Instruction] = []
    for line in text.split("\n"):
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = "" if line.startswith("ENTRY") else line.split(" ")[0].lstrip("%")
            current = program.setdefault(name, [])
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            operands = tuple(_NAME.findall(rest[: _closing(rest)]))
            if opcode == "parameter":
                operands = (rest.partition(")")[0],)
            called = tuple(_CALLED.findall(rest))
            trips = int(found[1]) if (found := _TRIPS.search(rest)) else 1
            kernel = _operations(rest) if _KERNEL in rest else None
            current.append(Instruction(name, shape, opcode, operands, called, trips, kernel))
    return program


def _operations(text: str) -> int:
    return int(found[1]) if (found := _ASKED.search(text)) else 0


def _closing(text: str) -> int:
    """Index of the parenthesis that closes one opened before the text; its length if none does."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    return len(text)


def nbytes(shape: str, main_memory: bool = False) -> int:
    """Bytes of a shape's arrays without padding; with `main_memory`, only of those stored there."""
    total = 0
    for kind, dims, layout in _ARRAY.findall(shape):
        if not (main_memory and _ON_CHIP.search(layout)):
            bits = 8 if kind == "pred" else int(re.sub(r"^[a-z]+(\d+).*", r"\1", kind))
            total += math.prod(map(int, filter(None, dims.split(",")))) * bits // 8
    return total


def executed(program: Program, computation: str = "") -> Iterator[Instruction]:
    """The entry's instructions, and those of the loops and branches that it calls."""
    return (instruction for instruction, _ in _repeated(program, computation))


def _repeated(
    program: Program, computation: str = "", times: int = 1
) -> Iterator[tuple[Instruction, int]]:
    """Like `executed`, each with how often it runs."""
    for instruction in program[computation]:
        yield instruction, times
        if instruction.opcode in ("while", "conditional", "call"):
            for called in instruction.called:
                yield from _repeated(program, called, times * instruction.trips)


def collectives(program: Program) -> dict[str, dict[str, int]]:
    """{kind: {"count": its calls, "bytes": size of their results on one device}}."""
    found: dict[str, dict[str, int]] = {}
    for instruction, times in _repeated(program):
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            entry = found.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += times
            entry["bytes"] += times * _result_bytes(instruction)
    return found


def kernels(program: Program) -> dict[str, dict[str, int]]:
    """{name of a kernel: {"count": its calls, "operations": total that they declare}}."""
    found: dict[str, dict[str, int]] = {}
    for instruction, times in _repeated(program):
        if instruction.operations is not None:
            entry = found.setdefault(_kind(instruction), {"count": 0, "operations": 0})
            entry["count"] += times
            entry["operations"] += times * instruction.operations
    return found


def _kind(instruction: Instruction) -> str:
    """An instruction's name without its number."""
    return re.sub(r"[.\d]+$", "", instruction.name)


def _result_bytes(instruction: Instruction) -> int:
    """Bytes of a result; of the largest array for an async start, whose tuple has operands too."""
    if instruction.opcode.endswith("-start") and instruction.shape.startswith("("):
        return max(_array_bytes(instruction.shape), default=0)
    return nbytes(instruction.shape)


def _array_bytes(shape: str) -> list[int]:
    """Bytes of each array in a shape, scalars left out."""
    return [nbytes(match[0]) for match in _ARRAY.finditer(shape) if match[2]]


def memory_traffic(program: Program) -> int:
    """Bytes that go to and from main memory: the sum of what every instruction reads and writes."""
    return sum(moved for _, moved, _ in _moves(program))


def traffic(program: Program) -> list[dict[str, Any]]:
    """`memory_traffic` by kind of instruction, largest first: `kind`, `count`, `bytes`.

    The kind is the compiler's name, which says what was fused: `convert_reduce_fusion`.
    """
    found: dict[str, dict[str, Any]] = {}
    for instruction, moved, times in _moves(program):
        kind = _kind(instruction)
        entry = found.setdefault(kind, {"kind": kind, "count": 0, "bytes": 0})
        entry["count"] += times
        entry["bytes"] += moved
    return sorted(found.values(), key=lambda entry: -entry["bytes"])


def _moves(program: Program) -> Iterator[tuple[Instruction, int, int]]:
    """Instructions that touch main memory, their bytes there, and how often they run."""
    shapes = {i.name: i.shape for i in executed(program)}
    for instruction, times in _repeated(program):
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            continue
        if opcode.endswith("-start"):  # between two memories: main memory is touched once
            moved = min(_array_bytes(instruction.shape), default=0)
        else:
            moved = _touched(program, instruction, shapes)
        yield instruction, times * moved, times


def _touched(program: Program, instruction: Instruction, shapes: Mapping[str, str]) -> int:
    """Bytes of main memory that an instruction reads and writes."""
    operands = list(dict.fromkeys(name for name in instruction.operands if name in shapes))
    whole = {name: nbytes(shapes[name], main_memory=True) for name in operands}
    result = nbytes(instruction.shape, main_memory=True)
    if instruction.opcode in _PICKING:
        read = min(whole.get(operands[0], 0), nbytes(instruction.shape))
        return result + read + sum(whole[name] for name in operands[1:])
    if instruction.opcode == "fusion":
        inner = {name: program[name] for name in instruction.called if name in program}
        for body in inner.values():
            for place, name in enumerate(instruction.operands):
                if name in whole:
                    some = _read_inside(body, place)
                    whole[name] = whole[name] if some is None else min(whole[name], some)
    return result + sum(whole.values())


def _read_inside(body: list[Instruction], place: int) -> int | None:
    """Bytes a fusion reads of one operand if it only picks parts of it; None otherwise."""
    names = {i.name for i in body if i.opcode == "parameter" and i.operands == (str(place),)}
    if not names:
        return None
    read = 0
    for instruction in body:
        if not names.isdisjoint(instruction.operands):
            if instruction.opcode == "bitcast":
                names.add(instruction.name)
            elif instruction.opcode in _PICKING and instruction.operands[0] in names:
                read += nbytes(instruction.shape)
            else:
                return None
    return read
