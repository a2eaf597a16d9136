"""Retrieval and twins from given vectors: which videos and texts are compared."""

from types import SimpleNamespace

import numpy as np
import pytest

from vlt.data.manifests.manifest import ManifestError
from vlt.data.manifests.targets import AS_WRITTEN
from vlt.data.text.captions import Cleaning
from vlt.evaluation import retrieval

SECTION = {"protocol": "own_data", "allow_subset": False, "ties": "against"}
AXES = np.eye(8)
# A predictor.
COSINES = SimpleNamespace(module=SimpleNamespace(scores_pairs=False), writes=False)


def records(*rows: tuple[str, tuple[str, ...]], clean=AS_WRITTEN, **extra) -> SimpleNamespace:
    """Evaluation data from rows of (video, captions)."""
    listed = [
        SimpleNamespace(
            id=video, video=video, captions=captions, line=line,
            extra={name: values[line - 1] for name, values in extra.items()},
        )
        for line, (video, captions) in enumerate(rows, 1)
    ]  # fmt: skip
    return SimpleNamespace(records=listed, manifest="m.jsonl", name="test", clean=clean)


@pytest.fixture
def embedded(monkeypatch):
    """Sets the vectors of videos and texts by name; videos without one count as unread."""

    def given(videos: dict[str, np.ndarray], texts: dict[str, np.ndarray]) -> None:
        def embed_videos(predictor, params, data, step):
            read = [i for i, record in enumerate(data.records) if record.video in videos]
            return np.array(read), np.stack([videos[data.records[i].video] for i in read])

        monkeypatch.setattr(retrieval, "embed_videos", embed_videos)
        monkeypatch.setattr(
            retrieval,
            "embed_texts",
            lambda predictor, params, given: np.stack([*map(texts.get, given)]),
        )

    return given


def test_a_video_of_several_rows_is_one_candidate_and_an_unread_one_is_none(embedded):
    data = records(("a", ("x",)), ("b", ("y", "z")), ("a", ("w",)), ("c", ("v",)))
    # y is nearest a, every other text its own video; the video of v cannot be read.
    embedded(
        {"a": AXES[0], "b": AXES[1]},
        {"x": AXES[0], "w": AXES[0], "z": AXES[1], "y": AXES[0] + 0.5 * AXES[1], "v": AXES[2]},
    )
    found = retrieval.retrieval(COSINES, None, SECTION, data, 0)
    assert (found["t2v_R@1"], found["t2v_R@5"], found["t2v_MnR"]) == (75.0, 100.0, 1.25)
    assert (found["v2t_R@1"], found["protocol"]) == (50.0, "own_data")


def test_captions_are_cleaned(embedded):
    twins = {"pair": (0, 0), "family": ("size", "size")}
    data = records(("a", ("X!",)), ("b", ("Y z",)), clean=Cleaning("blip_caption", 1), **twins)
    embedded({"a": AXES[0], "b": AXES[1]}, {"x": AXES[0], "y": AXES[1]})
    assert retrieval.retrieval(COSINES, None, SECTION, data, 0)["t2v_R@1"] == 100
    assert retrieval.twins(COSINES, None, {"min_pairs": 1}, data, 0)["twins_v2t"] == 100
    assert retrieval.twin_captions(COSINES, None, {"min_pairs": 1}, data, 0)["max"] == 0


def test_captions_of_twins_are_compared_with_each_other(embedded):
    data = records(
        ("a", ("x",)), ("b", ("y",)), ("c", ("z",)), ("d", ("w",)),
        pair=(0, 1, 1, 0), family=("size", "orbit", "orbit", "size"),
    )  # fmt: skip
    tilted = 0.6 * AXES[1] + 0.8 * AXES[2]
    embedded({}, {"x": AXES[0], "w": AXES[3], "y": AXES[1], "z": tilted})
    found = retrieval.twin_captions(None, None, {"min_pairs": 2}, data, 0)
    assert found == {"orbit": pytest.approx(0.6), "size": 0.0, "max": pytest.approx(0.6)}
    assert retrieval.check_twin_captions({"min_pairs": 2}, data) == ["orbit", "size", "max"]


def test_what_is_no_set_of_twins_is_refused():
    two = {"pair": (0, 0), "family": ("size", "size")}
    data = records(("a", ("x",)), ("b", ("y",)), **two)
    assert retrieval.pairs_of_twins(data, 1)[0].tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="1 pairs of twins, but min_pairs=2"):
        retrieval.pairs_of_twins(data, 2)
    with pytest.raises(ManifestError, match="`family` and `caption` in every row"):
        retrieval.pairs_of_twins(records(("a", ("x",)), ("b", ()), **two), 1)
    three = {"pair": (0, 0, 0), "family": ("size",) * 3}
    with pytest.raises(ManifestError, match="3 rows with one `pair`, not two"):
        retrieval.pairs_of_twins(records(*[(name, (name,)) for name in "abc"], **three), 1)


def test_an_unknown_rule_for_ties_is_refused_before_anything_is_read():
    data = records(("a", ("x",)))
    with pytest.raises(ValueError, match="unknown ties: 'for'; choose from against, published"):
        retrieval.check_retrieval(SECTION | {"ties": "for"}, data)
    assert "t2v_R@1" in retrieval.check_retrieval(SECTION, data)
