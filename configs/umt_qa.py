"""Question answering by UMT on MSRVTT-QA (Table 7 of TempMe's paper).

configs/umt_qa.py          all frames attend together
configs/umt_qa.py:ROW      one of `MODELS` of configs/umt.py
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from vlt import configuration

from . import common
from .umt import CROP, MODELS, RESIZE, base, schedule, videos


def question_answering(row: str) -> ConfigDict:
    """Fine-tuned from UMT-B/16-25M, whose last layers and head become the decoder."""
    # The published file for 25M holds the sizes of L/16; these settings are those of 17M's file.
    config = base("answerer", row, context=25, lr=2e-5)
    schedule(config, epochs=8, steps=619)
    config.task = common.answering_task()
    config.task.update(label_smoothing=0.0, answer_weight=1.0)
    config.data.train = videos("data/msrvtt_qa/train.jsonl", "viclip_random", transform=CROP)
    # Published: the best epoch on the validation set, which can be added as another evaluation.
    test = videos("data/msrvtt_qa/test.jsonl", "viclip_middle", transform=RESIZE)
    evaluation = common.answering("msrvtt_qa", "data/msrvtt_qa/answers.txt", test)
    # Published: the likelihood of an answer, with that of its first word counted twice; False
    # counts it once.
    evaluation.update(label_smoothing=0.0, first_word_twice=True)
    config.evals = {"msrvtt_qa": evaluation}
    config.train.best_metric = "msrvtt_qa/accuracy"
    config.table = (("inspect/video_gmacs", "GMACs"), ("msrvtt_qa/accuracy", "accuracy"))
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": functools.partial(question_answering, "umt"),
    **{row: functools.partial(question_answering, row) for row in MODELS if row != "umt"},
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
