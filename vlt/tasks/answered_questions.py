"""Reads questions about videos, true answers and a model's answers from files in common formats.

References: a manifest with `question` and `answer`; the lists of the VideoChatGPT benchmark, of
MSVD-QA and of MSRVTT-QA; or ActivityNet-QA's two lists, of questions and of answers. Predictions:
such a list with `pred` (`pred1` and `pred2` for two questions), as published programs write it;
{"video", "question", "answer"} on each line, as `vlt chat --json` prints; {"id", "question",
"answer"}, as evaluations write it.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vlt.data.manifests.manifest import READERS, Record, read_manifest
from vlt.data.text.text_files import TextFileError, read_json, read_json_lines
from vlt.data.text.texts import checked_text, checked_texts, shown
from vlt.data.video.suffixes import VIDEO_SUFFIXES
from vlt.tasks.caption_metrics import ScoringError

SHOWN = 3  # examples in a message
LONGEST = 100_000  # characters of a prediction
VIDEO = ("video_name", "video", "video_id", "image")
IDS = ("question_id", "id")
ONE = (("question",), ("Q",))
TWO = (("Q1", "Q2"),)  # the benchmark's questions on consistency
ANSWER = ("answer", "A")
PREDICTED = {1: (("pred",), ("answer",)), 2: (("pred1", "pred2"),)}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question about a video, or two that share an answer.

    id: the file's; otherwise the video's name and the number of the question about it, from 0.
    named: whether the file gives the id. answers: each of them is true. places: what tells the
    video's file from others of its name; for a manifest's row, the resolved path is one.
    """

    id: str
    video: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    named: bool
    places: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is asked, with case and spacing normalised."""
        return " ".join(" ".join(self.questions).casefold().split())


Path = str | os.PathLike[str]


def read_asked(paths: Sequence[Path], count: int = 1) -> list[Asked]:
    """Reads questions with their answers, from one file or from a file of each.

    Args:
        count: number of questions that share an answer, 1 or 2.

    Raises:
        ScoringError: another form, a duplicate id, or no questions. ManifestError: from a manifest.
    """
    first = pathlib.Path(paths[0])
    if first.suffix in READERS and count == 1 and len(paths) == 1:
        asked = _of_manifest(first)
    else:
        entries = _entries(first)
        if len(paths) > 1:
            entries = _with_answers(first, entries, pathlib.Path(paths[1]))
        asked = [_asked(first, *each, count) for each in enumerate(entries, 1)]
    seen = collections.Counter[str]()
    found = []
    for each in asked:
        identity = each.id or f"{each.video}_{seen[each.video]}"
        seen[each.video] += 1
        found.append(dataclasses.replace(each, id=identity))
    twice = [i for i, n in collections.Counter(each.id for each in found).items() if n > 1]
    if twice:
        raise ScoringError(f"{first}: {len(twice)} ids come twice: {_some(twice)}")
    if not found:
        raise ScoringError(f"{first}: holds no questions")
    return found


def holds_questions(path: Path) -> bool:
    """Whether a file of references holds questions with their answers, judging by its first row;
    its reader reports what is wrong with it."""
    path = pathlib.Path(path)
    try:
        if path.suffix in READERS:
            return read_manifest(path, check_videos=False)[0].question is not None
        content = read_json(path)
    except TextFileError:
        return False
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and _texts(first, ONE) is not None


def _of_manifest(path: pathlib.Path) -> list[Asked]:
    records = read_manifest(path, check_videos=False)
    without = [r for r in records if r.question is None]
    if without:
        reason = f"has no `question` with its `answer` ({len(without)} rows have none)"
        raise ScoringError(f"{path}, line {without[0].line}: {reason}")
    return [_of_record(path, record) for record in records]


def _of_record(path: pathlib.Path, record: Record) -> Asked:
    named = str(path.parent / record.id) != record.video  # else the row has no id of its own
    asked = (str(record.question),)
    places = (os.path.realpath(record.video), *([] if named else [record.id]))
    return Asked(record.id * named, name_of(record.video), asked, record.answers, named, places)


def name_of(video: str) -> str:
    """A video's name, without its folder, suffix and ActivityNet's 'v_'."""
    name = video.replace("\\", "/").rpartition("/")[2]
    stem, suffix = os.path.splitext(name)
    return (stem if suffix.lower() in VIDEO_SUFFIXES else name).removeprefix("v_")


def _place(video: str) -> str:
    """A video's folder and name."""
    folder, slash, _ = video.replace("\\", "/").rpartition("/")
    return f"{folder}{slash}{name_of(video)}"


