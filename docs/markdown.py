"""Markdown from code: docstrings, values and tables of them."""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_type_hints

from vlt.configuration.bounds import BELOW_ONE, bound_of

ANY = 10**6  # bounds this far out only exclude absurd values

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns):$")
_CODE = re.compile(r"(`+[^`]*`+)")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; `|` in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def code(value: object) -> str:
    """A value as code; '' for one whose text is empty."""
    return f"`{value}`" if str(value) else ""


def codes(values: Iterable[object]) -> str:
    """Several values as code, joined by commas."""
    return ", ".join(map(code, values))


def text(words: str) -> str:
    """Escapes words so that only `code` in them is Markdown."""
    parts = _CODE.split(words)
    parts[::2] = [re.sub(r"([*<])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def prose(docstring: str | None, leave: Iterable[str] = ()) -> str:
    """A docstring: its paragraphs, tables and indented lines, and a list for each section.

    leave: names; paragraphs that begin with one and ':' are left out, such as options in a table.
    """
    left = re.compile(rf"({'|'.join(leave) or '-'})(, \w+)*:")
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring or ""))
    return "\n\n".join(_block(block) for block in blocks if not left.match(block))


def _block(block: str) -> str:
    first, *rest = block.split("\n")
    if _SECTION.match(first):
        items = "\n".join(_items(inspect.cleandoc("\n" + "\n".join(rest)).split("\n")))
        return f"**{first[:-1]}**\n\n{items}"
    if block.startswith(("    ", "|")):
        return block
    return "\n".join(map(text, [first, *(line.strip() for line in rest)]))


def _items(lines: list[str]) -> Iterator[str]:
    """A list item for each line that is not indented, followed by its indented lines."""
    for line in lines:
        names, colon, words = line.partition(": ")
        if line.startswith(" "):
            yield f"  {text(line.strip())}"
        elif colon and re.fullmatch(r"\w+(, \w+)*", names):
            yield f"- {codes(names.split(', '))}: {text(words)}"
        else:
            yield f"- {text(line)}"


def may_be(key: str, kind: str) -> str:
    """The type of a config's value, and its bounds."""
    bound = bound_of(key)
    if bound is None or kind not in ("int", "float"):
        return kind
    _, of, least, most, _ = bound
    ends = f"from {least:,}" if least > -ANY else ""
    if most < ANY:
        ends += " to below 1" if most == BELOW_ONE else f" to {most:,}"
    return f"{of.__name__} {ends}".rstrip()


def options(kind: type, words: Mapping[str, str], prefix: str = "") -> str:
    """A table of a dataclass's fields. prefix: prefix of their keys in a config."""
    hints = get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        hint, key = hints[field.name], prefix + field.name
        shown = hint.__name__ if type(hint) is type else str(hint)
        rows.append(
            (code(key), code(repr(field.default)), may_be(key, shown), text(words[field.name]))
        )
    return table(("option", "default", "may be", "does"), rows)
