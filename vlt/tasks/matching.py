"""BLIP's retrieval objective: contrast with momentum encoders and queues, and matching.

BLIP (Li et al., arXiv:2201.12086, section 3.2), after ALBEF (arXiv:2107.07651). Where the published
code puts one device's samples before the queue, this one puts those of the whole batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from vlt.models.leaf_names import NOT_EMBEDDING
from vlt.models.video_model import VideoModel
from vlt.models.vit import normalize
from vlt.pytrees.patterns import first_match
from vlt.tasks.task import Batch, StepInputs, Task, Terms, named_rngs

NO_VIDEO = -100  # id of the queues' initial entries
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5


@dataclasses.dataclass(frozen=True)
class Matching(Task):
    """The sum of a contrastive loss `ita` and a matching loss `itm`.

    ita: each embedding must find its partner among the momentum embeddings of the batch and queues.
    Its target mixes the true partners with what the momentum embedding itself finds.
    itm: tells a text with its video from the video with another's text and from the text with
    another's video; these are likelier to be drawn the closer they are, and never show the same
    video.

    The task carries momentum copies of the trained leaves that embeddings pass through (copies of
    frozen ones would never differ), two queues with the videos' ids, and the number of its steps.

    The temperature is clipped to [0.001, 0.5] when read. The gradient passes through the clipping,
    so the parameter can return from outside; the published code clips the parameter itself before
    each step.

    embed_dim: dimension of the joint space. queue: number of embeddings in each queue, a multiple
    of the batch. momentum: share of a copy that each step keeps. alpha: share of what the momentum
    embedding finds in the target, after rising from 0 over `ramp` steps.
    """

    embed_dim: int
    queue: int = 57_600
    momentum: float = 0.995
    alpha: float = 0.4
    ramp: int = 0

    loss_inputs: ClassVar[tuple[str, ...]] = ("video_id",)

    def initial_state(
        self, model: VideoModel, trained: dict[str, Any], frozen: dict[str, Any]
    ) -> dict[str, Any]:
        """Copies of the leaves, and queues of random unit vectors that belong to no video."""
        shape = (self.queue, self.embed_dim)
        video, text = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0)))
        return {
            # A step that donates its old state must not donate a leaf twice.
            "momentum": jax.tree.map(jnp.copy, _embedding_leaves(trained)),
            "video": normalize(video),
            "text": normalize(text),
            "ids": jnp.full((self.queue,), NO_VIDEO, jnp.int32),
            "oldest": jnp.zeros((), jnp.int32),
            "steps": jnp.zeros((), jnp.int32),
        }

    def objective(self, inputs: StepInputs) -> tuple[jax.Array, tuple[Terms, dict[str, Any]]]:
        """The loss of a whole batch, what is logged, and the task's state after it.

        Raises:
            ValueError: a batch of one, or one that does not divide the queue.
        """
        model, trained, _, batch, rng, state = inputs
        self._check(len(batch["video_id"]))
        own, slow, matched, drawn = jax.random.split(rng, 4)
        params = inputs.params
        temperature = clipped(params["temperature"])
        moved = jax.lax.stop_gradient(self._moved(state["momentum"], trained))
        video, text, tokens = embed(model, params, batch, own)
        # With dropout, as published.
        slow_video, slow_text, _ = embed(model, _overlaid(params, moved), batch, slow)
        targets = jax.lax.stop_gradient({"video": slow_video, "text": slow_text})
        ita = self.contrast(video, text, targets, batch["video_id"], temperature, state)
        same = batch["video_id"][:, None] == batch["video_id"]
        cosines = jax.lax.stop_gradient(video @ text.T / temperature)
        negatives = draw_negatives(cosines, same, drawn)
        itm = match_loss(model, params, tokens, batch["text"], negatives, same, matched)
        terms = {"ita": ita, "itm": itm, "temperature": temperature}
        after = self.enqueue(state, targets | {"ids": batch["video_id"]})
        return ita + itm, (terms, after | {"momentum": moved})

    def _check(self, batch: int) -> None:
        if batch < 2:
            raise ValueError(f"a batch of {batch} holds no second video to tell from the first")
        if self.queue % batch:
            raise ValueError(
                f"task.queue={self.queue} must be a multiple of the batch of {batch}, such as "
                f"{max(self.queue // batch, 1) * batch}"
            )

    def _moved(self, momentum: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
        keep = self.momentum
        leaves = _embedding_leaves(trained)
        return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, momentum, leaves)

    def contrast(
        self,
        video: jax.Array,
        text: jax.Array,
        slow: Mapping[str, jax.Array],
        ids: jax.Array,
        temperature: jax.Array,
        state: Mapping[str, jax.Array],
    ) -> jax.Array:
        """Mean of both directions' cross-entropies with soft targets.

        video, text, and those in `slow` of the momentum encoders: unit vectors [b, e]. ids: [b].
        """
        every = {name: jnp.concatenate([slow[name], state[name]]) for name in slow}
        true = ids[:, None] == jnp.concatenate([ids, state["ids"]])
        true = true / true.sum(1, keepdims=True)
        risen = jnp.minimum(1.0, state["steps"] / self.ramp) if self.ramp else 1.0
        alpha = self.alpha * risen

        def loss(x: jax.Array, slow_x: jax.Array, others: jax.Array) -> jax.Array:
            found = jax.nn.softmax(slow_x @ others.T / temperature)
            target = jax.lax.stop_gradient(alpha * found + (1 - alpha) * true)
            return optax.softmax_cross_entropy(x @ others.T / temperature, target).mean()

        to_text = loss(video, slow["video"], every["text"])
        return (to_text + loss(text, slow["text"], every["video"])) / 2

    def enqueue(self, state: Mapping[str, Any], newest: Mapping[str, jax.Array]) -> dict[str, Any]:
        """The state with the newest embeddings in place of the oldest, and one step more."""
        start = state["oldest"]
        written = {
            name: jax.lax.dynamic_update_slice_in_dim(state[name], x, start, axis=0)
            for name, x in newest.items()
        }
        oldest = (start + len(newest["ids"])) % self.queue
        return dict(state) | written | {"oldest": oldest, "steps": state["steps"] + 1}


def _embedding_leaves(trained: Mapping[str, Any]) -> dict[str, Any]:
    leaves = traverse_util.flatten_dict(dict(trained), sep="/")
    kept = {path: x for path, x in leaves.items() if first_match(NOT_EMBEDDING, path) is None}
    return traverse_util.unflatten_dict(kept, sep="/")


def _overlaid(params: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the leaves of `other` in their places."""
    below, above = (traverse_util.flatten_dict(dict(tree), sep="/") for tree in (params, other))
    return traverse_util.unflatten_dict(below | above, sep="/")


