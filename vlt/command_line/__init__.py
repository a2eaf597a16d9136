"""The commands of `vlt`: what each takes, and which module does the work.

Each file of this folder defines the arguments of one command and imports nothing large: mistakes
are reported and help is printed before JAX is imported, which takes a second. Its `parse` returns
what the door takes, or ends the process with a sentence or with help.
"""

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of `vlt`.

    about: its line of help. arguments: the file of this folder that parses them.
    door: MODULE:FUNCTION, which is called with what `parse` returns.
    """

    about: str
    arguments: str
    door: str

    def run(self, argv: list[str]) -> int | None:
        """Parses the arguments, then imports the door and calls it; returns the exit status."""
        return self.call(self.parser()(argv[0], argv[1:]))

    def parser(self) -> Callable[..., Any]:
        """The file's `parse`: takes (program, arguments), or in a `FlagsCommand` the whole argv."""
        return importlib.import_module(f"{__name__}.{self.arguments}").parse

    def call(self, parsed: Any) -> int | None:
        """Calls the door. Ctrl-C during its import ends the process without a traceback."""
        previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
        module, _, function = self.door.partition(":")
        door = getattr(importlib.import_module(module), function)
        signal.signal(signal.SIGINT, previous)
        return door(parsed)


@dataclasses.dataclass(frozen=True)
class FlagsCommand(Command):
    """A command with absl flags, such as --config and its values. added: flags always given."""

    added: tuple[str, ...] = ()

    def run(self, argv: list[str]) -> int | None:
        from absl import app  # not needed for other commands' help

        app.run(self.call, [*argv, *self.added], flags_parser=self.parser())
        return 0  # not reached: `app.run` ends the process


def reader_gone() -> int:
    """The exit status after the reader of the output, such as `head`, has closed the pipe.

    Points stdout at the null device, since Python's flush at exit would fail once more.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def why(error: Exception) -> str:
    """The message that a command prints; of a system error, only the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


COMMANDS = {
    "train": FlagsCommand("train a config, evaluate, print a table", "train", "vlt.main:main"),
    "eval": FlagsCommand(
        "evaluate what is trained", "train", "vlt.main:main", added=("--mode=eval",)
    ),
    "inspect": FlagsCommand(
        "parameters, operations and tokens of a config", "inspect", "vlt.inspect:main"
    ),
    "bench": FlagsCommand("speed here, beside others", "bench", "vlt.bench.__main__:main"),
    "draw": FlagsCommand("pictures of which patches become one token", "draw", "vlt.draw:main"),
    "checkpoints": Command(
        "the checkpoints that configs ask for, and where to get them",
        "checkpoints",
        "vlt.checkpoints:run",
    ),
    "convert": Command(
        "a published checkpoint to a model folder, or back", "convert", "vlt.convert.__main__:run"
    ),
    "export": Command("what to deploy of a run", "export", "vlt.export:run"),
    "caption": Command("captions of videos", "caption", "vlt.caption:run"),
    "chat": Command("questions about videos, and answers", "chat", "vlt.chat:run"),
    "embed": Command("an index of your videos", "embed", "vlt.embed:run"),
    "search": Command("where your videos show something", "search", "vlt.search:run"),
    "serve": Command("a page in the browser to search them", "serve", "vlt.serve:run"),
    "cut": Command("ranges of videos as files of their own", "cut", "vlt.cut:run"),
    "classify": Command("which of your labels videos show", "classify", "vlt.classify:run"),
    "adapt": Command("a model adapted to your videos", "adapt", "vlt.adapt:run"),
    "score": Command("scores of captions that were written before", "score", "vlt.score:run"),
    "judge": Command("scores of answers by a language model", "judge", "vlt.judge:run"),
    "study": Command(
        "claims of the papers, tested in miniature", "study", "vlt.study.__main__:run"
    ),
}
