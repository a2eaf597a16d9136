"""Greedy, nucleus and beam search: choose what is written next, given logits of what may follow.

Beam search comes in three semantics; all score a text by its summed log-probabilities divided by a
length to the power of `length_penalty`.
    blip: that of transformers 4.15, which BLIP and Token Mixing pin. The length counts the prompt
        and [DEC] but not the end token.
    4.31: that of this transformers version, and of earlier ones that read LLaMA. As `blip`, but
        whether an unfinished text can still become better is judged at one token more.
    transformers: that of the current version (5.23). The length counts the end token but not the
        prompt, and unfinished texts compete only at the greatest length.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

METHODS = ("greedy", "beam", "nucleus")
SEMANTICS = ("blip", "4.31", "transformers")


@dataclasses.dataclass(frozen=True)
class Search:
    """How texts are searched for. Defaults are BLIP's.

    method: `greedy`, `beam` or `nucleus`. beams: number of texts kept side by side.
    max_length, min_length: tokens of a text, [DEC] and prompt included, or in a dialogue of the
        answer alone; min_length excludes the end token.
    length_penalty: for beams; above 1 favours longer texts, below 1 shorter ones.
    repetition_penalty: log-probabilities (of beams) or logits of tokens that already occur are
        multiplied or divided by it, whichever lowers them.
    top_p, top_k: for nucleus search, which samples from the likeliest tokens up to this sum of
        probabilities and this number (0: any). BLIP's code asks for 0.9 and gets its library's 50.
        temperature: what logits are divided by before that.
    semantics: for beams: `blip`, `4.31` or `transformers`; see the module.

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
    temperature: float = 1.0

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
            ("temperature", "> 0", self.temperature > 0),
        ):
            if not fits:
                raise ValueError(f"{name} must be {limits}, got {getattr(self, name)!r}")


class State(flax.struct.PyTreeNode):
    """ids [b, g, l] of g texts, 0 after the first `length`; and which searches are `open`, [b]."""

    ids: jax.Array
    length: jax.Array
    open: jax.Array


class Beams(State):
    """Unfinished texts, best first, and those that ended.

    scores: [b, g] summed log-probabilities. parents: [b, g] which text of the step before each one
    continues. ended: ids [b, g, l], best first, with ended_scores [b, g], which are -inf where
    fewer have ended yet.
    """

    scores: jax.Array
    parents: jax.Array
    ended: jax.Array
    ended_scores: jax.Array


