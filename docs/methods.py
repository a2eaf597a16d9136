"""The page of methods: docstrings, options, and what each needs of the model and breaks."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping

from docs.backbones import methods_on_backbones
from docs.markdown import code, codes, options, prose, table, text
from vlt.command_line.keys import options_of
from vlt.methods import method_classes
from vlt.models.compatibility import WORDS
from vlt.models.points import Method

INTRO = """\
# Methods

Choose here what makes a video model of an image-language model: `model.methods` of a config names
one or several, `model.NAME.OPTION` sets an option of one, and `vlt.load(path, methods=...)` adds
them to a model. [ARCHITECTURE.md](../../ARCHITECTURE.md#how-to-add) says how to add one."""

NEEDS = """\
## What methods need

A model is refused where a method needs what it lacks, or what another of its methods breaks."""


def methods() -> str:
    """The page."""
    classes = method_classes()
    parts = [INTRO]
    for package, title in (("vlt.adapters", "Adapters"), ("vlt.merging", "Merging")):
        rows = (
            (_linked(name), text(_first_line(method)), codes(method().towers))
            for name, method in classes.items()
            if method.__module__.startswith(package)
        )
        parts += [f"## {title}", table(("method", "what", "in"), rows)]
    parts += [
        NEEDS,
        table(("word", "a method that"), ((code(w), text(t)) for w, t in WORDS.items())),
    ]
    rows = ((_linked(name), *_facts(method())) for name, method in classes.items())
    parts += [table(("method", "needs", "breaks"), (row for row in rows if any(row[1:])))]
    parts += methods_on_backbones()
    parts += [part for each in classes.items() for part in _method(*each)]
    return "\n\n".join(filter(None, parts))


def _linked(name: str) -> str:
    return f"[`{name}`](#{name})"


def _first_line(method: type[Method]) -> str:
    return (inspect.getdoc(sys.modules[method.__module__]) or "").partition("\n")[0].rstrip(".")


def _facts(method: Method) -> tuple[str, str]:
    return codes(sorted(method.needs_here())), codes(sorted(method.breaks_here()))


def _method(name: str, method: type[Method]) -> Iterator[str]:
    """The heading and section of a method."""
    file = f"{method.__module__.replace('.', '/')}.py"
    yield f"## `{name}`"
    yield prose(sys.modules[method.__module__].__doc__)
    told = options_of(name)
    yield prose(method.__doc__, [*told, "Raises"])
    if told:
        words = {option: of.words for option, of in told.items()}
        yield options(method, words, f"model.{name}.")
    yield from _constants(sys.modules[method.__module__], "".join(of.words for of in told.values()))
    yield f"Source: [{file}](../../{file})"


def _constants(module: object, words: str) -> Iterator[str]:
    """Values of a module's constants that words mention, such as `TARGETS`."""
    for name in sorted(set(re.findall(r"`([A-Z_]{2,})`", words))):
        value = getattr(module, name)
        shown = codes(value) if isinstance(value, (Mapping, tuple, list)) else code(repr(value))
        yield f"`{name}`: {shown}."
