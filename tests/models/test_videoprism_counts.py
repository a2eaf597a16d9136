"""Parameter counts of VideoPrism's video-text models, for both sizes and each part."""

import jax
import pytest

from vlt.model_io.build import abstract_params, make_model
from vlt.models.sizes import SIZES

# The video encoder, the blocks over all patches, the pooler, the text tower, and the whole.
COUNTS = {
    "videoprism_b": (114_365_184, 14_175_744, 9_449_728, 109_632_768, 247_623_424),
    "videoprism_l": (353_965_056, 25_192_448, 16_793_856, 183_925_760, 579_877_120),
}


@pytest.mark.parametrize("size", COUNTS)
def test_parameters(size: str):
    spec = SIZES[size]
    params = abstract_params(make_model(spec, {}))
    visual = dict(params["visual"])
    first = sum(spec.visual.stages[:2])
    last = {name: visual.pop(name) for name in [*visual] if name in _blocks(first, 2)}
    parts = visual, last, visual.pop("pooler"), params["text"], params
    assert tuple(sum(x.size for x in jax.tree.leaves(part)) for part in parts) == COUNTS[size]


def _blocks(first: int, count: int) -> set[str]:
    return {f"blocks_{layer}" for layer in range(first, first + count)}
