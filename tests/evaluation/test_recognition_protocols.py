"""Protocols of action recognition: counts, refusals, subsets, and the papers' combinations."""

import statistics

import pytest

from vlt.data.manifests.manifest import Record
from vlt.evaluation.protocols import ProtocolError
from vlt.evaluation.recognition_protocols import (
    RECOGNITION_PROTOCOLS,
    RecognitionProtocol,
    Views,
    combined,
    harmonic_mean,
    mean_and_deviation,
    named_recognition_protocol,
)


def rows(videos: int, classes: int) -> list[Record]:
    """Videos whose classes are "0", "1", ... in turn."""
    return [
        Record(f"v{n}", f"v{n}.mp4", (), str(n % classes), None, (), {}, line=n + 1)
        for n in range(videos)
    ]


def names(classes: int) -> list[str]:
    return [str(n) for n in range(classes)]


def test_counts_are_the_papers() -> None:
    stated = {n: (p.videos, p.classes, p.shots) for n, p in RECOGNITION_PROTOCOLS.items()}
    sets = {"hmdb51": (1530, 51), "ucf101": (3783, 101), "ssv2": (24_777, 174)}
    few = {
        f"{data}_few_shot_{shots}": (*counts, shots)
        for data, counts in sets.items()
        for shots in (2, 4, 8, 16)
    }
    assert stated == few | {
        "hmdb51_zero_shot_1": (1530, 51, None),
        "hmdb51_zero_shot_2": (1530, 51, None),
        "hmdb51_zero_shot_3": (1530, 51, None),
        "ucf101_zero_shot_1": (3783, 101, None),
        "ucf101_zero_shot_2": (3734, 101, None),
        "ucf101_zero_shot_3": (3696, 101, None),
        "k600_zero_shot_1": (14_084, 160, None),
        "k600_zero_shot_2": (13_978, 160, None),
        "k600_zero_shot_3": (14_136, 160, None),
        "hmdb51_base": (780, 26, 16),
        "hmdb51_novel": (750, 25, 16),
        "ucf101_base": (2088, 51, 16),
        "ucf101_novel": (1695, 50, 16),
        "ssv2_base": (17_562, 87, 16),
        "ssv2_novel": (7215, 87, 16),
        "k400_base": (9944, 200, 16),
        "k400_novel": (9933, 200, 16),
        "k400": (19_877, 400, None),
        "moving_shapes_base": (None, 24, 16),
        "moving_shapes_novel": (None, 6, 16),
        "own_data": (None, None, None),
    }


def test_only_the_fully_supervised_set_is_looked_at_more_than_once() -> None:
    views = {name: p.views for name, p in RECOGNITION_PROTOCOLS.items()}
    assert views.pop("k400") == Views(clips=4, crops=3, draw="random")
    assert set(views.values()) == {Views(clips=1, crops=1, draw="even")}


@pytest.mark.parametrize("name", ["hmdb51_zero_shot_2", "ucf101_few_shot_4", "k400_novel"])
def test_whole_test_set_is_labelled_by_name(name: str) -> None:
    protocol = named_recognition_protocol(name)
    found = rows(protocol.videos, protocol.classes)
    assert protocol.check(found, names(protocol.classes)) == name


def test_other_counts_are_refused_and_a_subset_says_so() -> None:
    protocol = named_recognition_protocol("hmdb51_zero_shot_1")
    some = rows(100, 10)
    with pytest.raises(ProtocolError, match="100 videos instead of 1530, 10 classes instead of 51"):
        protocol.check(some, names(10))
    label = "hmdb51_zero_shot_1 [subset: 100 of 1530 videos, 10 of 51 classes]"
    assert protocol.check(some, names(10), allow_subset=True) == label
    assert protocol.check(some, names(51), True).endswith("[subset: 100 of 1530 videos]")
    with pytest.raises(ProtocolError, match=": 52 classes instead of 51; for a"):
        protocol.check(some, names(52), allow_subset=True)


def test_rows_that_do_not_belong_are_named() -> None:
    protocol = RecognitionProtocol("small", 8, 4, "this test")
    found = rows(8, 4)
    with pytest.raises(
        ProtocolError, match=r"2 rows .* of the 3 classes: line 4 \(v3.mp4: '3'\), "
    ):
        protocol.check(found, names(3), allow_subset=True)
    with pytest.raises(ProtocolError, match=r"8 rows .*line 5 \(v4.mp4: '0'\), and 3 more"):
        protocol.check(found, ["a", "b", "c", "d"])
    twice = [*found, Record("w", "v1.mp4", (), "1", None, (), {}, line=9)]
    with pytest.raises(ProtocolError, match=r"1 rows have a video that came before: line 9 \(v1"):
        protocol.check(twice, names(4))
    with pytest.raises(ProtocolError, match="no video of 1 of 4 classes: 3"):
        protocol.check(rows(8, 3), names(4))


def test_own_data_may_have_any_size() -> None:
    assert named_recognition_protocol("own_data").check(rows(7, 3), names(4)) == "own_data"


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ProtocolError, match="'hmdb51' is not one of.*'hmdb51_base'"):
        named_recognition_protocol("hmdb51")
    assert all(protocol.name == name for name, protocol in RECOGNITION_PROTOCOLS.items())


def test_harmonic_mean_of_the_papers_table() -> None:
    # MSTA, Table 2: (base, novel, HM) of ViCLIP and of MSTA with the consistency loss.
    for base, novel, stated in ((77.9, 52.4, 62.7), (78.5, 66.5, 72.0), (22.2, 16.5, 18.9)):
        assert harmonic_mean(base, novel) == pytest.approx(stated, abs=0.05)
    assert harmonic_mean(0, 0) == 0


def test_mean_and_deviation() -> None:
    assert mean_and_deviation([54.0, 56.0, 58.0]) == pytest.approx((56.0, (8 / 3) ** 0.5))


def test_combinations_need_all_their_protocols() -> None:
    run = {f"ucf101_zero_shot_{n}": value for n, value in zip((1, 2, 3), (77, 78, 82), strict=True)}
    run |= {"hmdb51_zero_shot_1": 55.0, "ssv2_base": 22.0, "k400_base": 78.0, "k400": 80.0}
    assert combined([run]) == {
        "ucf101_zero_shot/mean": pytest.approx(79),
        "ucf101_zero_shot/deviation": pytest.approx(statistics.pstdev([77, 78, 82])),
    }


def test_samplings_are_averaged_before_base_and_novel_are_combined() -> None:
    runs = [
        {"hmdb51_base": base, "hmdb51_novel": novel, "ssv2_base": 1.0, "ssv2_novel": 2.0}
        for base, novel in ((70, 50), (80, 60), (90, 40))
    ]
    found = combined([*runs[:2], {name: runs[2][name] for name in ("hmdb51_base", "hmdb51_novel")}])
    assert found == {
        "hmdb51_base_to_novel/base": 80,
        "hmdb51_base_to_novel/novel": 50,
        "hmdb51_base_to_novel/harmonic_mean": pytest.approx(2 * 80 * 50 / 130),
    }
