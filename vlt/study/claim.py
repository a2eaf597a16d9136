"""What a claim is: a sentence of a paper, rows to run, and the comparisons that decide it."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """A run of a config.

    name: used in tables, pictures and comparisons; unique within a claim.
    config: NAME[:variant]. entry: title of one of its rows, '' for the config itself.
    changes: overrides of that row, {dotted key: value}.
    order: whether what the model makes of a video depends on the order of its frames, by
        construction (tests/study/test_order.py); None if that is not asked.
    """

    name: str
    config: str
    entry: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    order: bool | None = None

    @property
    def identity(self) -> str:
        """What the row runs, whatever the config says today; identifies kept rows."""
        changed = ", ".join(f"{key}={value!r}" for key, value in sorted(self.changes.items()))
        return " | ".join(filter(None, (self.config, self.entry, changed)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`left` must be above `right` (sign 1), or below it (-1).

    left: name of a row. right: name of a row, or a number. measure: a key of `MEASURES`.
    margin: by how much `left` may fall short and still count as good, in the measure's own unit.
    """

    left: str
    right: str | float
    measure: str = "twins"
    sign: int = 1
    margin: float = 0.0


def above(measure: str, left: Row, *others: Row, margin: float = 0.0) -> tuple[Comparison, ...]:
    """Comparisons with `left` above each of the others."""
    return tuple(Comparison(left.name, each.name, measure, margin=margin) for each in others)


@dataclasses.dataclass(frozen=True)
class Picture:
    """Bars of a measure `y`, or dots of `y` over `x`.

    x: a measure, or the title of the values that `at` gives by row, leaving out rows without one;
    '' for bars. lines: names of rows that a line joins. area: the measure shown as a dot's size.
    """

    y: str = "twins"
    x: str = ""
    at: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lines: tuple[tuple[str, ...], ...] = ()
    area: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    name: what --claims takes. paper: a key of `PAPERS`. place: where in the paper. numbers: what
        the paper reports. decides: comparisons that must all hold. columns: measures in its table.
    data: knobs of moving shapes for all its rows, as "noise=24,distractors=1", if the plain set is
        too easy or too hard to decide it (`vlt.data.moving_shapes.Knobs`).
    note: what else a reader must know. quick: whether a quick study includes it.
    """

    name: str
    sentence: str
    paper: str
    place: str
    numbers: str
    rows: tuple[Row, ...]
    decides: tuple[Comparison, ...]
    columns: tuple[str, ...] = ("trained", "GMACs", "twins", "R@1")
    picture: Picture = Picture()
    data: str = ""
    note: str = ""
    quick: bool = True

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        asked = {name for each in self.decides for name in (each.left, each.right)}
        asked |= {name for line in self.picture.lines for name in line} | {*self.picture.at}
        missing = {name for name in asked if isinstance(name, str)} - {*names}
        if missing or len(set(names)) < len(names) or not self.decides:
            raise ValueError(
                f"claim {self.name!r}: rows have one name each, comparisons and pictures names of "
                f"rows; not so: {sorted(missing) or names}"
            )

    @property
    def deciding(self) -> tuple[Row, ...]:
        """The rows that the comparisons name."""
        asked = {name for each in self.decides for name in (each.left, each.right)}
        return tuple(row for row in self.rows if row.name in asked)


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper. differs: how its setting differs from ours, for claims that do not hold."""

    title: str
    differs: str


_HERE = (
    "clips are 8 frames of 32 x 32 pixels, of moving shapes, and training is a few hundred steps"
)
PAPERS = {
    "token_mixing": Paper(
        "Token Mixing",
        "there a BLIP of 12 layers, pre-trained on 129 million images, is tuned on people's "
        "videos; here one of 4 layers, pre-trained on single frames of moving shapes; " + _HERE,
    ),
    "tempme": Paper(
        "TempMe",
        "there a CLIP of 12 layers and 50 or 197 tokens a frame is tuned on people's videos, many "
        "of which one frame tells; here one of 4 layers and 17 tokens, of whose twins no frame "
        "tells anything; " + _HERE,
    ),
    "btadapter": Paper(
        "BT-Adapter",
        "there a CLIP of 24 layers, 2 million videos of WebVid and a language model of 7 billion "
        "parameters; here 4 layers, 3,000 pairs of clips and a language model of 4 layers; "
        + _HERE,
    ),
    "msta": Paper(
        "MSTA",
        "there a ViCLIP of 12 layers that saw 10 million videos, and classes of people's actions; "
        "here one of 4 layers that saw moving shapes, and 30 classes of two motions; " + _HERE,
    ),
    "ours": Paper("this project", _HERE),
}


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a run.

    key: its key in the results, EVALUATION/METRIC or a fact of the run.
    title, format: those of its column.
    chance: what varies by chance besides the seed: `pairs` of twins, whose choices are kept;
        `items`, of which it is a percentage; `none`, for a count that is the same in every run;
        `seeds`, nothing else that could be estimated.
    """

    key: str
    title: str
    format: str
    chance: str

    @property
    def evaluation(self) -> str:
        return self.key.partition("/")[0]


HM = "HM"
MEASURES = {
    "twins": Measure("twins/twins_v2t", "twins v2t, %", ".1f", "pairs"),
    "R@1": Measure("static/t2v_R@1", "static R@1, %", ".1f", "items"),
    "CIDEr": Measure("clips/CIDEr", "CIDEr", ".1f", "seeds"),
    "looks": Measure("looks/exact", "looks, %", ".1f", "items"),
    "base": Measure("base/top1", "base, %", ".1f", "items"),
    "novel": Measure("novel/top1", "novel, %", ".1f", "items"),
    HM: Measure("moving_shapes_base_to_novel/harmonic_mean", "harmonic mean, %", ".1f", "items"),
    "trained": Measure("trained_params", "trained parameters", ",.0f", "none"),
    "GMACs": Measure("inspect/video_gmacs", "GMACs", ".4f", "none"),
    "tokens": Measure("inspect/tokens_to_llm", "tokens", ",.0f", "none"),
    "peak": Measure("peak_mb", "peak MB of a step", ",.0f", "none"),
    "step": Measure("step_ms", "step ms", ",.0f", "seeds"),
}
