"""Metrics computed by blocks are those of the whole matrix, to the last rank."""

import resource
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlt.tasks import retrieval_blocks
from vlt.tasks.retrieval_blocks import retrieval_metrics_of_embeddings
from vlt.tasks.retrieval_metrics import TIES, retrieval_metrics


@pytest.mark.parametrize("ties", TIES)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_blocks_find_what_the_matrix_shows(ties, data):
    """Entries are integers, so that many scores are equal and none is rounded."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    count, levels = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    videos = rng.integers(-levels, levels + 1, (count, 3)).astype(np.float32)
    truth = rng.permutation(np.concatenate([np.arange(count), rng.integers(0, count, 7)]))
    texts = rng.integers(-levels, levels + 1, (len(truth), 3)).astype(np.float32)
    expected = retrieval_metrics(texts @ videos.T, truth, ties)
    assert retrieval_metrics_of_embeddings(texts, videos, truth, ties, (4, 3)) == expected


def test_a_copy_of_a_video_is_a_tie():
    rng = np.random.default_rng(1)
    videos = rng.standard_normal((64, 33)).astype(np.float32)
    videos[32:] = videos[:32]
    texts = (videos + rng.standard_normal(videos.shape)).astype(np.float32)[::-1]
    truth = np.arange(64)[::-1]
    scores = np.tile(texts @ videos[:32].T, 2)  # otherwise a copy's last bits depend on its place
    for ties in TIES:
        expected = retrieval_metrics(scores, truth, ties)
        assert retrieval_metrics_of_embeddings(texts, videos, truth, ties, (16, 16)) == expected
    assert expected["t2v_R@1"] > 0


@pytest.mark.parametrize("ties", TIES)
def test_blocks_on_a_device_find_what_those_on_the_host_find(ties, monkeypatch):
    rng = np.random.default_rng(2)
    videos, texts = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (5, 9))
    given = (texts, videos, np.array([0, 1, 2, 3, 4, 0, 2, 2, 4]), ties, (4, 3))
    expected = retrieval_metrics_of_embeddings(*given)
    monkeypatch.setattr(retrieval_blocks, "_on_host", lambda: False)
    assert retrieval_metrics_of_embeddings(*given) == expected


@pytest.mark.parametrize("above", [False, True])
def test_devices_count_what_the_host_counts(above):
    rng = np.random.default_rng(0)
    text, video = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (300, 5))
    place = np.array([0, 5, 4, 1] * 75)
    best = rng.integers(-3, 4, 5)
    best[2] = -99  # below all 300, more than a byte can count
    rest = rng.integers(-3, 4, 300), best, place, above
    expected = retrieval_blocks._compared_on_host(text, video, *rest)
    found = retrieval_blocks._compared(text, video, *rest)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize(
    ("truth", "message"),
    [([0, 2], "true column 2 is not one of"), ([0, 0], "video 1 has no text"), ([0], "need")],
)
def test_what_is_no_truth_is_an_error(truth, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics_of_embeddings(np.eye(2), np.eye(2), np.array(truth))


def test_nan_is_an_error():
    broken = np.array([[1.0, 0.0], [np.nan, 0.0]], np.float32)
    with pytest.raises(ValueError, match="video 1 is NaN"):
        retrieval_metrics_of_embeddings(np.eye(2, dtype=np.float32), broken, np.arange(2))


@pytest.mark.slow
def test_many_pairs_take_little_memory():
    rng = np.random.default_rng(0)
    videos = rng.standard_normal((30_000, 64)).astype(np.float32)
    texts = videos + rng.standard_normal(videos.shape).astype(np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    found = retrieval_metrics_of_embeddings(texts, videos, np.arange(len(videos)))
    assert 50 < found["t2v_R@1"] < 100 and time.process_time() - started < 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KB
