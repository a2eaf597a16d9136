"""`vlt chat VIDEO... [--ask TEXT]... [--model=FOLDER | --workdir=DIR] [--json]`: dialogues."""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from vlt.api import VideoChat
from vlt.command_line.chat import COMMANDS, parse
from vlt.data.text.texts import printable
from vlt.data.video.errors import VideoError
from vlt.door import load_kind, parse_search, run_door
from vlt.inference.batching import map_videos
from vlt.inference.dialogue import Dialogue
from vlt.inference.discover import find_videos
from vlt.inference.printing import print_results
from vlt.inference.speech import DEFAULTS
from vlt.runtime import stopping
from vlt.storage.files import WriteError, write_whole

Answered = tuple[str, str]  # question and answer
HELP = f"Each line is a question about the videos that were shown, or a command:\n{COMMANDS}"


def answers(
    model: VideoChat,
    paths: Sequence[str],
    questions: Sequence[str],
    frames: int | None = None,
    **options: Any,
) -> Generator[tuple[str, list[Answered] | VideoError], None, None]:
    """Yields each path with questions and answers, or the reason it could not be read, in order.

    Raises:
        ValueError: as `VideoChat.generate`.
    """

    def ask(videos: Any) -> list[list[Answered]]:
        found = model.answer_all(videos, questions, **options)
        return [list(zip(questions, texts, strict=True)) for texts in found]

    return map_videos(ask, model.looking_at(frames), paths)


class Conversation:
    """A dialogue at a terminal, line by line.

    Nothing that goes wrong with a video, a question or a command ends it.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        frames: int | None,
        search: dict[str, Any],
        write: Callable[[str], Any],
    ):
        """write: shows a text exactly as given, without adding a line ending."""
        self._dialogue, self._frames, self._search, self._write = dialogue, frames, search, write
        self._commands: dict[str, Callable[[str], None]] = {
            "/video": lambda names: self.show(find_videos(shlex.split(names))),
            "/frames": self._set_frames,
            "/reset": lambda _: self._dialogue.reset(),
            "/save": self._save,
            "/help": lambda _: self._write(HELP),
        }

    def show(self, paths: Sequence[str]) -> None:
        """Shows videos; says which cannot be read."""
        for path in paths:
            try:
                self._dialogue.show(path, self._frames)
            except (VideoError, ValueError) as error:
                self._tell(error)

    def greet(self) -> None:
        """Says what can be typed."""
        seen = ", ".join(map(printable, self._dialogue.videos)) or "no video yet"
        self._write(f"Shown: {seen}\n{HELP}")

    def say(self, line: str) -> bool:
        """Answers a question or carries out a command; returns whether to go on."""
        name, _, rest = line.strip().partition(" ")
        if name == "/quit":
            return False
        try:
            with stopping.interrupting():
                if name in self._commands:
                    self._commands[name](rest.strip())
                elif name.startswith("/"):
                    known = ", ".join([*self._commands, "/quit"])
                    raise ValueError(f"{name}: no such command; there are {known}")
                elif name:
                    self._answer(line.strip())
        except (VideoError, ValueError, WriteError) as error:
            self._tell(error)
        except stopping.Stopped:
            raise
        except KeyboardInterrupt:
            self._write("\nstopped\n")
        return True

    def _answer(self, question: str) -> None:
        pieces = self._dialogue.stream(question, **self._search)
        with contextlib.closing(pieces):  # type: ignore[type-var]
            for piece in pieces:
                self._write("\n".join(map(printable, piece.split("\n"))))
        self._write("\n")

    def _set_frames(self, text: str) -> None:
        if not text.isdecimal() or not int(text):
            raise ValueError(f"/frames {text}: a whole number above 0 is needed")
        self._frames = int(text)

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("/save: a file is needed, as in /save talk.json")
        text = json.dumps(self._dialogue.to_dict(), indent=1, ensure_ascii=False)
        write_whole(Path(name), text + "\n")

    def _tell(self, error: Exception) -> None:
        print(printable(f"error: {error}"), file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when every video could be read."""
    return run(parse("python -m vlt.chat", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _talk(options))


def _talk(options: argparse.Namespace) -> int:
    search = parse_search(options.set, DEFAULTS)
    paths = find_videos(options.videos)
    lacks = "answers no questions"
    model = load_kind(options.model, options.workdir, ("chat",), lacks, options.weights)
    model.config = model.looking_at(allow_truncated=options.allow_truncated)
    spoken = {"template": options.template, "spacing": options.spacing}
    if options.ask:
        given = spoken | search | {"seed": options.seed, "frames": options.frames}
        with contextlib.closing(answers(model, paths, options.ask, **given)) as results:
            return print_results(
                results,
                len(paths),
                _fields,
                _line,
                as_json=options.json,
                progress=False,  # the answers themselves show it
            )
    talk = Conversation(
        model.chat(**spoken), options.frames, search | {"seed": options.seed}, _to_terminal
    )
    talk.show(paths)
    if sys.stdin.isatty():
        talk.greet()
    while (line := _typed()) is not None and talk.say(line):
        pass
    return 0


def _fields(said: Answered) -> dict[str, str]:
    return dict(zip(("question", "answer"), said, strict=True))


def _line(said: Answered) -> str:
    return " ".join(said)


def _typed() -> str | None:
    """Reads a line, at a terminal with line editing and history; echoes a piped one as if it had
    been typed. None at the end of input."""
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  used by `input`
    try:
        line = input("> " if terminal else "")
    except EOFError:
        return None
    if not terminal and line.strip():
        print(f"> {printable(line)}", flush=True)
    return line


def _to_terminal(text: str) -> None:
    print(text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
