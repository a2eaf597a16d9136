"""Searches find what the published code and transformers find, in one fixed-size program."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from blip_text import SMALL, captioner, carried, published, sources, text_params
from safetensors.numpy import load_file
from transformers import TopKLogitsWarper, TopPLogitsWarper

from vlt.models.captioner import Captioner
from vlt.models.generation import generate
from vlt.models.search import Search, nucleus
from vlt.models.spec import BertSpec

BATCH = 10  # enough for every part of the rules to matter
SPEC = dataclasses.replace(SMALL, layers=1)  # the golden captioner has two
END = SPEC.end_id
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def peer():
    """A published decoder whose texts differ in length."""
    return published(SPEC, seed=10)


@pytest.fixture(scope="module")
def params(peer):
    return {"text": carried(peer)}


@pytest.fixture(scope="module")
def given():
    return 10 * sources(SPEC, BATCH, seed=5)


def prompts(length, batch=BATCH):
    """The same prompt for all videos; its first token is whatever a tokenizer puts there."""
    return np.array([[1, 5, 9][:length]] * batch, np.int32)


def found(params, tokens, search, prompt=1, **options):
    start = prompts(prompt, len(tokens))
    return np.asarray(generate(captioner(SPEC), params, tokens, start, search, **options))


def lists(ids):
    """Rows up to the end token; asserts that only 0 follows it."""
    rows = []
    for row in np.asarray(ids).tolist():
        length = row.index(END) + 1 if END in row else len(row)
        assert not any(row[length:])
        rows.append(row[:length])
    return rows


GOLDEN = {
    "greedy_max12_min5": Search("greedy", max_length=12),
    "greedy_max32_min5": Search("greedy"),
    "beam3_max12_min5": Search(max_length=12),
    "beam5_max20_min5": Search(beams=5, max_length=20),
    "beam3_max32_min5": Search(),
    "beam3_max12_min1": Search(max_length=12, min_length=1),
    "beam3_max12_min5_rp1.5": Search(max_length=12, repetition_penalty=1.5),
    "beam3_prefix3_max12_min5": Search(max_length=12),
}


@pytest.fixture(scope="module")
def golden(shared):
    """The published captioner: module, parameters, stored arrays."""
    folder = shared / "golden" / "token_mixing"
    settings = json.loads((folder / "text_config.json").read_text())
    config, ids = settings["text_config"], settings["special_ids"]
    spec = BertSpec(
        context=config["max_position_embeddings"],
        vocab=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        source_width=config["encoder_width"],
        decode_id=ids["bos_DEC"],
        encode_id=ids["enc_ENC"],
        end_id=ids["sep"],
    )
    tensors = load_file(folder / "captioner.safetensors")
    text = {k.removeprefix("text_decoder."): v for k, v in tensors.items() if "text_decoder" in k}
    with np.load(folder / "captioner.npz") as stored:
        return captioner(spec), {"text": text_params(text)}, dict(stored)


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", GOLDEN)
def test_published_ids(golden, name):
    model, params, stored = golden
    prompt = jnp.asarray([[0, 5, 9] if "prefix3" in name else [0]] * 4)
    ids = np.asarray(generate(model, params, stored["encoder_tokens"], prompt, GOLDEN[name]))
    expected = np.zeros_like(ids)
    expected[:, : stored[name].shape[1]] = stored[name]
    np.testing.assert_array_equal(ids, expected)


def test_published_logits(golden):
    model, params, stored = golden
    ids = jnp.asarray(stored["input_ids"], jnp.int32)[:, None]
    run = jax.jit(lambda p, *x: model.apply({"params": p}, *x, method="decode")[0])
    logits = run(params, ids, stored["encoder_tokens"])[:, 0]
    kept = stored["attention_mask"] > 0
    np.testing.assert_allclose(logits[kept], stored["logits"][kept], rtol=0, atol=2e-5)


CASES = {
    "greedy": (Search("greedy", max_length=14, repetition_penalty=1.7), 3),
    "beams": (Search(max_length=14), 1),
    "long": (Search(beams=4, max_length=20, min_length=6, length_penalty=1.2), 3),
    "repetition": (Search(max_length=14, min_length=1, repetition_penalty=1.3), 3),
    "one": (Search(beams=1, max_length=14), 1),
    "short": (Search(beams=2, max_length=14, min_length=1, length_penalty=0.3), 3),
    "negative": (Search(max_length=14, min_length=1, length_penalty=-1.0), 1),
    "sums": (Search(max_length=14, length_penalty=0.0), 3),
}
OFTEN = ("greedy", "beams", "long")


@pytest.mark.quick(1)
@pytest.mark.parametrize("case", [case if case in OFTEN else slow(case) for case in CASES])
def test_ids_of_transformers(peer, params, given, case):
    search, prompt = CASES[case]
    search = dataclasses.replace(search, semantics="transformers")
    start = prompts(prompt)
    start[:, 0] = SPEC.decode_id
    theirs = peer.generate(
        input_ids=torch.from_numpy(start).long(),
        encoder_hidden_states=torch.from_numpy(given),
        num_beams=1 if search.method == "greedy" else search.beams,
        do_sample=False,
        max_length=search.max_length,
        min_length=search.min_length,
        length_penalty=search.length_penalty,
        repetition_penalty=search.repetition_penalty,
        eos_token_id=END,
        pad_token_id=0,
    )
    # It puts end tokens after the end.
    theirs = [row[: row.index(END) + 1] if END in row else row for row in theirs.tolist()]
    assert lists(found(params, given, search, prompt)) == theirs


def plain_beams(scores_of, prompt, search):
    """Beam search for one video, word by word, without caches or arrays.

    scores_of: ids -> log-probabilities of the next token.
    """
    running, ended = [(0.0, prompt)], []
    for length in range(len(prompt), search.max_length):
        norm = length**search.length_penalty
        options = []
        for beam, (total, ids) in enumerate(running):
            scores = scores_of(ids)
            for token in set(ids):
                penalty = search.repetition_penalty
                scores[token] *= penalty if scores[token] < 0 else 1 / penalty
            if length < search.min_length:
                scores[END] = -np.inf
            options += [(total + score, beam, token) for token, score in enumerate(scores)]
        options = sorted(options, reverse=True)[: 2 * search.beams]
        following = []
        for rank, (total, beam, token) in enumerate(options):
            ids = [*running[beam][1], token]
            if token != END:
                following.append((total, ids))
            elif rank < search.beams:
                ended = sorted([*ended, (total / norm, ids)], reverse=True)[: search.beams]
            if len(following) == search.beams:
                break
        if len(ended) == search.beams and ended[-1][0] >= options[0][0] / norm:
            return ended[0][1]
        running = following
    norm = search.max_length**search.length_penalty
    return max(ended + [(total / norm, ids) for total, ids in running])[1]


RULE = ("repetition",)


@pytest.mark.parametrize("case", [c if c in RULE else slow(c) for c in CASES if c != "greedy"])
def test_ids_of_the_published_rule(peer, params, given, case):
    search, prompt = CASES[case]
    start = [SPEC.decode_id, *prompts(prompt)[0, 1:].tolist()]

    def scores_of(ids, tokens):
        with torch.inference_mode():
            out = peer(torch.tensor([ids]), encoder_hidden_states=torch.from_numpy(tokens[None]))
        return out.logits[0, -1].double().log_softmax(-1).numpy()

    expected = [
        plain_beams(functools.partial(scores_of, tokens=tokens), start, search) for tokens in given
    ]
    ids = lists(found(params, given, search, prompt))
    assert ids == expected
    assert len({len(row) for row in ids}) > 1  # otherwise the rule's details would not show


def test_a_nucleus_is_that_of_transformers():
    logits = np.random.default_rng(0).normal(0, 3, (50, 40)).astype(np.float32)
    for top_k, top_p in ((7, 0.9), (0, 0.5), (40, 1.0), (3, 0.1)):
        values, ids = (x[:, 0] for x in nucleus(jnp.asarray(logits)[:, None], top_k, top_p))
        theirs = torch.from_numpy(logits)
        if top_k:
            theirs = TopKLogitsWarper(top_k)(None, theirs)
        theirs = TopPLogitsWarper(top_p)(None, theirs).numpy()
        ours = np.full_like(logits, -np.inf)
        np.put_along_axis(ours, np.asarray(ids), np.asarray(values), axis=1)
        np.testing.assert_array_equal(ours, theirs)


def test_drawn_tokens_have_the_nucleus_probabilities(params, given):
    search = Search("nucleus", max_length=2, min_length=0, top_p=0.7, top_k=6)
    many = np.repeat(given[:1], 2000, axis=0)
    drawn = found(params, many, search, rng=jax.random.key(0))[:, 1]
    start = jnp.full((1, 1, 1), SPEC.decode_id)
    decode = jax.jit(functools.partial(captioner(SPEC).apply, method="decode"))
    logits, _ = decode({"params": params}, start, given[:1])
    values, ids = nucleus(logits[0, 0, 0], search.top_k, search.top_p)
    expected = dict(zip(ids.tolist(), jax.nn.softmax(values).tolist(), strict=True))
    assert min(expected.values()) == 0 and max(expected.values()) < 0.9
    for token, probability in expected.items():
        assert abs((drawn == token).mean() - probability) < 0.04
    assert set(drawn.tolist()) <= {token for token, p in expected.items() if p}


def test_a_draw_depends_on_the_key_alone(params, given):
    search = Search("nucleus", max_length=10)
    first, again, other = (
        found(params, given, search, rng=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    lists(first)


def test_one_program_for_all_videos_and_prompts(params, given):
    search = Search(beams=2, max_length=9)
    before = generate._cache_size()
    whole = found(params, given, search)
    assert generate._cache_size() == before + 1
    moved = jax.tree.map(lambda x: x * 1.1, params)
    start = prompts(1) + 1
    generate(captioner(SPEC), moved, given[::-1], start, Search(beams=2, max_length=9))
    assert generate._cache_size() == before + 1
    # Videos that end early or late do not affect each other.
    np.testing.assert_array_equal(found(params, given[::-1], search), whole[::-1])


class Recording(Captioner):
    """Records the arguments of `decode` while it is traced, and counts how often it runs."""

    calls = []
    runs = []

    def decode(self, ids, tokens=None, memory=None, index=0, train=False):
        jax.debug.callback(lambda: self.runs.append(1))
        logits, read = super().decode(ids, tokens, memory, index, train)
        shapes = [layer.source.keys.shape for layer in read]
        self.calls.append((ids.shape, tokens is not None, shapes))
        return logits, read


def test_the_video_is_read_once_and_the_search_ends_early(params, given):
    model = Recording(captioner(SPEC).spec)
    bias = params["text"]["lm_head"]["bias"]
    quick = jax.tree.map(lambda x: x, params)
    quick["text"]["lm_head"]["bias"] = bias + 1000.0 * (np.arange(SPEC.vocab) == END)
    search = Search(beams=3, max_length=20, min_length=4)
    ids = generate(model, quick, given, prompts(1), search)
    jax.effects_barrier()
    assert all(len(row) == 5 for row in lists(ids))
    keys = [(BATCH, 1, SPEC.heads, given.shape[1], SPEC.width // SPEC.heads)]
    assert Recording.calls == [((BATCH, 1, 1), True, keys), ((BATCH, 3, 1), False, keys)]
    # [DEC] and three words, and then each beam must end in turn.
    assert len(Recording.runs) < 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "best"}, "unknown method: 'best'; choose from greedy, beam, nucleus"),
        ({"semantics": "old"}, "unknown semantics: 'old'; choose from blip, 4.31, transformers"),
        ({"beams": 0}, "beams must be >= 1, got 0"),
        ({"max_length": 4}, "min_length must be <= max_length, got 5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be > 0, got 0.0"),
        ({"top_p": 1.5}, "top_p must be > 0 and <= 1, got 1.5"),
        ({"top_k": -1}, "top_k must be >= 0, got -1"),
    ],
)
def test_searches_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        Search(**options)


def test_prompts_and_lengths_that_do_not_fit(params, given):
    with pytest.raises(ValueError, match="prompt of 3 tokens leaves no room in max_length=3"):
        found(params, given, Search(max_length=3, min_length=0), prompt=3)
    with pytest.raises(ValueError, match="max_length=25; the model has 24 positions"):
        found(params, given, Search(max_length=25))
    with pytest.raises(ValueError, match="needs a key"):
        found(params, given, Search("nucleus", max_length=9))
