import json
import time

import numpy as np
import pytest
from ml_collections import ConfigDict
from stub_pool import ROWS, SHAPE, StubPool, take

from vlt.data import moving_shapes, pipeline
from vlt.data.manifests.manifest import ManifestError
from vlt.data.pipeline import VideoData
from vlt.data.skips import TooManyErrors
from vlt.data.video.clips import DecoderPool
from vlt.data.video.errors import Truncated


def _ids(batches):
    return [batch["ids"].tolist() for batch in batches]


def _same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_training_batch_shapes_types_and_that_rows_belong_together(make):
    data = make()
    (batch,) = take(data.train(), 1)
    assert batch.keys() == {"video", "text", "ids", "video_id"}
    assert batch["video"].shape == (8, *SHAPE) and batch["video"].dtype == np.uint8
    assert batch["text"].shape == (8, 16) and batch["text"].dtype == np.int32
    assert batch["ids"].dtype == np.int32
    np.testing.assert_array_equal(batch["video"][:, 0, 0, 0, 0], batch["ids"])


def test_each_epoch_shows_every_row_once_in_another_order(make):
    ids = _ids(take(make().train(), 6))
    first, second = sum(ids[:3], []), sum(ids[3:], [])
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second and first != sorted(first)


def test_a_batch_never_holds_a_row_twice_though_batches_do_not_divide_the_rows(make):
    ids = _ids(take(make(batch_size=10).train(), 12))
    assert all(len(set(batch)) == 10 for batch in ids)
    assert set(sum(ids, [])) == set(range(ROWS))


def test_same_seed_same_batches_and_clip_seeds_differ_by_position(make):
    pools = [StubPool(), StubPool()]
    _same(*(take(make(pool).train(), 6) for pool in pools))
    seeds = [{r.seed for r in pool.requests} for pool in pools]
    assert len(seeds[0]) == len(pools[0].requests)
    assert len(seeds[0] & seeds[1]) >= 6 * 8


def test_one_caption_is_drawn_anew_in_each_epoch_and_groups_draw_alike(make):
    batches = take(make(group="pair").train(), 12)
    texts = {}
    for batch in batches:
        np.testing.assert_array_equal(batch["text"][::2], batch["text"][1::2])
        for record, text in zip(batch["ids"], batch["text"], strict=True):
            texts.setdefault(record, set()).add(text[1])
    assert any(len(words) > 1 for words in texts.values())
    assert len(set().union(*texts.values())) == 3


