"""What `--help` lists for a config: its keys, their values, and what the source says of them.

Words are the comments beside the keys of configs/common.py and what a method's docstring says of
its options, both read as text, so that nothing large is imported.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from vlt.configuration import PACKAGED

WIDTH = 44  # columns for a key with its value, before its words
VALUE = 60  # longest value shown, in characters
_PACKAGE = Path(__file__).parents[1]
_METHODS = ("adapters", "merging")


class Told(NamedTuple):
    """What the source says of a key or an option: its default as written there, and words."""

    default: str
    words: str


def listed(config: ConfigDict) -> str:
    """A line for each key that --config.KEY=VALUE can set, with the options of its methods."""
    sections = sections_of((PACKAGED / "common.py").read_text(encoding="utf-8"))
    values = dict(_leaves(config))
    words = {key: words_of(key, sections) for key in values}
    for method in (*config.model.methods, *config.model):
        for option, told in options_of(method).items():
            values.pop(f"model.{method}", None)  # a section with nothing in it
            key = f"model.{method}.{option}"
            values.setdefault(key, told.default)
            words[key] = re.split(r"(?<=\.)(?<!Eq\.) ", told.words)[0]
    return "\n".join(_line(key, values[key], words[key]) for key in sorted(values))


def _leaves(section: ConfigDict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, ConfigDict) and any(map(str.isidentifier, value)):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, repr(value.to_dict() if isinstance(value, ConfigDict) else value)


def _line(key: str, value: str, about: str) -> str:
    shown = value if len(value) <= VALUE else f"{value[: VALUE - 3]}..."
    return f"  {f'{key}={shown}':<{WIDTH}}  {about}".rstrip()


def words_of(key: str, sections: Mapping[str, Mapping[str, Told]]) -> str:
    """The words of a key: those in `base`, else of the longest key in another section that it ends
    in, else of the section that it is in."""
    found = [(key, sections["base"][key].words)] if key in sections["base"] else []
    for function, told in sections.items():
        if function != "base" and function.endswith("_task") == key.startswith("task."):
            found += [(name, of.words) for name, of in told.items() if key.endswith(f".{name}")]
    named = {name: words for name, words in reversed(found) if words}
    if named or "." not in key:
        return named[max(named, key=len)] if named else ""
    return words_of(key.rpartition(".")[0], sections)


def sections_of(source: str) -> dict[str, dict[str, Told]]:
    """{function: {dotted key: what is told}} of the dicts that a source's functions write out.

    Words are the comment on the line of a key, or on separate lines above it.
    """
    lines = source.splitlines()
    found: dict[str, dict[str, Told]] = {}
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Dict):
                    section = found.setdefault(function.name, {})
                    for name, line, value in _keys(node.args[0]):
                        section[name] = Told(ast.unparse(value), _beside(lines, line))
    return found


def _keys(node: ast.Dict, prefix: str = "") -> Iterator[tuple[str, int, ast.expr]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            name = prefix + str(key.value)
            yield name, key.lineno, value
            inner = value.left if isinstance(value, ast.BinOp) else value
            if isinstance(inner, ast.Dict):
                yield from _keys(inner, f"{name}.")


def _beside(lines: list[str], line: int) -> str:
    """The comment on a line, counted from 1, or else on the lines above it."""
    if comment := re.search(r"[,{(})]\s*# (.*)", lines[line - 1]):
        return comment[1]
    above: list[str] = []
    while (before := lines[line - 2 - len(above)].strip()).startswith("# "):
        above.append(before.removeprefix("# "))
    return " ".join(reversed(above))


def options_of(method: str) -> dict[str, Told]:
    """What the source says of each option of a method of this package; {} for any other method."""
    for folder in _METHODS:
        file = _PACKAGE / folder / f"{method}.py"
        if file.is_file():
            for node in _classes(file).values():
                if _field(node, "name") == repr(method):
                    return _options(file, node)
    return {}


def _options(file: Path, node: ast.ClassDef) -> dict[str, Told]:
    """The options of a method's class, those of its base classes first."""
    found: dict[str, Told] = {}
    for base in node.bases:
        name = ast.unparse(base)
        above = _imported(file, name)
        if above and name in _classes(above):
            found |= _options(above, _classes(above)[name])
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            option = ast.unparse(field.target)
            before = found[option].words if option in found else ""
            found[option] = Told(_value(file, field.value) if field.value else "", before)
    words = described(ast.get_docstring(node) or "", found)
    return {name: Told(told.default, words.get(name, told.words)) for name, told in found.items()}


def _value(file: Path, node: ast.expr) -> str:
    """A value as it is written; for a name that the file assigns or imports, what it stands for."""
    if isinstance(node, ast.Name):
        origin = _imported(file, node.id) or file
        for line in ast.parse(origin.read_text(encoding="utf-8")).body:
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == node.id:
                return _value(origin, line.value)
    return ast.unparse(node)


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}


def _imported(file: Path, name: str) -> Path | None:
    """The file of this package from which a file imports a name."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            parts = (node.module or "").split(".")
            return _PACKAGE.joinpath(*parts[1:]).with_suffix(".py") if parts[0] == "vlt" else None
    return None


def _field(node: ast.ClassDef, name: str) -> str:
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and f.value]
    return next((ast.unparse(f.value) for f in fields if ast.unparse(f.target) == name), "")  # type: ignore[arg-type]


def described(docstring: str, options: Iterable[str]) -> dict[str, str]:
    """{option: words}, the text after 'option: ' or 'option, option: ' in a docstring."""
    names = "|".join(options)
    start = re.compile(rf"(?:^|(?<=[.:;)] ))((?:(?:{names}), )*(?:{names})): ")
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", docstring):
        parts = start.split(" ".join(paragraph.split()))
        for listed, words in zip(parts[1::2], parts[2::2], strict=True):
            found |= dict.fromkeys(listed.split(", "), words.strip())
    return found
