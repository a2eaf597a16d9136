"""Protocols against real annotation files, and against test sets that do not match them."""

import json

import pytest

from vlt.data.manifests.manifest import Record
from vlt.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    ProtocolError,
    checked_pairs,
    named_protocol,
)


def record(video: str, *captions: str) -> Record:
    return Record(video, video, captions, None, None, (), {}, line=1)


def rows(videos: int, captions: int = 1) -> list[Record]:
    return [
        record(f"v{i}.mp4", f"caption {c} of {i}") for i in range(videos) for c in range(captions)
    ]


@pytest.mark.parametrize(
    "name",
    ["msrvtt_1ka", "msrvtt_1ka_9k", "msrvtt_1ka_7k", "didemo", "lsmdc", "activitynet_val1"],
)
def test_whole_test_set_is_labelled_by_name(name: str) -> None:
    protocol = named_protocol(name)
    assert protocol.check(protocol.pairs(rows(protocol.videos))) == name


@pytest.mark.parametrize(
    ("name", "file"),
    [("msrvtt_1ka", "msrvtt_retrieval/test.json"), ("lsmdc", "lsmdc_retrieval/test.json")],
)
def test_published_annotation_files_pass(shared, name: str, file: str) -> None:
    entries = json.loads((shared / "annotations" / file).read_text())
    manifest = [record(entry["image"], *entry["caption"]) for entry in entries]
    protocol = named_protocol(name)
    assert protocol.check(protocol.pairs(manifest)) == name


def test_every_caption_of_msvd_is_a_query(shared) -> None:
    entries = json.loads((shared / "annotations/msvd/test.json").read_text())
    manifest = [record(entry["video"], *entry["caption"]) for entry in entries]
    protocol = named_protocol("msvd")
    assert protocol.check(protocol.pairs(manifest)) == "msvd"
    first = [record(each.video, each.captions[0]) for each in manifest]
    with pytest.raises(ProtocolError, match="670 queries instead of 27763"):
        protocol.check(protocol.pairs(first))


def test_sizes_of_training_sets_are_the_papers() -> None:
    sizes = {name: protocol.training for name, protocol in PROTOCOLS.items() if protocol.training}
    assert sizes == {
        "msrvtt_1ka_9k": 9000,
        "msrvtt_1ka_7k": 7010,
        "didemo": 8395,
        "lsmdc": 101_079,
        "activitynet_val1": 10_009,
        "msvd": 1200,
        "msrvtt_captions": 6513,
        "msvd_captions": 1200,
        "vatex_captions": 25_991,
    }


def test_twenty_captions_instead_of_one_are_refused() -> None:
    protocol = named_protocol("msrvtt_1ka")
    with pytest.raises(ProtocolError, match="20000 queries instead of 1000.*a query a caption"):
        protocol.check(protocol.pairs(rows(1000, captions=20)))
    with pytest.raises(ProtocolError, match="20000 queries"):
        protocol.check(protocol.pairs(rows(1000, captions=20)), allow_subset=True)


def test_joined_captions_are_one_query() -> None:
    protocol = named_protocol("didemo")
    pairs = protocol.pairs(rows(1004, captions=3))
    assert pairs[1] == ("v1.mp4", "caption 0 of 1 caption 1 of 1 caption 2 of 1")
    assert protocol.check(pairs) == "didemo"


def test_video_without_captions_is_missed() -> None:
    protocol = named_protocol("didemo")
    with pytest.raises(ProtocolError, match="1003 videos instead of 1004"):
        protocol.check(protocol.pairs([*rows(1003), record("v.mp4")]))


def test_list_of_captions_equals_a_row_each() -> None:
    protocol = Protocol("pairs", 2, 6, False, "this test")
    listed = [record(f"v{i}.mp4", *(f"caption {c} of {i}" for c in range(3))) for i in range(2)]
    assert protocol.pairs(listed) == protocol.pairs(rows(2, captions=3))
    assert protocol.check(protocol.pairs(listed)) == "pairs"


