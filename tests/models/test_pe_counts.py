"""Parameters of PE-Core and EVA02-CLIP, of every size."""

import jax
import pytest

from vlt.model_io.build import abstract_params, make_model
from vlt.models.sizes import SIZES

# The vision tower, its pooler, the text tower and the whole; EVA02's text tower is CLIP's.
COUNTS = {
    "pe_b16": (93_672_960, 7_087_104, 353_986_560, 447_659_521),
    "pe_t16": (6_140_544, 444_672, 63_405_056, 69_545_601),
    "pe_s16": (23_782_656, 1_774_080, 63_405_056, 87_187_713),
    "pe_l14": (317_151_232, 12_595_200, 353_986_560, 671_137_793),
    "pe_g14": (1_882_032_640, 28_329_984, 537_233_920, 2_419_266_561),
    "eva02_b16": (86_263_040, 0, 63_428_096, 149_691_137),
    "eva02_l14": (304_105_152, 0, 123_650_304, 427_755_457),
    "eva02_l14_336": (304_432_832, 0, 123_650_304, 428_083_137),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("size", COUNTS)
def test_parameters(size: str):
    params = abstract_params(make_model(SIZES[size], {}))
    parts = params["visual"], params["visual"].get("pooler", {}), params["text"], params
    assert tuple(sum(x.size for x in jax.tree.leaves(part)) for part in parts) == COUNTS[size]
