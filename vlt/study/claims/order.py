"""Which methods see the order of frames, and how much of it they learn: all tested on twins."""

import dataclasses

from vlt.study.claim import Claim, Comparison, Picture, Row
from vlt.study.claims import btadapter, tempme, token_mixing

RETRIEVAL = (
    tempme.LORA, tempme.TOME, tempme.TEMPME, tempme.NO_POSITIONS, tempme.PROMPT[""],
    tempme.ADAPTER[""], *tempme.OTHERS,
)  # fmt: skip


def told(row: Row, base: str) -> Row:
    """The row, named with the model that it is over, since one table has several."""
    return dataclasses.replace(row, name=f"{row.name} ({base})")


ROWS = (
    *(told(row, "CLIP") for row in (*RETRIEVAL, *btadapter.METHODS)),
    *(told(row, "BLIP") for row in token_mixing.METHODS),
    *(told(row, "chat") for row in btadapter.CHATS),
)

CLAIMS = (
    Claim(
        "order",
        "Every method that sees the order of frames by construction learns some of it; one that "
        "does not is at 50%.",
        "ours",
        "not in the papers",
        "none",
        ROWS,
        tuple(Comparison(row.name, 50.0) for row in ROWS if row.order),
        ("trained", "GMACs", "twins"),
        Picture(x="trained", area="GMACs"),
        note="Which methods see order is proved at random weights, one by one, in "
        "tests/study/test_order.py.",
        quick=False,
    ),
)
