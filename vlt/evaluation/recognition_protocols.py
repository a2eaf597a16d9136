"""Named protocols of action recognition: what a test set must contain, and how results combine.

The counts are those of the split lists that X-CLIP, ViFi-CLIP, OST and MSTA (Section 4.2) share.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence, Set

from vlt.data.manifests.manifest import SHOWN, Record
from vlt.evaluation.protocols import ADVICE, OWN_DATA, ProtocolError, checked_counts

SHOTS = (2, 4, 8, 16)  # training videos per class, few-shot
BASE_SHOTS = 16  # training videos per base class, base-to-novel
SAMPLINGS = (1, 2, 3)  # random draws of training videos
SPLITS = (1, 2, 3)  # splits of the test videos, zero-shot


@dataclasses.dataclass(frozen=True)
class Views:
    """The views taken of a test video: clips over time, and crops of each.

    draw: how a clip's frames are drawn: 'even', from the middles of equal parts of the video, or
    'random', as in training.
    """

    clips: int = 1
    crops: int = 1
    draw: str = "even"


@dataclasses.dataclass(frozen=True)
class RecognitionProtocol:
    """One test set.

    Attributes:
      name: printed beside the metric.
      videos: number of test videos, or None where any is accepted.
      classes: number of classes to choose among, or None where any is accepted.
      source: who states the counts.
      views: the views with which the published numbers were measured.
      shots: number of training videos per class that go with it, or None where any is accepted.
        data_pipelines asserts it when writing the training manifest.
    """

    name: str
    videos: int | None
    classes: int | None
    source: str
    views: Views = Views()
    shots: int | None = None

    def check(
        self, records: Sequence[Record], classes: Sequence[str], allow_subset: bool = False
    ) -> str:
        """The label to print beside the metric: the name, and how much of the set is present.

        Args:
          classes: names of all classes to choose among.
          allow_subset: whether fewer videos and classes are accepted, and labelled as a subset.

        Raises:
          ProtocolError: the counts differ from the protocol's, or, for a subset, exceed them; rows
            without a known class, or of a video that an earlier row has; a class without a video,
            unless a subset is allowed.
        """
        known, videos = set(classes), {record.video for record in records}
        strangers = [r for r in records if r.label not in known]
        self._refuse(strangers, f"no label that is one of the {len(known)} classes")
        found = {"videos": len(videos), "classes": len(known)}
        expected = {"videos": self.videos, "classes": self.classes}
        name = f"{self.name} ({self.source})"
        label = checked_counts(name, found, expected, allow_subset, ADVICE)
        if self.videos is not None:
            self._check_rows(records, known, allow_subset)
        return self.name + label

    def _check_rows(self, records: Sequence[Record], known: Set[str], allow_subset: bool) -> None:
        lines: dict[str, int] = {}
        again = [r for r in records if lines.setdefault(r.video, r.line) != r.line]
        self._refuse(again, "a video that came before")
        empty = sorted(known - {str(r.label) for r in records})
        if empty and not allow_subset:
            raise ProtocolError(
                f"{self.name}: no video of {len(empty)} of {len(known)} classes: {_some(empty)}"
            )

    def _refuse(self, rows: Sequence[Record], why: str) -> None:
        if rows:
            named = _some([f"line {row.line} ({row.video}: {row.label!r})" for row in rows])
            raise ProtocolError(f"{self.name}: {len(rows)} rows have {why}: {named}")


def _some(listed: Sequence[str]) -> str:
    more = f", and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (population, not sample) over the splits of a test set."""
    return statistics.fmean(values), statistics.pstdev(values)


def harmonic_mean(base: float, novel: float) -> float:
    """2 * base * novel / (base + novel); 0 if both are."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


LISTS = "the public split lists"
COUNTS = {  # data set: classes, and test videos of each split
    "hmdb51": (51, (1530, 1530, 1530)),
    "ucf101": (101, (3783, 3734, 3696)),
    "k600": (160, (14_084, 13_978, 14_136)),
    "ssv2": (174, (24_777,)),
}
FEW_SHOT = ("hmdb51", "ucf101", "ssv2")  # tested on the first split
ZERO_SHOT = ("hmdb51", "ucf101", "k600")
Halves = tuple[tuple[int, int | None], ...]
BASE_TO_NOVEL: dict[str, Halves] = {  # data set: (classes, test videos) of base and of novel
    "k400": ((200, 9944), (200, 9933)),
    "hmdb51": ((26, 780), (25, 750)),
    "ucf101": ((51, 2088), (50, 1695)),
    "ssv2": ((87, 17_562), (87, 7215)),
    "moving_shapes": ((24, None), (6, None)),
}

RECOGNITION_PROTOCOLS: dict[str, RecognitionProtocol] = {
    entry.name: entry
    for entry in (
        *(
            RecognitionProtocol(f"{data}_zero_shot_{split}", videos, COUNTS[data][0], LISTS)
            for data in ZERO_SHOT
            for split, videos in zip(SPLITS, COUNTS[data][1], strict=True)
        ),
        *(
            RecognitionProtocol(
                f"{data}_few_shot_{shots}", COUNTS[data][1][0], COUNTS[data][0], LISTS, shots=shots
            )
            for data in FEW_SHOT
            for shots in SHOTS
        ),
        *(
            RecognitionProtocol(f"{data}_{part}", videos, classes, LISTS, shots=BASE_SHOTS)
            for data, parts in BASE_TO_NOVEL.items()
            for part, (classes, videos) in zip(("base", "novel"), parts, strict=True)
        ),
        # The published code draws clips as in training, not evenly.
        RecognitionProtocol("k400", 19_877, 400, LISTS, Views(4, 3, "random")),
        RecognitionProtocol(OWN_DATA, None, None, "of any size"),
    )
}


def named_recognition_protocol(name: str) -> RecognitionProtocol:
    """The named protocol.

    Raises:
      ProtocolError: no such name.
    """
    if name not in RECOGNITION_PROTOCOLS:
        raise ProtocolError(f"protocol {name!r} is not one of {sorted(RECOGNITION_PROTOCOLS)}")
    return RECOGNITION_PROTOCOLS[name]


def _over_splits(*values: float) -> dict[str, float]:
    return dict(zip(("mean", "deviation"), mean_and_deviation(values), strict=True))


def _base_to_novel(base: float, novel: float) -> dict[str, float]:
    return {"base": base, "novel": novel, "harmonic_mean": harmonic_mean(base, novel)}


RESULTS: dict[str, tuple[tuple[str, ...], Callable[..., dict[str, float]]]] = {
    **{
        f"{data}_zero_shot": (tuple(f"{data}_zero_shot_{s}" for s in SPLITS), _over_splits)
        for data in ZERO_SHOT
    },
    **{
        f"{data}_base_to_novel": ((f"{data}_base", f"{data}_novel"), _base_to_novel)
        for data in BASE_TO_NOVEL
    },
}


def combined(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The papers' figures over several test sets: those `RESULTS` whose protocols are all present.

    `DATA_zero_shot/mean` and `/deviation` over the splits; `DATA_base_to_novel/base`, `/novel` and
    `/harmonic_mean`.

    runs: accuracy by protocol, for each run. Runs that differ in the sampling of training videos
    are averaged first: the harmonic mean is that of two means.
    """
    shared = set.intersection(*(set(run) for run in runs))
    mean = {name: statistics.fmean(run[name] for run in runs) for name in shared}
    return {
        f"{result}/{number}": value
        for result, (protocols, combine) in RESULTS.items()
        if shared.issuperset(protocols)
        for number, value in combine(*(mean[name] for name in protocols)).items()
    }
