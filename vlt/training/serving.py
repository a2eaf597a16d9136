"""Serves a chat model on a mesh: one program encodes videos, reads prompts and writes answers.

Compiled for an absent TPU slice, it shows whether a model fits there.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vlt.model_io.build import abstract_params, example_inputs, seen_inputs
from vlt.models.chat import ChatModel
from vlt.models.continuation import (
    START_ID,
    Answer,
    Ending,
    Reading,
    Words,
    advance,
    begin,
    bucket,
    read,
)
from vlt.models.search import Search
from vlt.runtime.mesh import batch_sharding, check_rules, param_sharding
from vlt.training.program import with_sharding

ANSWER = 64  # tokens of an answer


class ServingProgram:
    """Greedy answers of a config's chat model to prompts about videos."""

    def __init__(self, config: Any, mesh: Mesh, module: ChatModel):
        self._config, self._mesh, self._module = config, mesh, module

    def shapes(self, size: int) -> tuple[Any, Any, Words]:
        """Shapes of parameters, `encode_video`'s inputs for `size` videos, and prompts' words."""
        section, model = self._config.sharding, self._config.model
        params = abstract_params(self._module)
        check_rules(section.params, params)
        places = param_sharding(self._mesh, params, section.params, section.min_elements)
        examples = example_inputs(self._module.spec, model.frames, model.context, size)
        prompt = self._module.slots(model.frames) + model.get("prompt_tokens", 0)
        ids: Any = jax.ShapeDtypeStruct((size, prompt), jnp.int32)
        rows = (seen_inputs(self._module.spec, examples), Words(ids, ids))
        shardings = jax.tree.map(lambda _: batch_sharding(self._mesh), rows)
        return (with_sharding(params, places), *with_sharding(rows, shardings))

    def read(self, params: Any, inputs: tuple[jax.Array, ...], words: Words) -> Reading:
        """Reads prompts [b, n] without padding, with room left for answers."""
        tokens = self._module.apply({"params": params}, *inputs, method="encode_video")[0]
        room = bucket(words.ids.shape[1] + ANSWER)
        skipped = jnp.zeros(len(words.ids), jnp.int32)
        return read(self._module, params, words, tokens, skipped, room)

    def answers(self, params: Any, inputs: tuple[jax.Array, ...], words: Words) -> jax.Array:
        """Ids [b, ANSWER] of the answers that follow."""
        module, rows = self._module, len(words.ids)
        search = Search("greedy", max_length=ANSWER, min_length=ANSWER)
        ending, reading = Ending(module.spec.text.end_id), self.read(params, inputs, words)
        known = jnp.full((rows, 1), START_ID, jnp.int32)
        unseen = jnp.zeros((rows, 1), jnp.int32)
        begun = Answer(begin(reading, known, unseen, search, ending), reading.cache)
        end, until = (reading.end, reading.skipped), jnp.int32(ANSWER + 1)
        written = advance(module, params, begun, end, unseen, until, search, ending, 1)
        ids: jax.Array = written.state.ids[:, 0, 1:]
        return ids

    def lower(self, params: Any, inputs: tuple[Any, ...], words: Words) -> Any:
        """Lowers `answers`, to be compiled."""
        rules = tuple(self._config.sharding.activations.items())
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(rules):
            return jax.jit(self.answers).lower(params, inputs, words)
