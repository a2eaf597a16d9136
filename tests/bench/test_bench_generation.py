"""The benchmark of generation at a small size: what is compared. No times are asserted."""

import dataclasses

import jax
import numpy as np
import pytest

from vlt.bench import generation
from vlt.model_io.build import init_params
from vlt.models.search import Search
from vlt.models.sizes import SIZES
from vlt.models.spec import BertSpec, VisionSpec

SPEC = dataclasses.replace(
    SIZES["blip_b16_captioner"],
    visual=VisionSpec(
        16, 8, 128, 1, 2, 48, "gelu", 1e-6, pre_norm=False, patch_bias=True, projection_bias=True
    ),
    text=BertSpec(16, 90, 64, 2, 1, 96, 128, decode_id=80, encode_id=81, end_id=7),
)
SEARCH = Search(beams=3, max_length=8, min_length=8, semantics="transformers")


def spread(*arguments):
    """Initial weights, scaled up so that words depend on the video."""
    return jax.tree.map(lambda x: 4 * x, init_params(*arguments))


@pytest.mark.slow
def test_both_sides_write_the_same_texts(monkeypatch):
    called = []

    def turns(*functions, rounds):
        called.extend(np.asarray(function()) for function in functions)
        return np.array([[1.0, 2.0, 4.0, 12.0]] * rounds)

    monkeypatch.setattr(generation, "turns", turns)
    monkeypatch.setattr(generation, "init_params", spread)
    found = generation.bench_generation(SPEC, 2, 3, SEARCH, rounds=2, vision=True)
    assert found == {
        "source_tokens": 10,
        "same_texts": 1.0,
        "search_s": 1.0,
        "peer_search_s": 2.0,
        "times_as_fast": 2.0,
        "with_vision_s": 4.0,
        "peer_with_vision_s": 12.0,
        "with_vision_times_as_fast": 3.0,
    }
    for ids in called:
        np.testing.assert_array_equal(ids, called[0])
    assert called[0].shape == (3, 8) and SPEC.text.end_id not in called[0][:, :-1]
    assert len({tuple(row) for row in called[0].tolist()}) > 1
