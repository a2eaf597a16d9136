"""Re-ranking agrees with scoring all pairs, for any captions per video and any devices."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from evaluated import BATCH, Words, clip, data, predictor
from helpers import run_python
from small_retriever import SPEC, TEXT, params, retriever

from vlt.evaluation import matching
from vlt.evaluation.protocols import ProtocolError
from vlt.models.retriever import Retriever
from vlt.tasks.retrieval_metrics import retrieval_metrics

SECTION = {"protocol": "moving_shapes", "allow_subset": False, "ties": "against"}
SECTION |= {"batch_size": BATCH, "manifest": "moving_shapes:clips:test:11"}
UNREAD = 4


def records():
    """Eleven rows of ten videos, with one to three captions each."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(11):
        texts = [" ".join(map(str, rng.integers(3, 18, 3))) for _ in range(1 + index % 3)]
        name = f"video {0 if index == 7 else index}"  # video 0 recurs, with other captions
        rows.append(SimpleNamespace(video=name, captions=tuple(texts), id=str(index)))
    return rows


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    model = retriever()
    return predictor(model, tmp_path_factory.mktemp("run")), params(model)


@pytest.fixture(scope="module")
def pairs(parts):
    """Cosines and logits [texts, videos] of all readable videos, and the true columns."""
    module, tree = parts[0].module, parts[1]
    rows = [row for i, row in enumerate(records()) if i != UNREAD]
    names = list(dict.fromkeys(row.video for row in rows))
    texts = {name: [t for r in records() if r.video == name for t in r.captions] for name in names}
    ids = Words()([text for own in texts.values() for text in own])
    truth = np.repeat(np.arange(len(names)), [len(own) for own in texts.values()])

    def apply(method, *inputs):
        run = jax.jit(lambda p, *x: module.apply({"params": p}, *x, method=method))
        return jax.device_get(run(tree, *inputs))

    videos, out = apply("encode_video", np.stack([clip(name) for name in names]))
    every = np.broadcast_to(ids, (len(names), *ids.shape))
    logits = apply("match", out["tokens"], every)[..., 1].T
    return apply("encode_text", ids)[0] @ videos.T, logits, truth


def scores_of(pairs, count):
    """Scores of both directions by definition: the nearest are matched, others get -100."""
    cosines, logits, _ = pairs
    order = [np.argsort(np.argsort(-cosines, axis=a, kind="stable"), axis=a) for a in (1, 0)]
    return [np.where(place < count, logits + cosines, -100) for place in order]


def evaluate(parts, count, unread=(UNREAD,)):
    section = SECTION | {"rerank": count}
    return matching.matching(*parts, section, data(records(), unread), 0)


def test_matching_alone_may_rank_the_candidates(parts, pairs, monkeypatch):
    """As in the published UMT, whose texts also pass through their first layers only once."""
    given = []
    monkeypatch.setattr(matching, "retrieval_metrics", lambda s, *_: given.append(s) or {})
    section = SECTION | {"rerank": 3, "add_cosine": False}
    matching.matching(*parts, section, data(records(), (UNREAD,)), 0)
    cosines, logits, _ = pairs
    for scores, axis in zip(given, (1, 0), strict=True):
        place = np.argsort(np.argsort(-cosines, axis=axis, kind="stable"), axis=axis)
        np.testing.assert_allclose(scores, np.where(place < 3, logits, -100), atol=2e-5)


@pytest.mark.slow
def test_states_of_texts_are_read_once(tmp_path):
    text = dataclasses.replace(TEXT, layers=2, encode_id=1, fusion_layer=1)
    model = Retriever(dataclasses.replace(SPEC, text=text))
    tree = params(model)
    found = predictor(model, tmp_path)
    unit, states = matching.read_texts(found, tree, ["3 4 5", "6 7"])
    ids = Words()(["3 4 5", "6 7"])
    assert states.shape == (2, ids.shape[1], 16)
    tokens = np.random.default_rng(0).normal(size=(2, 9, 16)).astype(np.float32)
    wanted = np.ones((2, 2), bool)
    given = (found, tree, list(tokens), ids, wanted, BATCH)
    logits = matching.match_pairs(*given, states)
    found = predictor(model, tmp_path)
    whole = matching.match_pairs(found, *given[1:])
    np.testing.assert_allclose(logits, whole, atol=2e-5)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_scores_and_metrics_are_those_of_all_pairs(parts, pairs, count, monkeypatch):
    given = []

    def kept(scores, truth, ties):
        given.append((scores, truth, ties))
        return retrieval_metrics(scores, truth, ties)

    monkeypatch.setattr(matching, "retrieval_metrics", kept)
    found = evaluate(parts, count)
    expected = {"protocol": "moving_shapes"}
    for direction, right, own in zip(("t2v", "v2t"), scores_of(pairs, count), given, strict=True):
        np.testing.assert_allclose(own[0], right, 1e-4, 1e-4)
        np.testing.assert_array_equal(own[1], pairs[2])
        metrics = retrieval_metrics(right, pairs[2], "against")
        expected |= {name: value for name, value in metrics.items() if name.startswith(direction)}
    assert found == pytest.approx(expected)


def test_equal_candidates_are_ranked_in_order():
    scores = np.array([[1.0, 2.0, 2.0, 2.0], [3.0, 3.0, 0.0, 1.0]])
    assert matching.nearest(scores, 2).tolist() == [
        [False, True, True, False],
        [True, True, False, False],
    ]
    assert matching.nearest(scores, 9).all()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_rows_hold_every_wanted_pair_and_no_other(batch_size):
    wanted = np.random.default_rng(0).random((50, 5)) < 0.5
    wanted[:, 3] = False
    videos, texts = matching.rows_of_pairs(wanted, batch_size)
    assert len(videos) % batch_size == 0 and texts.shape == (len(videos), matching.TEXTS_AT_ONCE)
    found = np.zeros_like(wanted)
    found[texts, videos[:, None]] = True
    np.testing.assert_array_equal(found, wanted)


def test_no_candidate_to_match_is_refused(parts):
    with pytest.raises(ValueError, match="rerank must be >= 1, got 0"):
        evaluate(parts, 0)


def test_other_test_set_than_the_protocols_is_refused(parts):
    section = SECTION | {"rerank": 1, "protocol": "lsmdc"}
    with pytest.raises(ProtocolError, match="10 videos instead of 1000"):
        matching.matching(*parts, section, data(records()), 0)


DEVICES = """
    import json, sys
    from pathlib import Path
    from evaluated import predictor
    from small_retriever import SPEC, TEXT, params, retriever
    import test_evaluate_matching as here
    model = retriever()
    for devices in (1, 8):
        parts = predictor(model, Path("."), devices), params(model)
        print(json.dumps(here.evaluate(parts, 3)))
"""


@pytest.mark.slow
def test_one_device_and_eight_find_the_same():
    one, eight = map(json.loads, run_python(DEVICES, devices=8, timeout=300).splitlines())
    assert one == eight and one["t2v_R@10"] > 0
