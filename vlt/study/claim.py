"""What a claim is: a sentence of a paper, rows to run, and comparisons of them that decide."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """A run of a config.

    name: in tables, pictures and comparisons; one row has one name within a claim.
    config: NAME[:variant]. entry: title of one of its rows, '' for the config itself.
    changes: overrides of that, {dotted key: value}.
    order: whether what the model makes of a video depends on the order of its frames, by
        construction (tests/study/test_order.py); None where that is not asked.
    """

    name: str
    config: str
    entry: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    order: bool | None = None

    @property
    def identity(self) -> str:
        """What it is a run of, whatever the config says today: by which a kept row is known."""
        changed = ", ".join(f"{key}={value!r}" for key, value in sorted(self.changes.items()))
        return " | ".join(filter(None, (self.config, self.entry, changed)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`left` is to be above `right` (sign 1), or below it (-1).

    right: a row, or a number. measure: of `MEASURES`. margin: by how much it may fall short and
    still be as good, in the measure's own unit.
    """

    left: str
    right: str | float
    measure: str = "twins"
    sign: int = 1
    margin: float = 0.0


def above(measure: str, left: Row, *others: Row, margin: float = 0.0) -> tuple[Comparison, ...]:
    """`left` above each of the others."""
    return tuple(Comparison(left.name, each.name, measure, margin=margin) for each in others)


@dataclasses.dataclass(frozen=True)
class Picture:
    """Bars of a measure, or dots: `y` upwards over `x`.

    x: a measure, or the title of what `at` gives for each row, which rows without it lack; '' for
    bars. lines: names of rows that a line joins. area: the measure that is a dot's size.
    """

    y: str = "twins"
    x: str = ""
    at: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lines: tuple[tuple[str, ...], ...] = ()
    area: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    name: what --claims takes. paper: of `PAPERS`. place: in it. numbers: what it reports.
    decides: all of them must hold. columns: measures that its table shows.
    data: knobs of moving shapes for all its rows, as "noise=24,distractors=1", where the plain set
        is too easy or too hard to decide it (`vlt.data.moving_shapes.Knobs`).
    note: what else a reader must know. quick: whether a quick study has it.
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
        """The rows that are compared."""
        asked = {name for each in self.decides for name in (each.left, each.right)}
        return tuple(row for row in self.rows if row.name in asked)


@dataclasses.dataclass(frozen=True)
class Paper:
    """title: of the paper. differs: what is other here than there, for a claim that fails."""

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

    key: in its results, EVALUATION/METRIC or a fact of the run. title, format: of its column.
    chance: what differs by chance beside the seed: `pairs` of twins, whose choices are kept;
        `items`, of which it is a percentage; `none`, a count that is the same in every run;
        `seeds`, nothing else that could be told.
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
