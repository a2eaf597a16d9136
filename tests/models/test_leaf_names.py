"""Leaf names that other modules refer to: a model declares each of them."""

import pytest

from vlt.model_io.build import abstract_params, make_model
from vlt.models import leaf_names
from vlt.models.sizes import SIZES
from vlt.models.spec import (
    BertSpec,
    BlipSpec,
    DualEncoderSpec,
    PoolerSpec,
    TextSpec,
    VisionSpec,
)
from vlt.pytrees.paths import by_path
from vlt.pytrees.patterns import match_all

BLIP_VISION = VisionSpec(16, 4, 8, 1, 2, 16, "gelu", pre_norm=False, patch_bias=True)
BERT = BertSpec(6, 20, 8, 1, 2, 16, 8, decode_id=18, encode_id=19, end_id=2)
SPECS = {
    "clip": SIZES["tiny_clip"],
    "viclip": SIZES["tiny_viclip"],
    "siglip": DualEncoderSpec(
        VisionSpec(16, 4, 8, 1, 2, 16, pool="attention", pooler=PoolerSpec(2, 8)),
        TextSpec(4, 9, 8, 1, 2, 16),
        8,
        logit_bias=True,
    ),
    "captioner": BlipSpec("captioner", BLIP_VISION, BERT),
    "retriever": BlipSpec("retriever", BLIP_VISION, BERT, embed_dim=4),
    "answerer": BlipSpec("answerer", BLIP_VISION, BERT),
}
NAMES = {name: value for name, value in vars(leaf_names).items() if name.isupper()}


@pytest.fixture(scope="module")
def paths():
    """Paths of the leaves of every kind of model, without methods."""
    return {kind: [*by_path(abstract_params(make_model(s, {})))] for kind, s in SPECS.items()}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_of_a_leaf(name, paths):
    patterns = [NAMES[name]] if isinstance(NAMES[name], str) else NAMES[name]
    found = match_all(patterns, [path for kind in paths.values() for path in kind])
    assert not [patterns[i] for i in found.dead]


def test_what_is_beside_them_is_what_a_video_passes_through(paths):
    """A new module of a model has to be assigned to one of the two sides."""
    for kind, leaves in paths.items():
        beside = match_all(leaf_names.NOT_VIDEO, leaves).winner
        assert {path.split("/")[0] for path in set(leaves) - beside.keys()} == {"visual"}, kind


def test_embeddings_of_a_retriever_pass_through_the_rest(paths):
    beside = match_all(leaf_names.NOT_EMBEDDING, paths["retriever"]).winner
    rest = {path.split("/")[0] for path in set(paths["retriever"]) - beside.keys()}
    assert rest == {"visual", "text", "text_projection"}
    assert not [path for path in set(paths["retriever"]) - beside.keys() if "cross" in path]
