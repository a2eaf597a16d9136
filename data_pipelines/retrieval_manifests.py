"""Manifests of retrieval data sets, made from the annotation files that people have.

A data set is a tuple of `Split`s: the files that its captions may come in, the counts that the
papers state, and what makes a row. `main` is the command line of every such data set.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_pipelines.annotation_files import (
    VIDEO_SUFFIXES,
    AnnotationError,
    Captions,
    read_captions,
    read_names,
    video_name,
)

SHOWN = 5  # examples in a message


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set, written as one manifest.

    Attributes:
      name: of the manifest, without suffix.
      files: names of the files it may be made of, the best first. Each entry holds the file with
        the captions and, if that one covers more than this split, the file that lists its videos.
      row: what a row is: 'caption' (training sees each caption once an epoch), 'video' (with all
        its captions) or 'paragraph' (a video with its captions joined by spaces).
      videos: number of videos, or None where no source states it.
      captions: number of captions in all, or None.
      each: number of captions of every video, or None.
    """

    name: str
    files: tuple[tuple[str, ...], ...]
    row: str
    videos: int | None = None
    captions: int | None = None
    each: int | None = None

    def wrong_counts(self, captions: Captions, allow_subset: bool) -> list[str]:
        """'found instead of expected' of each count that does not fit."""
        sizes = collections.Counter(map(len, captions.values()))
        found = [
            (len(captions), self.videos, "videos"),
            (sum(map(len, captions.values())), self.captions, "captions"),
            *((size, self.each, f"captions of each of {n:,} videos") for size, n in sizes.items()),
        ]
        return [
            f"{count:,} instead of {expected:,} {kind}"
            for count, expected, kind in found
            if expected not in (None, count) and not (allow_subset and 0 < count < expected)
        ]


def find_videos(folder: pathlib.Path) -> dict[str, list[str]]:
    """All files with a video's suffix in a folder and its folders, by `video_name`."""
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: there is no such folder of videos")
    found: dict[str, list[str]] = {}
    for root, folders, files in os.walk(os.path.realpath(folder), followlinks=True):
        folders.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in VIDEO_SUFFIXES:
                found.setdefault(video_name(file), []).append(os.path.join(root, file))
    if not found:
        raise AnnotationError(f"{folder}: holds no file that ends as a video does")
    return found