def test_captioning_counts_the_references_of_all_videos() -> None:
    protocol = named_protocol("msrvtt_captions")
    assert protocol.check(protocol.pairs(rows(2990, captions=20))) == "msrvtt_captions"
    with pytest.raises(ProtocolError, match="2990 references instead of 59800.*all captions of"):
        protocol.check(protocol.pairs(rows(2990)))
    part = protocol.check(protocol.pairs(rows(200, captions=20)), allow_subset=True)
    assert part == "msrvtt_captions [subset: 200 of 2990 videos, 4000 of 59800 references]"
    protocol = named_protocol("vatex_captions")
    assert protocol.check(protocol.pairs(rows(6000, captions=10))) == "vatex_captions"
    protocol = named_protocol("msvd_captions")
    assert protocol.check(protocol.pairs(rows(670, captions=41))) == "msvd_captions"


def test_questions_are_counted_by_row() -> None:
    protocol = named_protocol("msrvtt_qa")
    asked = [
        Record(f"q{i}", f"v{i % 2990}.mp4", (), None, f"what is {i}?", ("man",), {}, line=1)
        for i in range(72_821)
    ]
    assert protocol.check(protocol.pairs(asked)) == "msrvtt_qa"
    with pytest.raises(ProtocolError, match="72820 questions instead of 72821.*a row"):
        protocol.check(protocol.pairs(asked[1:]))


def test_missing_videos_are_named_and_a_subset_says_so() -> None:
    protocol = named_protocol("activitynet_val1")
    pairs = protocol.pairs(rows(4000, captions=2))
    with pytest.raises(ProtocolError, match="4000 videos instead of 4917"):
        protocol.check(pairs)
    label = "activitynet_val1 [subset: 4000 of 4917 videos, 4000 of 4917 queries]"
    assert protocol.check(pairs, allow_subset=True) == label


def test_more_than_the_protocol_is_no_subset() -> None:
    protocol = named_protocol("lsmdc")
    with pytest.raises(ProtocolError, match="1001 videos instead of 1000"):
        protocol.check(protocol.pairs(rows(1001)), allow_subset=True)


def test_moving_shapes_may_have_any_size() -> None:
    protocol = named_protocol("moving_shapes")
    assert protocol.check(protocol.pairs(rows(7))) == "moving_shapes"


def section(protocol: str, manifest: str, **more: bool) -> dict:
    return {"protocol": protocol, "manifest": manifest, "allow_subset": False} | more


def test_own_data_has_any_size_and_any_texts() -> None:
    own = section("own_data", "mine.csv")
    assert checked_pairs(own, rows(7, captions=2), "queries")[1] == "own_data"
    assert checked_pairs(own, rows(3), "references")[1] == "own_data"
    asked = [Record("q", "v.mp4", (), None, "what?", ("man",), {}, line=1)]
    assert checked_pairs(own, asked, "questions") == ([("v.mp4", "what?")], "own_data")


def test_only_generated_videos_are_moving_shapes() -> None:
    generated = section("moving_shapes", "moving_shapes:clips:test:520")
    assert checked_pairs(generated, rows(7), "queries")[1] == "moving_shapes"
    assert checked_pairs(section("moving_shapes", "m.csv"), rows(7), "queries")[1] == "own_data"


def test_a_test_set_of_another_size_is_no_own_data_by_itself() -> None:
    """A result must not silently go under another protocol than the one requested."""
    with pytest.raises(ProtocolError, match="29 videos instead of 1000.*protocol=own_data"):
        checked_pairs(section("msrvtt_1ka_9k", "mine.csv"), rows(29), "queries")


def test_protocols_of_other_texts_and_rows_without_texts_are_refused() -> None:
    with pytest.raises(ProtocolError, match="'msvd_captions' has references, not queries.*'msvd'"):
        checked_pairs(section("msvd_captions", "m.csv"), rows(670), "queries")
    with pytest.raises(ProtocolError, match="no row of the manifest has any questions"):
        checked_pairs(section("own_data", "m.csv"), rows(7), "questions")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ProtocolError, match="'msrvtt' is not one of.*msrvtt_1ka"):
        named_protocol("msrvtt")
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
