"""UMT's objective: contrast, matching, and masked words, all within one batch.

Unmasked Teacher (Li et al., ICCV 2023, section 3.3). No momentum encoders and no queues: each
embedding finds its partner among those of the batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from vlt.models.spec import BertSpec
from vlt.pytrees.fields import near
from vlt.tasks.matching import clipped, draw_negatives, match_loss
from vlt.tasks.task import StepInputs, Task, Terms, named_rngs

LOSSES = ("vtc", "vtm", "mlm")
LEAST_CHANCE = 1e-4  # added to the softmax by which wrong pairs are drawn
MASKED, TO_MASK, TO_ANY = 0.5, 0.8, 0.5  # shares: of words; of those; of the rest


@dataclasses.dataclass(frozen=True)
class BatchMatching(Task):
    """Weighted losses between videos and texts.

    losses: {name of LOSSES: weight}. `vtc`: cross-entropy in both directions of scores divided by
        the temperature; samples that show one video share the target. `vtm`: tells a text with its
        video from the text with another video and from the video with another text, which are
        likelier to be drawn the closer they are. `mlm`: half of the words are masked and predicted
        from the text and its video.

    The temperature is clipped when read, see `Matching`.
    """

    losses: Mapping[str, float]

    loss_inputs: ClassVar[tuple[str, ...]] = ("video_id",)

    def __post_init__(self) -> None:
        for name in self.losses:
            if name not in LOSSES:
                raise ValueError(f"unknown task.losses: {name!r}{near(name, LOSSES)}")
        if not self.losses:
            raise ValueError(f"task.losses has none of {', '.join(LOSSES)}")

    def objective(self, inputs: StepInputs) -> tuple[jax.Array, tuple[Terms, dict[str, Any]]]:
        """The weighted sum over a whole batch, every unweighted term, and the unchanged state.

        Raises:
            ValueError: a batch of one, which has no wrong pairs; `mlm` in a model without its head.
        """
        model, batch = inputs.model, inputs.batch
        if len(batch["video_id"]) < 2:
            raise ValueError("a batch of 1 holds no second video to tell from the first")
        params = inputs.params
        video_key, text_key, drawn, matched, masked, found = jax.random.split(inputs.rng, 6)

        def run(method: str, key: jax.Array, *given: jax.Array) -> Any:
            return model.apply(
                {"params": params}, *given, train=True, method=method, rngs=named_rngs(key)
            )

        video, seen = run("encode_video", video_key, batch["video"])
        text, read = run("encode_text", text_key, batch["text"])
        temperature = clipped(params["temperature"])
        scores = video @ text.T / temperature
        same = batch["video_id"][:, None] == batch["video_id"]
        terms: Terms = {}
        if "vtc" in self.losses:
            terms["vtc"] = contrast(scores, same)
        if "vtm" in self.losses:
            likely = jax.lax.stop_gradient(scores)
            negatives = draw_negatives(likely, same, drawn, LEAST_CHANCE)
            terms["vtm"] = match_loss(
                model,
                params,
                seen["tokens"],
                batch["text"],
                negatives,
                same,
                matched,
                read.get("states"),
            )
        if "mlm" in self.losses:
            if "lm_head" not in params["text"]:
                raise ValueError(
                    "task.losses.mlm: the model has no head that finds masked words "
                    "(spec.masked_words=False); size umt_b16_pretraining has"
                )
            bert: Any = model.spec.text
            ids, wanted = mask_words(batch["text"], bert, masked)
            logits = run("find_words", found, seen["tokens"], ids)
            terms["mlm"] = word_loss(logits, batch["text"], wanted)
        total = sum(self.losses[name] * term for name, term in terms.items())
        return jnp.asarray(total), (terms | {"temperature": temperature}, inputs.state)


def contrast(scores: jax.Array, same: jax.Array) -> jax.Array:
    """Mean of both directions' cross-entropies of scores [b, b] divided by the temperature.

    same: bool [b, b], which samples show one video and share a target.
    """
    target = same / same.sum(1, keepdims=True)
    loss = optax.softmax_cross_entropy
    return (loss(scores, target).mean() + loss(scores.T, target).mean()) / 2


def mask_words(ids: jax.Array, spec: BertSpec, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ids [b, l] with half of the words masked, and which words those are, bool [b, l].

    Of these, 80% become [MASK], 10% any word, and 10% stay. The first token and padding are never
    masked.
    """
    which, how, other, words = jax.random.split(rng, 4)
    may = (ids != 0) & (ids != spec.encode_id)
    wanted = may & jax.random.bernoulli(which, MASKED, ids.shape)
    to_mask = wanted & jax.random.bernoulli(how, TO_MASK, ids.shape)
    to_any = wanted & ~to_mask & jax.random.bernoulli(other, TO_ANY, ids.shape)
    anything = jax.random.randint(words, ids.shape, 0, spec.vocab, ids.dtype)
    masked = jnp.where(to_mask, spec.mask_id, jnp.where(to_any, anything, ids))
    return masked, wanted


def word_loss(logits: jax.Array, ids: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean cross-entropy of the wanted words; logits [b, l, v], ids and wanted [b, l]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
    return jnp.where(wanted, losses, 0.0).sum() / jnp.maximum(wanted.sum(), 1)
