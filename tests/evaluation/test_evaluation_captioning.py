"""Twins compared by given caption likelihoods: which captions and videos are compared."""

from types import SimpleNamespace

import numpy as np
import pytest

from vlt.data.text.captions import Cleaning
from vlt.evaluation import captioning

# Video (row) by caption (column); the pairs are (0, 2), (1, 3) and (4, 5); video 5 is not read.
LIKELIHOODS = -np.array(
    [
        [1.0, 9.0, 2.0, 9.0],  # video 0 prefers its own caption to that of 2
        [9.0, 4.0, 9.0, 3.0],  # video 1 prefers that of 3
        [3.0, 9.0, 5.0, 9.0],  # video 2 prefers that of 0
        [9.0, 2.0, 9.0, 1.0],  # video 3 prefers its own
    ]
)
PAIRS = (0, 1, 0, 1, 2, 2)
FAMILIES = {0: "size", 1: "orbit", 2: "orbit"}


@pytest.fixture
def data():
    records = [
        SimpleNamespace(
            video=str(i), captions=(f"{i}!",), line=i + 1,
            extra={"pair": pair, "family": FAMILIES[pair]},
        )
        for i, pair in enumerate(PAIRS)
    ]  # fmt: skip
    clean = Cleaning("blip_caption")  # without it, no caption is a number
    return SimpleNamespace(records=records, manifest="m.jsonl", name="twins", clean=clean)


@pytest.fixture
def predictor():
    """Looks likelihoods up; captions are their column numbers."""

    def videos(program, params, data, step, captions):
        read = np.arange(5)
        known = np.pad(LIKELIHOODS, (0, 2))
        return read, known[read[:, None], captions(read)]

    return SimpleNamespace(
        tokenizer=lambda texts: np.array([*map(int, texts)]),
        compiled=lambda name, program: program,
        videos=videos,
        writes=False,
    )


def test_each_video_is_asked_for_its_own_caption_and_its_twins(predictor, data):
    found = captioning.caption_twins(predictor, None, {"min_pairs": 3}, data, 0)
    assert found == {
        "pairs": 2,  # the pair of the unread video is left out
        "twins_v2t": 50.0, "twins_v2t/size": 50.0, "twins_v2t/orbit": 50.0,
        # Captions 0 and 2 are both likelier for video 0, captions 1 and 3 for video 3.
        "twins_t2v": 50.0, "twins_t2v/size": 50.0, "twins_t2v/orbit": 50.0,
    }  # fmt: skip


def test_the_choices_are_written_with_their_scores(predictor, data, monkeypatch):
    written = []
    monkeypatch.setattr(captioning, "write_choices", lambda *given: written.extend(given[2:]))
    captioning.caption_twins(predictor, None, {"min_pairs": 1}, data, 0)
    rows, scores = written
    assert rows.tolist() == [[0, 2], [1, 3]]
    assert scores.tolist() == [[[-1, -2], [-3, -5]], [[-4, -3], [-2, -1]]]


def test_an_unknown_option_of_a_search_is_refused():
    with pytest.raises(ValueError, match="search has no option 'beam'.*did you mean 'beams'"):
        captioning.search_of({"search": {"beam": 3}})
    assert captioning.search_of({"search": {"beams": 2}}).beams == 2
