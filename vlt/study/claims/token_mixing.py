"""Claims of Token Mixing (Liu et al.), on captions of moving shapes over the tiny BLIP."""

from vlt.study.claim import Claim, Comparison, Picture, Row, above

CONFIG = "token_mixing:all"
COLUMNS = ("trained", "GMACs", "peak", "step", "CIDEr", "twins")


def row(name: str, order: bool | None = None, entry: str = "") -> Row:
    """A row of the benchmark on moving shapes, titled `entry` there, or else `name`."""
    return Row(name, CONFIG, entry or name, order=order)


BITFIT = row("BitFit", False)
ADAPTER = row("Adapter", False)
ST_ADAPTER = row("ST-Adapter", True)
TEMPORAL = row("Temporal FT", False)
TEMPORAL_LEARNED = row("Temporal FT, learned positions", True)
DUAL = row("Dual-channel attention", False)
DUAL_LEARNED = row("Dual-channel attention, learned positions", True)
VIVIT = row("ViViT, full fine-tuning", False)
MIX = row("Mix", True)
FULL_MIX = row("Mix, full fine-tuning", True)
UNMIXED = row("last block without mixing", False)
FULL_UNMIXED = row("full fine-tuning without mixing", False)
METHODS = (
    BITFIT, ADAPTER, ST_ADAPTER, TEMPORAL, TEMPORAL_LEARNED, DUAL, DUAL_LEARNED, VIVIT, MIX,
    FULL_MIX,
)  # fmt: skip
PARTS = tuple(
    row(name, entry=f"Mix, {entry}")
    for name, entry in {
        "without projection and head": "no_lp_lh",
        "without head": "no_lh",
        "without projection": "no_lp",
        "without the block": "no_block",
        "attention of the block": "attn",
        "MLP of the block": "ffn",
    }.items()
)
LAYERS = (*(row(f"Mix at block {layer}") for layer in (1, 2, 3)), MIX)
_PAPER = "token_mixing"
_INTERACTION = (ST_ADAPTER, TEMPORAL, DUAL, MIX)
_TABLE_1 = (
    "MSVD CIDEr: Mix 146.9, Temp FT 144.7, Dual Attn 144.7, ST-Adapter 141.7; BitFit 132.5, "
    "Adapter 127.3"
)


CLAIMS = (
    Claim(
        "interaction",
        "Methods in which frames interact caption better than those in which they do not "
        "(observation 2).",
        _PAPER,
        "Table 1",
        _TABLE_1,
        (BITFIT, ADAPTER, *_INTERACTION),
        tuple(above("CIDEr", each, ADAPTER)[0] for each in _INTERACTION),
        COLUMNS,
        Picture("CIDEr"),
        note="CIDEr is of captions of looks alone, so it does not need the order of frames.",
    ),
    Claim(
        "interaction-order",
        "Methods in which frames interact know what happens in time (observation 2), in the forms "
        "that the benchmark has.",
        _PAPER,
        "Table 1",
        _TABLE_1,
        (BITFIT, ADAPTER, *_INTERACTION),
        tuple(above("twins", each, ADAPTER)[0] for each in _INTERACTION),
        COLUMNS,
        note="Temporal FT and Dual-channel attention have no time positions in the benchmark, and "
        "its decoder reads all tokens of all frames as a set: 50% by construction.",
    ),
    Claim(
        "interaction-positions",
        "With learned time positions, attention over time tells what happens.",
        "ours",
        "not in the paper",
        "none",
        (TEMPORAL, TEMPORAL_LEARNED, DUAL, DUAL_LEARNED),
        (
            *above("twins", TEMPORAL_LEARNED, TEMPORAL),
            *above("twins", DUAL_LEARNED, DUAL),
        ),
        COLUMNS,
    ),
    Claim(
        "mixing",
        "Token mixing is better than the plain block, partially and fully fine-tuned.",
        _PAPER,
        "Table 3",
        "MSVD CIDEr: partial 146.3 -> 146.9, full 150.1 -> 151.2",
        (UNMIXED, MIX, FULL_UNMIXED, FULL_MIX),
        (*above("twins", MIX, UNMIXED), *above("twins", FULL_MIX, FULL_UNMIXED)),
        COLUMNS,
    ),
    Claim(
        "mixing-depth",
        "Token mixing in a deeper layer is better.",
        _PAPER,
        "Figure 4",
        "a curve over 12 layers, better in deeper ones",
        LAYERS,
        above("twins", MIX, *LAYERS[:-1]),
        COLUMNS,
        Picture(
            x="block that mixes, and is trained",
            at={each.name: index + 1 for index, each in enumerate(LAYERS)},
            lines=(tuple(each.name for each in LAYERS),),
        ),
    ),
    Claim(
        "mixing-parts",
        "The visual projection and the language head matter: without training either, or the "
        "block, captions are worse.",
        _PAPER,
        "Table 4",
        "MSVD CIDEr: all 146.9; without both 138.9, without head 141.2, without projection 146.1, "
        "without the block 134.4",
        (*PARTS[:4], MIX),
        above("CIDEr", MIX, *PARTS[:4]),
        COLUMNS,
        Picture("CIDEr"),
        quick=False,
    ),
    Claim(
        "mixing-mlp",
        "Of the mixing block, training the MLP alone is nearly enough, and better than attention "
        "alone.",
        _PAPER,
        "Table 4",
        "MSVD CIDEr: all 146.9, MLP 145.5, attention 144.5",
        (*PARTS[4:], MIX),
        (*above("twins", PARTS[5], MIX, margin=2.0), *above("twins", PARTS[5], PARTS[4])),
        COLUMNS,
        note="Nearly enough: at most 2 points of twins below.",
    ),
    Claim(
        "mixing-partial",
        "Tuning the mixing block alone is on par with full fine-tuning of ViViT; full fine-tuning "
        "with mixing is better still.",
        _PAPER,
        "Tables 1 and 3",
        "MSVD CIDEr: Mix 146.9, ViViT 149.1, Mix fully fine-tuned 151.2",
        (MIX, VIVIT, FULL_MIX),
        (*above("twins", MIX, VIVIT, margin=2.0), *above("twins", FULL_MIX, MIX)),
        COLUMNS,
        note="On par: at most 2 points of twins below.",
    ),
    Claim(
        "mixing-best",
        "Mix is the best method that tunes part of the model, at equal steps.",
        _PAPER,
        "Table 1",
        _TABLE_1,
        METHODS,
        above("twins", MIX, BITFIT, ADAPTER, ST_ADAPTER, TEMPORAL, DUAL),
        COLUMNS,
        Picture(x="trained", area="GMACs"),
    ),
    Claim(
        "mixing-cost",
        "Of the methods in which frames interact, Mix trains the fewest parameters and needs the "
        "least memory.",
        _PAPER,
        "Table 1",
        "parameters (M): Mix 7.1, Temp FT 28.3, ST-Adapter 54.8, Dual Attn 84.9; memory: 20.2, "
        "22.5, 21.9, 25.9",
        _INTERACTION,
        tuple(
            Comparison(MIX.name, each.name, measure, sign=-1)
            for measure in ("trained", "peak")
            for each in _INTERACTION[:-1]
        ),
        COLUMNS,
        Picture("peak"),
        note="Peak memory is what XLA plans for a step on this machine.",
    ),
)
