"""BLIP's text model matches transformers' in all modes, also with caches and groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from blip_text import SMALL, captioner, carried, equal, published, sources, text_params, texts

from vlt.models.bert import Bert, Memory

ATOL = 2e-5
LOWEST = np.finfo(np.float32).min


@pytest.fixture(scope="module")
def peer():
    return published(SMALL)


@pytest.fixture(scope="module")
def params(peer):
    return carried(peer)


def hidden(params, ids, source=None, source_bias=None):
    """Final states of the encoder, which has no head."""
    encoder = {name: leaf for name, leaf in params.items() if name != "lm_head"}

    @jax.jit
    def run(ids, source, source_bias):
        return Bert(SMALL).apply({"params": encoder}, ids, source, source_bias=source_bias)[0]

    return run(ids[:, None], source, source_bias)


@jax.jit
def logits(params, ids, source):
    """Logits of the decoder: ids [b, g, l] -> [b, g, l, v]."""
    variables = {"params": {"text": params}}
    return captioner(SMALL).apply(variables, ids, source, method="decode")[0]


def padded_texts():
    ids = texts(SMALL, 3, 8)
    ids[1, 5:] = 0
    ids[2, 2:] = 0
    return ids


def test_a_text_alone_is_read_in_both_directions(peer, params):
    ids = padded_texts()
    with torch.inference_mode():
        theirs = peer.bert(torch.from_numpy(ids), torch.from_numpy(ids > 0), is_decoder=False)
    equal(hidden(params, ids), theirs.last_hidden_state, ATOL)


def test_a_text_and_what_it_is_about(peer, params):
    ids, source = padded_texts(), sources(SMALL, 3)
    with torch.inference_mode():
        theirs = peer.bert(
            torch.from_numpy(ids),
            torch.from_numpy(ids > 0),
            encoder_hidden_states=torch.from_numpy(source),
            is_decoder=False,
        )
    equal(hidden(params, ids, source), theirs.last_hidden_state, ATOL)


def test_masked_tokens_of_the_source_are_not_there(params):
    # transformers 5.23 drops the source's mask on its way to BLIP's cross-attention.
    ids, source = padded_texts(), sources(SMALL, 3)
    bias = np.where(np.arange(5) < 3, np.float32(0), LOWEST)
    masked = hidden(params, ids, source, np.broadcast_to(bias, source.shape[:2]))
    np.testing.assert_allclose(masked, hidden(params, ids, source[:, :3]), rtol=0, atol=ATOL)


def test_the_decoder_says_what_comes_next(peer, params):
    ids, source = texts(SMALL, 3, 8), sources(SMALL, 3)
    with torch.inference_mode():
        theirs = peer(torch.from_numpy(ids), encoder_hidden_states=torch.from_numpy(source))
    equal(logits(params, ids[:, None], source), theirs.logits, ATOL)


@pytest.mark.slow
def test_gradients_of_the_decoder(peer, params):
    ids, source = texts(SMALL, 2, 6), sources(SMALL, 2)
    weights = np.random.default_rng(3).normal(size=(2, 6, SMALL.vocab)).astype(np.float32)
    tokens = torch.from_numpy(source).requires_grad_()
    peer.zero_grad()
    found = peer(torch.from_numpy(ids), encoder_hidden_states=tokens).logits
    (found * torch.from_numpy(weights)).mean().backward()

    def mean(params, source):
        return (logits(params, ids[:, None], source)[:, 0] * weights).mean()

    ours, of_source = jax.jit(jax.grad(mean, argnums=(0, 1)))(params, source)
    equal(of_source, tokens.grad, 1e-6)
    gradients = {name: p.grad for name, p in peer.named_parameters()}
    theirs = text_params(gradients)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, left), right in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        np.testing.assert_allclose(left, right, 1e-3, 1e-6, err_msg=jax.tree_util.keystr(path))


def with_room(memory, length):
    """Extends the memory to have room for `length` tokens of the text."""

    def extend(x):
        return jnp.pad(x, ((0, 0),) * 3 + ((0, length - x.shape[3]), (0, 0)))

    return [Memory(jax.tree.map(extend, layer.own), layer.source) for layer in memory]


@pytest.mark.quick(1)
@pytest.mark.parametrize("groups", [1, 2])
def test_word_by_word_is_the_same_as_at_once(params, groups):
    length, prompt = 7, 3
    ids = texts(SMALL, 2 * groups, length).reshape(2, groups, length)
    ids[:, :, 4] = 0  # a padding token in the middle counts like any other
    source = sources(SMALL, 2)
    model, variables = captioner(SMALL), {"params": {"text": params}}

    @jax.jit
    def first(ids, source):
        return model.apply(variables, ids, source, method="decode")

    @jax.jit
    def later(ids, memory, index):
        return model.apply(variables, ids, memory=memory, index=index, method="decode")

    found, memory = first(ids[:, :, :prompt], source)
    found, memory = [found], with_room(memory, length + 2)
    for index in range(prompt, length):
        next_one, memory = later(ids[:, :, index : index + 1], memory, index)
        found.append(next_one)
    whole = logits(params, ids, source)
    np.testing.assert_allclose(jnp.concatenate(found, axis=2), whole, rtol=0, atol=ATOL)
    assert memory[0].source.keys.shape[1] == 1  # one per video, whatever the groups


def test_groups_read_one_source_and_nothing_of_each_other(params):
    ids, source = texts(SMALL, 6, 5).reshape(2, 3, 5), sources(SMALL, 2)
    together = logits(params, ids, source)
    apart = logits(params, ids.reshape(6, 1, 5), np.repeat(source, 3, axis=0))
    np.testing.assert_allclose(together.reshape(apart.shape), apart, rtol=0, atol=ATOL)


def test_more_tokens_than_positions():
    ids = np.ones((1, 1, SMALL.context + 1), np.int32)
    with pytest.raises(ValueError, match="25 text tokens; the model has 24 positions"):
        jax.eval_shape(lambda: Bert(SMALL).init(jax.random.key(0), ids))
