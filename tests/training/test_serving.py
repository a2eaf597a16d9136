"""Answering as one program on a mesh, compiled for slices that are not here."""

import jax
import jax.numpy as jnp
import pytest

from configs import video_chat
from vlt.model_io.build import abstract_params
from vlt.model_io.loading import build_for_shapes
from vlt.runtime.mesh import make_mesh
from vlt.training.serving import ANSWER, ServingProgram


@pytest.mark.slow
def test_shapes_of_answers():
    config = video_chat.get_config("")
    module = build_for_shapes(config.model)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    program = ServingProgram(config, mesh, module)
    params, inputs, words = program.shapes(2)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, abstract_params(module))
    assert words.ids.shape == (2, module.slots(config.model.frames))
    lowered = program.lower(params, inputs, words)
    assert lowered.out_info.shape == (2, ANSWER)
    assert lowered.compile().memory_analysis().temp_size_in_bytes > 0
