"""Annotation files in their usual forms -> captions by video.

The layouts of MSR-VTT, ActivityNet Captions, DiDeMo, LSMDC, MSVD and VATEX are recognised, and the
lists of {video, caption} that projects share instead.
"""

import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.resolve import read_pickle
from vlt.data.manifests.rows import csv_rows as numbered_rows
from vlt.data.text import text_files
from vlt.data.text.text_files import TextFileError
from vlt.data.text.texts import checked_text, checked_texts, trimmed
from vlt.data.video.suffixes import VIDEO_SUFFIXES

# Columns that name a video, or hold one or several texts of it; the first one present counts.
VIDEO_COLUMNS = ("video", "image", "clip_name", "video_id", "videoID")
TEXT_COLUMNS = ("caption", "sentence", "description", "sentences", "enCap")

Captions = dict[str, list[str]]  # by name of the video, as `video_names` gives it


class AnnotationError(ValueError):
    """Annotations or videos that cannot make a manifest; the message says which and why."""


def video_name(text: str) -> str:
    """File or id -> name: without folder and without video suffixes ('a/b.mov.mp4' -> 'b')."""
    name = text.replace("\\", "/").rpartition("/")[2]
    while os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
        name = os.path.splitext(name)[0]
    return name


def video_names(texts: Iterable[str]) -> dict[str, str]:
    """The names of files or ids: `video_name`, with the folders where several share it.

    'a/1.mp4' and 'b/1.mp4' are 'a/1' and 'b/1'; 'a/1.mp4' and 'a/1' are both '1'.
    """
    names = {text: video_name(text) for text in texts}
    paths = {
        text: os.path.normpath(text.replace("\\", "/").rpartition("/")[0] + f"/{name}").strip("/")
        for text, name in names.items()
    }
    sharing = Counter(name for name, _ in {(name, paths[text]) for text, name in names.items()})
    return {text: paths[text] if sharing[name] > 1 else name for text, name in names.items()}


def read_captions(path: pathlib.Path, part: str = "") -> Captions:
    """Reads captions by video, in file order; suffix and content tell the layout of the file.

    - .json, .jsonl: a list of objects with a video and a caption or captions; {video: captions};
      {video: {"sentences": [...]}} (ActivityNet); {"sentences": [objects]} (MSR-VTT)
    - .csv: a header with `video_id` and `sentence`, or LSMDC's six tab-separated columns
    - .txt: lines of a video, a space and a caption; those that begin with # are left out (MSVD)
    - .pkl: {video: [captions, as text or words]} (MSVD); nothing in the file is executed

    Args:
      part: only videos of this `split` in {"videos": [objects], "sentences": [objects]} (MSR-VTT).

    Raises: AnnotationError for a file of another form, or a part without any sentence.
    """
    if path.suffix == ".pkl":
        pairs = _pairs_of_mapping(path, _read_pickle(path))
    elif path.suffix == ".csv":
        pairs = _pairs_of_csv(path)
    elif path.suffix == ".txt":
        pairs = _pairs_of_lines(path)
    else:
        content = read_json(path)
        if part:
            content = _sentences_of(path, content, part)
        elif isinstance(content, dict) and isinstance(content.get("sentences"), list):
            content = content["sentences"]
        is_list = isinstance(content, list)
        pairs = (_pairs_of_list if is_list else _pairs_of_mapping)(path, content)
    listed = list(pairs)
    names = video_names(video for video, _ in listed)
    captions: Captions = {}
    for video, text in listed:
        captions.setdefault(names[video], []).append(" ".join(text.split()))
    # Blank captions are dropped; the counts show if there are too many of them.
    kept = {video: [text for text in texts if text] for video, texts in captions.items()}
    return {video: texts for video, texts in kept.items() if texts}


def read_names(path: pathlib.Path) -> list[str]:
    """Names of videos: the column `video_id` of a .csv, or the lines of a text file."""
    listed = path.suffix != ".csv"
    found = _lines(path) if listed else [_video(path, row) for row in csv_rows(path)]
    return list(dict.fromkeys(video_names(found).values()))


def read_text(path: pathlib.Path) -> str:
    """A UTF-8 file's text, without a byte order mark.

    Raises: AnnotationError for a file that cannot be read or is not UTF-8 text.
    """
    try:
        return text_files.read_text(path)
    except TextFileError as error:
        raise AnnotationError(str(error)) from None


