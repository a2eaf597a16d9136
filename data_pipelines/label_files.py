"""Lists of videos with the number of their class, and the tables that name the classes."""

import pathlib
from collections import Counter
from collections.abc import Sequence

from data_pipelines.annotation_files import AnnotationError, read_text, video_name
from vlt.data.manifests.manifest import SHOWN, ManifestError, read_classes


def class_name(text: str) -> str:
    """A class as written in a prompt: spaces for underscores, otherwise unchanged."""
    return " ".join(text.replace("_", " ").split())


def read_class_names(path: pathlib.Path) -> list[str]:
    """Names of classes in the order of their numbers, from a .csv with `id,name` or one per line.

    Raises: AnnotationError for a file of another form, or a name that occurs twice.
    """
    try:
        names = [class_name(name) for name in read_classes(path)]
    except ManifestError as error:
        raise AnnotationError(str(error)) from None
    twice = [name for name, count in sorted(Counter(names).items()) if count > 1]
    if twice:
        raise AnnotationError(f"{path}: classes come twice: {', '.join(twice[:SHOWN])}")
    return names


def read_labels(path: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    """The class of each video, from lines with a path, a space and the number of its class.

    Raises: AnnotationError for lines without the number of a class, or with a repeated video.
    """
    labels, lines, wrong = dict[str, str](), dict[str, int](), []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        file, _, index = line.strip().rpartition(" ")
        video = video_name(file)
        if not (file and index.isdecimal() and len(index) < 10 and int(index) < len(names)):
            wrong.append(f"line {number}, {line.strip()!r}: no path and number below {len(names)}")
        elif lines.setdefault(video, number) != number:
            wrong.append(f"line {number}, {line.strip()!r}: video of line {lines[video]}")
        else:
            labels[video] = names[int(index)]
    if wrong:
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        shown = "".join(f"\n  {each}" for each in wrong[:SHOWN])
        raise AnnotationError(f"{path}: {len(wrong)} rows cannot be used:{shown}{more}")
    return labels
