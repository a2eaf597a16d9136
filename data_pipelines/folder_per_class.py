"""Makes a manifest with labels from a folder that holds a folder of videos for each class.

    python -m data_pipelines.folder_per_class videos/train data/train.jsonl

A class is named after its folder, with spaces for underscores; data/train_classes.txt lists them.
Videos may be in subfolders of any depth. data_pipelines.few_shot draws training videos from the
manifest and keeps the rest for evaluation.
"""

import argparse
import os
import pathlib

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.label_files import class_name
from data_pipelines.labelled import Row, run, write_labelled
from data_pipelines.manifests import SHOWN, video_files
from vlt.data.text.texts import checked_label, look, printable
from vlt.data.video.suffixes import VIDEO_SUFFIXES


def read_folders(folder: pathlib.Path) -> list[Row]:
    """A row for each video; its id is its path in the folder.

    Raises: AnnotationError if there are no folders of classes, one has no video, two are of one
      class, or videos lie beside them.
    """
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: there is no such folder of videos")
    beside = [path.name for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES]
    if beside:
        shown = ", ".join(sorted(beside)[:SHOWN])
        raise AnnotationError(f"{folder}: {len(beside)} videos in no class's folder: {shown}")
    rows, folders = [], dict[str, pathlib.Path]()
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.name.startswith("."):
            continue
        label = _label(path)
        if folders.setdefault(look(label), path) != path:
            both = f"{folders[look(label)]} and {path}"
            raise AnnotationError(f"{both} are both class {label!r}, but for case, spaces or _")
        rows += _rows(path, label)
    if not rows:
        raise AnnotationError(f"{folder}: holds no folders, one for each class")
    return rows


def _label(folder: pathlib.Path) -> str:
    try:
        return checked_label(class_name(folder.name))
    except ValueError as error:
        raise AnnotationError(f"{printable(str(folder))}: the name of a class {error}") from None


def _rows(folder: pathlib.Path, label: str) -> list[Row]:
    real = os.path.realpath(folder)
    rows = [
        {"id": f"{folder.name}/{os.path.relpath(file, real)}", "video": file, "label": label}
        for file in video_files(folder)
        if not os.path.basename(file).startswith(".")
    ]
    if not rows:
        raise AnnotationError(f"{folder}: holds no file that ends as a video does")
    return rows


def write_folders(folder: str, out: str) -> list[str]:
    """Writes the manifest; returns a line about it.

    Raises: AnnotationError as in `read_folders`, or if `out` is not a .jsonl file.
    """
    rows = read_folders(pathlib.Path(folder))
    classes = list(dict.fromkeys(row["label"] for row in rows))
    return [write_labelled(pathlib.Path(out), rows, classes)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="with a folder of videos for each class")
    parser.add_argument("out", help="manifest to write, .jsonl")
    run(parser, write_folders)


if __name__ == "__main__":
    main()
