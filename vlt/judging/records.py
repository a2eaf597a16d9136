"""What a judge is asked and what it replies, kept on disk so that a stopped run can go on.

FOLDER/requests.jsonl has a line {"id", "criterion", "messages"} for each request, and is written
before anything is asked. FOLDER/answers.jsonl gets a line {"id", "criterion", "answer", "judge",
"date"} for each reply as it comes; such a file, even one that another program made from the
requests, can be replayed.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from vlt.data.text.text_files import TextFileError, read_json_lines
from vlt.data.text.texts import shown
from vlt.judging.endpoint import Messages
from vlt.storage.files import append, write_whole

Key = tuple[str, str]  # criterion, id


class JudgingError(ValueError):
    """Requests or replies that do not belong together; the message says which."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to a judge."""

    id: str
    criterion: str
    messages: Messages

    @property
    def key(self) -> Key:
        return self.criterion, self.id


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a judge said. judge: its name. date: when, as YYYY-MM-DD. Both are '' if unknown."""

    id: str
    criterion: str
    answer: str
    judge: str = ""
    date: str = ""

    @property
    def key(self) -> Key:
        return self.criterion, self.id


class Records:
    """The folder of one run. replies: by key, in the order in which they came."""

    def __init__(self, folder: pathlib.Path, requests: Sequence[Request]):
        """Writes the requests, or finds the same ones there, with the replies to them.

        Raises:
            JudgingError: the folder holds other requests, or replies to others.
            WriteError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._answers = folder / "answers.jsonl"
        self._keys = {request.key for request in requests}
        self.replies: dict[Key, list[Reply]] = {}
        self._write_requests(folder / "requests.jsonl", requests)
        if self._answers.exists():
            self._drop_torn_line()
            for reply in read_replies(self._answers):
                self._keep(reply, self._answers)

    def add(self, reply: Reply) -> None:
        """Keeps a reply, on disk as well."""
        self._keep(reply, self._answers)
        append(self._answers, json.dumps(dataclasses.asdict(reply), ensure_ascii=False) + "\n")

    def replay(self, path: pathlib.Path) -> None:
        """Adds those replies of a file that are not here yet.

        Raises:
            JudgingError: it is not a file of replies, or has replies to other requests.
        """
        replies = list(read_replies(path))
        for reply in replies:
            self._check(reply, path)
        for reply in replies:
            if reply not in self.replies.get(reply.key, []):
                self.add(reply)

    def _write_requests(self, path: pathlib.Path, requests: Iterable[Request]) -> None:
        lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False) for r in requests]
        text = "".join(line + "\n" for line in lines)
        if not path.exists():
            write_whole(path, text)
            return
        old = path.read_text(encoding="utf-8").split("\n")
        if old != text.split("\n"):
            pairs = zip(old, [*lines, ""], strict=False)
            line = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), len(lines) + 1)
            raise JudgingError(
                f"{path} holds requests of other predictions, references or options (line {line} "
                "is the first that differs); take another folder"
            )

    def _drop_torn_line(self) -> None:
        """Drops a line that a killed process left half written; that reply is asked for again."""
        content = self._answers.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_whole(self._answers, whole)

    def _keep(self, reply: Reply, path: pathlib.Path) -> None:
        self._check(reply, path)
        self.replies.setdefault(reply.key, []).append(reply)

    def _check(self, reply: Reply, path: pathlib.Path) -> None:
        if reply.key not in self._keys:
            raise JudgingError(
                f"{path}: a reply on {reply.criterion} to {reply.id!r:.80}, which no request asks"
            )


def read_replies(path: pathlib.Path) -> Iterable[Reply]:
    """The replies of a file, in its order.

    Raises:
        JudgingError: the file does not hold one reply per line.
    """
    fields = [field.name for field in dataclasses.fields(Reply)]
    try:
        for number, value in read_json_lines(path):
            yield _reply(f"{path}, line {number}", value, fields)
    except TextFileError as error:
        raise JudgingError(str(error)) from None


def _reply(where: str, value: Any, fields: Sequence[str]) -> Reply:
    if not isinstance(value, dict) or not {"id", "criterion", "answer"} <= value.keys():
        raise JudgingError(f"{where}: must have `id`, `criterion` and `answer`, is {shown(value)}")
    given = {name: value[name] for name in fields if name in value}
    if not all(isinstance(text, str) for text in given.values()):
        raise JudgingError(f"{where}: {', '.join(given)} must be texts, are {shown(given)}")
    return Reply(**given)
