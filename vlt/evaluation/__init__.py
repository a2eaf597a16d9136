"""Evaluations of a model during and after training: `config.evals`, each of a kind in `KINDS`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from vlt.data.pipeline import VideoData, videos_of
from vlt.data.text.tokenize import Tokenizer
from vlt.data.video.clips import DecoderPool
from vlt.evaluation import (
    answering,
    captioning,
    conversation,
    matching,
    ranked_answers,
    recognition,
    retrieval,
)
from vlt.evaluation.clips import (
    DATA_KEYS,
    check_clips,
    check_first_clip,
    fitted,
    named_section,
)
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.models.video_model import VideoModel
from vlt.pytrees.fields import near
from vlt.runtime.processes import total
from vlt.runtime.watchdog import Watchdog

Check = Callable[[Mapping[str, Any], VideoData], list[str]]


class Kind(NamedTuple):
    """One kind of evaluation.

    model: the kind of model that it evaluates.
    run: (predictor, params, section, data, step) -> metrics.
    check: (section, data) -> names of the metrics that `run` will return; raises errors before
        anything runs.
    keys: keys that its section must have, besides those of the data.
    views: whether it accepts several views of a video.
    trained_classes: whether a video's class must be one of those that a method was trained on.
    summarize: ({name: section}, metrics of each repeat) -> metrics over all evaluations of the
        kind.
    """

    model: str
    run: Callable[..., Metrics]
    check: Check
    keys: tuple[str, ...]
    views: bool = False
    trained_classes: bool = False
    summarize: Callable[..., Metrics] | None = None


_PROTOCOL = ("protocol", "allow_subset")
_RETRIEVAL = (*_PROTOCOL, "ties")
_ANSWERING = (*_PROTOCOL, "answers", "rank", "label_smoothing", "search")
_SENTENCES = ("sentences", "sentence_templates")
_RECOGNITION = (*_PROTOCOL, "template", "templates", "combine", "scale", *_SENTENCES)
KINDS: dict[str, Kind] = {
    "retrieval": Kind("dual_encoder", retrieval.retrieval, retrieval.check_retrieval, _RETRIEVAL),
    "twins": Kind("dual_encoder", retrieval.twins, retrieval.check_twins, ("min_pairs",)),
    "twin_captions": Kind(
        "dual_encoder", retrieval.twin_captions, retrieval.check_twin_captions, ("min_pairs",)
    ),
    "recognition": Kind(
        "dual_encoder",
        recognition.recognition,
        recognition.check_recognition,
        _RECOGNITION,
        views=True,
        summarize=recognition.summarize,
    ),
    "classification": Kind(
        "encoder",
        recognition.classification,
        recognition.check_classification,
        _PROTOCOL,
        views=True,
        trained_classes=True,
        summarize=recognition.summarize,
    ),
    "captioning": Kind(
        "captioner",
        captioning.captioning,
        captioning.check_captioning,
        (*_PROTOCOL, "search", "prompt"),
    ),
    "caption_twins": Kind(
        "captioner", captioning.caption_twins, retrieval.check_twins, ("min_pairs",)
    ),
    "matching": Kind(
        "retriever", matching.matching, matching.check_matching, (*_RETRIEVAL, "rerank")
    ),
    "question_answering": Kind(
        "answerer", answering.question_answering, answering.check_answering, _ANSWERING
    ),
    "answers": Kind("chat", conversation.answers, conversation.check_answers, _PROTOCOL),
    "written_answers": Kind(
        "chat",
        conversation.written_answers,
        conversation.check_written_answers,
        (*_PROTOCOL, "template", "search"),
    ),
    "ranked_answers": Kind(
        "chat",
        ranked_answers.ranked_answers,
        ranked_answers.check_ranked_answers,
        (*_PROTOCOL, "template", "answers"),
    ),
    "answer_twins": Kind(
        "chat",
        conversation.answer_twins,
        functools.partial(retrieval.check_twins, column="answer"),
        ("min_pairs",),
    ),
}


class Evaluator:
    """Runs `config.evals` on parameters; checks what it can when it is created.

    Args:
        frames: `config.model.frames`. other_frames: whether evaluations may use other numbers.
        workdir: where predictions are written and unreadable videos are listed.
        watchdog: is notified of every batch. trained_classes: as in `Predictor`.

    Attributes:
        metrics: names of the metrics that it will return, EVALUATION/METRIC.

    Raises:
        ValueError: an unknown kind, or one for another kind of model, a key missing from a
            section, several views of a video where only one is used, clips of another shape than
            the model's; also what the evaluations raise about protocols, texts and options.
    """

    def __init__(
        self,
        evals: Mapping[str, Any],
        module: VideoModel,
        mesh: Mesh,
        tokenizer: Tokenizer,
        pool: DecoderPool,
        workdir: Path,
        watchdog: Watchdog | None = None,
        *,
        frames: int = 0,
        other_frames: bool = False,
        trained_classes: Sequence[str] = (),
    ):
        self._data = {}
        self.metrics: list[str] = []
        for name, section in evals.items():
            with named_section(f"evals.{name}"):
                kind = _kind(section, module.spec.kind)
                section = fitted(section, module.spec)
                check_clips(section, module.spec, 0 if other_frames else frames)
                data = videos_of(section, mesh, tokenizer, pool, name=name, workdir=workdir)
                _check_data(section, data)
                if kind.trained_classes:
                    _check_classes(section, data, trained_classes)
                check_first_clip(data, module.spec)
                if "prompt" in kind.keys:
                    tokenizer.prompt(section["prompt"])
                self.metrics += [f"{name}/{metric}" for metric in kind.check(section, data)]
                if "templates" in kind.keys:
                    recognition.check_texts(section, data.classes, tokenizer, module)
            self._data[name] = (section, data)
        self._predictor = Predictor(module, mesh, tokenizer, workdir, watchdog, trained_classes)

    def __call__(self, params: Any, step: int) -> Metrics:
        """{evaluation/metric: value} of every evaluation."""
        results: Metrics = {}
        for name, (section, data) in self._data.items():
            found = KINDS[section["kind"]].run(self._predictor, params, section, data, step)
            skipped = total(len(data.skipped))
            if skipped or section["on_error"] == "skip":
                found["skipped"] = skipped
            results |= {f"{name}/{metric}": value for metric, value in found.items()}
        return results


def summarize(evals: Mapping[str, Any], runs: Sequence[Metrics]) -> Metrics:
    """Metrics over several evaluations of a config, from the metrics of each of its repeats."""
    summary: Metrics = {}
    for name, kind in KINDS.items():
        sections = {key: section for key, section in evals.items() if section["kind"] == name}
        if sections and kind.summarize is not None:
            summary |= kind.summarize(sections, runs)
    return summary


def _kind(section: Mapping[str, Any], model: str) -> Kind:
    name = section.get("kind", "")
    if name not in KINDS:
        raise ValueError(f"unknown kind: {name!r}{near(name, KINDS)}")
    kind = KINDS[name]
    if kind.model != model:
        raise ValueError(f"kind={name!r} needs a model of kind {kind.model}, not {model}")
    if missing := [key for key in (*DATA_KEYS, *kind.keys) if key not in section]:
        raise ValueError(f"kind={name!r} needs {', '.join(missing)}")
    return kind


def _check_data(section: Mapping[str, Any], data: VideoData) -> None:
    if data.views > 1 and not KINDS[section["kind"]].views:
        raise ValueError(f"{section['kind']} takes one view, not {data.views}")
    if section["on_error"] == "replace":
        raise ValueError(
            "on_error='replace' would change what is measured; set it to 'raise' or 'skip'"
        )


def _check_classes(
    section: Mapping[str, Any], data: VideoData, trained_classes: Sequence[str]
) -> None:
    kind = section["kind"]
    if not trained_classes:
        raise ValueError(
            f"kind={kind!r}: no method of the model tells classes apart; add attention_probe to "
            "model.methods"
        )
    if strangers := [name for name in data.classes if name not in trained_classes]:
        raise ValueError(
            f"kind={kind!r}: {len(strangers)} of {len(data.classes)} classes, such as "
            f"{strangers[0]!r:.120}, are none of the {len(trained_classes)} of data.train"
        )
