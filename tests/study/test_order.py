"""Which rows of claims see the order of frames, by construction.

Rows of the table of text-video retrieval as it stands are in tests/test_retrieval_table.py.
"""

import pytest
from frame_order import gap, in_three_orders

from configs.retrieval_table import ROWS
from vlt.study import plan
from vlt.study.claims import CLAIMS, order, tempme


def _asked():
    """Rows whose claims say whether they do, each once; other frame counts are left out."""
    rows = (row for claim in CLAIMS.values() for row in claim.rows if row.order is not None)
    found = {row.identity: row for row in rows}
    eight = [row for row in found.values() if "model.frames" not in row.changes]
    return [row for row in eight if row.config != tempme.CONFIG or row.changes]


@pytest.mark.quick(1)
@pytest.mark.parametrize("row", _asked(), ids=lambda row: row.identity[:80])
def test_a_row_sees_the_order_of_frames_where_its_claim_says_so(row):
    seen = gap(in_three_orders(plan.resolved(row)))
    assert seen > 1e-3 if row.order else seen < 1e-4


def test_rows_of_the_table_of_retrieval_say_what_is_tested_there():
    """And none of the table's methods is missing from the picture of all."""
    known = {row.entry[0]: row.sees_order for row in ROWS}
    shown = [row for row in order.ROWS if row.config == tempme.CONFIG and not row.changes]
    assert {row.entry for row in shown} == {*known}
    for claim in CLAIMS.values():
        for row in claim.rows:
            if row.config == tempme.CONFIG and not row.changes:
                assert row.order == known[row.entry], row.identity
