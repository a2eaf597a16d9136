"""Action recognition by the texts of all classes, over one view of each video or several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlt.data.pipeline import VideoData
from vlt.data.resources import resolve
from vlt.data.sample import RANDOM_SAMPLERS
from vlt.data.text_files import read_lines
from vlt.evaluation.confusion import confusion_picture, write_classes
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.recognition_protocols import (
    RecognitionProtocol,
    Views,
    combined,
    named_recognition_protocol,
)
from vlt.evaluation.retrieval import Found, embed_texts, encode_videos, pair_scores
from vlt.storage.files import new_file
from vlt.tasks.recognition import MAX_LOGIT_SCALE, checked_template
from vlt.tasks.retrieval_metrics import confusion_counts, recognition_metrics


def recognition(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """The nearest class of every video, by a named protocol.

    Each class is named by `template`, or by every line of the file `templates`: then its
    similarity is the mean over them (ViCLIP). Of several views of a video the softmax
    probabilities are added, as in MSTA's fully supervised protocol. No video is left out, however
    many fill a batch. What is taken for what goes to WORKDIR/classes-NAME.txt and
    confusion-NAME.png.

    Raises:
        ProtocolError: a test set that is not the protocol's.
        ValueError: rows without labels, or a template without its place for the class.
    """
    labels, label = _labels(section, data)
    texts = embed_classes(predictor, params, data.classes, templates(section))
    scale = np.exp(np.minimum(params["logit_scale"], np.log(MAX_LOGIT_SCALE)))
    read, scores = [], []
    program = predictor.compiled(("encode_views", data.views), _encoder(predictor, data.views))
    for records, views in predictor.batches(program, params, data, step):
        read.append(records)
        cosines = _class_scores(predictor, params, texts, views, len(data.classes))
        scores.append(view_scores(cosines, float(scale)))
    labels, found = labels[np.concatenate(read)], np.concatenate(scores)
    if predictor.writes:
        _write_confusion(predictor.workdir, confusion_counts(found, labels), data)
    metrics = dict(recognition_metrics(found, labels))
    return metrics | {"classes": len(data.classes), "videos": len(labels), "protocol": label}


def summarize(sections: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Metrics:
    """The papers' numbers of several test sets (`combined`), from each run's top-1 accuracies."""
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
    """Names of what `recognition` finds. Raises as it does."""
    _labels(section, data)
    templates(section)
    return [*recognition_metrics(np.ones((1, 1)), np.zeros(1, int)), "classes", "videos"]


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
    """What to print behind the label where other views are looked at than the protocol's."""
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
        """[b, views * t, H, W, 3] -> [b, views, ...] as of `embed_videos`."""
        clips = video.reshape(len(video) * views, -1, *video.shape[2:])
        found = encode_videos(predictor, params, clips)
        return jax.tree.map(lambda x: x.reshape(len(video), views, *x.shape[1:]), found)

    return encode


def _class_scores(
    predictor: Predictor, params: Any, texts: Found, views: Found, classes: int
) -> np.ndarray:
    """Scores [b, views, c] of what `_encoder` made of views, with so many classes.

    texts: of `embed_classes`. A score of pairs is the mean over a class's templates, as a cosine.
    """
    if not predictor.module.scores_pairs:
        return np.asarray(views.astype(np.float64) @ texts.T.astype(np.float64))
    shape = views["frames"].shape[:2]
    each = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), views)
    found = pair_scores(predictor, params, texts, each).T.astype(np.float64)
    return found.reshape(*shape, classes, -1).mean(-1)


def view_scores(scores: np.ndarray, scale: float) -> np.ndarray:
    """Sum over views of the probabilities of classes [b, c], of their scores [b, views, c]."""
    logits = scale * scores
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return (odds / odds.sum(-1, keepdims=True)).sum(1)


def embed_classes(
    predictor: Predictor, params: Any, names: Sequence[str], templates: Sequence[str]
) -> Found:
    """[c, e], whose products with a video are the means of its cosines over the templates.

    Where a method scores pairs, what it reads of each class in each template, [c * templates, ...].
    """
    texts = [template.replace("{}", name) for name in names for template in templates]
    found = embed_texts(predictor, params, texts)
    if predictor.module.scores_pairs:
        return found
    return found.reshape(len(names), len(templates), -1).mean(1)


def templates(section: Mapping[str, Any]) -> list[str]:
    """Those of the file `templates`, one a line, or the one of `template`.

    Raises:
        ValueError: no such file, or one without exactly one {}.
    """
    if not section["templates"]:
        return [checked_template(section["template"], "template")]
    path = resolve(section["templates"])
    return [checked_template(line, f"{path}, line {number}") for number, line in _lines(path)]


def _lines(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        raise ValueError(f"templates: there is no file {path}")
    found = [(number, line.strip()) for number, line in read_lines(path) if line.strip()]
    if not found:
        raise ValueError(f"templates: {path} holds no template")
    return found
