"""Builds a task from a config's `task` section."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlt.data.manifests.resources import resolve
from vlt.data.manifests.targets import class_names
from vlt.data.text.tokenize import Tokenizer
from vlt.models.spec import ChatSpec, Spec
from vlt.pytrees.fields import near
from vlt.tasks.batch_matching import BatchMatching
from vlt.tasks.captioning import Captioning
from vlt.tasks.classification import Classification
from vlt.tasks.conversation import Conversation
from vlt.tasks.descriptions import read_descriptions, tokenized
from vlt.tasks.matching import Matching
from vlt.tasks.mixing import Mixing
from vlt.tasks.question_answering import QuestionAnswering
from vlt.tasks.recognition import Descriptions, Recognition
from vlt.tasks.retrieval import Retrieval
from vlt.tasks.sentences import read_sentences
from vlt.tasks.task import Task
from vlt.tasks.templates import class_texts, read_templates
from vlt.tasks.weight_interpolation import WeightInterpolation

# Classes, and sentences of each kind, where only shapes matter and no number is given.
SOME_CLASSES, SOME_SENTENCES = 8, 4


def _retrieval(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    section = config["task"]
    return Retrieval(dict(section["losses"]), section["scale"] or None, section["mask_duplicates"])


def _captioning(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    section = config["task"]
    length = 1 if tokenizer is None else len(tokenizer.prompt(section["prompt"]))
    return Captioning(section["label_smoothing"], length)


def _matching(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    options = {name: config["task"][name] for name in ("queue", "momentum", "alpha", "ramp")}
    return Matching(spec.embed_dim, **options)


def _batch_matching(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    return BatchMatching(dict(config["task"]["losses"]))


def _answering(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    names = ("label_smoothing", "answer_weight", "denominator")
    return QuestionAnswering(**{name: config["task"][name] for name in names})


def _recognition(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    section, context = config["task"], config["model"]["context"]
    options = _recognition_options(section)
    if tokenizer is None:
        each = (len(section["sentences"]) * SOME_SENTENCES,) if section["sentences"] else ()
        count = section["class_count"] or SOME_CLASSES
        classes = np.zeros((count, *each, context), np.int32)
        told = np.zeros((count, context), np.int32)
        kinds = [Descriptions(told, np.arange(count)) for _ in section["descriptions"]]
        return Recognition(classes, kinds, **options)
    names = _trained_classes(config)
    kinds = [
        tokenized(read_descriptions(resolve(path), names), tokenizer)
        for path in section["descriptions"]
    ]
    if section["sentences"]:
        ids = tokenizer(read_sentences(section, names, "task."))
        return Recognition(ids.reshape(len(names), -1, ids.shape[-1]), kinds, **options)
    templates = read_templates(section, "task.")
    ids = class_texts(names, templates, tokenizer, spec.text.context)
    if len(templates) > 1:
        ids = ids.reshape(len(names), len(templates), -1)
    return Recognition(ids, kinds, **options)


def _classification(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    section = config["task"]
    count = section["class_count"]
    if tokenizer is not None:
        count = len(_trained_classes(config))
    return Classification(count, section["label_smoothing"])


def _trained_classes(config: Mapping[str, Any]) -> list[str]:
    """Names of the classes of data.train.

    Raises:
        ValueError: their number is not `task.class_count`.
    """
    names, count = class_names(config["data"]["train"]), config["task"]["class_count"]
    if count not in (0, len(names)):
        raise ValueError(f"task.class_count={count}, but data.train has {len(names)} classes")
    return names


def _recognition_options(section: Mapping[str, Any]) -> dict[str, Any]:
    names = ("consistency", "label_smoothing", "contrast", "largest_scale")
    mixing = [section[name] for name in ("mixup", "cutmix", "switch")]
    return {
        **{name: section[name] for name in names},
        "mixing": Mixing(*mixing) if any(mixing[:2]) else None,
        "losses": dict(section["losses"]),
        "kinds": len(section["sentences"]),
    }


def _conversation(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    return Conversation(isinstance(spec, ChatSpec) and spec.instructed)


Make = Callable[[Mapping[str, Any], Spec, Tokenizer | None], Task]

# Name -> the kind of model that the task trains, and the function that makes the task.
TASKS: dict[str, tuple[str, Make]] = {
    "retrieval": ("dual_encoder", _retrieval),
    "captioning": ("captioner", _captioning),
    "matching": ("retriever", _matching),
    "batch_matching": ("retriever", _batch_matching),
    "question_answering": ("answerer", _answering),
    "recognition": ("dual_encoder", _recognition),
    "conversation": ("chat", _conversation),
    "classification": ("encoder", _classification),
}


def make_task(config: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None = None) -> Task:
    """The task of `config.task` for a model with this spec, with what it needs of `config.data`.

    tokenizer: None where only shapes matter; no file is read then.

    Raises:
        ValueError: an unknown task, or one for another kind of model.
    """
    name = config["task"]["name"]
    if name not in TASKS:
        raise ValueError(f"unknown task.name: {name!r}{near(name, TASKS)}")
    wanted, make = TASKS[name]
    if spec.kind != wanted:
        raise ValueError(f"task.name={name!r} needs a model of kind {wanted}, not {spec.kind}")
    task = make(config, spec, tokenizer)
    interpolation = config["task"].get("interpolation")
    return WeightInterpolation(task, **interpolation) if interpolation else task
