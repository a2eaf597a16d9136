"""How likely a chat model finds given answers, to choose among candidates for a question.

The prompt, video included, is read once; the parts that differ among candidates follow in groups.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlt.data.text.chat_tokenizer import Prompt
from vlt.data.text.prompts import Turn
from vlt.inference.speech import Speech
from vlt.models.continuation import Reading, bucket, padded, read

AT_ONCE = 8  # candidates whose keys, values and logits are held together
STEP = 8  # tokens by which the lengths of compiled candidates differ


def answer_losses(
    speech: Speech, params: Any, tokens: jax.Array, question: str, candidates: Sequence[str]
) -> np.ndarray:
    """The negative log-likelihood of each answer to a question about one video, [n] in nats.

    Summed over an answer's tokens and what ends it, not averaged, so that long answers are less
    likely, as in the published code of InstructBLIP (arXiv:2305.06500).

    Args:
        tokens: [1, k, d], the video's.

    Raises:
        ValueError: no candidates, or a prompt that does not fit (`Speech.prompt`).
    """
    if not candidates:
        raise ValueError("no candidates to choose among")
    counts = [tokens.shape[1]]
    prompts = [speech.prompt([Turn(question, text, videos=1)], counts) for text in candidates]
    shared = _shared(prompts)
    rest = -(-(max(map(len, prompts)) - shared) // STEP) * STEP
    first = [(prompts[0].ids[:shared], prompts[0].video[:shared])]
    words, skipped = padded(first, bucket(shared))
    reading = read(speech.module, params, words, tokens, skipped, bucket(shared) + rest)
    count = -(-len(prompts) // AT_ONCE) * AT_ONCE
    ids, learned = np.zeros((count, rest), np.int32), np.zeros((count, rest), bool)
    for row, prompt in enumerate(prompts):
        left = len(prompt) - shared
        ids[row, :left], learned[row, :left] = prompt.ids[shared:], prompt.answer[shared:]
    found = [
        _losses(speech.module, params, reading, *each)
        for each in zip(*(np.split(x, count // AT_ONCE) for x in (ids, learned)), strict=True)
    ]
    return np.concatenate([np.asarray(each) for each in found])[: len(prompts)]


def _shared(prompts: Sequence[Prompt]) -> int:
    """The number of tokens with which all prompts begin, before the first one of any answer."""
    least = min(int(prompt.answer.argmax()) for prompt in prompts)
    heads = np.stack([prompt.ids[:least] for prompt in prompts])
    differ = (heads != heads[0]).any(0)
    return int(differ.argmax()) if differ.any() else least


@functools.partial(jax.jit, static_argnames="model")
def _losses(
    model: nn.Module, params: Any, reading: Reading, ids: jax.Array, learned: jax.Array
) -> jax.Array:
    """Losses of ids [g, l] that follow what was read of a prompt, summed over `learned`: [g]."""
    groups, length = ids.shape
    cache = jax.tree.map(lambda x: jnp.repeat(x, groups, axis=1), reading.cache)
    places = reading.end + jnp.arange(length) - reading.skipped[:, None]
    valid = jnp.arange(reading.room) >= reading.skipped[:, None]

    def decode(model: Any) -> jax.Array:
        given = {"cache": cache, "index": reading.end, "whole": True}
        found: jax.Array = model.decode(model.embed(ids)[None], places, valid, **given)[0]
        return found[0]

    logits: Any = model.apply({"params": params}, method=decode)
    before = jnp.broadcast_to(reading.logits[:, None], (groups, 1, logits.shape[-1]))
    logits = jnp.concatenate([before, logits[:, :-1]], axis=1)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
    return jnp.where(learned, each, 0.0).sum(-1)
