"""Answers match the published generators', id by id, however prompts are read."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_chat import Golden, channels_last

from vlt.adapters.prompt import Prompt
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.models.continuation import (
    Ending,
    advance,
    bucket,
    padded,
    read,
    read_on,
    searching,
    with_room,
    write,
    written_before,
)
from vlt.models.search import Search

GREEDY = Search("greedy", max_length=20, min_length=0)
BEAMS = Search("beam", 3, max_length=20, min_length=0, repetition_penalty=1.1, semantics="4.31")
PATCH, END = 515, 2


@pytest.fixture(scope="module")
def models(shared):
    """(module, parameters, stored arrays) by name, without branches; videos are already encoded."""

    @functools.cache
    def model(name):
        golden = Golden(shared / "golden" / "chat", name)
        return golden.model(adapted=False), golden.plain(), golden.numbers

    return model


def places(ids, patch=PATCH):
    """ids, and video indices [l] where the positions of a video hold the id `patch`."""
    video = np.where(ids == patch, (ids == patch).cumsum() - 1, -1)
    return ids.astype(np.int32), video.astype(np.int32)


def answers(model, params, prompts, tokens, search, prompt=True, stops=(), length=None, chunk=8):
    """(ids [b, g, l] after the history, scores or None)."""
    length = length or max(len(ids) for ids, _ in prompts)
    words, skipped = padded(prompts, length)
    reading = read(model, params, words, jnp.asarray(tokens), skipped, length + search.max_length)
    return answered(model, params, words, reading, search, prompt, stops, chunk)


def answered(model, params, words, reading, search, prompt=True, stops=(), chunk=8):
    ending = Ending(END, stops)
    known, unseen = written_before(words, reading.skipped, search, model.spec.text.vocab, prompt)
    for found in write(model, params, reading, known, unseen, search, ending, chunk=chunk):
        state = found.state
    history = known.shape[1]
    if search.method != "beam":
        return np.asarray(state.ids)[:, :, history:], None
    rules = searching(search, ending, history, unseen, None)
    scores, ids = rules.ranked(state, search.beams)
    return np.asarray(ids)[:, :, history:], np.asarray(scores)


@pytest.mark.quick(2)
@pytest.mark.parametrize("video", ["T8", "T6"])
@pytest.mark.parametrize("variant", ["published", "no_halving"])
def test_llava(models, video, variant):
    model, params, stored = models("llava")
    of = {name: stored[f"{video}/{variant}/{name}"] for name in ("greedy_ids", "greedy_rep_ids")}
    prompt, tokens = places(stored["prompt/ids"][0]), stored[f"{video}/projected_{variant}"][None]
    ask = functools.partial(answers, model, params, [prompt], tokens)
    assert ask(GREEDY)[0][0, 0].tolist() == of["greedy_ids"].tolist()
    repeated = dataclasses.replace(GREEDY, repetition_penalty=1.1)
    assert ask(repeated, length=192)[0][0, 0].tolist() == of["greedy_rep_ids"].tolist()
    for length in (None, 160):
        ids, scores = ask(BEAMS, length=length)
        assert ids[0].tolist() == stored[f"{video}/{variant}/beam_ids"].tolist()
        np.testing.assert_allclose(scores[0], stored[f"{video}/{variant}/beam_scores"], atol=1e-4)


def test_two_videos(models):
    model, params, stored = models("llava")
    tokens = [stored[f"{video}/projected_no_halving"] for video in ("T8", "T6")]
    prompt = places(stored["two_videos/ids"][0])
    ids, _ = answers(model, params, [prompt], np.concatenate(tokens)[None], GREEDY)
    assert ids[0, 0].tolist() == stored["two_videos/both/greedy_ids"].tolist()


def minigpt4_prompt(stored):
    segments = [stored[f"prompt/segment{i}_ids"] for i in (0, 1)]
    return places(np.concatenate([segments[0], [-1] * 8, segments[1]]), -1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "bt"])
def test_minigpt4(models, kind):
    model, params, stored = models("minigpt4")
    (ids, video), tokens = (
        minigpt4_prompt(stored),
        stored[{"image": "image/inputs_llama_frame0", "bt": "bt/inputs_llama"}[kind]],
    )
    prompt = (np.maximum(ids, 0), video)
    ask = functools.partial(answers, model, params, [prompt], tokens[None], prompt=False)
    search = dataclasses.replace(GREEDY, max_length=16, repetition_penalty=1.05)
    wanted = stored[f"{kind}/greedy_ids_with_dummy_bos"][1:].tolist()
    ids, _ = ask(search, stops=((303,), (283,)))
    assert ids[0, 0, : len(wanted)].tolist() == wanted and not ids[0, 0, len(wanted) :].any()
    # A stop ends the answer after its own last id.
    ids, _ = ask(search, stops=(tuple(wanted[1:3]), (wanted[4], 0)))
    assert ids[0, 0].tolist() == [*wanted[:3], *[0] * 13]
    beams = dataclasses.replace(BEAMS, max_length=16, repetition_penalty=1.05)
    ids, scores = ask(beams)
    assert ids[0].tolist() == stored[f"{kind}/beam_ids_with_dummy_bos"][:, 1:].tolist()
    np.testing.assert_allclose(scores[0], stored[f"{kind}/beam_scores"], atol=1e-4)


@pytest.mark.slow
def test_minigpt4_in_a_batch(models, shared):
    """A batch of two images, with padding in front of the prompts."""
    model, params, stored = models("minigpt4")
    tokenizer = ChatTokenizer.load(shared / "golden/chat/tokenizer")
    prompts = []
    for text in stored["batch/texts"]:
        before, behind = map(tokenizer.words, str(text).split("<ImageHere>"))
        ids, video = places(np.array([1, *before, *[-1] * 8, *behind]), -1)
        prompts.append((np.maximum(ids, 0), video))
    kept = stored["batch/attention_mask"].sum(1)
    assert [len(ids) for ids, _ in prompts] == kept.tolist()
    images = channels_last(stored["video_times8_int8"])[:2, None] / 8
    see = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode_video")[0])
    search = dataclasses.replace(GREEDY, max_length=16)
    ids, _ = answers(model, params, prompts, see(params, images), search, prompt=False)
    assert ids[:, 0].tolist() == stored["batch/greedy_ids_with_dummy_bos"][:, 1:].tolist()


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["frames", "bt", "image"])
def test_instructblip_in_a_batch_and_alone(models, kind):
    model, params, stored = models("instructblip")
    tokens = stored[f"{kind}/inputs_llm"]
    prompts = []
    for row, kept in zip(stored["llm_ids_left"], stored["llm_mask_left"] > 0, strict=True):
        ids = np.concatenate([np.full(tokens.shape[1], -1), row[kept]])
        ids, video = places(ids, -1)
        prompts.append((np.maximum(ids, 0), video))
    search = dataclasses.replace(GREEDY, max_length=15)
    beams = Search("beam", 5, max_length=15, min_length=0, repetition_penalty=1.5, semantics="4.31")
    for name, rules in (("greedy", search), ("beam", beams)):
        wanted = stored[f"{kind}/{name}_ids_with_dummy_bos"][:, 1:]
        wanted = np.pad(wanted, ((0, 0), (0, 15 - wanted.shape[1])))
        both, scores = answers(model, params, prompts, tokens, rules, prompt=False)
        assert both[:, 0].tolist() == wanted.tolist()
        if scores is not None:
            np.testing.assert_allclose(scores[:, 0], stored[f"{kind}/beam_scores"], atol=1e-4)
    longest = max(len(ids) for ids, _ in prompts)
    for row in (0, 1):  # the last `wanted` and `both` are from beam search
        one = slice(row, row + 1)
        ask = functools.partial(answers, model, params, prompts[one], tokens[one], prompt=False)
        assert ask(beams, length=longest)[0][0, 0].tolist() == wanted[row].tolist()


def test_a_dialogue_read_on_is_one_read_at_once(models):
    model, params, stored = models("llava")
    ids, video = places(stored["two_videos/ids"][0])
    tokens = np.concatenate([stored[f"{name}/projected_no_halving"] for name in ("T8", "T6")])[None]
    first = 90  # the second video comes after it
    words, skipped = padded([(ids[:first], video[:first])], 96)
    reading = read(model, params, words, jnp.asarray(tokens), skipped, 128)
    reading = with_room(reading, 192)
    end = 6 + len(ids)
    back = slice(len(ids) - 64, None)  # part of what was read is read again
    words, _ = padded([(ids[back], video[back])], 64)
    reading = read_on(model, params, words, jnp.asarray(tokens), reading, jnp.int32(end))
    with pytest.raises(ValueError, match="a cache of 192 places, 154 taken"):
        answered(model, params, words, reading, dataclasses.replace(GREEDY, max_length=60))
    found, _ = answered(model, params, words, reading, GREEDY)
    assert found[0, 0].tolist() == stored["two_videos/both/greedy_ids"].tolist()


def test_chunks_change_nothing_and_share_a_program(models):
    model, params, stored = models("llava")
    prompt, tokens = places(stored["prompt/ids"][0]), stored["T8/projected_published"][None]
    before = advance._cache_size()
    search = dataclasses.replace(GREEDY, max_length=19)
    found = [
        answers(model, params, [prompt], tokens, search, length=192, chunk=chunk)[0].tolist()
        for chunk in (1, 5, 100)
    ]
    assert found[0] == found[1] == found[2]
    assert advance._cache_size() == before + 1


@pytest.mark.parametrize("method", ["greedy", pytest.param("beam", marks=pytest.mark.slow)])
def test_a_batch_of_unequal_prompts_gives_what_single_ones_give(models, method):
    model, params, stored = models("llava")
    whole, tokens = places(stored["prompt/ids"][0]), stored["T8/projected_published"][None]
    prompts = [whole, (whole[0][100:], whole[1][100:]), (whole[0][:60], whole[1][:60])]
    search = dataclasses.replace(
        BEAMS, method=method, length_penalty=0.6, max_length=12, repetition_penalty=1.3
    )
    many, _ = answers(model, params, prompts, np.repeat(tokens, 3, 0), search, length=150)
    for row, prompt in enumerate(prompts):
        alone, _ = answers(model, params, [prompt], tokens, search, length=150 - row)
        assert many[row].tolist() == alone[0].tolist()


@pytest.mark.parametrize("method", ["greedy", pytest.param("beam", marks=pytest.mark.slow)])
@pytest.mark.parametrize("deep", [True, False])
def test_prompts_of_the_language_model_stay_in_front(models, deep, method):
    """With them, answers from the cache are those of the whole text read at once, also in a batch
    and in a dialogue read on."""
    model, params, _ = models("llava")
    rng = np.random.default_rng(0)
    rows = {"prompt": rng.normal(size=(3, model.spec.text.width)).astype(np.float32)}
    text, blocks = params["text"], [f"blocks_{i}" for i in range(model.spec.text.layers)]
    text = text | ({name: text[name] | rows for name in blocks} if deep else rows)
    params = params | {"text": text}
    model = model.clone(methods=(Prompt(3, deep, ("text",)),))
    ids = [rng.integers(3, 500, length) for length in (30, 21)]
    search = dataclasses.replace(GREEDY, method=method, beams=2, max_length=6)
    prompts = [(row, np.full(len(row), -1)) for row in ids]
    none = np.zeros((2, 0, model.spec.text.width), np.float32)
    found, _ = answers(model, params, prompts, none, search, length=40)
    for row, answer in zip(ids, found[:, 0], strict=True):
        if method == "greedy":
            assert answer.tolist() == written_at_once(model, params, row, 6)
        words, skipped = padded([(row[:-5], np.full(len(row) - 5, -1))], 32)
        reading = with_room(read(model, params, words, none[:1], skipped, 33), 45)
        assert reading.room == 45
        words, _ = padded([(row[-8:], np.full(8, -1))], 8)
        reading = read_on(model, params, words, none[:1], reading, jnp.int32(37))
        alone, _ = answered(model, params, words, reading, search, prompt=False)
        assert alone[0, 0].tolist() == answer.tolist()


def written_at_once(model, params, ids, count):
    """`count` ids, each the likeliest after all before it, read anew without a cache."""

    def likeliest(model, ids, last):
        places = jnp.arange(ids.shape[1])[None]
        logits, _ = model.decode(model.embed(ids)[:, None], places, whole=True)
        return logits[0, 0, last].argmax()

    find = jax.jit(lambda *text: model.apply({"params": params}, *text, method=likeliest))
    text = np.pad(ids, (0, count))  # no token sees what stands behind it
    for place in range(len(ids), len(text)):
        text[place] = find(text[None], place - 1)
    return text[len(ids) :].tolist()


def test_temperature_sharpens_what_is_drawn(models):
    model, params, stored = models("llava")
    prompt, tokens = places(stored["prompt/ids"][0]), stored["T8/projected_published"][None]
    words, skipped = padded([prompt], len(prompt[0]))
    reading = read(model, params, words, jnp.asarray(tokens), skipped, 200)
    many = jax.tree.map(
        lambda x: jnp.repeat(x, 3000, 0) if x.ndim else x, reading.replace(cache=[])
    )
    search = Search("nucleus", max_length=2, min_length=0, top_k=5, top_p=0.95, temperature=1.7)
    ending = Ending(END)
    known = jnp.ones((3000, 1), jnp.int32)
    rules = searching(search, ending, 1, 0, jax.random.key(3))
    drawn = np.asarray(rules.step(rules.start(known[:, None]), many.logits[:, None]).ids[:, 0, 1])
    # transformers' order: temperature, then the five likeliest, then their nucleus.
    scores = np.sort(np.asarray(reading.logits[0]) / 1.7)[::-1][:5].astype(np.float64)
    share = np.exp(scores) / np.exp(scores).sum()
    share = np.where(share.cumsum() - share > 0.95, 0, share)
    ids = np.argsort(np.asarray(reading.logits[0]))[::-1][:5]
    for token, probability in zip(ids, share / share.sum(), strict=True):
        assert abs((drawn == token).mean() - probability) < 0.04
    assert np.isin(drawn, ids).all()


def test_sizes_are_few_and_near():
    sizes = {bucket(length) for length in range(1, 4097)}
    assert len(sizes) <= 32
    assert all(length <= bucket(length) <= max(length + 64, 1.25 * length) for length in sizes)
    assert [bucket(length) for length in (1, 64, 65, 336, 600, 2048)] == [
        64,
        64,
        128,
        384,
        640,
        2048,
    ]
