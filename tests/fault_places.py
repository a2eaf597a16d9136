"""Single faults to put into a module: each changes one expression of its code."""

import ast
import copy
import dataclasses
from collections.abc import Iterator

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
JUNCTIONS = {ast.And: ast.Or, ast.Or: ast.And}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change to `file`, a path in the checkout, from byte `start` to `end`."""

    file: str
    line: int
    column: int
    start: int
    end: int
    before: str
    after: str
    statement: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}  {self.change}"

    @property
    def change(self) -> str:
        return f"{self.before} -> {self.after}"

    def put_into(self, source: bytes) -> bytes:
        after = self.after if self.statement else f"({self.after})"
        return source[: self.start] + after.encode() + source[self.end :]


def faults(file: str, source: bytes) -> list[Fault]:
    """All faults of a module, in source order."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in _code(ast.parse(source)):
        for changed in _changes(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            texts = (ast.unparse(node), ast.unparse(changed))
            place = (node.lineno, node.col_offset + 1)
            statement = isinstance(node, ast.stmt)
            found.append(Fault(file, *place, start, end, *texts, statement))
    return sorted(found, key=lambda fault: (fault.start, fault.end, fault.after))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import, without annotations and f-strings (3.11 knows no places there)."""
    if isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    ):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _code(child)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                swapped = COMPARISONS[type(op)]()
                yield _with(node, ops=[*ops[:place], swapped, *ops[place + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SIGNS:
            yield _with(node, op=SIGNS[type(op)]())
        case ast.BoolOp(op=op):
            yield _with(node, op=JUNCTIONS[type(op)]())
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node.operand
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float() as value):
            yield ast.Constant(value * 1.1 or 1.0)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
