"""Action recognition by the texts of all classes, with one or several views of each video."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlt.data.pipeline import VideoData
from vlt.data.text.tokenize import Tokenizer
from vlt.data.video.sample import RANDOM_SAMPLERS
from vlt.evaluation.confusion import confusion_picture, write_classes
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.recognition_protocols import (
    RecognitionProtocol,
    Views,
    combined,
    named_recognition_protocol,
)
from vlt.evaluation.retrieval import Found, embed_texts, encode_videos, pair_scores
from vlt.models.dual_encoder import log_scale
from vlt.models.video_model import VideoModel
from vlt.pytrees.fields import near
from vlt.storage.files import new_file
from vlt.tasks.recognition import MAX_LOGIT_SCALE, averaged, grouped
from vlt.tasks.retrieval_metrics import confusion_counts, recognition_metrics
from vlt.tasks.sentences import read_sentences
from vlt.tasks.templates import check_sentences, class_texts, read_templates

# What is averaged over several templates of a class.
COMBINED = ("cosines", "vectors", "probabilities")


def recognition(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Recognises every video as its nearest class, by a named protocol.

    Each class is named by `template`, or by every line of the file `templates`, over which
    `combine` takes one of: the mean of the `cosines` (ViCLIP); the cosine with the mean of the unit
    `vectors` (CLIP, MoTE); or the mean of the classes' `probabilities` (ActionCLIP). The softmax
    probabilities of several views of a video are added, as in MSTA's fully supervised protocol;
    they are those of cosines times `scale`, or where that is 0 times the model's own scale, at most
    100. No video is left out, even if the last batch is not full. Which classes are taken for which
    is written to WORKDIR/classes-NAME.txt and confusion-NAME.png.

    Raises:
        ProtocolError: the test set is not the protocol's.
        ValueError: rows without labels, or a template without a place for the class.
    """
    labels, label = _labels(section, data)
    combine = section["combine"]
    if section["sentences"]:
        texts = embed_sentences(predictor, params, data.classes, section)
    else:
        texts = embed_classes(predictor, params, data.classes, read_templates(section), combine)
    own = np.exp(np.minimum(log_scale(predictor.module, params), np.log(MAX_LOGIT_SCALE)))
    scale = float(section["scale"] or own)
    read, scores = [], []
    program = predictor.compiled(("encode_views", data.views), _encoder(predictor, data.views))
    for records, views in predictor.batches(program, params, data, step):
        read.append(records)
        cosines = _class_scores(predictor, params, texts, views)
        by_view = _by_class(cosines, len(data.classes), combine)
        scores.append(view_scores(by_view, scale))
    measured = _measured(predictor, data, np.concatenate(scores), labels[np.concatenate(read)])
    return measured | {"protocol": label}