@dataclasses.dataclass
class Draft:
    """A manifest before it is written: what the annotations say and which videos there are."""

    split: Split
    files: tuple[pathlib.Path, ...]
    captions: Captions
    paths: dict[str, str]  # by video
    problems: list[str]

    def rows(self, out: str) -> Iterator[dict[str, Any]]:
        """Rows of the videos that exist; paths relative to the folder `out`."""
        for video, path in self.paths.items():
            texts, shared = self.captions[video], {"video": os.path.relpath(path, out)}
            if self.split.row == "caption":
                for index, text in enumerate(texts):
                    yield {"id": f"{video}#{index}", **shared, "caption": text}
            elif self.split.row == "paragraph":
                yield {"id": video, **shared, "caption": " ".join(texts)}
            else:
                yield {"id": video, **shared, "caption": texts}

    def summary(self) -> str:
        """What was written of it, and how much is left out."""
        texts = sum(len(self.captions[video]) for video in self.paths)
        parts = [f"{len(self.paths):,} videos, {texts:,} captions"]
        if smaller := self.split.wrong_counts(self.captions, allow_subset=False):
            parts.append(f"a subset: {'; '.join(smaller)}")
        if dropped := len(self.captions) - len(self.paths):
            parts.append(
                f"{dropped:,} of {len(self.captions):,} videos dropped, which have no file"
            )
        return f"{'; '.join(parts)} (from {', '.join(path.name for path in self.files)})"


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
      allow_subset: fewer videos and captions than the papers' are accepted and reported.
      missing: of videos without a file: 'error', or 'drop' to leave them out and report it.

    Returns: a line about each split.

    Raises:
      AnnotationError: no split's files are given, a file has another form, or any split has other
        counts, videos without a file, or videos with several; all of these are listed.
    """
    if missing not in ("error", "drop"):
        raise AnnotationError(f"missing={missing!r}: one of 'error', 'drop'")
    given = _given(annotations)
    files = {split: _files(split, given) for split in splits}
    absent = [f"{s.name}: not made; it takes {_wanted(s)}" for s in splits if not files[s]]
    if len(absent) == len(files):
        raise AnnotationError("no annotation file is one of those:\n  " + "\n  ".join(absent))
    index = find_videos(pathlib.Path(videos))
    drafts = [_draft(s, files[s], index, allow_subset, missing) for s in splits if files[s]]
    if problems := [f"{d.split.name}: {text}" for d in drafts for text in d.problems]:
        raise AnnotationError("nothing was written:\n  " + "\n  ".join(problems))
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for draft in drafts:
        _write(folder / f"{draft.split.name}.jsonl", draft)
    return [f"{folder / d.split.name}.jsonl: {d.summary()}" for d in drafts] + absent


def _given(annotations: Iterable[str | os.PathLike[str]]) -> dict[str, pathlib.Path]:
    """The annotation files by name; of a folder, those directly in it."""
    given: dict[str, pathlib.Path] = {}
    for path in map(pathlib.Path, annotations):
        if not path.exists():
            raise AnnotationError(f"{path}: there is no such file or folder of annotations")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if given.setdefault(file.name, file) != file:
                raise AnnotationError(f"{given[file.name]} and {file} have one name; give one")
    return given


def _files(split: Split, given: dict[str, pathlib.Path]) -> tuple[pathlib.Path, ...]:
    for names in split.files:
        if all(name in given for name in names):
            return tuple(given[name] for name in names)
    return ()


def _wanted(split: Split) -> str:
    return ", or ".join(" with ".join(names) for names in split.files)


def _draft(
    split: Split,
    files: tuple[pathlib.Path, ...],
    index: dict[str, list[str]],
    allow_subset: bool,
    missing: str,
) -> Draft:
    captions = read_captions(files[0])
    problems = []
    if len(files) > 1:
        names = read_names(files[1])
        silent = [name for name in names if name not in captions]
        if silent and not allow_subset:
            problems.append(f"no caption in {files[0]} for {_some(silent, len(names))}")
        captions = {name: captions[name] for name in names if name in captions}
    if wrong := split.wrong_counts(captions, allow_subset):
        less = not split.wrong_counts(captions, allow_subset=True)
        advice = "; a part of it is written with --allow-subset" if less else ""
        problems.append(f"{'; '.join(wrong)} in {files[-1]}{advice}")
    found = {name: _paths(index, name) for name in captions}
    several = [paths for paths in found.values() if len(paths) > 1]
    problems += [f"several files of one video: {', '.join(paths)}" for paths in several[:SHOWN]]
    absent = [name for name, paths in found.items() if not paths]
    if absent and missing == "error":
        advice = "; --missing=drop leaves them out" if len(absent) < len(found) else ""
        problems.append(f"no file for {_some(absent, len(found))}{advice}")
    elif len(absent) == len(found):
        problems.append("not one of its videos has a file")
    return Draft(split, files, captions, {n: p[0] for n, p in found.items() if p}, problems)


def _paths(index: dict[str, list[str]], name: str) -> list[str]:
    # ActivityNet's ids begin with "v_" in its annotations, and in some people's files.
    names = (name, name.removeprefix("v_"), f"v_{name}")
    return next((index[each] for each in names if each in index), [])


def _some(names: Sequence[str], total: int) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names):,} of {total:,} videos: {', '.join(names[:SHOWN])}{more}"


def _write(path: pathlib.Path, draft: Draft) -> None:
    partial = path.with_suffix(".partial")
    # The way from the manifest to the videos must not depend on links on the way to it.
    folder = os.path.realpath(path.parent)
    with partial.open("w", encoding="utf-8") as file:
        for row in draft.rows(folder):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.replace(path)


def main(description: str, splits: Sequence[Split]) -> None:
    """The command line of a data set; `description` is its module's docstring."""
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
        lines = write_manifests(splits, **vars(parser.parse_args()))
    except AnnotationError as error:
        parser.error(str(error))
    print("\n".join(lines))
