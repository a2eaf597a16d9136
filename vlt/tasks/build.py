"""From a config's `task` section to a task."""

from collections.abc import Callable, Mapping
from typing import Any

from vlt.data.tokenize import Tokenizer
from vlt.models.spec import Spec
from vlt.tasks.captioning import Captioning
from vlt.tasks.matching import Matching
from vlt.tasks.question_answering import QuestionAnswering
from vlt.tasks.retrieval import Retrieval
from vlt.tasks.task import Task


def _retrieval(section: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    return Retrieval(dict(section["losses"]), section["scale"] or None, section["mask_duplicates"])


def _captioning(section: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    length = 1 if tokenizer is None else len(tokenizer.prompt(section["prompt"]))
    return Captioning(section["label_smoothing"], length)


def _matching(section: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    options = {name: section[name] for name in ("queue", "momentum", "alpha", "ramp")}
    return Matching(spec.embed_dim, **options)


def _answering(section: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None) -> Task:
    names = ("label_smoothing", "answer_weight", "denominator")
    return QuestionAnswering(**{name: section[name] for name in names})


Make = Callable[[Mapping[str, Any], Spec, Tokenizer | None], Task]

# Name -> the kind of model that it trains, and what makes it.
TASKS: dict[str, tuple[str, Make]] = {
    "retrieval": ("dual_encoder", _retrieval),
    "captioning": ("captioner", _captioning),
    "matching": ("retriever", _matching),
    "question_answering": ("answerer", _answering),
}


def make_task(section: Mapping[str, Any], spec: Spec, tokenizer: Tokenizer | None = None) -> Task:
    """The task of `config.task` for a model of these sizes.

    tokenizer: None where only shapes matter.

    Raises:
        ValueError: an unknown task, or one that this kind of model is not for.
    """
    name = section["name"]
    if name not in TASKS:
        raise ValueError(f"task.name={name!r}: one of {', '.join(TASKS)}")
    wanted, make = TASKS[name]
    if spec.kind != wanted:
        raise ValueError(f"task.name={name!r} needs a model of kind {wanted}, not {spec.kind}")
    return make(section, spec, tokenizer)
