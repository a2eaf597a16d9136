"""Methods that are only lists of rules train the leaves that the papers count."""

import functools

import jax
import pytest

from vlt.model_io.build import abstract_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.training.rules import partition

FROZEN = (".*", "frozen")


@functools.cache
def shapes(size: str) -> dict:
    return abstract_params(DualEncoder(SIZES[size]))


@pytest.mark.parametrize(
    ("size", "pattern", "expected"),
    [
        # BitFit: the biases of dense layers and of LayerNorms; the patch embedding has none
        ("clip_b32", ".*/bias", 171_008),
        ("clip_b16", "visual/.*/bias", 102_912),
        # CLIP4Clip, full fine-tuning in the paper's counting: blocks, norms and projections, no
        # embeddings (patches, classes, positions, tokens) and no temperature
        (
            "clip_b32",
            "(visual|text)/(blocks_.*|(pre|post|final)_norm/.*|projection/.*)",
            123_542_528,
        ),
        # Full fine-tuning of all leaves
        ("clip_b32", ".*", 151_277_313),
        # Partial fine-tuning: the last block of both towers
        ("clip_b32", ".*/blocks_11/.*", 7_087_872 + 3_152_384),
    ],
)
def test_rules_train_what_the_papers_count(size, pattern, expected):
    rules = ((pattern, {"lr": 1.0}), FROZEN) if pattern != ".*" else ((pattern, {"lr": 1.0}),)
    trained, _ = partition(shapes(size), rules)
    assert sum(leaf.size for leaf in jax.tree.leaves(trained)) == expected
