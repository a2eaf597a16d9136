"""Claims of MSTA (Chen et al.), on actions of moving shapes: base classes and novel ones."""

from collections.abc import Mapping
from typing import Any

from vlt.study.claim import HM, Claim, Comparison, Picture, Row, above

CONFIG = "msta:all"
_PAPER = "msta"
COLUMNS = ("trained", "GMACs", "step", "base", "novel", HM)
# 3120 give 520 pairs of twins of novel classes; the 900 that tests of base classes use, only 150.
_NOVEL = "moving_shapes:actions:test:3120"
TESTED = {
    "evals.novel.manifest": f"{_NOVEL}:novel.jsonl",
    "evals.novel.classes": f"{_NOVEL}:novel_classes.txt",
}


def row(name: str, entry: str = "", **changes: Any) -> Row:
    """A row of the table of all recognition methods, with other values; `__` stands for a dot."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return Row(name, CONFIG, entry or name, TESTED | changes)


MSTA = row("MSTA")
CONSISTENT = row("MSTA, consistency loss")
ZERO_SHOT = row("zero-shot tiny ViCLIP")
ADAPTFORMER, LORA = row("AdaptFormer"), row("LoRA")
OF_CLIP = tuple(
    row(name)
    for name in (
        "zero-shot tiny CLIP", "ViFi-CLIP", "ViFi-CLIP's prompts", "Open-VCLIP", "ActionCLIP",
        "X-CLIP", "Vita-CLIP", "MoTE", "OST",
    )
)  # fmt: skip
TEXT_ALONE = row("text adapter alone", "MSTA", model__msta__towers=("text",))
VISION_ALONE = row("vision adapter alone", "MSTA", model__msta__towers=("visual",))
APART = row("without the shared projection", "MSTA", model__msta__shared=False)
WIDTHS = {
    width: row(f"{width} wide", "MSTA", model__msta__bottleneck=width) for width in (12, 24, 96)
} | {48: row("48 wide", "MSTA")}
SCALES = {
    scale: row(f"scale {scale:g}", "MSTA", model__msta__scale=scale) for scale in (0.2, 2.0, 10.0)
} | {1.0: row("scale 1", "MSTA")}
LOWER = row("lower two blocks", "MSTA", model__msta__layers=(0, 1))
LAST = row("last block", "MSTA", model__msta__layers=(3,), model__msta__text_layers=(1,))
UPPER = row("upper two blocks", "MSTA")
WEIGHTS = {
    weight: row(f"weight {weight:g}", "MSTA, consistency loss", task__consistency=weight)
    for weight in (0.1, 5.0)
} | {1.0: row("weight 1", "MSTA, consistency loss")}
_TOLD = "moving_shapes:actions:train:2160:base_{}.json"
SPATIAL, TEMPORAL = (
    row(f"{kind} descriptions", "MSTA, consistency loss", task__descriptions=(_TOLD.format(kind),))
    for kind in ("spatial", "temporal")
)
BOTH = row("both descriptions", "MSTA, consistency loss")
NONE = row("no descriptions", "MSTA")


def curve(rows: Mapping[Any, Row], title: str) -> Picture:
    """A picture of the harmonic mean over the value that is varied."""
    at = {rows[value].name: float(value) for value in sorted(rows)}
    return Picture(HM, title, at, (tuple(at),))


def in_order(rows: Mapping[Any, Row]) -> tuple[Row, ...]:
    return tuple(rows[value] for value in sorted(rows))


CLAIMS = (
    Claim(
        "both-towers",
        "Adapters in both towers are better than in either alone.",
        _PAPER,
        "Table 6a",
        "HM: both 60.1, text 57.9, vision 57.9",
        (TEXT_ALONE, VISION_ALONE, MSTA),
        above(HM, MSTA, TEXT_ALONE, VISION_ALONE),
        COLUMNS,
        Picture(HM),
    ),
    Claim(
        "shared-projection",
        "The projection that both towers share helps.",
        _PAPER,
        "Table 6a",
        "HM: with 60.1, without 59.5",
        (APART, MSTA),
        above(HM, MSTA, APART),
        COLUMNS,
        Picture(HM),
    ),
    Claim(
        "bottleneck",
        "Wider adapters are better on base classes; on both together up to the default width.",
        _PAPER,
        "Table 6b",
        "base / HM: 64 wide 67.5 / 58.9, 128 68.2 / 59.7, 256 68.6 / 60.1, 512 68.7 / 60.0",
        in_order(WIDTHS),
        (
            *above("base", WIDTHS[96], WIDTHS[12]),
            *above(HM, WIDTHS[48], WIDTHS[12]),
            *above(HM, WIDTHS[48], WIDTHS[96], margin=1.0),
        ),
        COLUMNS,
        curve(WIDTHS, "width of the bottleneck"),
        note="The default is 48 here and 256 there. It may be 1 point below the widest.",
    ),
    Claim(
        "scale",
        "A scale ten times the default is too much, a fifth of it too little.",
        _PAPER,
        "Table 6c",
        "HM: 0.001 59.5, 0.005 60.1, 0.01 59.7, 0.05 50.4",
        in_order(SCALES),
        above(HM, SCALES[1.0], SCALES[0.2], SCALES[10.0]),
        COLUMNS,
        curve(SCALES, "scale"),
        note="The default is 1 here and 0.005 there; the factors are those of the paper.",
    ),
    Claim(
        "adapter-layers",
        "Adapters in upper blocks are better than in as many lower ones, and more of them better.",
        _PAPER,
        "Table 6f",
        "HM: layers 1-6 59.3, 7-12 59.6, 10-12 58.1, 1-12 60.1",
        (LOWER, LAST, UPPER),
        above(HM, UPPER, LOWER, LAST),
        COLUMNS,
        Picture(HM),
    ),
    Claim(
        "consistency",
        "The consistency loss helps, on novel classes too, and a weight of 1 is best.",
        _PAPER,
        "Tables 2 and 6d",
        "HM (K-400): without 71.7, with 72.0; novel 66.2 and 66.5; weights 0.1, 1, 5: 59.7, 60.1, "
        "59.8 (four data sets)",
        (MSTA, *in_order(WEIGHTS)),
        (
            *above("novel", WEIGHTS[1.0], MSTA),
            *above(HM, WEIGHTS[1.0], MSTA, WEIGHTS[0.1], WEIGHTS[5.0]),
        ),
        COLUMNS,
        Picture(HM),
    ),
    Claim(
        "descriptions",
        "Spatial and temporal descriptions both help, temporal ones more.",
        _PAPER,
        "Table 7",
        "HM: none 59.77, spatial alone 60.06, temporal alone 59.97, both 60.12",
        (NONE, SPATIAL, TEMPORAL, BOTH),
        (*above(HM, BOTH, SPATIAL, TEMPORAL, NONE), *above(HM, TEMPORAL, SPATIAL)),
        COLUMNS,
        Picture(HM),
        note="The paper's text has temporal ones help more, its table spatial ones. Classes have "
        "one set of descriptions here, so that their number is not varied.",
    ),
    Claim(
        "recognition",
        "MSTA has the highest harmonic mean of all methods, with fewer trained parameters than "
        "those that train whole towers.",
        _PAPER,
        "Figure 1, Tables 2 and 5",
        "HM (K-400): MSTA 72.0, AdaptFormer 71.1, LoRA 70.9, OST 66.6, X-CLIP 64.5, ViFi-CLIP "
        "68.2, ActionCLIP 53.4; parameters (M): 8.7, AdaptFormer 7.9, LoRA 9.4, X-CLIP 132, OST "
        "149.6",
        (ZERO_SHOT, ADAPTFORMER, LORA, MSTA, CONSISTENT, *OF_CLIP),
        (
            *above(HM, CONSISTENT, ADAPTFORMER, LORA, *OF_CLIP[1:]),
            *(
                Comparison(CONSISTENT.name, whole, "trained", sign=-1)
                for whole in ("ViFi-CLIP", "Open-VCLIP", "ActionCLIP", "X-CLIP", "MoTE", "OST")
            ),
        ),
        COLUMNS,
        Picture(HM, "trained", area="GMACs"),
        note="Methods of a CLIP are over the tiny one, which was trained on single frames.",
        quick=False,
    ),
)
