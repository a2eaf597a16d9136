"""Dialogues for instruction tuning: VideoInstruct-100K, and files in LLaVA's layout.

    python -m data_pipelines.video_instruct --annotations VideoInstruct100K.json --videos DIR
        --out data/video_instruct

makes train.jsonl: a row for each question, whose column `conversations` holds it and its answer,
with <video> in the video's place. For several .json or .jsonl files, OUT gets one manifest each,
named after them. Files in LLaVA's layout, {id, video, conversations: [{from, value}, ...]}, may
have several turns, and name a video by its path, its name or that of its cached features.
"""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.manifests import Files, Split, given_files, main, write_manifests

SUFFIXES = (".json", ".jsonl")


def write_dialogues(
    _: Any,
    annotations: Iterable[str | os.PathLike[str]],
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **options: Any,
) -> list[str]:
    """`write_manifests`, with a split for each of the files.

    Raises:
      AnnotationError: as in `write_manifests`, or two manifests would have the same name.
    """
    given = given_files(annotations, lambda name: name.endswith(SUFFIXES))
    splits: dict[str, Split] = {}
    for name in given:
        stem, suffix = os.path.splitext(name)
        if suffix in SUFFIXES:
            if stem in splits:
                raise AnnotationError(f"{splits[stem].files[0]} and {name}: both make {stem}.jsonl")
            splits[stem] = Split(stem, (Files(name),), "dialogue")
    if not splits:
        raise AnnotationError(f"no file ends in {' or '.join(SUFFIXES)}: {', '.join(given)}")
    if len(splits) == 1:
        splits = {name: dataclasses.replace(split, name="train") for name, split in splits.items()}
    return write_manifests(tuple(splits.values()), given.values(), videos, out, **options)


if __name__ == "__main__":
    main(__doc__, (), write_dialogues)
