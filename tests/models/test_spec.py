"""Named sizes are those of the published and of the packaged models."""

import dataclasses
import math

import jax
import pytest

from vlt.data.resources import resolve
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.folder import read_model_config
from vlt.models.spec import SIZES

# Of OpenAI's CLIPs.
PARAMETERS = {"clip_b16": 149_620_737, "clip_l14": 427_616_513}


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_viclip", "tiny_blip"])
def test_packaged_models_have_the_size_of_their_name(name):
    assert read_model_config(resolve(name)).spec == SIZES[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_published_models(name):
    leaves = jax.tree.leaves(abstract_params(make_model(SIZES[name], {})))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == PARAMETERS[name]


@pytest.mark.parametrize("kind", ["captioner", "retriever", "answerer"])
@pytest.mark.parametrize(("size", "clip"), [("b16", "clip_b16"), ("l16", "clip_l14")])
def test_blips_have_a_clips_vision_tower_and_bert(kind, size, clip):
    spec, tower = SIZES[f"blip_{size}_{kind}"], SIZES[clip].visual
    assert (spec.kind, spec.text.source_width) == (kind, tower.width)
    assert (spec.visual.width, spec.visual.layers) == (tower.width, tower.layers)
    assert (spec.text.context, spec.text.layers, spec.text.width) == (512, 12, 768)
    for part in (spec.visual, spec.text):
        assert part.width == 64 * part.heads and part.mlp_width == 4 * part.width


def test_the_narrow_model_is_half_a_large_one():
    large, narrow = SIZES["clip_l14"], SIZES["clip_l14_narrow"]
    assert narrow.embed_dim == large.embed_dim / 2
    for half, whole in ((narrow.visual, large.visual), (narrow.text, large.text)):
        fields = {name: getattr(whole, name) // 2 for name in ("width", "heads", "mlp_width")}
        assert half == dataclasses.replace(whole, **fields)
