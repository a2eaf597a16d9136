"""The answerer says what transformers' does, and padding of a question is never read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from blip_models import DEC, ENC, SEP
from converted_blip import apply, converted, texts, videos
from torch.nn.functional import cross_entropy

from vlt.evaluation.answering import rank
from vlt.models.build import abstract_params, example_inputs, make_model
from vlt.models.generation import Search, generate
from vlt.models.spec import SIZES

ATOL = 2e-5
B, WORDS = 3, 9
SMOOTHING = 0.1


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return converted("answerer", tmp_path_factory.mktemp("answerer"))


@pytest.fixture(scope="module")
def questions():
    """Of a video of one frame each: pixels [b, 1, h, w, 3], and ids without padding."""
    ids = np.random.default_rng(3).integers(1, 100, (B, WORDS)).astype(np.int32)
    ids[:, 0] = ENC
    return videos(B, 1), ids


@pytest.fixture(scope="module")
def answers():
    """Candidates; most begin with one of two words, so that more than the first word counts."""
    ids = texts(12, 6, seed=5, first=101)
    ids[:, 2:] = np.where(ids[:, 1:-1] == 0, 0, ids[:, 2:])
    ids[2:, 1] = np.where(np.arange(10) % 2, 11, 12)
    for row in ids:
        row[max(2, (row > 0).sum() - 1)] = SEP
    return ids


def read_by_peer(peer, video, ids):
    """States of questions [b, l, d] in torch."""
    with torch.inference_mode():
        pixels = torch.from_numpy(video[:, 0]).permute(0, 3, 1, 2)
        image = peer.vision_model(pixel_values=pixels).last_hidden_state
        return peer.text_encoder(torch.from_numpy(ids), encoder_hidden_states=image)[0]


def said_by_peer(peer, states, ids):
    """Logits [b, l, v] after answers [b, l], [DEC] first, in torch."""
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


def ranked(loaded, questions, answers, count):
    states, mask = read(loaded, *questions)
    with jax.default_matmul_precision("highest"):
        return rank(loaded.module, loaded.params, states, mask, answers, count, SMOOTHING)


def losses_by_peer(peer, questions, answers):
    """[b, n]: of every answer to every question, summed over its words; and the first logits."""
    states = read_by_peer(peer, *questions)
    found, first = [], None
    for answer in answers:
        ids = np.repeat(answer[None], B, 0)
        logits = said_by_peer(peer, states, ids)
        target = torch.from_numpy(ids).long()[:, 1:]
        target[target == 0] = -100
        loss = cross_entropy(logits[:, :-1].mT, target, label_smoothing=SMOOTHING, reduction="none")
        found.append(loss.sum(1).numpy())
        first = logits[:, 0].numpy()
    return np.stack(found, axis=1), first


@pytest.mark.parametrize("count", [1, 3, 12, 128])
def test_answer_is_the_best_of_those_whose_first_word_is_likeliest(pair, questions, answers, count):
    peer, loaded = pair
    losses, first = losses_by_peer(peer, questions, answers)
    of_word = first[:, answers[:, 1]]
    likeliest = np.argsort(-of_word, axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(losses, likeliest, 1).argmin(1)
    expected = likeliest[np.arange(B), best]
    np.testing.assert_array_equal(ranked(loaded, questions, answers, count), expected)


def test_example_answers_need_more_than_their_first_word(pair, questions, answers):
    """Else the test above could not tell the two stages apart."""
    peer, _ = pair
    losses, first = losses_by_peer(peer, questions, answers)
    by_loss, by_word = losses.argmin(1), first[:, answers[:, 1]].argmax(1)
    assert (by_loss != by_word).any()


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
