"""Texts from a decoder by greedy, beam or nucleus search: one compiled program for given shapes.

The prompt is read once, with the video. From then on each layer keeps keys and values of the text,
with room for the longest one and reordered as beams change places, and those of the video once,
however many beams read them. The search ends when no text can become better.

Beam search comes in two semantics; both score a text by its summed log-probabilities over a length
to the power of `length_penalty`.
    blip: of transformers 4.15, which BLIP and Token Mixing pin. The length counts prompt and [DEC]
        but no end token.
    transformers: of the present ones (5.23). The length counts the end token but no prompt, and
        texts without an end compete only at the greatest length.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vlt.models.bert import Memory, beginning_with

METHODS = ("greedy", "beam", "nucleus")
SEMANTICS = ("blip", "transformers")


@dataclasses.dataclass(frozen=True)
class Search:
    """How texts are searched for. Defaults are BLIP's.

    method: `greedy`, `beam` or `nucleus`. beams: texts that are kept beside each other.
    max_length, min_length: tokens of a text, [DEC] and prompt included; the shortest excludes the
        end token.
    length_penalty: of beams; above 1 favours longer texts, below 1 shorter ones.
    repetition_penalty: log-probabilities (of beams) or logits of tokens that occur already are
        multiplied or divided by it, whichever lowers them.
    top_p, top_k: of nucleus search; the likeliest tokens up to this sum, and number (0: any), are
        drawn from. BLIP's code asks for 0.9 and gets its library's 50.
    semantics: of beams, `blip` or `transformers`; see the module.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    method: str = "beam"
    beams: int = 3
    max_length: int = 32
    min_length: int = 5
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    top_p: float = 0.9
    top_k: int = 50
    semantics: str = "blip"

    def __post_init__(self) -> None:
        for field, known in (("method", METHODS), ("semantics", SEMANTICS)):
            if getattr(self, field) not in known:
                value = getattr(self, field)
                raise ValueError(f"unknown {field}: {value!r}; choose from {', '.join(known)}")
        for name, limits, fits in (
            ("beams", ">= 1", self.beams >= 1),
            ("max_length", ">= 1", self.max_length >= 1),
            ("min_length", ">= 0", self.min_length >= 0),
            ("min_length", "<= max_length", self.min_length <= self.max_length),
            ("repetition_penalty", "> 0", self.repetition_penalty > 0),
            ("top_p", "> 0 and <= 1", 0 < self.top_p <= 1),
            ("top_k", ">= 0", self.top_k >= 0),
        ):
            if not fits:
                raise ValueError(f"{name} must be {limits}, got {getattr(self, name)!r}")


class State(flax.struct.PyTreeNode):
    """ids [b, g, l] of g texts, 0 behind the first `length`; and which searches go on, [b]."""

    ids: jax.Array
    length: jax.Array
    open: jax.Array


class Beams(State):
    """Texts that go on, best first, and those that ended.

    scores: [b, g] summed log-probabilities. parents: [b, g] which of the texts before it each one
    continues. ended: ids [b, g, l], best first, with ended_scores [b, g]; -inf where there are not
    so many yet.
    """

    scores: jax.Array
    parents: jax.Array
    ended: jax.Array
    ended_scores: jax.Array


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
            known = jax.tree.map(lambda x: _pick(x, state.parents), known)
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