def pick(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [b, g, ...] at index [b, k]: [b, k, ...]."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)


def _padded(prompt: jax.Array, groups: int, length: int) -> jax.Array:
    """ids [b, 1, p] -> [b, g, l]."""
    ids = jnp.pad(prompt.astype(jnp.int32), ((0, 0), (0, 0), (0, length - prompt.shape[2])))
    return jnp.broadcast_to(ids, (len(ids), groups, length))


def _adjusted(scores: jax.Array, state: State, search: Search, end_id: int) -> jax.Array:
    """Scores [b, g, v] of the next tokens, with repetition penalty and minimal length applied."""
    if search.repetition_penalty != 1:
        seen = _occurring(state, scores.shape[-1])
        penalty = search.repetition_penalty
        lowered = jnp.where(scores < 0, scores * penalty, scores / penalty)
        scores = jnp.where(seen, lowered, scores)
    end = jnp.where(state.length < search.min_length, -jnp.inf, scores[..., end_id])
    return scores.at[..., end_id].set(end)


def _occurring(state: State, vocab: int) -> jax.Array:
    """Whether each token of the vocabulary occurs in each text: bool [b, g, v]."""
    written = jnp.arange(state.ids.shape[-1]) < state.length
    ids = jnp.where(written, state.ids, vocab).reshape(-1, state.ids.shape[-1])
    seen = jnp.zeros((len(ids), vocab), bool)
    seen = seen.at[jnp.arange(len(ids))[:, None], ids].set(True, mode="drop")
    return seen.reshape(*state.ids.shape[:2], vocab)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Greedy and nucleus search: one text for each prompt, token by token.

    stops: sequences of ids that, besides `end_id`, end a text when they are its last.
    """

    search: Search
    end_id: int
    rng: jax.Array | None
    stops: tuple[tuple[int, ...], ...] = ()

    def start(self, prompt: jax.Array) -> State:
        """The state for prompts [b, 1, p]."""
        ids = _padded(prompt, 1, self.search.max_length)
        return State(ids, jnp.int32(prompt.shape[2]), jnp.ones(len(ids), bool))

    def step(self, state: State, logits: jax.Array) -> State:
        """Adds one token, given logits [b, 1, v]."""
        logits = _adjusted(logits, state, self.search, self.end_id)
        if self.search.method == "greedy":
            token = logits.argmax(-1)
        else:
            if self.search.temperature != 1:
                logits /= self.search.temperature
            values, ids = nucleus(logits, self.search.top_k, self.search.top_p)
            assert self.rng is not None
            drawn = jax.random.categorical(jax.random.fold_in(self.rng, state.length), values)
            token = jnp.take_along_axis(ids, drawn[..., None], axis=-1)[..., 0]
        token = jnp.where(state.open[:, None], token, 0).astype(jnp.int32)
        state = state.replace(
            ids=state.ids.at[:, :, state.length].set(token),
            length=state.length + 1,
            open=state.open & (token[:, 0] != self.end_id),
        )
        return state.replace(open=state.open & ~self._stopped(state)) if self.stops else state

    def _stopped(self, state: State) -> jax.Array:
        """Whether the last ids of each text are a stop: bool [b]."""
        found = jnp.zeros(len(state.ids), bool)
        for stop in self.stops:
            last = state.length - len(stop) + jnp.arange(len(stop))
            found |= (state.ids[:, 0, last] == jnp.array(stop)).all(-1)
        return found

    def result(self, state: State) -> jax.Array:
        """ids [b, l]."""
        return state.ids[:, 0]


def nucleus(logits: jax.Array, top_k: int, top_p: float) -> tuple[jax.Array, jax.Array]:
    """The likeliest tokens of [..., v]: logits [..., k], -inf for those ruled out, and ids.

    A token is ruled out if those above it have more than top_p of the top k's probability.
    """
    count = min(top_k or logits.shape[-1], logits.shape[-1])
    values, ids = jax.lax.top_k(logits, count)
    if top_p == 1:
        return values, ids  # probabilities do not sum to 1 to the last bit
    probability = jax.nn.softmax(values)
    above = probability.cumsum(-1) - probability
    return jnp.where(above > top_p, -jnp.inf, values), ids


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Keeps the `beams` likeliest texts, each with its prompt of `prompt` tokens.

    unseen: [b, 1] number of tokens that a prompt's length counts besides those in `State.ids`;
    below 0 where padding is among these.
    """

    search: Search
    end_id: int
    prompt: int
    unseen: jax.Array | int = 0

    def start(self, prompt: jax.Array) -> Beams:
        """The state for prompts [b, 1, p]. All texts are still alike, so only the first counts."""
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
        """Adds one token, given logits [b, g, v] (or [b, 1, v], after the prompt)."""
        beams, vocab = self.search.beams, logits.shape[-1]
        scores = _adjusted(jax.nn.log_softmax(logits), state, self.search, self.end_id)
        scores = (scores + state.scores[..., None]).reshape(len(scores), -1)
        # Twice as many, since each text may end.
        scores, index = jax.lax.top_k(scores, 2 * beams)
        parents, token = jnp.divmod(index, vocab)
        ids = pick(state.ids, parents).at[:, :, state.length].set(token)
        ends = token == self.end_id
        if self.search.semantics == "transformers":
            ends |= state.length + 1 == self.search.max_length
        # A text that ends counts if it is among the best of all, ended or not.
        counts = ends & (jnp.arange(2 * beams) < beams) & state.open[:, None]
        norm = self._norm(state.length)
        later = self._norm(state.length + 1) if self.search.semantics == "4.31" else norm
        ended_scores, ended = _best(
            jnp.concatenate([state.ended_scores, jnp.where(counts, scores / norm, -jnp.inf)], 1),
            jnp.concatenate([state.ended, ids], 1),
            beams,
        )
        running, order = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
        # By maximum and minimum: if the sorted were sliced, XLA would sort the whole vocabulary.
        best = (running if self.search.semantics == "transformers" else scores).max(1)
        return state.replace(
            ids=pick(ids, order),
            length=state.length + 1,
            open=state.open & (ended_scores.min(1) < (best[:, None] / later)[:, 0]),
            scores=running,
            parents=pick(parents, order),
            ended=ended,
            ended_scores=ended_scores,
        )

    def _norm(self, length: jax.Array | int) -> jax.Array:
        """What scores of texts with one token more than `length` are divided by."""
        counted = length + self.unseen
        if self.search.semantics == "transformers":
            counted = length + 1 - self.prompt
        return jnp.float32(counted) ** self.search.length_penalty

    def ranked(self, state: Beams, count: int) -> tuple[jax.Array, jax.Array]:
        """Scores [b, count] and ids [b, count, l] of the best texts, best first.

        Where the search has not ended, unfinished texts compete too.
        """
        scores = state.scores / self._norm(self.search.max_length)
        scores = jnp.where(state.open[:, None], scores, -jnp.inf)
        return _best(
            jnp.concatenate([state.ended_scores, scores], 1),
            jnp.concatenate([state.ended, state.ids], 1),
            count,
        )

    def result(self, state: Beams) -> jax.Array:
        """ids [b, l] of the best text."""
        return self.ranked(state, 1)[1][:, 0]


def _best(scores: jax.Array, ids: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` best of scores [b, n] and ids [b, n, l], best first."""
    scores, order = jax.lax.top_k(scores, count)
    return scores, pick(ids, order)
