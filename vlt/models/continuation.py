"""Answers to prompts in which videos stand among words, from a language model with a cache.

A prompt is read into the cache of keys and values once, then each token of an answer by itself.
Prompts of unequal length are batched behind padding, which takes no place and is not read.
A dialogue is continued turn after turn, and its cache grows with each.
Prompts and caches come in few sizes (`bucket`), each with one compiled program.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.llama import word_prompts
from vlt.models.search import Beams, BeamSearch, Sampling, Search, State, pick
from vlt.models.tokens import KeysValues

STEP = 64  # tokens from one size of a prompt or a cache to the next
START_ID = 1  # LLaMA's, whatever a checkpoint's tokenizer begins with
CHUNK = 8  # tokens of an answer that are computed before the first of them is shown


class Words(flax.struct.PyTreeNode):
    """Prompts, or what follows them: ids [b, n], and which token of a video stands there [b, n].

    video: -1 for a word, otherwise an index into the second axis of a batch's video tokens.
    """

    ids: jax.Array
    video: jax.Array


class Reading(flax.struct.PyTreeNode):
    """What was read: logits [b, v] for what follows, and the cache of each block.

    end: number of slots taken in the cache. skipped: [b] how many of the first ones are padding.
    prompts: number of keys of methods' prompts, which precede all slots.
    """

    logits: jax.Array
    cache: list[KeysValues]
    end: jax.Array
    skipped: jax.Array
    prompts: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def room(self) -> int:
        """Number of slots in the cache."""
        return int(self.cache[0].keys.shape[3]) - self.prompts


@dataclasses.dataclass(frozen=True)
class Ending:
    """What ends an answer. stops: sequences of ids; beams end only with `end_id`."""

    end_id: int
    stops: tuple[tuple[int, ...], ...] = ()


def bucket(length: int) -> int:
    """The smallest size that is compiled for and is at least `length`.

    Sizes are multiples of 64 and, above 512, of an eighth of the next power of two, so that less
    than a quarter of `length` is added there.
    """
    step = max(STEP, 2 ** max(0, math.ceil(math.log2(max(length, 1))) - 3))
    return -(-length // step) * step


@functools.partial(jax.jit, static_argnames=("model", "room"))
def read(
    model: nn.Module, params: Any, words: Words, tokens: jax.Array, skipped: jax.Array, room: int
) -> Reading:
    """Reads prompts from their start.

    Args:
        model: a module with `embed(ids)` and `decode(x, places, valid, cache, index, remember)`, as
            `ChatModel` has.
        tokens: [b, k, d], the tokens of videos.
        skipped: [b] length of the padding in front of each prompt.
        room: slots of the cache, at least n.
    """
    n = words.ids.shape[1]
    places = jnp.maximum(jnp.arange(n) - skipped[:, None], 0)
    valid = jnp.arange(n) >= skipped[:, None]

    def first(model: Any) -> tuple[jax.Array, list[KeysValues]]:
        x = _spliced(model, words, tokens)
        logits, cache = model.decode(x[:, None], places, valid, remember=True)
        return logits, cache

    found: Any = model.apply({"params": params}, method=first)
    logits, cache = found
    prompts = word_prompts(model.methods)
    return Reading(logits[:, 0], _room(cache, prompts + room), jnp.int32(n), skipped, prompts)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="reading")
def read_on(
    model: nn.Module, params: Any, words: Words, tokens: jax.Array, reading: Reading, end: jax.Array
) -> Reading:
    """Continues a reading: `words` take the slots before `end`, where the reading then ends.

    Slots of the reading that they cover are read again.
    """
    n = words.ids.shape[1]

    def further(model: Any) -> tuple[jax.Array, list[KeysValues]]:
        x = _spliced(model, words, tokens)
        return _decode(model, x[:, None], reading.cache, end - n, reading.skipped)

    logits, cache = model.apply({"params": params}, method=further)
    return reading.replace(logits=logits[:, 0], cache=cache, end=end)


def _decode(
    model: Any, x: jax.Array, cache: list[KeysValues], index: jax.Array, skipped: jax.Array
) -> tuple[jax.Array, list[KeysValues]]:
    """Decodes x [b, g, n, d], which takes the cache's slots from `index` on."""
    places = jnp.maximum(index + jnp.arange(x.shape[2]) - skipped[:, None], 0)
    valid = jnp.arange(cache[0].keys.shape[-2] - word_prompts(model.methods)) >= skipped[:, None]
    found: tuple[jax.Array, list[KeysValues]] = model.decode(
        x, places, valid, cache=cache, index=index, remember=True
    )
    return found