def _lines(path: pathlib.Path) -> list[str]:
    # Not str.splitlines: captions may contain Unicode's other line breaks.
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_json(path: pathlib.Path) -> Any:
    """The content of a .json file, or the list of the values on the lines of a .jsonl file.

    Raises: AnnotationError for a file that is neither.
    """
    try:
        if path.suffix == ".jsonl":
            return [value for _, value in text_files.read_json_lines(path)]
        return text_files.read_json(path)
    except TextFileError as error:
        told = str(error).replace(": not JSON", ": not JSON, or cut off", 1)
        raise AnnotationError(told) from None


def _read_pickle(path: pathlib.Path) -> Any:
    try:
        return read_pickle(path)
    except ConversionError as error:
        raise AnnotationError(str(error)) from None


def csv_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Rows of a .csv file with a header.

    Raises: AnnotationError for a file of another form.
    """
    try:
        yield from (row for _, row in numbered_rows(path))
    except TextFileError as error:
        raise AnnotationError(str(error)) from None


def _pairs_of_csv(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    lines = _lines(path)
    if not lines or "\t" not in lines[0]:
        yield from _pairs_of_list(path, list(csv_rows(path)))
        return
    for number, line in enumerate(lines, 1):
        # Quotes are part of LSMDC's sentences.
        fields = line.split("\t")
        if len(fields) != 6:
            raise AnnotationError(
                f"{path}, line {number}: {len(fields)} fields between tabs instead of 6"
            )
        yield fields[0], fields[5]


def _pairs_of_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    for line in (line for line in _lines(path) if not line.startswith("#")):
        video, _, text = line.partition(" ")
        if not text:
            raise AnnotationError(f"{path}: no caption follows {video!r}")
        yield video, text


def _sentences_of(path: pathlib.Path, content: Any, part: str) -> list[Any]:
    """The sentences of those videos whose `split` is `part`."""
    try:
        splits = {video["video_id"]: video["split"] for video in content["videos"]}
        kept = [entry for entry in content["sentences"] if splits[entry["video_id"]] == part]
    except (TypeError, KeyError) as error:
        raise AnnotationError(
            f"{path}: no {error}; needed are `videos` with `video_id` and `split`, and `sentences` "
            "of these videos"
        ) from None
    if not kept:
        found = ", ".join(sorted(set(map(str, splits.values()))))
        raise AnnotationError(f"{path}: no sentence of a video whose split is {part!r}, of {found}")
    return kept


def _pairs_of_list(path: pathlib.Path, entries: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        video = _video(path, entry)
        column = next((c for c in TEXT_COLUMNS if c in entry), None)
        if column is None:
            raise AnnotationError(_lacks(path, entry, TEXT_COLUMNS))
        yield from ((video, text) for text in _texts(path, video, entry[column]))


def _pairs_of_mapping(path: pathlib.Path, content: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise AnnotationError(f"{path}: holds a {kind}, not a list or mapping of videos")
    for video, value in content.items():
        if not isinstance(video, str):
            raise AnnotationError(f"{path}: the name of a video is {_short(video)}, not text")
        texts = value.get("sentences") if isinstance(value, dict) else value
        yield from ((video, text) for text in _texts(path, video, texts))


def _video(path: pathlib.Path, entry: Any) -> str:
    if isinstance(entry, dict):
        for column in VIDEO_COLUMNS:
            if isinstance(entry.get(column), str):
                return entry[column]
    raise AnnotationError(_lacks(path, entry, VIDEO_COLUMNS))


def _lacks(path: pathlib.Path, entry: Any, columns: Sequence[str]) -> str:
    held = ", ".join(map(str, entry)) if isinstance(entry, dict) else repr(entry)
    return f"{path}: an entry has none of {', '.join(columns)}; it holds {held[:200]}"


def _short(value: Any) -> str:
    return repr(value)[:80]


def _texts(path: pathlib.Path, video: str, value: Any) -> list[str]:
    """The texts in a value: a text, a list of texts, or a list of lists of words."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)):
        raise AnnotationError(f"{path}: the captions of {video} are {_short(value)}, not texts")
    texts = [_joined(text) if isinstance(text, (list, tuple)) else text for text in listed]
    if not all(isinstance(text, str) for text in texts):
        raise AnnotationError(f"{path}: the captions of {video} are {_short(value)}, not texts")
    try:
        if isinstance(value, str) and trimmed(value):
            return list(checked_texts(value))
        return [checked_text(text) for text in texts if trimmed(text)]
    except ValueError as error:
        raise AnnotationError(f"{path}: a caption of {video} {error}") from None


def _joined(words: Sequence[Any]) -> Any:
    """Words joined to a text; anything that is not all words is returned as it is."""
    return " ".join(words) if all(isinstance(word, str) for word in words) else words
