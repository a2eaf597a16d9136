"""The page of the Python interface: signatures as written, and docstrings."""

import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from docs.markdown import options, prose, table
from vlt import api
from vlt.command_line.keys import described
from vlt.models.generation import Search

INTRO = """\
# Python interface

Load a model folder, and encode videos and texts or write captions with it. `vlt.load` returns a
model whose methods depend on what the folder holds:"""


def python() -> str:
    """The page."""
    kinds = (
        (f"`{kind}`", f"[`{each.__name__}`](#{each.__name__.lower()})")
        for kind, each in api.KINDS.items()
    )
    parts = [INTRO, table(("kind of model", "class"), kinds)]
    parts += ["## `vlt.load`", _signature(api.load), prose(api.load.__doc__)]
    classes: list[type[api.Model]] = [api.Model, *api.KINDS.values()]
    for each in dict.fromkeys(classes):
        parts += [f"## `{each.__name__}`", prose(each.__doc__)]
        for name, method in vars(each).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                parts += [
                    f"### `{each.__name__}.{name}`",
                    _signature(method),
                    prose(method.__doc__),
                ]
    names = [field.name for field in dataclasses.fields(Search)]
    words = described(Search.__doc__ or "", names)
    parts += ["## `Search`", prose(Search.__doc__, [*names, "Raises"]), options(Search, words)]
    return "\n\n".join(parts)


def _signature(function: Callable[..., Any]) -> str:
    """The source lines of a function up to its docstring, as a code block."""
    head = textwrap.dedent(inspect.getsource(function)).partition('    """')[0]
    return f"```python\n{head.rstrip().removesuffix(':')}\n```"
