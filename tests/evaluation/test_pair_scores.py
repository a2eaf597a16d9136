"""Losses and evaluations alike use a method that scores pairs, here by a video's best frame."""

import evaluation_kinds
import jax
import numpy as np
import pytest
from best_frame import BestFrame
from evaluated import data, predictor
from helpers import run_python
from test_recognition import CLASSES, SECTION, labelled, model, params

from vlt.evaluation import recognition, retrieval
from vlt.tasks import losses
from vlt.tasks.recognition import Recognition
from vlt.tasks.retrieval import Retrieval
from vlt.tasks.task import StepInputs
from vlt.training.step import make_train_step

PAIRS = model().clone(methods=(BestFrame(),))
PARAMS = params()
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return predictor(PAIRS, tmp_path_factory.mktemp("run")), PARAMS


def plain(frames, texts):
    unit, texts = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (frames, texts))
    return np.einsum("vte,ce->cvt", unit, texts).max(-1)


def raw(parts, records, texts):
    _, videos = retrieval.embed_videos(*parts, records, 0)
    return videos["frames"], retrieval.embed_texts(*parts, texts)["features"]


@pytest.mark.parametrize("videos", [3, 300])
def test_scores_of_any_number_of_videos(parts, monkeypatch, videos):
    monkeypatch.setattr(retrieval, "PAIR_BATCH", 8)
    frames = RNG.normal(size=(videos, 2, 8)).astype(np.float32)
    texts = RNG.normal(size=(5, 8)).astype(np.float32)
    found = retrieval.pair_scores(*parts, {"features": texts}, {"frames": frames})
    np.testing.assert_allclose(found, plain(frames, texts), atol=1e-5)


THREE_DEVICES = """
    import pathlib, sys
    import numpy as np
    from evaluated import predictor
    from test_pair_scores import PAIRS, PARAMS, plain
    from vlt.evaluation import retrieval
    parts = predictor(PAIRS, pathlib.Path(sys.argv[1]), devices=3), PARAMS
    texts = retrieval.embed_texts(*parts, ["3", "5 7"])
    frames = np.random.default_rng(0).normal(size=(5, 2, 8)).astype(np.float32)
    found = retrieval.pair_scores(*parts, texts, {"frames": frames})
    np.testing.assert_allclose(found, plain(frames, texts["features"]), atol=1e-5)
"""


def test_devices_that_do_not_divide_a_batch(tmp_path):
    run_python(THREE_DEVICES, tmp_path, devices=3)


def test_retrieval_and_twins_by_them(parts, monkeypatch):
    """The scores of frames are ranked, not the cosines of their mean."""
    records = data(evaluation_kinds.pairs())
    frames, texts = raw(parts, records, [record.captions[0] for record in records.records])
    assert frames.shape == (10, 2, 8)
    seen = []
    monkeypatch.setattr(retrieval, "twin_accuracy", lambda scores, _: seen.append(scores) or {})
    records.manifest = "twins.jsonl"
    retrieval.twins(*parts, {"min_pairs": 1}, records, 0)
    rows = np.arange(10).reshape(-1, 2)
    each = plain(frames, texts)
    expected = [[[each[text, video] for text in pair] for video in pair] for pair in rows]
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


@pytest.mark.parametrize("views", [1, 2])
def test_recognition_by_them(parts, monkeypatch, views):
    seen = []
    score = recognition.view_scores
    monkeypatch.setattr(
        recognition,
        "view_scores",
        lambda scores, scale: seen.append(scores) or score(scores, scale),
    )
    rows = labelled(views)
    found = recognition.recognition(*parts, SECTION, rows, 0)
    cosines = np.concatenate(seen)
    assert cosines.shape == (20, views, len(CLASSES)) and found["videos"] == 20
    frames, texts = raw(parts, rows, CLASSES)
    if views == 1:
        np.testing.assert_allclose(cosines[:, 0], plain(frames, texts).T, atol=1e-5)
    else:  # a view is one of the two frames
        np.testing.assert_allclose(cosines.max(1), plain(frames, texts).T, atol=1e-5)


def inputs(names):
    batch = {
        "video": RNG.integers(0, 255, (4, 2, 8, 8, 3), dtype=np.uint8),
        "text": np.array([[1, 5, 9, 2, 0, 0], [1, 7, 2, 0, 0, 0]] * 2, np.int32),
        "label": np.array([0, 2, 1, 1], np.int32),
    }
    chosen = {name: batch[name] for name in names}
    return StepInputs(PAIRS, PARAMS, {}, chosen, jax.random.key(0), {})


def frames_and_texts(given, ids):
    apply = jax.jit(PAIRS.apply, static_argnames="method")
    _, out = apply({"params": PARAMS}, given.batch["video"], method="encode_video")
    text = apply({"params": PARAMS}, ids, method="encode_text")[1]
    return out["raw_frames"], text["text_features"]


def test_the_contrastive_loss_of_scores():
    """For cosines it equals the loss of embeddings; for other scores, cross-entropy both ways."""
    given = inputs(("video", "text"))
    task = Retrieval({"vtc": 1.0}, 20.0, True)
    value, _ = jax.jit(lambda: task.objective(given))()
    frames, texts = frames_and_texts(given, given.batch["text"])
    logits = 20 * plain(frames, texts).T
    logits[[0, 1, 2, 3], [2, 3, 0, 1]] = -np.inf  # equal texts are not negatives
    both = [np.log(np.exp(x).sum(1)) - np.diag(x) for x in (logits, logits.T)]
    np.testing.assert_allclose(value, np.sum(both) / 4, rtol=1e-5)
    x, y = (RNG.normal(size=(4, 8)).astype(np.float32) for _ in range(2))
    for ids in (None, given.batch["text"]):
        whole = losses.contrastive(x, y, 3.0, ids)
        np.testing.assert_allclose(losses.contrastive_scores(x @ y.T, 3.0, ids), whole, rtol=1e-5)


def test_the_logits_of_recognition():
    given = inputs(("video", "label"))
    ids = np.array([[1, 5, 2, 0, 0, 0], [1, 9, 2, 0, 0, 0], [1, 4, 8, 2, 0, 0]], np.int32)
    outputs = jax.jit(lambda: Recognition(ids).forward(given))()
    expected = 100 * plain(*frames_and_texts(given, ids)).T
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-3)


def test_the_batch_cannot_be_parted():
    task = Retrieval({"vtc": 1.0}, None, False)
    with pytest.raises(
        ValueError, match="optimizer.accumulate=2: a score of pairs needs the whole"
    ):
        make_train_step(PAIRS, task, None, None, accumulate=2)
