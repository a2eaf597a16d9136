"""`vlt classify VIDEO... --labels=FILE|A,B,C`: which of one's own labels a video shows."""

import argparse
import contextlib
import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.command_line.classify import parse
from vlt.data.manifests.manifest import read_classes
from vlt.data.text.texts import checked_label
from vlt.data.video.errors import VideoError
from vlt.door import load_kind, run_door
from vlt.indices import KINDS, LACKS, refuse_pair_scores
from vlt.inference.batching import map_videos
from vlt.inference.discover import find_videos
from vlt.inference.printing import print_results
from vlt.loaded import VideoTextModel, VideoTokens
from vlt.models.dual_encoder import log_scale
from vlt.models.spec import EncoderSpec
from vlt.tasks.templates import checked_template

ANY = "{}"  # the template that leaves labels as they are
Probabilities = dict[str, float]
Logits = Callable[[np.ndarray], jax.Array]  # frames [b, t, H, W, 3] -> [b, labels]


def classify(
    model: Any, paths: Sequence[str], labels: Sequence[str], template: str = ANY
) -> Generator[tuple[str, Probabilities | VideoError], None, None]:
    """Yields each path with every label's probability, highest first, or why it cannot be read.

    Raises:
        ValueError: fewer than two labels, one that is given twice, a template without exactly one
            {}, or a label that makes it a longer text than the model reads; for a probe, a template
            or any number of labels but its own; a lone tower without a probe; a model that scores
            pairs.
    """
    _check_labels(labels, "--labels")
    logits = _of_classes if isinstance(model, VideoTokens) else _of_texts
    logits_of = logits(model, labels, template)

    def choose(frames: np.ndarray) -> list[Probabilities]:
        shares = jax.nn.softmax(logits_of(frames), axis=-1)
        return [_sorted(labels, np.asarray(row)) for row in shares]

    return map_videos(choose, model.config, paths)


def _check_labels(labels: Sequence[str], named: str) -> None:
    if len(labels) < 2:
        raise ValueError(f"{named}: {len(labels)} given; at least two are needed to choose from")
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise ValueError(f"{named}: {', '.join(twice)} given more than once")


def _of_texts(model: VideoTextModel, labels: Sequence[str], template: str) -> Logits:
    """Logits by the similarity of a video to each label in the template."""
    refuse_pair_scores(model)
    checked_template(template, "--template")
    named = [template.replace("{}", label) for label in labels]
    _check_lengths(model, labels, named)
    texts = model.encode_text(named)
    scale = jnp.exp(log_scale(model.module, model.params)).clip(max=100.0)
    return lambda frames: scale * model.encode_video(frames) @ texts.T


def _of_classes(model: VideoTokens, labels: Sequence[str], template: str) -> Logits:
    """Logits of the classes that a probe was trained on, which the labels name in order."""
    if not model.module.known_classes:
        raise ValueError("a vision tower alone tells no labels apart; train a probe: configs/probe")
    if len(labels) != model.module.known_classes:
        raise ValueError(
            f"--labels: {len(labels)} given, and the model's probe tells "
            f"{model.module.known_classes} classes apart; all of them are needed, in the order of "
            "its training (data.train.classes, or else sorted)"
        )
    if template != ANY:
        raise ValueError(f"--template={template}: a probe reads no texts; leave it out")
    return lambda frames: model.encode_video(frames)[:, 0]


def _check_lengths(model: Any, labels: Sequence[str], texts: Sequence[str]) -> None:
    longest = model.module.longest_text
    for label, text in zip(labels, texts, strict=True):
        if (words := model.words(text)) > longest:
            raise ValueError(
                f"--labels: {label!r:.80} is a text of {words} tokens in --template, and the model "
                f"reads {longest}; take a shorter name or template"
            )


def _sorted(labels: Sequence[str], shares: np.ndarray) -> Probabilities:
    return {labels[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when every video could be read."""
    return run(parse("python -m vlt.classify", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _classify(options))


def _classify(options: argparse.Namespace) -> int:
    labels, paths = labels_of(options.labels), find_videos(options.videos)
    model = load_kind(options.model, options.workdir, (*KINDS, EncoderSpec.kind), LACKS)
    model.config = model.looking_at(allow_truncated=options.allow_truncated)
    with contextlib.closing(classify(model, paths, labels, options.template)) as results:
        best = ((path, _best(found, options.top)) for path, found in results)
        if options.csv:
            return _print_csv(best, len(paths))
        return print_results(
            best,
            len(paths),
            lambda found: {"labels": {name: round(share, 4) for name, share in found.items()}},
            lambda found: ", ".join(f"{name} {share:.1%}" for name, share in found.items()),
            as_json=options.json,
        )


def _print_csv(results: Iterable[tuple[str, Probabilities | VideoError]], count: int) -> int:
    rows = (
        (path, found if isinstance(found, VideoError) else list(found.items()))
        for path, found in results
    )
    print("video,label,probability")
    return print_results(
        rows,
        count,
        _as_fields,
        as_json=False,
        row=_csv_row,
    )


def _as_fields(found: tuple[str, float]) -> dict[str, Any]:
    return dict([found])


def _csv_row(path: str, found: tuple[str, float]) -> str:
    line, (label, share) = io.StringIO(), found
    csv.writer(line, lineterminator="").writerow((path, label, f"{share:.4f}"))
    return line.getvalue()


def _best(found: Probabilities | VideoError, top: int) -> Probabilities | VideoError:
    return found if isinstance(found, VideoError) else dict(list(found.items())[:top])


def labels_of(text: str) -> list[str]:
    """Reads labels from a file, one per line, or from text separated by commas.

    Raises:
        ManifestError, ValueError: fewer than two labels, or an invalid one.
    """
    named = f"--labels={text}"
    if Path(text).is_file():
        labels = read_classes(text)
    else:
        named += "" if "," in text else " (not a file)"
        try:
            labels = [checked_label(each.strip()) for each in text.split(",")]
        except ValueError as error:
            raise ValueError(f"{named}: a label {error}") from error
    _check_labels(labels, named)
    return labels


if __name__ == "__main__":
    sys.exit(main())