def clipped(temperature: jax.Array) -> jax.Array:
    """The temperature clipped to its range, with the gradient that it has without clipping."""
    return temperature + jax.lax.stop_gradient(
        jnp.clip(temperature, MIN_TEMPERATURE, MAX_TEMPERATURE) - temperature
    )


def embed(
    model: VideoModel, params: Mapping[str, Any], batch: Batch, rng: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Unit vectors of videos and texts [b, e] in training, and the videos' tokens [b, m, d]."""

    def encode(name: str, key: jax.Array) -> Any:
        return model.apply(
            {"params": params},
            batch[name],
            train=True,
            method=f"encode_{name}",
            rngs=named_rngs(key),
        )

    of_video, of_text = jax.random.split(rng)
    (video, out), (text, _) = encode("video", of_video), encode("text", of_text)
    return video, text, out["tokens"]


def draw_negatives(
    similarity: jax.Array, same: jax.Array, rng: jax.Array, least: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """For each video another's text, and for each text another video: two arrays of indices [b].

    similarity: [b, b] of videos to texts, divided by the temperature; an index is drawn with a
    probability proportional to the softmax of its row (column) plus `least`. same: bool [b, b],
    pairs that show the same video and are excluded.
    """
    text, video = jax.random.split(rng)

    def allowed(similarity: jax.Array) -> jax.Array:
        if least:
            similarity = jnp.log(jax.nn.softmax(similarity) + least)
        return jnp.where(same, -jnp.inf, similarity)

    drawn = jax.random.categorical
    return drawn(text, allowed(similarity)), drawn(video, allowed(similarity.T))


def match_loss(
    model: VideoModel,
    params: Mapping[str, Any],
    tokens: jax.Array,
    ids: jax.Array,
    negatives: tuple[jax.Array, jax.Array],
    same: jax.Array,
    rng: jax.Array,
    states: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy over b true pairs and 2 b wrong ones.

    tokens [b, m, d], ids [b, l]; negatives and same as in `draw_negatives`. A sample whose video is
    that of all others has no wrong pairs. states: [b, l, d] of the texts, as in `Retriever.match`.
    """

    def match(tokens: jax.Array, texts: Any, key: jax.Array) -> jax.Array:
        ids, states = texts
        known = {} if states is None else {"states": states}
        logits: Any = model.apply(
            {"params": params},
            tokens,
            ids,
            train=True,
            method="match",
            rngs=named_rngs(key),
            **known,
        )
        return logits

    of_video, of_text = jax.random.split(rng)
    text, video = negatives
    texts = (ids, states)
    # Both texts of a video share its keys and values.
    both = jax.tree.map(lambda x: jnp.stack([x, x[text]], axis=1), texts)
    first = match(tokens, both, of_video)
    second = match(tokens[video], jax.tree.map(lambda x: x[:, None], texts), of_text)
    losses = -jax.nn.log_softmax(jnp.concatenate([first, second], axis=1))
    losses = jnp.stack([losses[:, 0, 1], losses[:, 1, 0], losses[:, 2, 0]], axis=1)
    wrong = ~same.all(1)
    counts = jnp.stack([jnp.ones_like(wrong), wrong, wrong], axis=1)
    return jnp.where(counts, losses, 0.0).sum() / counts.sum()