def _entries(path: pathlib.Path) -> list[Any]:
    try:
        if path.suffix == ".jsonl":
            return [value for _, value in read_json_lines(path)]
        content = read_json(path)
    except TextFileError as error:
        raise ScoringError(str(error)) from None
    if not isinstance(content, list):
        raise ScoringError(f"{path}: must hold a list of questions, holds {shown(content)}")
    return content


def _with_answers(path: pathlib.Path, questions: list[Any], other: pathlib.Path) -> list[Any]:
    """ActivityNet-QA's questions with the answers of the other file, which has the same order."""
    answers = _entries(other)
    if len(questions) != len(answers):
        raise ScoringError(
            f"{path} has {len(questions)} questions, {other} {len(answers)} answers; needed is one "
            "answer for each, in their order"
        )
    found = []
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), 1):
        if not isinstance(question, dict) or not isinstance(answer, dict):
            raise ScoringError(f"{path} and {other}: entry {number} must be an object in both")
        ids = [_first(each, IDS) for each in (question, answer)]
        if None not in ids and ids[0] != ids[1]:
            raise ScoringError(f"{other}: entry {number} is of {ids[1]!r}, not of {ids[0]!r}")
        found.append({**question, "answer": _first(answer, ANSWER)})
    return found


def _asked(path: pathlib.Path, number: int, entry: Any, count: int) -> Asked:
    fail = f"{path}: entry {number}"
    if not isinstance(entry, Mapping):
        raise ScoringError(f"{fail} must be an object, is {shown(entry)}")
    questions = _texts(entry, ONE if count == 1 else TWO)
    answer, identity = _first(entry, ANSWER), _first(entry, IDS)
    if questions is None or answer is None:
        needed = "`question` or `Q`" if count == 1 else "`Q1` and `Q2`"
        raise ScoringError(
            f"{fail} must have {needed}, and `answer` or `A`; it has {', '.join(entry)[:200]}"
        )
    try:
        asked = tuple(checked_text(text) for text in questions)
        # A string is an answer as it is, even "None" or "[1, 2]".
        answers = (answer,) if isinstance(answer, str) and answer.strip() else checked_texts(answer)
    except ValueError as error:
        raise ScoringError(f"{fail}: a question or an answer {error}") from None
    named = identity is not None
    video, name = _video(entry), str(identity) if named else ""
    return Asked(name, name_of(video), asked, answers, named, (_place(video),))


def _video(entry: Mapping[str, Any]) -> str:
    found = _first(entry, VIDEO)
    return "" if found is None else str(found)


def _first(entry: Mapping[str, Any], columns: Sequence[str]) -> Any:
    return next((entry[column] for column in columns if entry.get(column) is not None), None)


def _texts(entry: Mapping[str, Any], forms: Sequence[Sequence[str]]) -> tuple[Any, ...] | None:
    """The values of the first form whose columns are all there."""
    for columns in forms:
        if all(column in entry for column in columns):
            return tuple(entry[column] for column in columns)
    return None


Predictions = dict[str, tuple[str, ...]]  # by id of an `Asked`, an answer to each of its questions
# Questions not answered yet, by name of the video and text, then by the video's places.
Waiting = dict[tuple[str, str], dict[tuple[str, ...], list[Asked]]]


