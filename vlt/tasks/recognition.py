"""Action recognition: a video's class among all, by texts that name them (MSTA, Section 3.3)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlt.models.video_model import VideoModel
from vlt.models.vit import normalize
from vlt.pytrees.partition import merge
from vlt.pytrees.paths import leaves_read
from vlt.runtime.mesh import map_sharded_rows
from vlt.tasks.task import Batch, Features, StepInputs, Task, Terms, named_rngs

MAX_LOGIT_SCALE = 100.0  # of cosines
SENTENCES = 256  # that are embedded at once


@dataclasses.dataclass(frozen=True, eq=False)
class Descriptions:
    """Sentences that describe classes, of one kind: spatial or temporal.

    ids: [s, l]. owner: [s], the class of each sentence; every class has at least one.
    """

    ids: np.ndarray
    owner: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Recognition(Task):
    """Cross-entropy over all classes, and the consistency loss with descriptions of them.

    A text tower of which nothing is trained embeds the classes once, before the first step; else
    all of them in every step, shared among the devices. Descriptions are embedded once, by the
    weights that training starts from, without the methods (MSTA's frozen branch).

    classes: ids [c, l] of a text for each class. descriptions: one or several kinds of them.
    consistency: weight of the consistency loss, MSTA's alpha.

    Raises:
        ValueError: a consistency loss without descriptions, or descriptions without it.
    """

    classes: np.ndarray
    descriptions: Sequence[Descriptions] = ()
    consistency: float = 0.0

    model_inputs: ClassVar[tuple[str, ...]] = ("video",)
    loss_inputs: ClassVar[tuple[str, ...]] = ("label",)

    def __post_init__(self) -> None:
        if bool(self.consistency) != bool(self.descriptions):
            raise ValueError(
                f"task.consistency={self.consistency} with {len(self.descriptions)} kinds of "
                "descriptions: the consistency loss needs both or neither"
            )

    def numbers(self, size: int, context: int) -> dict[str, np.ndarray]:
        """Labels of all classes in turn."""
        return {"label": np.arange(size, dtype=np.int32) % len(self.classes)}

    def initial_state(
        self, model: VideoModel, trained: dict[str, Any], frozen: dict[str, Any]
    ) -> dict[str, Any]:
        """Unit vectors `classes` [c, e] of a frozen text tower; `descriptions` [kinds, c, e].

        Raises:
            ValueError: a consistency loss of texts that nothing changes.
        """
        params, state = merge(trained, frozen), {}
        if not leaves_read(
            lambda leaves: embedded(model, merge(leaves, frozen), self.classes), trained
        ):
            if self.consistency:
                raise ValueError("task.consistency: nothing of the text tower is trained")
            found = embedded(model, params, self.classes)
            state["classes"] = found if model.scores_pairs else normalize(found)
        if self.descriptions:
            bare = model.clone(methods=())
            means = [self._mean_by_class(bare, params, kind) for kind in self.descriptions]
            state["descriptions"] = normalize(jnp.stack(means))
        return state

    def _mean_by_class(
        self, model: VideoModel, params: dict[str, Any], kind: Descriptions
    ) -> jax.Array:
        """Mean of the sentences' embeddings, not normalised: [c, e]."""
        found = embedded(model, params, kind.ids)
        count = np.bincount(kind.owner, minlength=len(self.classes))
        return jax.ops.segment_sum(found, kind.owner, len(self.classes)) / count[:, None]

    def forward(self, inputs: StepInputs) -> dict[str, jax.Array]:
        """`logits` [b, c], and `consistency`, a scalar, where it is asked for."""
        model, state = inputs.model, inputs.state

        def apply(method: str, stream: int, *x: Any) -> Any:
            rngs = named_rngs(jax.random.fold_in(inputs.rng, stream))
            variables = {"params": inputs.params}
            return model.apply(variables, *x, train=True, rngs=rngs, method=method)

        video, out = apply("encode_video", 0, inputs.batch["video"])
        if "classes" in state:
            texts = state["classes"]
        else:
            texts = map_sharded_rows(
                lambda ids: text_parts(model, *apply("encode_text", 1, ids)),
                jnp.asarray(self.classes),
            )
        if model.scores_pairs:
            scores = apply("scores", 2, model.video_parts(out), texts)
            texts = normalize(texts["features"])
        else:
            scores = video @ texts.T
        scale = jnp.exp(inputs.params["logit_scale"]).clip(max=MAX_LOGIT_SCALE)
        found = {"logits": scale * scores}
        if self.consistency:
            found["consistency"] = consistency_loss(texts, state["descriptions"])
        return found

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """Those outputs, and the true class of each sample."""
        return {**outputs, "label": batch["label"]}

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """Cross-entropy plus the weighted consistency loss, and the share of true classes found."""
        logits, label = features["logits"], features["label"]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
        terms = {"cross_entropy": value, "accuracy": (logits.argmax(-1) == label).mean()}
        if self.consistency:
            terms["consistency"] = features["consistency"]
            value += self.consistency * features["consistency"]
        return value, terms


def consistency_loss(texts: jax.Array, descriptions: jax.Array) -> jax.Array:
    """Sum over kinds of 1 - cosine, mean over classes (MSTA, Eq. 14).

    texts: unit vectors [c, e] of the classes. descriptions: unit vectors [kinds, c, e].
    """
    return (1 - jnp.einsum("ce,kce->kc", texts, descriptions)).sum(0).mean()


def embedded(model: VideoModel, params: dict[str, Any], ids: np.ndarray) -> Any:
    """Text features [s, e], not normalised, of ids [s, l], some at a time.

    Of a model that scores pairs, all that its scores read of texts, by name.
    """

    def encode(row: jax.Array) -> Any:
        out = model.apply({"params": params}, row[None], method="encode_text")[1]
        parts = text_parts(model, out["text_features"], out)
        return jax.tree.map(lambda x: x[0], parts)

    return jax.lax.map(encode, jnp.asarray(ids), batch_size=SENTENCES)


def text_parts(model: VideoModel, features: jax.Array, out: Mapping[str, Any]) -> Any:
    """What a model that scores pairs reads of the text tower's `out`; of another, the features."""
    return model.text_parts(out) if model.scores_pairs else features


def checked_template(template: str, where: str) -> str:
    """The template.

    Raises:
        ValueError: it does not have one {}.
    """
    if template.count("{}") != 1:
        raise ValueError(f"{where}: {template!r} must have one {{}}, where the class stands")
    return template
