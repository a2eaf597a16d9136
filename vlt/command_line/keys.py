"""What `--help` lists of a config: its keys, their values, and what their source says of them.

Words are the comments beside the keys of configs/common.py and what a method's docstring says of
its options, both read as text, so that nothing large is imported.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from vlt.configuration import PACKAGED

WIDTH = 44  # of a key with its value, where words follow on the same line
VALUE = 60  # characters of a value
_PACKAGE = Path(__file__).parents[1]
_METHODS = ("adapters", "merging")


def listed(config: ConfigDict) -> str:
    """A line for each key that --config.KEY=VALUE can set, options of the config's methods too."""
    comments = comments_of((PACKAGED / "common.py").read_text(encoding="utf-8"))
    values = dict(_leaves(config))
    words = {key: _comment(key, comments) for key in values}
    for method in (*config.model.methods, *config.model):
        for option, default, about in options_of(method):
            key = f"model.{method}.{option}"
            values.setdefault(key, default)
            words[key] = about
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


def _comment(key: str, comments: Mapping[tuple[str, str], str]) -> str:
    """Of a key of every config; else of one of its name in a section that has such."""
    if ("", key) in comments:
        return comments["", key]
    last = key.rpartition(".")[2]
    return next((text for (of, name), text in comments.items() if of and name == last and text), "")


def comments_of(source: str) -> dict[tuple[str, str], str]:
    """{(function, dotted key): comment} of the dicts that functions write out; `base`'s as ''.

    A comment is on the line of its key, or on lines of its own above it.
    """
    lines = source.splitlines()
    found = {}
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef):
            name = "" if function.name == "base" else function.name
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Dict):
                    for key, line in _keys(node.args[0]):
                        found[name, key] = _beside(lines, line)
    return found


def _keys(node: ast.Dict, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            name = prefix + str(key.value)
            yield name, key.lineno
            if isinstance(value, ast.Dict):
                yield from _keys(value, f"{name}.")


def _beside(lines: list[str], line: int) -> str:
    """The comment of a line, counted from 1."""
    if comment := re.search(r"[,{(]\s*# (.*)", lines[line - 1]):
        return comment[1]
    above: list[str] = []
    while (before := lines[line - 2 - len(above)].strip()).startswith("# "):
        above.append(before.removeprefix("# "))
    return " ".join(reversed(above))


def options_of(method: str) -> list[tuple[str, str, str]]:
    """(option, default, words) of a method of this package; none of another's."""
    for folder in _METHODS:
        file = _PACKAGE / folder / f"{method}.py"
        if file.is_file():
            for node in _classes(file).values():
                if _field(node, "name") == repr(method):
                    return [(name, *told) for name, told in _options(file, node).items()]
    return []


def _options(file: Path, node: ast.ClassDef) -> dict[str, tuple[str, str]]:
    """{option: (default, words)}, those of the classes that it is made of first."""
    found: dict[str, tuple[str, str]] = {}
    for base in node.bases:
        name = ast.unparse(base)
        above = _imported(file, name)
        if above and name in _classes(above):
            found |= _options(above, _classes(above)[name])
    words = _words(ast.get_docstring(node) or "")
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            option = ast.unparse(field.target)
            told = words.get(option, found.get(option, ("", ""))[1])
            found[option] = (ast.unparse(field.value) if field.value else "", told)
    return found


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}


def _imported(file: Path, name: str) -> Path | None:
    """The file of this package that a file has a name from."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            parts = (node.module or "").split(".")
            return _PACKAGE.joinpath(*parts[1:]).with_suffix(".py") if parts[0] == "vlt" else None
    return None


def _field(node: ast.ClassDef, name: str) -> str:
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and f.value]
    return next((ast.unparse(f.value) for f in fields if ast.unparse(f.target) == name), "")  # type: ignore[arg-type]


def _words(docstring: str) -> dict[str, str]:
    """{option: first sentence} of what begins with 'option: ' or 'option, option: '."""
    parts = re.split(r"(?:^|(?<=[.:;] ))((?:\w+, )*\w+): ", " ".join(docstring.split()))
    return {
        option: re.split(r"(?<=\.) ", text.strip())[0]
        for names, text in zip(parts[1::2], parts[2::2], strict=True)
        for option in names.split(", ")
    }
