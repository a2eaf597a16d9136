"""Makes manifests of data sets from the annotation files in circulation.

A data set is a tuple of `Split`s: the files that may hold its captions or questions, the counts
that papers state, and what makes a row. `main` is the command line of each of these data sets.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.annotation_files import (
    VIDEO_SUFFIXES,
    AnnotationError,
    read_captions,
    read_names,
    video_name,
)
from data_pipelines.dialogue_files import read_dialogues
from data_pipelines.question_files import read_questions
from vlt.command_line import why
from vlt.data.text.texts import printable, wrong_characters
from vlt.storage.files import new_file

SHOWN = 5  # examples in a message

Texts = Mapping[str, list[Any]]  # captions, `Question`s or `Dialogue`s, by name of the video
# Readers for the kinds of rows whose texts have an id and columns of their own.
READERS: dict[str, Callable[[pathlib.Path], Texts]] = {
    "question": read_questions,
    "dialogue": read_dialogues,
}


@dataclasses.dataclass(frozen=True)
class Files:
    """Annotation files that a split may be made of.

    Attributes:
      texts: name of the file with the captions or questions.
      names: name of the file that lists the split's videos, if the first one covers more.
      part: the split's name in the first file, if that one says it.
      counted: whether the total number of captions must be the split's; otherwise no source states
        it for this file.
      classes: name of the file that names the classes, if the first one holds their indices.
    """

    texts: str
    names: str = ""
    part: str = ""
    counted: bool = True
    classes: str = ""

    @property
    def all(self) -> list[str]:
        """Names of all files."""
        return [name for name in (self.texts, self.names, self.classes) if name]

    def __str__(self) -> str:
        return " with ".join(self.all)


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set, written as one manifest.

    Attributes:
      name: name of the manifest, without suffix.
      files: what it may be made from, the best first.
      row: what a row is: 'caption' (training sees each caption once an epoch), 'video' (with all
        its captions), 'paragraph' (a video with its captions joined by spaces), 'question' or
        'dialogue'.
      videos: number of videos, or None where no source states it.
      texts: total number of captions or questions, or None.
      each: number of captions of every video, or None.
    """

    name: str
    files: tuple[Files, ...]
    row: str
    videos: int | None = None
    texts: int | None = None
    each: int | None = None

    @property
    def kind(self) -> str:
        """What its texts are called: captions, questions or dialogues."""
        return f"{self.row}s" if self.row in READERS else "captions"

    def read(
        self, files: Files, given: Mapping[str, pathlib.Path], allow_subset: bool
    ) -> tuple[Texts, list[str]]:
        """The texts by video, and what is wrong with them before they are counted."""
        path = given[files.texts]
        reader = READERS.get(self.row)
        texts: Texts = reader(path) if reader else read_captions(path, files.part)
        if not files.names:
            return texts, []
        names = read_names(given[files.names])
        silent = [name for name in names if name not in texts]
        texts = {name: texts[name] for name in names if name in texts}
        if silent and not allow_subset:
            return texts, [f"no caption in {path} for {some(silent, len(names))}"]
        return texts, []

    def amount(self, texts: Texts) -> str:
        """The number and kind of the texts."""
        return f"{sum(map(len, texts.values())):,} {self.kind}"

    def counts(self, texts: Texts, files: Files) -> list[tuple[int, int | None, str]]:
        """The counts to check: how many there are, how many are expected, and of what."""
        sizes = collections.Counter(map(len, texts.values())).items()
        total = self.texts if files.counted else None
        return [
            (len(texts), self.videos, "videos"),
            (sum(map(len, texts.values())), total, self.kind),
            *((size, self.each, f"{self.kind} of each of {n:,} videos") for size, n in sizes),
        ]

    def wrong_counts(self, texts: Texts, files: Files, allow_subset: bool) -> list[str]:
        """'FOUND instead of EXPECTED KIND' for each count that differs."""
        return [
            f"{count:,} instead of {expected:,} {kind}"
            for count, expected, kind in self.counts(texts, files)
            if expected not in (None, count) and not (allow_subset and 0 < count < expected)
        ]

    def columns(self, video: str, texts: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """A video's rows, without its path."""
        if self.row == "caption":
            for index, text in enumerate(texts):
                yield {"id": f"{video}#{index}", "caption": text}
        elif self.row in READERS:
            for index, text in enumerate(texts):
                yield {"id": text.id or f"{video}#{index}", **text.columns()}
        elif self.row == "paragraph":
            yield {"id": video, "caption": " ".join(texts)}
        else:
            yield {"id": video, "caption": texts}


def find_videos(folder: pathlib.Path) -> dict[str, list[str]]:
    """All files with a video suffix in a folder and its subfolders, by `video_name`."""
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: there is no such folder of videos")
    found: dict[str, list[str]] = {}
    for path in video_files(folder):
        found.setdefault(video_name(path), []).append(path)
    if not found:
        raise AnnotationError(f"{folder}: holds no file that ends as a video does")
    return found


def video_files(folder: pathlib.Path) -> Iterator[str]:
    """Paths of all files with a video suffix in a folder and its subfolders, in order.

    Raises: AnnotationError for a name that is not UTF-8, which no manifest can hold.
    """
    for root, folders, files in os.walk(os.path.realpath(folder), followlinks=True):
        folders.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in VIDEO_SUFFIXES:
                path = os.path.join(root, file)
                if wrong := wrong_characters(path):
                    raise AnnotationError(f"{printable(path)}: the name {wrong}; rename it")
                yield path


@dataclasses.dataclass
class Draft:
    """A manifest before it is written: what the annotations say, and which videos exist."""

    split: Split
    files: Files
    source: str  # names of the files
    texts: Texts
    paths: dict[str, str]  # by video
    problems: list[str]

    @property
    def missing(self) -> list[str]:
        """Videos without a file."""
        return [video for video in self.texts if video not in self.paths]

    def rows(self, out: str) -> Iterator[dict[str, Any]]:
        """Rows of the videos that exist; paths relative to the folder `out`."""
        for video, path in self.paths.items():
            for row in self.split.columns(video, self.texts[video]):
                yield {"id": row["id"], "video": os.path.relpath(path, out), **row}

    def summary(self) -> str:
        """What was written, and how much was left out."""
        kept = {video: self.texts[video] for video in self.paths}
        parts = [f"{len(kept):,} videos, {self.split.amount(kept)}"]
        if smaller := self.split.wrong_counts(self.texts, self.files, allow_subset=False):
            parts.append(f"a subset: {'; '.join(smaller)}")
        if self.missing:
            parts.append(
                f"{len(self.missing):,} of {len(self.texts):,} videos dropped, which have no file "
                f"(listed in {_missing_file(self.split)})"
            )
        return f"{'; '.join(parts)} (from {self.source})"


def write_manifests(
    splits: Sequence[Split],
    annotations: Iterable[str | os.PathLike[str]],
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    allow_subset: bool = False,
    missing: str = "error",
) -> list[str]:
    """Writes OUT/NAME.jsonl of every split whose annotation files are given, or nothing.

    Args:
      annotations: files, and folders that hold them.
      videos: a folder that holds the videos, in folders of any depth.
      allow_subset: whether fewer videos and texts than the papers' are accepted, and reported.
      missing: for videos without a file: 'error', or 'drop' to leave them out, report that and
        list them in OUT/NAME.missing.txt.

    Returns: a line about each split.

    Raises:
      AnnotationError: no split's files are given, a file has another form, or a split has other
        counts, videos without a file, or videos with several; all such problems are listed.
    """
    if missing not in ("error", "drop"):
        raise AnnotationError(f"missing must be 'error' or 'drop', got {missing!r}")
    given = given_files(annotations, file_names(splits).__contains__)
    files = {split: chosen_files(split, given) for split in splits}
    absent = [f"{s.name}: not made; it takes {_wanted(s)}" for s in splits if not files[s]]
    if len(absent) == len(files):
        raise AnnotationError("no annotation file is one of those:\n  " + "\n  ".join(absent))
    index = find_videos(pathlib.Path(videos))
    drafts = [
        _draft(split, found, given, index, allow_subset, missing)
        for split, found in files.items()
        if found
    ]
    if problems := [f"{d.split.name}: {text}" for d in drafts for text in d.problems]:
        raise AnnotationError("nothing was written:\n  " + "\n  ".join(problems))
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for draft in drafts:
        _write(folder, draft)
    return [f"{folder / d.split.name}.jsonl: {d.summary()}" for d in drafts] + absent


def file_names(splits: Sequence[Split]) -> set[str]:
    """Names of all annotation files that the splits may take."""
    return {name for split in splits for files in split.files for name in files.all}


def given_files(
    annotations: Iterable[str | os.PathLike[str]], taken: Callable[[str], bool]
) -> dict[str, pathlib.Path]:
    """The annotation files by name; for a folder, those directly in it.

    `test.first200.json`, the first 200 records of a file, stands for test.json.

    Raises: AnnotationError for a path that does not exist, or two files of one name that is taken.
    """
    given: dict[str, pathlib.Path] = {}
    for path in map(pathlib.Path, annotations):
        if not path.exists():
            raise AnnotationError(f"{path}: there is no such file or folder of annotations")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            name = re.sub(r"\.first\d+(?=\.)", "", file.name)
            if given.setdefault(name, file) != file and taken(name):
                raise AnnotationError(f"{given[name]} and {file} have one name; give one")
    return given


def chosen_files(split: Split, given: Mapping[str, pathlib.Path]) -> Files | None:
    """The first of a split's `files` that are all given, or None."""
    for files in split.files:
        if given.keys() >= {*files.all}:
            return files
    return None


def _wanted(split: Split) -> str:
    return ", or ".join(map(str, split.files))


def _draft(
    split: Split,
    files: Files,
    given: Mapping[str, pathlib.Path],
    index: dict[str, list[str]],
    allow_subset: bool,
    missing: str,
) -> Draft:
    texts, problems = split.read(files, given, allow_subset)
    path = given[files.names or files.texts]
    source = " with ".join(given[name].name for name in files.all)
    if wrong := split.wrong_counts(texts, files, allow_subset):
        less = not split.wrong_counts(texts, files, allow_subset=True)
        advice = "; a part of it is written with --allow-subset" if less else ""
        problems.append(f"{'; '.join(wrong)} in {path}{advice}")
    found = {name: _paths(index, name) for name in texts}
    several = [paths for paths in found.values() if len(paths) > 1]
    problems += [f"several files of one video: {', '.join(paths)}" for paths in several[:SHOWN]]
    absent = [name for name, paths in found.items() if not paths]
    if absent and missing == "error":
        advice = "; --missing=drop leaves them out" if len(absent) < len(found) else ""
        problems.append(f"no file for {some(absent, len(found))}{advice}")
    elif len(absent) == len(found):
        problems.append("not one of its videos has a file")
    paths = {name: paths[0] for name, paths in found.items() if paths}
    return Draft(split, files, source, texts, paths, problems)


def _paths(index: dict[str, list[str]], name: str) -> list[str]:
    """Paths of the files of a name, in its folders if it has any."""
    folders, slash, name = name.rpartition("/")
    # ActivityNet's ids begin with "v_" in its annotations, and in some people's files.
    names = (name, name.removeprefix("v_"), f"v_{name}")
    found = next((index[each] for each in names if each in index), [])
    return [path for path in found if path.rpartition("/")[0].endswith(slash + folders)]


def some(names: Sequence[str], total: int) -> str:
    """How many videos of the total, and the first names."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names):,} of {total:,} videos: {', '.join(names[:SHOWN])}{more}"


def _missing_file(split: Split) -> str:
    return f"{split.name}.missing.txt"


def _write(folder: pathlib.Path, draft: Draft) -> None:
    # Relative paths to the videos must not depend on links in the path of the manifest.
    rows = draft.rows(os.path.realpath(folder))
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_lines(folder / f"{draft.split.name}.jsonl", lines)
    listed = folder / _missing_file(draft.split)
    if draft.missing:
        write_lines(listed, draft.missing)
    else:
        listed.unlink(missing_ok=True)  # left by an earlier run


def write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    """Writes a text file of lines, entirely or not at all."""
    with new_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def main(
    description: str,
    splits: Sequence[Split],
    write: Callable[..., list[str]] = write_manifests,
) -> None:
    """The command line of a data set.

    description: docstring of its module. write: takes the arguments of `write_manifests`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", nargs="+", required=True, help="files, or their folders")
    parser.add_argument("--videos", required=True, help="folder, searched with all its folders")
    parser.add_argument("--out", required=True, help="folder for the manifests")
    parser.add_argument("--allow-subset", action="store_true", help="accept fewer than all")
    parser.add_argument("--missing", choices=("error", "drop"), default="error",
                        help="what to do about videos without a file")  # fmt: skip
    try:
        lines = write(splits, **vars(parser.parse_args()))
    except (AnnotationError, OSError) as error:
        parser.error(why(error))
    print("\n".join(lines))
