"""Texts from a decoder by greedy, beam or nucleus search: one compiled program for given shapes.

The prompt is read once, with the video. From then on each layer keeps keys and values of the text,
with room for the longest one and reordered with the beams, and a single copy of the video's,
however many beams read it. The search ends when no text can become better.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.bert import Memory, beginning_with
from vlt.models.search import Beams, BeamSearch, Sampling, Search, pick


@functools.partial(jax.jit, static_argnames=("model", "search"))
def generate(
    model: nn.Module,
    params: Any,
    tokens: jax.Array,
    prompt: jax.Array,
    search: Search,
    rng: jax.Array | None = None,
    source_bias: jax.Array | None = None,
) -> jax.Array:
    """Texts that begin with the prompt: int32 [b, max_length], end token included, then 0.

    Args:
        model: a module with `decode(ids [b, g, l], tokens, memory=, index=)`, as `Captioner` has,
            and a BertSpec as `spec.text`.
        tokens: [b, m, d] that texts are about. source_bias: [b, m] added to the logits of
            attention to them, where `decode` takes it, to mask padding.
        prompt: int32 [b, p], of one length; its first token is read as [DEC].
        rng: a key, for nucleus search.

    Raises:
        ValueError: the prompt leaves no room, or the model has fewer positions than max_length.
    """
    spec = model.spec.text
    _check(search, prompt.shape[1], spec.context, spec.vocab, rng)
    mask: dict[str, Any] = {} if source_bias is None else {"source_bias": source_bias}

    def decode(*inputs: jax.Array, **known: Any) -> Any:
        return model.apply({"params": params}, *inputs, **known, **mask, method="decode")

    searching: Any = Sampling(search, spec.end_id, rng)
    if search.method == "beam":
        searching = BeamSearch(search, spec.end_id, prompt.shape[1])
    prompt = beginning_with(spec.decode_id, prompt)[:, None]
    logits, memory = decode(prompt, tokens)
    state = searching.step(searching.start(prompt), logits[:, :, -1])
    known = [_room(layer.own, state.ids.shape) for layer in memory]

    def advance(carry: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        state, known = carry
        if isinstance(state, Beams):
            known = jax.tree.map(lambda x: pick(x, state.parents), known)
        last = state.length - 1
        ids = jax.lax.dynamic_slice_in_dim(state.ids, last, 1, axis=2)
        given = [Memory(own, layer.source) for own, layer in zip(known, memory, strict=True)]
        logits, read = decode(ids, memory=given, index=last)
        return searching.step(state, logits[:, :, 0]), [layer.own for layer in read]

    def goes_on(carry: tuple[Any, list[Any]]) -> jax.Array:
        return carry[0].open.any() & (carry[0].length < search.max_length)

    return searching.result(jax.lax.while_loop(goes_on, advance, (state, known))[0])


def _check(search: Search, prompt: int, context: int, vocab: int, rng: jax.Array | None) -> None:
    if prompt >= search.max_length:
        raise ValueError(
            f"a prompt of {prompt} tokens leaves no room in max_length={search.max_length}"
        )
    if search.max_length > context:
        raise ValueError(f"max_length={search.max_length}; the model has {context} positions")
    if search.method == "beam" and 2 * search.beams > vocab:
        raise ValueError(f"beams={search.beams}; {vocab} tokens are enough for {vocab // 2}")
    if search.method == "nucleus" and rng is None:
        raise ValueError("nucleus search draws: it needs a key")


def _room(known: Any, shape: tuple[int, ...]) -> Any:
    """Keys and values [b, 1, h, p, d] -> [b, g, h, l, d], for ids [b, g, l]."""
    _, groups, length = shape

    def extend(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, length - x.shape[3]), (0, 0)))
        return jnp.broadcast_to(x, (x.shape[0], groups, *x.shape[2:]))

    return jax.tree.map(extend, known)