def test_rows_of_a_group_are_neighbours_in_one_batch(make):
    for batch in _ids(take(make(group="pair").train(), 6)):
        pairs = [record // 2 for record in batch]
        assert pairs[::2] == pairs[1::2] and len(set(pairs)) == 4


def test_state_is_that_of_consumed_batches_and_resumes_exactly(make):
    stream = make().train()
    whole = [next(stream) for _ in range(2)]
    state = json.loads(json.dumps(stream.state))  # a checkpoint can hold it
    whole += [next(stream) for _ in range(4)]
    stream.close()
    _same(whole[2:], take(make().train(state=state), 4))
    fresh = make().train()
    _same(whole, take(make().train(state=fresh.state), 6))
    fresh.close()


def test_batches_are_placed_and_waiting_is_measured(make):
    stream = make().train(place=lambda batch: batch["ids"].sum())
    begun, waited = time.perf_counter(), stream.wait_seconds
    for _ in range(3):
        assert isinstance(next(stream), np.integer)
        assert waited < stream.wait_seconds <= time.perf_counter() - begun
        waited = stream.wait_seconds
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_policy_raise_names_the_file_in_its_place_in_the_stream(make):
    order = sum(_ids(take(make().train(), 3)), [])
    stream = make(StubPool(broken=order[8:16])).train()
    assert _ids([next(stream)]) == [order[:8]]
    with pytest.raises(Truncated, match=f"/{order[8]}.mp4: ends early"):
        next(stream)


def test_policy_skip_leaves_bad_rows_out_and_writes_them_down(make, tmp_path):
    order = sum(_ids(take(make().train(), 3)), [])
    bad = {order[2], order[9]}
    data = make(StubPool(broken=bad), on_error="skip")
    got = sum(_ids(take(data.train(), 5)), [])
    assert got[:22] == [record for record in order if record not in bad]
    assert set(got) == set(range(ROWS)) - bad
    assert data.skipped == [f"v{record}" for record in sorted(bad)]
    lines = [json.loads(x) for x in (tmp_path / "work/skipped.jsonl").read_text().splitlines()]
    assert [(x["record"], x["position"]) for x in lines] == [(order[2], 2), (order[9], 9)]
    assert lines[0]["video"] == str(tmp_path / f"{order[2]}.mp4")
    assert lines[0]["id"] == f"v{order[2]}" and lines[0]["stream"] == "train"
    assert (lines[0]["error"], lines[0]["reason"]) == ("Truncated", "ends early")


def test_policy_replace_keeps_every_other_row_in_its_place(make):
    order = sum(_ids(take(make(group="pair").train(), 3)), [])
    bad = order[5]
    data = make(StubPool(broken=[bad]), group="pair", on_error="replace")
    got = sum(_ids(take(data.train(), 3)), [])
    assert bad not in got and got[4] // 2 == got[5] // 2 != bad // 2
    assert got[:4] + got[6:] == order[:4] + order[6:]


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_a_timeout_that_fired_once_is_replayed_on_resume(make, tmp_path, policy):
    order = sum(_ids(take(make().train(), 3)), [])
    hung = order[12]
    data = make(StubPool(hangs=[hung]), on_error=policy)
    stream = data.train()
    whole = [next(stream)]
    state = stream.state
    whole += [next(stream) for _ in range(5)]
    stream.close()
    assert hung not in sum(_ids(whole[1:]), []), "bad from its first failure on"
    healthy = StubPool()
    resumed = make(healthy, on_error=policy)
    assert resumed.skipped == [f"v{hung}"]
    _same(whole[1:], take(resumed.train(state=state), 5))
    assert not any(r.path.endswith(f"/{hung}.mp4") for r in healthy.requests)
    lines = (tmp_path / "work/skipped.jsonl").read_text().splitlines()
    assert len(lines) == 1


def test_a_failure_does_not_reach_back_before_its_position(make):
    """A resume from before the failure sees the video where the first run saw it."""
    rows = [{"caption": "red", "id": f"v{i}"} for i in range(8)]
    pool = StubPool()
    stream = make(pool, rows=rows, on_error="replace").train()
    start = stream.state
    whole = [next(stream)]
    pool.broken.add(0)
    whole += [next(stream) for _ in range(11)]
    stream.close()
    assert 0 in _ids(whole)[0] and 0 not in _ids(whole)[-1]
    # Which of the batches read ahead saw it depends on timing; the log records it.
    _same(whole, take(make(rows=rows, on_error="replace").train(state=start), 12))


def test_a_torn_last_line_of_the_log_is_dropped(make, tmp_path):
    take(make(StubPool(broken=[0]), on_error="skip").train(), 3)
    log = tmp_path / "work/skipped.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"stream": "train", "posi')
    assert make(on_error="skip").skipped == ["v0"]
    assert log.read_text() == whole
    with pytest.raises(ValueError, match="line 1: 'v0' is not record 0.*manifest has changed"):
        make(rows=[{"caption": "red"}] * 9)


def test_an_evaluation_of_another_manifest_reads_all_of_its_videos(make):
    def evaluated(pool, rows=None):
        data = make(pool, rows=rows, name="own", on_error="skip")
        return np.concatenate([batch["mask"] for batch in data.evaluate()]), data

    assert not evaluated(StubPool(broken=[0]))[0].all()
    mask, data = evaluated(StubPool(), [{"caption": "red", "id": f"w{i}"} for i in range(8)])
    assert mask.all() and data.skipped == []
    assert evaluated(StubPool())[1].skipped == ["v0"], "the first manifest's is still bad"


def test_an_error_rate_over_the_limit_aborts(make):
    data = make(StubPool(broken=range(0, ROWS, 4)), on_error="skip", max_error_rate=0.1)
    stream = data.train()
    with pytest.raises(TooManyErrors, match="max_error_rate=0.1.*skipped.jsonl.*ends early"):
        for _ in range(6):
            next(stream)


def test_evaluation_is_one_pass_in_order_with_a_padded_last_batch(make):
    rows = [{"caption": [f"{c} circle", "blue"], "id": f"v{i}"} for i, c in enumerate(["red"] * 10)]
    data = make(rows=rows, batch_size=4, name="val")
    batches = list(data.evaluate())
    assert _ids(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    np.testing.assert_array_equal(batches[2]["mask"], [True, True, False, False])
    assert all(b["mask"].all() for b in batches[:2])
    assert not batches[2]["video"][2:].any() and batches[2]["video"][1].all()
    assert (batches[1]["text"] == batches[0]["text"]).all(), "always the first caption"
    _same(batches, list(data.evaluate()))


def test_evaluation_never_drops_silently(make):
    with pytest.raises(Truncated, match="/5.mp4"):
        list(make(StubPool(broken=[5])).evaluate())
    data = make(StubPool(broken=[5]), on_error="skip")
    batches = list(data.evaluate())
    assert sum(_ids(batches), []) == list(range(ROWS))
    mask = np.concatenate([b["mask"] for b in batches])
    assert np.flatnonzero(~mask).tolist() == [5] and data.skipped == ["v5"]
    assert not batches[0]["video"][5].any()
    with pytest.raises(ValueError, match="on_error='replace': must be 'raise' or 'skip'"):
        make(on_error="replace").evaluate()


def test_evaluations_before_a_timeout_still_see_the_video(make):
    data = make(StubPool(hangs=[5]), on_error="skip")
    assert not np.concatenate([b["mask"] for b in data.evaluate(step=20)]).all()
    assert not np.concatenate([b["mask"] for b in data.evaluate(step=21)]).all()
    assert np.concatenate([b["mask"] for b in data.evaluate(step=19)]).all()


def test_labels_become_indices_of_sorted_or_given_classes(make, tmp_path):
    rows = [{"label": x} for x in (10, 9, 2, 10, 9)]
    data = make(rows=rows, batch_size=4)
    assert data.classes == ["2", "9", "10"]
    first, second = data.evaluate()
    assert first["label"].dtype == np.int32
    assert first["label"].tolist() == [2, 1, 0, 2] and second["label"][0] == 1
    assert "text" not in first
    (tmp_path / "classes.txt").write_text("10\n2\n9\n")
    data = make(rows=rows, batch_size=4, classes=str(tmp_path / "classes.txt"))
    assert data.classes == ["10", "2", "9"] and data.labels.tolist() == [0, 2, 1, 0, 2]
    (tmp_path / "classes.txt").write_text("10\n2\n")
    with pytest.raises(
        ManifestError, match="line 2: label '9' is not a class; the classes are 10, 2"
    ):
        make(rows=rows, classes=str(tmp_path / "classes.txt"))


def test_captions_come_from_the_columns_the_config_names(make, words):
    rows = [{"caption": "red", "looks": ["green", "blue"]} for _ in range(8)]
    data = make(rows=rows, captions=("caption", "looks"))
    (batch, *_), texts = data.evaluate(), words(["red", "green", "blue"])
    np.testing.assert_array_equal(batch["text"][0], texts[0])
    seen = np.concatenate([b["text"][:, 1] for b in take(data.train(), 40)])
    share = [(seen == row[1]).mean() for row in texts]
    np.testing.assert_allclose(share, [0.5, 0.25, 0.25], atol=0.08)
    data = make(rows=rows, captions=("looks",))
    assert next(data.evaluate())["text"][0, 1] == texts[1, 1]
    rows[2]["looks"] = 3
    with pytest.raises(ManifestError, match="line 3: 'looks' must be text or a list .* got 3"):
        make(rows=rows, captions=("looks",))


def test_clips_are_cached_up_to_a_bound(make, monkeypatch):
    pool = StubPool()
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 2 * int(np.prod(SHAPE)))
    data = make(pool, cache=True, transform={})
    _same(list(data.evaluate()), list(data.evaluate()))
    assert len(pool.requests) == ROWS + ROWS - 2


def test_cached_clips_are_read_once_and_random_ones_are_not_cached(make):
    pool = StubPool(broken=[4])
    data = make(pool, cache=True, transform={}, on_error="skip")
    first, again = list(data.evaluate()), list(data.evaluate())
    _same(first, again)
    assert len(pool.requests) == ROWS
    plain = take(make(on_error="skip", pool=StubPool(broken=[4])).train(), 6)
    _same(plain, take(make(cache=True, transform={}, on_error="skip").train(), 6))
    with pytest.raises(ValueError, match="train.cache=True: must be False, because flip, jitter"):
        make(cache=True, transform={"flip": 0.5, "jitter": {}})
    with pytest.raises(ValueError, match="must be False, because rand_augment"):
        make(cache=True, transform={"rand_augment": {}})
    with pytest.raises(ValueError, match="because uniform_segments gives other clips"):
        make(cache=True, transform={}, sampler={"name": "uniform_segments", "frames": 2})


@pytest.mark.parametrize(
    ("config", "error", "reason"),
    [
        ({"on_error": "ignore"}, ValueError, "train.on_error='ignore': must be one of raise, skip"),
        ({"batch_size": 25}, ValueError, "train.batch_size=25: must be at most the 24 rows"),
        ({"batch_size": 7, "group": "pair"}, ValueError, "must be a multiple of 2 rows a group"),
        ({"batch_size": 0}, ValueError, "train.batch_size=0: must be >= 1"),
        ({"group": "pair", "share": [0, 1, 2]}, ValueError, "here 3, are a multiple of the 2 rows"),
        ({"on_error": "skip", "share": [0, 1]}, ValueError, "'replace' where several processes"),
        ({"group": "twin"}, ManifestError, "line 1: has no column 'twin' to group by"),
        ({"group": "odd"}, ManifestError, "one size; there are 23 rows with odd=0, 1 rows with"),
        ({"rows": [{"label": 1}, {"caption": "a"}]}, ManifestError, "line 1: has no `caption`, as"),
    ],
)
def test_a_wrong_configuration_is_named(make, config, error, reason):
    if config.get("group") == "odd":
        config = config | {"rows": [{"caption": "a", "odd": int(i == 3)} for i in range(ROWS)]}
    with pytest.raises(error, match=reason):
        make(**config).train()


def test_videos_of_different_shapes_in_a_batch_are_named(make, monkeypatch):
    def read(self, request):
        return np.zeros((2, 4, 4 + request.path.endswith("/3.mp4"), 3), np.uint8)

    monkeypatch.setattr(StubPool, "read", read)
    with pytest.raises(ValueError, match=r"train.transform must .* not v7 .*v3 \(2, 4, 5, 3\)"):
        list(make().evaluate())


def test_twins_of_moving_shapes_arrive_reversed_through_real_decoders(tmp_path, words):
    manifest = moving_shapes.generate(tmp_path / "shapes", count=12)
    config = ConfigDict({
        "manifest": str(manifest), "batch_size": 8, "group": "pair", "on_error": "raise",
        "max_error_rate": 0.0, "allow_truncated": False, "backend": "pyav", "cache": False,
        "captions": ("caption",), "clean": "", "max_words": 0, "prefix": "",
        "sampler": {"name": "linspace", "frames": 8}, "transform": {},
    })  # fmt: skip
    with DecoderPool(workers=2, timeout=60) as pool:
        data = VideoData(config, words, pool, name="train", workdir=tmp_path)
        batches = take(data.train(), 3)
    assert words.cut == 0
    for batch in batches:
        assert batch["video"].shape == (8, 8, 32, 32, 3)
        for k in range(0, 8, 2):
            pair = data.records[batch["ids"][k]].extra["pair"]
            clip, twin = moving_shapes.draw_pair(pair, seed=0, split="train")
            sampled = clip.frames[[0, 3, 7, 10, 14, 17, 21, 24]]
            np.testing.assert_array_equal(batch["video"][k], sampled)
            np.testing.assert_array_equal(batch["video"][k + 1], sampled[::-1])
            np.testing.assert_array_equal(
                batch["text"][k : k + 2], words([clip.caption, twin.caption])
            )


def test_a_users_own_files_sound_and_broken(shared, tmp_path, words):
    listed = json.loads((shared / "videos/MANIFEST.json").read_text())["videos"]
    small = [v for v in listed if v["kind"] != "broken" and v["size_bytes"] < 120_000][:4]
    names = [*(v["file"] for v in small), "broken_zero_byte.mp4", "broken_text_renamed.mp4"]
    rows = [{"video": str(shared / "videos" / name), "caption": "a red circle"} for name in names]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = ConfigDict({
        "manifest": str(tmp_path / "mine.jsonl"), "batch_size": 4, "group": "", "on_error": "skip",
        "max_error_rate": 0.5, "allow_truncated": False, "backend": "pyav", "cache": True,
        "captions": ("caption",), "clean": "", "max_words": 0, "prefix": "",
        "sampler": {"name": "segment_middle", "frames": 4}, "transform": {"resize": 32, "crop": 32},
    })  # fmt: skip
    with DecoderPool(workers=2, timeout=60) as pool:
        data = VideoData(config, words, pool, name="val", workdir=tmp_path)
        batches = list(data.evaluate())
    mask = np.concatenate([b["mask"] for b in batches])
    np.testing.assert_array_equal(mask, [True] * 4 + [False] * 4)
    video = np.concatenate([b["video"] for b in batches])
    assert video.shape == (8, 4, 32, 32, 3) and all(v.any() for v in video[:4])
    assert [pathlike.rsplit("/", 1)[-1] for pathlike in data.skipped] == names[4:]


def test_a_row_s_sum_reaches_the_decoder(make):
    pool = StubPool()
    rows = [{"caption": "red", "sha256": f"{i:064x}" if i % 2 else None} for i in range(8)]
    rows = [{k: v for k, v in row.items() if v} for row in rows]
    take(make(pool, rows).evaluate(), 1)
    found = {r.path.rsplit("/", 1)[1]: r.sha256 for r in pool.requests}
    assert found == {f"{i}.mp4": f"{i:064x}" if i % 2 else "" for i in range(8)}
