"""Parameter and operation counts of the published ViCLIPs, from shapes alone."""

from typing import Any

import pytest
from flax import traverse_util

from configs import common
from vlt.costs.flops import count
from vlt.inspect import inspect_config
from vlt.model_io.build import abstract_params, example_inputs, make_model
from vlt.models.sizes import SIZES

TOTAL = {"viclip_b16": 149_603_841, "viclip_l14": 427_590_145}
TOWERS = {
    "viclip_b16": {"visual": 86_198_784, "text": 63_405_056, "logit_scale": 1},
    "viclip_l14": {"visual": 303_974_400, "text": 123_615_744, "logit_scale": 1},
}
WORDS = {"viclip_b16": 25_296_896, "viclip_l14": 37_945_344}
MULTIPLY_ADDS = {"viclip_b16": 179.56, "viclip_l14": 826.37}
TEXT = {"viclip_b16": 1.22, "viclip_l14": 2.74}
TOKENS = {"viclip_b16": 1569, "viclip_l14": 2049}


def inspected(size: str, frames: int = 8) -> dict[str, Any]:
    config = common.base()
    config.model.update(size=size, frames=frames, context=32)
    return inspect_config(config)


@pytest.mark.parametrize("size", TOTAL)
def test_parameters(size: str):
    flat = traverse_util.flatten_dict(abstract_params(make_model(SIZES[size], {}, 8)), sep="/")
    towers = dict.fromkeys(("visual", "text", "logit_scale"), 0)
    for path, leaf in flat.items():
        towers[path.partition("/")[0]] += leaf.size
    assert towers == TOWERS[size]
    assert flat["text/token_embedding/embedding"].size == WORDS[size]


@pytest.mark.parametrize("size", TOTAL)
def test_operations(size: str):
    """As printed without normalisations; at most 0.5% more with them (at 5 an element)."""
    report = inspected(size)
    assert report["total_params"] == TOTAL[size]
    assert report["video_multiply_adds"] / 1e9 == pytest.approx(MULTIPLY_ADDS[size], abs=0.005)
    assert report["video_gmacs"] == pytest.approx(MULTIPLY_ADDS[size], rel=0.005)
    assert report["text_gmacs"] == pytest.approx(TEXT[size], rel=0.01)
    layers = SIZES[size].visual.layers
    assert report["tokens_per_layer"] == [[1, TOKENS[size]]] * layers


@pytest.mark.slow
def test_the_closed_form():
    visual = SIZES["viclip_b16"].visual
    n, d = 1 + 8 * 196, visual.width
    linear = visual.layers * 12 * n * d * d + 8 * 196 * 3 * 16 * 16 * d + d * 512
    attention = visual.layers * 2 * n * n * d
    model = make_model(SIZES["viclip_b16"], {}, 8, cls_only=False)
    video, _ = example_inputs(model.spec, 8, 32)

    def encode(params: Any, video: Any) -> Any:
        return model.apply({"params": params}, video, method="encode_video")[0]

    counts = count(encode, abstract_params(model), video)
    assert (counts.linear, counts.product) == (linear, attention)
    assert inspected("viclip_b16")["video_multiply_adds"] == linear + attention


@pytest.mark.slow
def test_more_and_fewer_frames():
    """More frames need more rows of the table; fewer frames leave the rows as they are."""
    more, fewer = inspected("viclip_b16", 16), inspected("viclip_b16", 4)
    assert more["total_params"] == TOTAL["viclip_b16"] + 8 * 768
    assert fewer["total_params"] == TOTAL["viclip_b16"]
    assert more["output_tokens"] == 1 + 16 * 196 and fewer["output_tokens"] == 1 + 4 * 196
