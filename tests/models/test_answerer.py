"""The answerer gives transformers' answers, and never reads the padding of a question."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from blip_models import DEC, ENC, SEP
from converted_blip import apply, converted, videos
from torch.nn.functional import cross_entropy

from vlt.evaluation.answering import rank
from vlt.model_io.build import abstract_params, example_inputs, make_model
from vlt.models.generation import generate
from vlt.models.search import Search
from vlt.models.sizes import SIZES

ATOL = 2e-5
B, WORDS, MANY = 3, 9, 40
SMOOTHING = 0.9  # for ranking; 0.1 would change none of these answers


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return converted("answerer", tmp_path_factory.mktemp("answerer"))


@pytest.fixture(scope="module")
def questions():
    """Questions about one-frame videos: pixels [b, 1, h, w, 3], and ids without padding."""
    ids = np.random.default_rng(3).integers(1, 100, (B, WORDS)).astype(np.int32)
    ids[:, 0] = ENC
    return videos(B, 1), ids


@pytest.fixture(scope="module")
def answers():
    """Two-word candidates with few distinct first words; one candidate has three words."""
    rng = np.random.default_rng(5)
    ids = np.zeros((24, 6), np.int32)
    columns = (101, rng.integers(11, 16, 24), rng.integers(20, 90, 24), SEP)
    for place, values in enumerate(columns):
        ids[:, place] = values
    ids[0, 3:5] = 40, SEP
    return ids


def read_by_peer(peer, video, ids):
    """Question states [b, l, d] in torch."""
    with torch.inference_mode():
        pixels = torch.from_numpy(video[:, 0]).permute(0, 3, 1, 2)
        image = peer.vision_model(pixel_values=pixels).last_hidden_state
        return peer.text_encoder(torch.from_numpy(ids), encoder_hidden_states=image)[0]


def said_by_peer(peer, states, ids):
    """Logits [b, l, v] of answers [b, l] that begin with [DEC], in torch."""
    ids = torch.from_numpy(ids).clone()
    ids[:, 0] = DEC
    with torch.inference_mode():
        return peer.text_decoder(ids, encoder_hidden_states=states).logits


def test_logits(pair, questions, answers):
    peer, loaded = pair
    states = read_by_peer(peer, *questions)
    found = apply(loaded, "__call__", *questions, answers[:B])["logits"]
    np.testing.assert_allclose(found, said_by_peer(peer, states, answers[:B]), 0, ATOL)


def test_first_tokens_are_always_those_of_the_task(pair, questions, answers):
    video, ids = questions
    other = ids.copy(), answers[:B].copy()
    other[0][:, 0], other[1][:, 0] = 101, 7
    one = apply(pair[1], "__call__", video, ids, answers[:B])["logits"]
    np.testing.assert_array_equal(apply(pair[1], "__call__", video, *other)["logits"], one)


def test_padding_of_a_question_changes_nothing(pair, questions, answers):
    video, ids = questions
    padded = np.pad(ids, ((0, 0), (0, 5)))
    one = apply(pair[1], "__call__", video, ids, answers[:B])["logits"]
    other = apply(pair[1], "__call__", video, padded, answers[:B])["logits"]
    np.testing.assert_allclose(other, one, 0, ATOL)


def read(loaded, video, ids):
    tokens, _ = apply(loaded, "encode_video", video)
    return apply(loaded, "encode_question", tokens, ids)


def test_written_answers_are_the_peers_and_do_not_read_padding(pair, questions):
    peer, loaded = pair
    video, ids = questions
    search = Search("greedy", max_length=8, min_length=1)
    states, mask = read(loaded, video, np.pad(ids, ((0, 0), (0, 5))))
    start = jnp.ones((B, 1), jnp.int32)
    found = generate(loaded.module, loaded.params, states, start, search, source_bias=mask)
    theirs = peer.text_decoder.generate(
        input_ids=torch.full((B, 1), DEC),
        encoder_hidden_states=read_by_peer(peer, video, ids),
        max_length=8,
        bos_token_id=DEC,
        eos_token_id=SEP,
        pad_token_id=0,
        do_sample=False,
    ).numpy()
    np.testing.assert_array_equal(found[:, : theirs.shape[1]], theirs)


@pytest.fixture(scope="module")
def states():
    """Question states far enough apart for many different answers to be the best of one."""
    shape = (MANY, WORDS, 48)
    return 4 * np.random.default_rng(4).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def by_peer(pair, states, answers):
    """[b, n]: logits of the answers' first words, losses without and with smoothing, in torch."""
    losses = {0.0: [], SMOOTHING: []}
    for answer in answers:
        logits = said_by_peer(pair[0], torch.from_numpy(states), np.repeat(answer[None], MANY, 0))
        target = torch.from_numpy(np.where(answer == 0, -100, answer)).long()[1:]
        for smoothing, found in losses.items():
            options = {"label_smoothing": smoothing, "reduction": "none"}
            loss = cross_entropy(logits[:, :-1].mT, target.expand(MANY, -1), **options)
            found.append(loss.sum(1).numpy())
    first = logits[:, 0].numpy()[:, answers[:, 1]]
    return first, *(np.stack(found, axis=1) for found in losses.values())


def best(first, losses, count):
    likeliest = np.argsort(-first, axis=1, kind="stable")[:, :count]
    lowest = np.take_along_axis(losses, likeliest, 1).argmin(1)
    return likeliest[np.arange(MANY), lowest]


@pytest.mark.quick(1)
@pytest.mark.parametrize("count", [8, 1, 128])
def test_answer_is_the_best_of_those_whose_first_word_is_likeliest(
    pair, states, answers, by_peer, count
):
    """Neither stage reads masked states."""
    loaded = pair[1]
    padded = np.pad(states, ((0, 0), (0, 5), (0, 0)), mode="wrap")
    mask = np.where(np.arange(WORDS + 5) < WORDS, 0, np.finfo(np.float32).min)
    mask = np.broadcast_to(mask.astype(np.float32), padded.shape[:2])
    with jax.default_matmul_precision("highest"):
        found = rank(loaded.module, loaded.params, padded, mask, answers, count, SMOOTHING)
    first, _, losses = by_peer
    np.testing.assert_array_equal(found, best(first, losses, count))


def test_example_answers_differ_with_each_part_of_the_rule(by_peer):
    """Otherwise the test above could not tell the rules apart."""
    first, plain, losses = by_peer
    results = [best(first, losses, 1), best(first, losses, 8), best(first, losses, 128)]
    results.append(best(first, plain, 128))
    for one, other in zip(results, results[1:], strict=False):
        assert (one != other).any()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["b16", "l16"])
def test_blips_sizes_build_from_shapes(size):
    model = make_model(SIZES[f"blip_{size}_answerer"], {})
    shapes = abstract_params(model)
    inputs = example_inputs(model.spec, 8, 35)
    out = jax.eval_shape(lambda p, *x: model.apply({"params": p}, *x), shapes, *inputs)
    assert out["logits"].shape == (1, 35, 30524)
    crossing = {
        name: shapes[name]["blocks_0"]["cross_attention"]["key"]["kernel"].shape
        for name in ("question", "text")
    }
    width = model.spec.visual.width
    assert crossing == {"question": (width, 768), "text": (768, 768)}
    assert "lm_head" in shapes["text"] and "lm_head" not in shapes["question"]
