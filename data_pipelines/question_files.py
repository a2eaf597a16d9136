"""Reads questions about videos and their answers from the files of MSRVTT-QA."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.annotation_files import AnnotationError, csv_rows, read_json, video_names
from vlt.data.text.texts import checked_text, checked_texts

VIDEO_COLUMNS = ("video", "image", "video_id")
ID_COLUMNS = ("question_id", "id")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about a video; `id` is '' where the file has none."""

    text: str
    answers: tuple[str, ...]
    id: str

    def columns(self) -> dict[str, Any]:
        """Its columns in a manifest's row."""
        one = len(self.answers) == 1
        return {"question": self.text, "answer": self.answers[0] if one else list(self.answers)}


Questions = dict[str, list[Question]]  # by name of the video


def read_questions(path: pathlib.Path) -> Questions:
    """Questions by video, from a .json or .jsonl list of objects, or a .csv with a header.

    An entry has `question`, `answer` (text or a list) and `video`, `image` or `video_id`, where a
    number n stands for MSR-VTT's "video<n>".

    Raises: AnnotationError for a file of another form.
    """
    entries = csv_rows(path) if path.suffix == ".csv" else read_json(path)
    if isinstance(entries, dict):
        raise AnnotationError(f"{path}: holds an object, not a list of questions")
    read = [_read(path, entry) for entry in entries]
    names = video_names(video for video, _ in read)
    questions: Questions = {}
    for video, question in read:
        questions.setdefault(names[video], []).append(question)
    return questions


def _read(path: pathlib.Path, entry: Any) -> tuple[str, Question]:
    """The video, as the entry names it, and the question."""
    held = ", ".join(entry) if isinstance(entry, dict) else repr(entry)[:80]
    video = _first(entry, VIDEO_COLUMNS)
    if not (isinstance(entry, dict) and video and {"question", "answer"} <= entry.keys()):
        raise AnnotationError(
            f"{path}: an entry needs `question`, `answer` and one of {', '.join(VIDEO_COLUMNS)}; "
            f"it holds {held}"
        )
    try:
        text = _one_line(checked_text(entry["question"]))
        answers = tuple(map(_one_line, checked_texts(entry["answer"])))
    except ValueError as error:
        reason = f"a question or answer that is blank or no text: it {error}; {entry!r:.200}"
        raise AnnotationError(f"{path}: {reason}") from None
    path_or_id = f"video{video}" if video.isdecimal() else video
    return path_or_id, Question(text, answers, _first(entry, ID_COLUMNS))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first(entry: Any, columns: Sequence[str]) -> str:
    """The value of the first of the columns that is present, as text; '' if none is."""
    present = [entry[c] for c in columns if c in entry] if isinstance(entry, dict) else []
    return str(present[0]) if present else ""


def read_answers(path: pathlib.Path) -> list[str]:
    """Candidate answers, from a .json list or {answer: position}.

    Raises: AnnotationError for a file of another form, or an answer that occurs twice.
    """
    content = read_json(path)
    if isinstance(content, Mapping) and all(type(place) is int for place in content.values()):
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list):
        raise AnnotationError(f"{path}: holds no list of answers")
    try:
        content = [_one_line(checked_text(answer)) for answer in content]
    except ValueError as error:
        raise AnnotationError(f"{path}: holds no list of answers: one {error}") from None
    twice = [answer for answer, count in Counter(content).items() if count > 1]
    if twice:
        raise AnnotationError(f"{path}: {len(twice)} answers come twice: {', '.join(twice[:5])}")
    return content


def frequent_answers(questions: Questions, count: int) -> list[str]:
    """The most frequent answers; among equally frequent ones, the first to occur comes first."""
    found = Counter(a for each in questions.values() for q in each for a in q.answers)
    return [answer for answer, _ in found.most_common(count)]