def classification(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Recognises every video as its likeliest class, among those that a probe was trained on and
    the test set has, by a named protocol. Probabilities of several views of a video are added.

    Raises:
        ProtocolError: the test set is not the protocol's.
        ValueError: rows without labels.
    """
    labels, label = _labels(section, data)
    columns = [predictor.trained_classes.index(name) for name in data.classes]
    program = predictor.compiled(("classify_views", data.views), _classifier(predictor, data.views))
    read, logits = predictor.videos(program, params, data, step)
    found = view_scores(logits[..., columns].astype(np.float64), scale=1.0)
    return _measured(predictor, data, found, labels[read]) | {"protocol": label}


def _measured(
    predictor: Predictor, data: VideoData, found: np.ndarray, labels: np.ndarray
) -> Metrics:
    """Metrics of scores [n, c] of videos with these labels [n]; also writes the confusions."""
    if predictor.writes:
        _write_confusion(predictor.workdir, confusion_counts(found, labels), data)
    metrics = dict(recognition_metrics(found, labels))
    return metrics | {"classes": len(data.classes), "videos": len(labels)}


def summarize(sections: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Metrics:
    """The papers' figures over several test sets (`combined`), from each run's top-1 accuracies."""
    accuracies = [
        {
            section["protocol"]: run[f"{name}/top1"]
            for name, section in sections.items()
            if f"{name}/top1" in run
        }
        for run in runs
    ]
    return dict(combined(accuracies))


def check_recognition(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of `recognition`'s metrics. Raises as it does; ValueError for an unknown `combine`."""
    _labels(section, data)
    read_templates(section)
    if section["sentences"]:
        read_sentences(section, data.classes)
    if section["combine"] not in COMBINED:
        raise ValueError(
            f"unknown combine: {section['combine']!r}{near(section['combine'], COMBINED)}"
        )
    return _names()


def check_classification(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of the metrics that `classification` returns. Raises as it does."""
    _labels(section, data)
    return _names()


def _names() -> list[str]:
    return [*recognition_metrics(np.ones((1, 1)), np.zeros(1, int)), "classes", "videos"]


def check_texts(
    section: Mapping[str, Any], names: Sequence[str], tokenizer: Tokenizer, module: VideoModel
) -> None:
    """Raises ValueError where the texts that name classes do not identify them (`class_texts`), or
    where sentences that describe them are given but not read, or read but not given."""
    check_sentences(module, len(section["sentences"]))
    if not section["sentences"]:
        class_texts(names, read_templates(section), tokenizer, module.longest_text)


def _labels(section: Mapping[str, Any], data: VideoData) -> tuple[np.ndarray, str]:
    """The class of each record, and what to print beside the metrics."""
    if data.labels is None:
        raise ValueError(f"recognition needs a column `label` in {data.manifest}")
    protocol = named_recognition_protocol(section["protocol"])
    label = protocol.check(data.records, data.classes, section["allow_subset"])
    return data.labels, label + _views_note(protocol, section["sampler"], data.views)


def _write_confusion(workdir: Path, counts: np.ndarray, data: VideoData) -> None:
    write_classes(workdir / f"classes-{data.name}.txt", counts, data.classes)
    picture = confusion_picture(counts, data.classes, data.name)
    with new_file(workdir / f"confusion-{data.name}.png") as unfinished:
        picture.save(unfinished)


def _views_note(protocol: RecognitionProtocol, sampler: Mapping[str, Any], views: int) -> str:
    """What to print after the label where the views are not the protocol's."""
    draw = "random" if sampler["name"] in RANDOM_SAMPLERS else "even"
    clips = sampler.get("clips", 1)
    used = Views(clips, views // clips, draw)
    if protocol.videos is None or used == protocol.views:
        return ""
    return f" [{_told(used)} instead of {_told(protocol.views)}]"


def _told(views: Views) -> str:
    return f"{views.clips} {views.draw} x {views.crops} views"


def _encoder(predictor: Predictor, views: int) -> Any:
    def encode(params: Any, video: jax.Array) -> Any:
        """[b, views * t, H, W, 3] -> [b, views, ...], of each view what `encode_videos` returns."""
        clips = video.reshape(len(video) * views, -1, *video.shape[2:])
        found = encode_videos(predictor, params, clips)
        return jax.tree.map(lambda x: x.reshape(len(video), views, *x.shape[1:]), found)

    return encode


def _classifier(predictor: Predictor, views: int) -> Any:
    def classify(params: Any, video: jax.Array) -> jax.Array:
        """[b, views * t, H, W, 3] -> logits [b, views, c]."""
        clips = video.reshape(len(video) * views, -1, *video.shape[2:])
        logits, _ = predictor.module.apply({"params": params}, clips, method="encode_video")
        return logits.reshape(len(video), views, -1)

    return classify


def _class_scores(predictor: Predictor, params: Any, texts: Found, views: Found) -> np.ndarray:
    """Scores [b, views, n] of views from `_encoder` with n texts from `embed_classes`."""
    if not predictor.module.scores_pairs:
        return np.asarray(views.astype(np.float64) @ texts.T.astype(np.float64))
    shape = views["frames"].shape[:2]
    each = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), views)
    found = pair_scores(predictor, params, texts, each).T.astype(np.float64)
    return found.reshape(*shape, -1)


def _by_class(scores: np.ndarray, classes: int, combine: str) -> np.ndarray:
    """Scores [b, views, c * k] in k templates -> their mean [b, views, c], or [b, views * k, c]
    where it is probabilities that are added."""
    each = scores.reshape(*scores.shape[:2], classes, -1)
    if combine != "probabilities":
        return each.mean(-1)
    return each.swapaxes(2, 3).reshape(len(scores), -1, classes)


def view_scores(scores: np.ndarray, scale: float) -> np.ndarray:
    """Sum over views of the class probabilities [b, c], from scores [b, views, c]."""
    logits = scale * scores
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return (odds / odds.sum(-1, keepdims=True)).sum(1)


def embed_classes(
    predictor: Predictor,
    params: Any,
    names: Sequence[str],
    templates: Sequence[str],
    combine: str = "cosines",
) -> Found:
    """What `pair_scores` reads of each class in each template, class after class [c * k, ...].

    For `cosines`, where no method scores pairs, mean vectors [c, e], whose products with a video
    are the mean cosines; for `vectors`, one entry per class for all templates, [c, ...].
    """
    texts = [template.replace("{}", name) for name in names for template in templates]
    found = embed_texts(predictor, params, texts, _known(predictor, names, len(templates)))
    if combine == "vectors" and len(templates) > 1:
        return jax.tree.map(np.asarray, averaged(found, len(names)))
    if combine == "probabilities" or predictor.module.scores_pairs:
        return found
    return found.reshape(len(names), len(templates), -1).mean(1)


def _known(predictor: Predictor, names: Sequence[str], templates: int) -> np.ndarray | None:
    """Index of each name among the classes that a method knows one by one, repeated for each
    template; None where it does not know all of them."""
    known = {name: index for index, name in enumerate(predictor.trained_classes)}
    if not predictor.module.known_classes or not known.keys() >= {*names}:
        return None
    return np.repeat(np.array([known[name] for name in names], np.int32), templates)


def embed_sentences(
    predictor: Predictor, params: Any, names: Sequence[str], section: Mapping[str, Any]
) -> Found:
    """What `pair_scores` reads of classes that sentences describe, [c, ...].

    Raises:
        ValueError: no method of the model reads sentences; also as `read_sentences`.
    """
    check_sentences(predictor.module, len(section["sentences"]))
    found = embed_texts(predictor, params, read_sentences(section, names))
    return jax.tree.map(np.asarray, grouped(found, len(names), len(section["sentences"])))
