"""Evaluations of a model during and after training: `config.evals`, each of a kind of `KINDS`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vlt.data.clips import DecoderPool
from vlt.data.pipeline import VideoData
from vlt.data.tokenize import Tokenizer
from vlt.distributed import check_alike, total
from vlt.evaluation import answering, captioning, matching, recognition, retrieval
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.models.video_model import VideoModel
from vlt.sharding import local_rows
from vlt.watchdog import Watchdog

# kind -> the kind of model it is of, and (predictor, params, section, data, step) -> metrics.
KINDS: dict[str, tuple[str, Callable[..., Metrics]]] = {
    "retrieval": ("dual_encoder", retrieval.retrieval),
    "twins": ("dual_encoder", retrieval.twins),
    "twin_captions": ("dual_encoder", retrieval.twin_captions),
    "recognition": ("dual_encoder", recognition.recognition),
    "captioning": ("captioner", captioning.captioning),
    "caption_twins": ("captioner", captioning.caption_twins),
    "matching": ("retriever", matching.matching),
    "question_answering": ("answerer", answering.question_answering),
}


class Evaluator:
    """Runs `config.evals` on parameters.

    Args:
        workdir: where predictions go, and videos that could not be read are listed.
        watchdog: is told of every batch.

    Raises:
        ValueError: a kind that does not exist, or one of another kind of model, or several views
            of a video where one is looked at.
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
    ):
        for name, section in evals.items():
            _check_kind(name, section["kind"], module.spec.kind)
        self._data = {
            name: (section, videos_of(section, mesh, tokenizer, pool, name=name, workdir=workdir))
            for name, section in evals.items()
        }
        for name, (section, data) in self._data.items():
            if data.views > 1 and section["kind"] != "recognition":
                raise ValueError(
                    f"evals.{name}: {section['kind']} takes one view, not {data.views}"
                )
        self._predictor = Predictor(module, mesh, tokenizer, workdir, watchdog)

    def __call__(self, params: Any, step: int) -> Metrics:
        """{evaluation/metric: value} of every evaluation."""
        results: Metrics = {}
        for name, (section, data) in self._data.items():
            found = KINDS[section["kind"]][1](self._predictor, params, section, data, step)
            if skipped := total(len(data.skipped)):
                found["skipped"] = skipped
            results |= {f"{name}/{metric}": value for metric, value in found.items()}
        return results


def videos_of(section: Mapping[str, Any], mesh: Mesh, *given: Any, **options: Any) -> VideoData:
    """A `VideoData` of what this process reads of a data section, for the devices it has.

    Raises: as VideoData; MeshError for a batch that the mesh cannot split; DistributedError where
        processes see manifests of other rows.
    """
    rows = local_rows(mesh, section["batch_size"]).tolist()
    data = VideoData(section, *given, rows=rows, process_index=jax.process_index(), **options)
    check_alike(f"{data.name}: {data.manifest}", "\n".join(record.id for record in data.records))
    return data


def _check_kind(name: str, kind: str, model: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"evals.{name}.kind={kind!r}: one of {', '.join(KINDS)}")
    wanted = KINDS[kind][0]
    if wanted != model:
        raise ValueError(f"evals.{name}.kind={kind!r} needs a model of kind {wanted}, not {model}")