def _pick(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [b, g, ...] at index [b, k]: [b, k, ...]."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)


def _padded(prompt: jax.Array, groups: int, length: int) -> jax.Array:
    """ids [b, 1, p] -> [b, g, l]."""
    ids = jnp.pad(prompt.astype(jnp.int32), ((0, 0), (0, 0), (0, length - prompt.shape[2])))
    return jnp.broadcast_to(ids, (len(ids), groups, length))


def _adjusted(scores: jax.Array, state: State, search: Search, end_id: int) -> jax.Array:
    """Scores [b, g, v] of the next tokens with repetition penalty and minimal length."""
    if search.repetition_penalty != 1:
        seen = _occurring(state, scores.shape[-1])
        penalty = search.repetition_penalty
        lowered = jnp.where(scores < 0, scores * penalty, scores / penalty)
        scores = jnp.where(seen, lowered, scores)
    end = jnp.where(state.length < search.min_length, -jnp.inf, scores[..., end_id])
    return scores.at[..., end_id].set(end)


def _occurring(state: State, vocab: int) -> jax.Array:
    """Whether each token of the vocabulary is in each text: bool [b, g, v]."""
    written = jnp.arange(state.ids.shape[-1]) < state.length
    ids = jnp.where(written, state.ids, vocab).reshape(-1, state.ids.shape[-1])
    seen = jnp.zeros((len(ids), vocab), bool)
    seen = seen.at[jnp.arange(len(ids))[:, None], ids].set(True, mode="drop")
    return seen.reshape(*state.ids.shape[:2], vocab)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Greedy and nucleus search: one text of each, token by token."""

    search: Search
    end_id: int
    rng: jax.Array | None

    def start(self, prompt: jax.Array) -> State:
        """Of prompts [b, 1, p]."""
        ids = _padded(prompt, 1, self.search.max_length)
        return State(ids, jnp.int32(prompt.shape[2]), jnp.ones(len(ids), bool))

    def step(self, state: State, logits: jax.Array) -> State:
        """One token more, from logits [b, 1, v]."""
        logits = _adjusted(logits, state, self.search, self.end_id)
        if self.search.method == "greedy":
            token = logits.argmax(-1)
        else:
            values, ids = nucleus(logits, self.search.top_k, self.search.top_p)
            assert self.rng is not None
            drawn = jax.random.categorical(jax.random.fold_in(self.rng, state.length), values)
            token = jnp.take_along_axis(ids, drawn[..., None], axis=-1)[..., 0]
        token = jnp.where(state.open[:, None], token, 0).astype(jnp.int32)
        return state.replace(
            ids=state.ids.at[:, :, state.length].set(token),
            length=state.length + 1,
            open=state.open & (token[:, 0] != self.end_id),
        )

    def result(self, state: State) -> jax.Array:
        """ids [b, l]."""
        return state.ids[:, 0]


def nucleus(logits: jax.Array, top_k: int, top_p: float) -> tuple[jax.Array, jax.Array]:
    """The likeliest tokens of [..., v]: logits [..., k], -inf for those that are out, and ids.

    A token is out where those above it have more than top_p of the top k's probability.
    """
    count = min(top_k or logits.shape[-1], logits.shape[-1])
    values, ids = jax.lax.top_k(logits, count)
    if top_p == 1:
        return values, ids  # sums of all are not 1 to the last bit
    probability = jax.nn.softmax(values)
    above = probability.cumsum(-1) - probability
    return jnp.where(above > top_p, -jnp.inf, values), ids


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """The `beams` likeliest texts together, prompt of `prompt` tokens included."""

    search: Search
    end_id: int
    prompt: int

    def start(self, prompt: jax.Array) -> Beams:
        """Of prompts [b, 1, p]. All texts are the same yet, so the first alone counts."""
        ids = _padded(prompt, self.search.beams, self.search.max_length)
        scores = jnp.full(ids.shape[:2], -jnp.inf)
        return Beams(
            ids=ids,
            length=jnp.int32(self.prompt),
            open=jnp.ones(len(ids), bool),
            scores=scores.at[:, 0].set(0.0),
            parents=jnp.zeros(ids.shape[:2], jnp.int32),
            ended=jnp.zeros_like(ids),
            ended_scores=scores,
        )

    def step(self, state: Beams, logits: jax.Array) -> Beams:
        """One token more, from logits [b, g, v] (or [b, 1, v], of the prompt)."""
        beams, vocab = self.search.beams, logits.shape[-1]
        scores = _adjusted(jax.nn.log_softmax(logits), state, self.search, self.end_id)
        scores = (scores + state.scores[..., None]).reshape(len(scores), -1)
        # As many again, since each text may end.
        scores, index = jax.lax.top_k(scores, 2 * beams)
        parents, token = jnp.divmod(index, vocab)
        ids = _pick(state.ids, parents).at[:, :, state.length].set(token)
        ends = token == self.end_id
        if self.search.semantics == "transformers":
            ends |= state.length + 1 == self.search.max_length
        # A text that ends counts if it is among the best, whether ended or not.
        counts = ends & (jnp.arange(2 * beams) < beams) & state.open[:, None]
        norm = self._norm(state.length)
        ended_scores, ended = _best(
            jnp.concatenate([state.ended_scores, jnp.where(counts, scores / norm, -jnp.inf)], 1),
            jnp.concatenate([state.ended, ids], 1),
            beams,
        )
        running, order = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
        # By maximum and minimum: where the sorted are sliced, XLA sorts the whole vocabulary.
        best = (scores if self.search.semantics == "blip" else running).max(1)
        return state.replace(
            ids=_pick(ids, order),
            length=state.length + 1,
            open=state.open & (ended_scores.min(1) < best / norm),
            scores=running,
            parents=_pick(parents, order),
            ended=ended,
            ended_scores=ended_scores,
        )

    def _norm(self, length: jax.Array) -> jax.Array:
        """What scores are divided by after one more token than `length`."""
        counted = length if self.search.semantics == "blip" else length + 1 - self.prompt
        return counted.astype(jnp.float32) ** self.search.length_penalty

    def result(self, state: Beams) -> jax.Array:
        """ids [b, l] of the best text. Where the search did not end, those that go on compete."""
        scores = state.scores / float(self.search.max_length) ** self.search.length_penalty
        scores = jnp.where(state.open[:, None], scores, -jnp.inf)
        _, best = _best(
            jnp.concatenate([state.ended_scores, scores], 1),
            jnp.concatenate([state.ended, state.ids], 1),
            1,
        )
        return best[:, 0]


def _best(scores: jax.Array, ids: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` best of scores [b, n] and ids [b, n, l], best first."""
    scores, order = jax.lax.top_k(scores, count)
    return scores, _pick(ids, order)