def _spliced(model: Any, words: Words, tokens: jax.Array) -> jax.Array:
    """Embeddings [b, n, d] of words, with tokens of videos in their places."""
    x = model.embed(words.ids)
    if not tokens.shape[1]:
        return jnp.asarray(x)
    index = jnp.maximum(words.video, 0)[..., None]
    video = jnp.take_along_axis(tokens, index, axis=1).astype(x.dtype)
    return jnp.where(words.video[..., None] < 0, x, video)


def _room(cache: list[KeysValues], room: int) -> list[KeysValues]:
    def extend(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, room - x.shape[3]), (0, 0)))

    return jax.tree.map(extend, cache)


@functools.partial(jax.jit, static_argnames="room")
def with_room(reading: Reading, room: int) -> Reading:
    """The same reading, with a larger cache."""
    return reading.replace(cache=_room(reading.cache, reading.prompts + room))


def searching(
    search: Search, ending: Ending, history: int, unseen: jax.Array | int, rng: jax.Array | None
) -> Sampling | BeamSearch:
    """The rules of a search for answers, whose texts begin with `history` earlier tokens.

    unseen: [b, 1], as in `BeamSearch`.
    """
    whole = dataclasses.replace(
        search,
        max_length=search.max_length + history,
        min_length=search.min_length + history if search.min_length else 0,
    )
    if search.method == "beam":
        return BeamSearch(whole, ending.end_id, history, unseen)
    return Sampling(whole, ending.end_id, rng, ending.stops)


class Answer(flax.struct.PyTreeNode):
    """An answer in progress: the search's state, and the cache of its texts [b, g, ...]."""

    state: State
    cache: list[KeysValues]


@functools.partial(jax.jit, static_argnames=("search", "ending"))
def begin(
    reading: Reading,
    known: jax.Array,
    unseen: jax.Array,
    search: Search,
    ending: Ending,
    rng: jax.Array | None = None,
) -> State:
    """Searches for the first token of each answer.

    Args:
        known: [b, h] ids that count as written before the answer, for a repetition penalty and the
            length of a beam: the prompt's, with an id outside the vocabulary for padding; or one
            start token. unseen: [b, 1], see `BeamSearch`.
    """
    rules: Any = searching(search, ending, known.shape[1], unseen, rng)
    state: State = rules.step(rules.start(known[:, None]), reading.logits[:, None])
    return state


