"""Captions, questions and answers on their way into batches, and rows without any."""

import numpy as np
import pytest
from stub_pool import take
from video_files import draw
from video_files import write as write_video

from vlt.data.manifests.manifest import ManifestError
from vlt.data.video.clips import DecoderPool


def test_captions_are_cleaned_cut_and_prompted(make, words):
    rows = [{"caption": ["Red, (green) BLUE... red"]} for _ in range(8)]
    data = make(rows=rows, clean="blip_caption", max_words=3, prefix="moves ")
    expected = words(["moves red, green blue"] * 8)
    for batch in (*take(data.train(), 1), *data.evaluate()):
        np.testing.assert_array_equal(batch["text"], expected)
    assert data.clean("RED!") == "red" and data.records[0].captions == tuple(rows[0]["caption"])
    with pytest.raises(
        ValueError, match="unknown clean-up of texts 'blip_captions' .did you mean 'blip_"
    ):
        make(clean="blip_captions")


def test_captions_that_clean_up_empties_are_named(make):
    rows = [{"caption": ["...", "red"] if i % 7 else "(!)"} for i in range(10)]
    with pytest.raises(ManifestError) as caught:
        make(rows=rows, clean="blip_caption")
    message = str(caught.value)
    assert "10 texts of 10 of 10 rows are empty after clean-up by 'blip_caption'" in message
    assert "line 1: '(!)'" in message and "and 5 more" in message and "on_error" in message


def test_rows_without_a_text_are_skipped_by_policy_and_others_keep_what_is_left(make, words):
    rows = [{"caption": ["...", "red"] if i % 7 else "(!)"} for i in range(10)]
    data = make(rows=rows, clean="blip_caption", prefix="moves ", on_error="skip", batch_size=2)
    ids = set()
    for batch in take(data.train(), 8):
        np.testing.assert_array_equal(batch["text"], words(["moves red"] * 2))
        ids |= set(batch["ids"].tolist())
    assert ids == set(range(10)) - {0, 7}
    assert data.skipped == ["0.mp4", "7.mp4"]
    data = make(rows=rows, clean="blip_caption", on_error="skip", batch_size=5, name="eval")
    batches = list(data.evaluate())
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(mask, [i % 7 != 0 for i in range(10)])
    assert not batches[0]["text"][0, 2:].any()


def test_questions_and_answers(make, words):
    rows = [
        {"question": f"red (green) {'blue ' * (i % 3)}?", "answer": ["Red.", "green"]}
        for i in range(8)
    ]
    data = make(rows=rows, clean="blip_question", max_words=4)
    (batch,) = data.evaluate()
    assert batch.keys() == {"video", "ids", "mask", "question", "answer"}
    asked = ["red green " + ("?", "blue ?", "blue blue")[i % 3] for i in range(8)]
    np.testing.assert_array_equal(batch["question"], words(asked))
    np.testing.assert_array_equal(batch["answer"], words(["Red."] * 8))
    drawn = np.concatenate([b["answer"] for b in take(data.train(), 6)])
    assert {tuple(row) for row in drawn} == {tuple(row) for row in words(["Red.", "green"])}
    with pytest.raises(ManifestError, match="line 3: has no `question`, as other rows have"):
        make(rows=[*({"label": 1} | row for row in rows[:2]), {"label": 1}])


def test_rows_of_one_video_have_one_video_id(make):
    rows = [{"caption": f"red {i}", "video": f"{i // 3}.mp4"} for i in range(12)]
    batch = take(make(rows=rows, batch_size=12).train(), 1)[0]
    assert batch["video_id"].dtype == np.int32
    np.testing.assert_array_equal(batch["video_id"], batch["ids"] // 3)


def test_videos_without_a_file_follow_the_policy(tmp_path, make, words):
    pool = DecoderPool(workers=0, timeout=10.0)
    write_video(tmp_path / "there.mp4", draw(16, 32, 32))
    rows = [{"caption": "red", "video": "there.mp4"} for _ in range(6)]
    rows[1]["video"] = rows[4]["video"] = "gone.mp4"
    with pytest.raises(ManifestError, match="2 of 6 rows name no file .*'skip'(.|\n)*gone.mp4"):
        make(pool, rows=rows)
    data = make(pool, rows=rows, on_error="skip", batch_size=6)
    (batch,) = data.evaluate()
    np.testing.assert_array_equal(batch["mask"], [True, False, True, True, False, True])
    assert len(data.skipped) == 2
    listed = (tmp_path / "work/skipped.jsonl").read_text()
    assert listed.count("gone.mp4") == 4 and "no such file" in listed


def test_other_columns_of_captions_are_checked_alike(make, words):
    rows = [{"caption": "red", "more": '["green", "blue"]'} for _ in range(8)]
    data = make(rows=rows, captions=("more",))
    (batch, *_) = data.evaluate()
    np.testing.assert_array_equal(batch["text"][0], words(["green"])[0])
    rows[3] = {"caption": "red", "more": "['green' 'blue']"}
    with pytest.raises(ManifestError, match="line 4: 'more', a column of captions, must be a text"):
        make(rows=rows, captions=("more",))


def test_a_label_that_looks_like_a_class_is_told_which(tmp_path, make):
    (tmp_path / "classes.txt").write_text("caf\u00e9\nwalk\n", encoding="utf-8")
    rows = [{"label": "walk"}] * 7 + [{"label": "Cafe\u0301 "}]
    with pytest.raises(
        ManifestError, match="line 8: label .* is not a class; 'caf.xe9' differs in"
    ):
        make(rows=rows, classes=str(tmp_path / "classes.txt"))
    rows[7] = {"label": " caf\u00e9"}
    assert make(rows=rows, classes=str(tmp_path / "classes.txt")).labels.tolist() == [1] * 7 + [0]


def test_labels_of_any_number_of_digits_are_sorted(make):
    names = ["9" * 5000, "10", "9", "walk"]
    found = make(rows=[{"label": name} for name in names * 2]).classes
    assert found == ["9", "10", names[0], "walk"]


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "3", "{}", '{"stream": 3}'])
def test_a_list_of_skipped_videos_that_is_none(tmp_path, make, line):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/skipped.jsonl").write_text(f"{line}\n")
    with pytest.raises(
        ValueError, match=r"skipped\.jsonl, line 1: does not describe a skipped video"
    ):
        make(rows=[{"caption": "red"} for _ in range(8)], on_error="skip")
