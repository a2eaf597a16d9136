"""MSRVTT-QA: questions about MSR-VTT's videos, and the answers to choose among.

    python -m data_pipelines.msrvtt_qa --annotations DIR --videos DIR --out data/msrvtt_qa

makes train.jsonl, val.jsonl and test.jsonl from train_qa.json, val_qa.json and test_qa.json, and
answers.txt: the 4,000 answers of answer_list.json or MSRVTT-QA_vocab.json, or else the most
frequent ones in training. The .csv files hold only questions with such an answer, so they are
subsets. A question keeps its id from the file.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.manifests import (
    Files,
    Split,
    file_names,
    given_files,
    main,
    write_lines,
    write_manifests,
)
from data_pipelines.question_files import frequent_answers, read_answers, read_questions
from vlt.evaluation.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["msrvtt_qa"]
ANSWERS = 4000
LISTS = ("answer_list.json", "MSRVTT-QA_vocab.json")
SPLITS = tuple(
    Split(
        name,
        (
            Files(f"{name}_qa.json"),
            Files(f"MSRVTT-QA_{name}_qa.json"),
            Files(f"{name}.json"),
            Files(f"MSRVTT-QA_{name}.csv"),
        ),
        "question",
        texts=texts,
    )
    for name, texts in (("train", 158_581), ("val", 12_278), ("test", PROTOCOL.queries))
)


def write_questions_and_answers(
    splits: Sequence[Split],
    annotations: Iterable[str | os.PathLike[str]],
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **options: Any,
) -> list[str]:
    """`write_manifests`, and the list of answers beside the manifests.

    Raises:
      AnnotationError: as in `write_manifests`, or for another number of answers.
    """
    given = given_files(annotations, {*LISTS, *file_names(splits)}.__contains__)
    answers, source = _answers(given, splits[0])
    fewer = options.get("allow_subset") and 0 < len(answers) < ANSWERS
    if source and len(answers) != ANSWERS and not fewer:
        raise AnnotationError(f"{len(answers):,} instead of {ANSWERS:,} answers in {source}")
    lines = write_manifests(splits, given.values(), videos, out, **options)
    if not source:
        return [*lines, f"answers.txt: not made; it takes {', '.join(LISTS)} or train_qa.json"]
    path = pathlib.Path(out) / "answers.txt"
    write_lines(path, answers)
    return [*lines, f"{path}: {len(answers):,} answers (from {source.name})"]


def _answers(
    given: Mapping[str, pathlib.Path], train: Split
) -> tuple[list[str], pathlib.Path | None]:
    """The answers and the file they come from."""
    for name in LISTS:
        if name in given:
            return read_answers(given[name]), given[name]
    for files in train.files:
        if files.texts in given:
            path = given[files.texts]
            return frequent_answers(read_questions(path), ANSWERS), path
    return [], None


if __name__ == "__main__":
    main(__doc__, SPLITS, write_questions_and_answers)