@functools.partial(
    jax.jit, static_argnames=("model", "search", "ending", "history"), donate_argnames="answer"
)
def advance(
    model: nn.Module,
    params: Any,
    answer: Answer,
    reading: tuple[jax.Array, jax.Array],
    unseen: jax.Array,
    until: jax.Array,
    search: Search,
    ending: Ending,
    history: int,
    rng: jax.Array | None = None,
) -> Answer:
    """Continues answers to their ends or to `until` tokens, of which `history` precede them.

    reading: `end` and `skipped` of the prompts' reading.
    """
    rules = searching(search, ending, history, unseen, rng)
    end, skipped = reading

    batch = answer.cache[0].keys.shape[:3]

    def one(model: Any, answer: Answer) -> Answer:
        state = answer.state
        cache = answer.cache
        if isinstance(state, Beams):
            cache = flat(jax.tree.map(lambda x: pick(x, state.parents), whole(cache)))
        last = state.length - 1
        ids = jax.lax.dynamic_slice_in_dim(state.ids, last, 1, axis=2)
        logits, cache = _decode(model, model.embed(ids), cache, end + last - history, skipped)
        return Answer(rules.step(state, logits), cache)  # type: ignore[arg-type]

    def goes_on(answer: Answer) -> jax.Array:
        return answer.state.open.any() & (answer.state.length < until)

    def step(answer: Answer) -> Answer:
        found: Any = model.apply({"params": params}, answer, method=one)
        return found  # type: ignore[no-any-return]

    def flat(cache: list[KeysValues]) -> list[KeysValues]:
        """[b * g * h, m, d], as attention multiplies; in any other shape, XLA copies all of it."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), cache)

    def whole(cache: list[KeysValues]) -> list[KeysValues]:
        return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), cache)

    answer = jax.lax.while_loop(goes_on, step, answer.replace(cache=flat(answer.cache)))
    return answer.replace(cache=whole(answer.cache))


def write(
    model: nn.Module,
    params: Any,
    reading: Reading,
    known: jax.Array,
    unseen: jax.Array,
    search: Search,
    ending: Ending,
    rng: jax.Array | None = None,
    chunk: int = CHUNK,
) -> Iterator[Answer]:
    """Yields answers to what was read, longer each time: the first of one token, the last whole.

    Except with beams, answers take over the reading's cache and are written into it; the last one
    holds it. known, unseen: as in `begin`. chunk: tokens added each time. An answer's buffers are
    donated when the next one is asked for, after which it cannot be used.

    Raises:
        ValueError: the cache has no room for the longest answer.
    """
    history = known.shape[1]
    if reading.room < int(reading.end) + search.max_length:
        raise ValueError(
            f"a cache of {reading.room} places, {int(reading.end)} taken, has no room for "
            f"max_length={search.max_length} tokens"
        )
    state = begin(reading, known, unseen, search, ending, rng)
    groups = state.ids.shape[1]
    cache = reading.cache if groups == 1 else _for_beams(reading.cache, groups)
    answer = Answer(state, cache)
    yield answer
    read_up_to = (reading.end, reading.skipped)
    length, most = history + 1, history + search.max_length
    while length < most and bool(answer.state.open.any()):
        length = min(length + chunk, most)
        answer = advance(
            model,
            params,
            answer,
            read_up_to,
            unseen,
            jnp.int32(length),
            search,
            ending,
            history,
            rng,
        )
        yield answer


def write_whole(
    model: nn.Module,
    params: Any,
    words: Words,
    tokens: jax.Array,
    skipped: jax.Array,
    search: Search,
    ending: Ending,
    prompt: bool,
) -> jax.Array:
    """Whole answers to prompts, int32 [b, max_length], 0 after their ends; can be traced.

    The arguments are those of `read`, `write` and `written_before`. Nothing is sampled.
    """
    room = bucket(words.ids.shape[1] + search.max_length)
    reading = read(model, params, words, tokens, skipped, room)
    vocab = reading.logits.shape[-1]
    known, unseen = written_before(words, skipped, search, vocab, prompt)
    history = known.shape[1]
    state = begin(reading, known, unseen, search, ending)
    groups = state.ids.shape[1]
    cache = reading.cache if groups == 1 else _for_beams(reading.cache, groups)
    until = jnp.int32(history + search.max_length)
    given = (Answer(state, cache), (reading.end, skipped), unseen, until)
    answer = advance(model, params, *given, search, ending, history)
    if not isinstance(answer.state, Beams):
        return answer.state.ids[:, 0, history:]
    rules: Any = searching(search, ending, history, unseen, None)
    return jnp.asarray(rules.result(answer.state)[:, history:])


@functools.partial(jax.jit, static_argnames="groups")
def _for_beams(cache: list[KeysValues], groups: int) -> list[KeysValues]:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (x.shape[0], groups, *x.shape[2:])), cache)


def padded(prompts: list[tuple[np.ndarray, np.ndarray]], length: int) -> tuple[Words, jax.Array]:
    """Pairs of ids and video indices [l] as `Words` [b, length], and [b] padding before each."""
    ids = np.zeros((len(prompts), length), np.int32)
    video = np.full((len(prompts), length), -1, np.int32)
    for row, (words, places) in enumerate(prompts):
        ids[row, length - len(words) :] = words
        video[row, length - len(words) :] = places
    skipped = [length - len(words) for words, _ in prompts]
    return Words(jnp.asarray(ids), jnp.asarray(video)), jnp.array(skipped, jnp.int32)


def written_before(
    words: Words, skipped: jax.Array, search: Search, vocab: int, prompt: bool
) -> tuple[jax.Array, jax.Array]:
    """`known` and `unseen` for `begin`. prompt: whether the prompts count, or only LLaMA's <s>.

    Only a repetition penalty needs the prompts' ids; otherwise their length is enough.
    """
    rows, n = words.ids.shape
    if prompt and search.repetition_penalty != 1:
        padding = jnp.arange(n) < skipped[:, None]
        return jnp.where(padding, vocab, words.ids), -skipped[:, None]
    start = jnp.full((rows, 1), START_ID, jnp.int32)
    return start, (n - skipped - 1)[:, None] if prompt else jnp.zeros((rows, 1), jnp.int32)