def read_answered(path: Path, asked: Sequence[Asked]) -> Predictions:
    """Reads a model's answers, for the questions that it did answer.

    An entry belongs to the question with its id, where both files have ids, and otherwise to the
    one with its video and words; among equal ones, the first entry to the first question. Videos of
    one name are told apart by their paths.

    Raises:
        ScoringError: another form, an answer that is not text, to a question that the references do
            not have or to one of several videos, two answers to one question, or none at all.
    """
    path = pathlib.Path(path)
    ids = {each.id: each for each in asked if each.named}
    waiting: Waiting = {}
    for each in asked:
        of_files = waiting.setdefault((each.video, each.text), {})
        of_files.setdefault(each.places, []).append(each)
    found: Predictions = {}
    strange: list[str] = []
    count = len(asked[0].questions)
    for number, entry in enumerate(_entries(path), 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, Mapping):
            raise ScoringError(f"{where} must be an object, is {shown(entry)}")
        given, texts = _given(where, entry, count)
        if given.named and ids:
            its = ids.get(given.id)
            _check_same(where, given, its)
        else:
            listed = _of_its_file(where, given, waiting.get((given.video, given.text), {}))
            its = listed.pop(0) if listed else None
        if texts is None:
            continue  # its video could not be read: it is counted as missing
        if its is None:
            strange.append(f"{given.id or given.video}: {given.questions[0]!r:.80}")
        elif its.id in found:
            raise ScoringError(f"{where}: a second answer to {its.id}")
        else:
            found[its.id] = texts
    if strange:
        raise ScoringError(
            f"{path}: predictions for other questions than the references have, "
            f"{len(strange):,} in all: {_some(strange)}"
        )
    if not found:
        raise ScoringError(f"{path}: holds no predictions")
    return found


def _given(
    where: str, entry: Mapping[str, Any], count: int
) -> tuple[Asked, tuple[str, ...] | None]:
    """What an entry says was asked, and its predictions, or None if it has an `error` instead."""
    questions = _texts(entry, ONE if count == 1 else TWO)
    identity = _first(entry, IDS)
    predicted = _texts(entry, PREDICTED[count])
    failed = "error" in entry and "answer" not in entry
    if not failed and (predicted is None or (questions is None and identity is None)):
        needed = "`pred` or `answer`" if count == 1 else "`pred1` and `pred2`"
        raise ScoringError(
            f"{where} must have {needed}, and its `id` or question; it has {', '.join(entry)[:200]}"
        )
    predicted = None if failed else predicted
    for text in predicted or ():
        _check_prediction(where, text)
    asked, named = tuple(map(str, questions or ("",))), identity is not None
    name = str(identity) if named else ""
    video = _video(entry) or name
    places = (video, _place(video), os.path.realpath(video))
    return Asked(name, name_of(video), asked, (), named, places), predicted


def _of_its_file(
    where: str, given: Asked, listed: Mapping[tuple[str, ...], list[Asked]]
) -> list[Asked]:
    """Those of the questions with an entry's name and words that are about its file.

    Raises: ScoringError if they are about several files, and the entry names none or two of them.
    """
    if len(listed) < 2:
        return next(iter(listed.values()), [])
    own = [found for places, found in listed.items() if {*places} & {*given.places}]
    if len(own) != 1:
        raise ScoringError(
            f"{where}: {given.places[0]!r:.80} may be any of "
            f"{_some([places[0] for places in listed])}, about which {given.questions[0]!r:.80} is "
            "asked: name the video by its path there, or give both files ids"
        )
    return own[0]


def _check_prediction(where: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ScoringError(f"{where}: a prediction must be text, is {shown(text)}")
    if len(text) > LONGEST:
        raise ScoringError(f"{where}: a prediction has {len(text):,} characters, over {LONGEST:,}")


def _check_same(where: str, given: Asked, its: Asked | None) -> None:
    if its is not None and given.text and given.text != its.text:
        raise ScoringError(
            f"{where}: predictions for other questions than the references have: {its.id} asks "
            f"{its.questions[0]!r:.80} there, {given.questions[0]!r:.80} here"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
