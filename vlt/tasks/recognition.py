"""Action recognition: finds a video's class by texts that name all of them (MSTA, Section 3.3)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.dual_encoder import log_scale
from vlt.models.video_model import VideoModel
from vlt.models.vit import normalize
from vlt.pytrees.partition import merge
from vlt.pytrees.paths import leaves_read
from vlt.runtime.mesh import map_sharded_rows
from vlt.tasks import losses
from vlt.tasks.mixing import Mixing, mixed
from vlt.tasks.task import Batch, Features, StepInputs, Task, Terms, named_rngs
from vlt.tasks.templates import check_sentences

MAX_LOGIT_SCALE = 100.0  # of cosines
SENTENCES = 256  # embedded at once
CONTRASTS = {"mean": 0.5, "sum": 1.0}  # factor on the sum of both directions


@dataclasses.dataclass(frozen=True, eq=False)
class Descriptions:
    """Sentences that describe classes, of one kind: spatial or temporal.

    ids: [s, l]. owner: [s], the class of each sentence; every class has at least one.
    """

    ids: np.ndarray
    owner: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Recognition(Task):
    """Cross-entropy over all classes, or a divergence within a batch, and further losses.

    A text tower without trained leaves embeds the classes once, before the first step; otherwise
    each step embeds all of them, split among the devices, or with a contrast those of its batch.
    Descriptions are embedded once, by the weights that training starts from, without the methods
    (MSTA's frozen branch).

    classes: ids [c, l] of one text per class, or [c, k, l] of k texts, in as many templates.
    descriptions: one or several kinds of them.
    consistency: weight of the consistency loss, MSTA's alpha.
    label_smoothing: share of the target spread over all classes. mixing: mixes a batch's clips.
    contrast: '' for cross-entropy over all classes, each as the normalised mean of its k unit
        vectors; or `losses.same_class_divergence` between the videos of a batch and the texts of
        their classes, each in one of the k templates, drawn at random: the `mean` of both
        directions (ActionCLIP) or their `sum` (OST).
    losses: {name: weight} of outputs of a method for training: numbers [b], or embeddings of
        frames [b, t, e], from which all classes are predicted once more.
    largest_scale: upper bound of the logit scale; 0 for none.
    kinds: number of kinds, where the k texts of a class are sentences that describe it, which a
        method reads one by one, all in each step; 0 where they are its name in templates.

    Raises:
        ValueError: a consistency loss without descriptions, or descriptions without it; an unknown
            contrast, or one with an option of the cross-entropy; numbers out of bounds.
    """

    classes: np.ndarray
    descriptions: Sequence[Descriptions] = ()
    consistency: float = 0.0
    label_smoothing: float = 0.0
    mixing: Mixing | None = None
    contrast: str = ""
    losses: Mapping[str, float] = dataclasses.field(default_factory=dict)
    largest_scale: float = MAX_LOGIT_SCALE
    kinds: int = 0

    model_inputs: ClassVar[tuple[str, ...]] = ("video",)
    loss_inputs: ClassVar[tuple[str, ...]] = ("label",)

    def __post_init__(self) -> None:
        if bool(self.consistency) != bool(self.descriptions):
            raise ValueError(
                f"task.consistency={self.consistency} with {len(self.descriptions)} kinds of "
                "descriptions: the consistency loss needs both or neither"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={self.label_smoothing}: must be >= 0 and < 1")
        if self.largest_scale < 0:
            raise ValueError(f"task.largest_scale={self.largest_scale}: must be >= 0")
        if self.contrast not in ("", *CONTRASTS):
            raise ValueError(
                f"task.contrast={self.contrast!r}: must be '' or one of {', '.join(CONTRASTS)}"
            )
        others = {
            "task.descriptions": self.descriptions,
            "task.label_smoothing": self.label_smoothing,
            "task.mixup and task.cutmix": self.mixing,
        }
        if self.contrast and (wrong := [name for name, value in others.items() if value]):
            raise ValueError(
                f"task.contrast={self.contrast!r}: {wrong[0]} need a loss over all classes"
            )

    @property
    def templates(self) -> int:
        """Number of templates that name a class, k."""
        return 1 if self.classes.ndim == 2 else self.classes.shape[1]

    @property
    def scores_batch(self) -> bool:
        """Whether the loss compares the samples of a batch."""
        return bool(self.contrast)

    def numbers(self, size: int, context: int) -> dict[str, np.ndarray]:
        """Labels that go through all classes in turn."""
        return {"label": np.arange(size, dtype=np.int32) % len(self.classes)}

    def prepared(self, batch: Batch, rng: jax.Array) -> Batch:
        """Adds what clips are mixed with, or the `template` [b] of each clip's text."""
        if self.mixing is not None:
            return self.mixing.drawn(batch, rng)
        if self.contrast and self.templates > 1 and not self.kinds:
            return {
                **batch,
                "template": jax.random.randint(rng, batch["label"].shape, 0, self.templates),
            }
        return batch

    def initial_state(
        self, model: VideoModel, trained: dict[str, Any], frozen: dict[str, Any]
    ) -> dict[str, Any]:
        """`classes` of a frozen text tower and `descriptions`, unit vectors [kinds, c, e].

        Classes are unit vectors [c, e], or [c, k, e] with each template for a contrast; for a model
        that scores pairs, what its scores read of texts.

        Raises:
            ValueError: a consistency loss on texts whose embeddings never change; a model whose
                methods know another number of classes, or need sentences.
        """
        params, state = merge(trained, frozen), {}
        if trained:
            self._check_classes(model)
        if not leaves_read(lambda leaves: self._embedded(model, merge(leaves, frozen)), trained):
            if self.consistency:
                raise ValueError("task.consistency: nothing of the text tower is trained")
            found = self._embedded(model, params)
            state["classes"] = self._by_class(found) if self.contrast else self._averaged(found)
        if self.descriptions:
            bare = model.clone(methods=())
            means = [self._mean_by_class(bare, params, kind) for kind in self.descriptions]
            state["descriptions"] = normalize(jnp.stack(means))
        return state

    def _check_classes(self, model: VideoModel) -> None:
        known = model.known_classes
        if known not in (0, len(self.classes)):
            raise ValueError(
                f"a method of the model is for {known} classes, but {len(self.classes)} are "
                "trained on: set its option `classes`"
            )
        check_sentences(model, self.kinds, "task.")

    def initial_params(self, model: VideoModel, params: dict[str, Any]) -> dict[str, Any]:
        """Adds the classes that methods keep, as embedded before the first step."""
        keeping = [method for method in model.methods if method.keeps_classes]
        if not keeping:
            return params
        self._check_classes(model)
        found = self._averaged(self._embedded(model, params))
        classes = normalize(found["features"] if model.scores_pairs else found)
        for method in keeping:
            params = method.init_from_classes(params, classes)
        return params

    def _embedded(self, model: VideoModel, params: dict[str, Any]) -> Any:
        """What scores read of the texts `_rows`; unit vectors where no method scores pairs."""
        owners = self._owners() if model.known_classes else None
        found = embedded(model, params, self._rows(), owners)
        return found if model.scores_pairs else normalize(found)

    def _mean_by_class(
        self, model: VideoModel, params: dict[str, Any], kind: Descriptions
    ) -> jax.Array:
        """Mean of the sentences' embeddings, not normalised: [c, e]."""
        found = embedded(model, params, kind.ids)
        count = np.bincount(kind.owner, minlength=len(self.classes))
        return jax.ops.segment_sum(found, kind.owner, len(self.classes)) / count[:, None]

    def _rows(self) -> np.ndarray:
        """Ids [c * k, l] of all texts, class after class."""
        return self.classes.reshape(-1, self.classes.shape[-1])

    def _owners(self) -> np.ndarray:
        """The class of each of `_rows`, [c * k]."""
        return np.repeat(np.arange(len(self.classes)), self.templates)

    def _by_class(self, found: Any) -> Any:
        """[c * k, ...] -> [c, k, ...]."""
        return jax.tree.map(lambda x: x.reshape(len(self.classes), -1, *x.shape[1:]), found)

    def _averaged(self, found: Any) -> Any:
        """Combines the embeddings of `_rows` into one entry per class, [c, ...]."""
        if self.kinds:
            return grouped(found, len(self.classes), self.kinds)
        return found if self.templates == 1 else averaged(found, len(self.classes))

    def forward(self, inputs: StepInputs) -> dict[str, jax.Array]:
        """`logits` [b, c], or [b, b] of a batch with the texts of its classes, or the `video` and
        `text` [b, e] and the `scale` that those are made from; and what other losses need.

        Raises:
            ValueError: a loss on an output that no method has.
        """
        model, params = inputs.model, inputs.params

        def apply(method: str, stream: int, *x: Any, **told: Any) -> Any:
            rngs = named_rngs(jax.random.fold_in(inputs.rng, stream))
            return model.apply({"params": params}, *x, train=True, rngs=rngs, method=method, **told)

        def encode(ids: jax.Array, classes: jax.Array) -> Any:
            told = {"classes": classes} if model.known_classes else {}
            return text_parts(model, *apply("encode_text", 1, ids, **told))

        video, out = apply("encode_video", 0, self._pixels(inputs))
        texts = self._texts(inputs, encode)
        unit = normalize(texts["features"]) if model.scores_pairs else texts
        scale = jnp.exp(log_scale(model, params))
        scale = scale.clip(max=self.largest_scale) if self.largest_scale else scale

        def logits(video: jax.Array, parts: Mapping[str, jax.Array]) -> jax.Array:
            return scale * (
                apply("scores", 2, parts, texts) if model.scores_pairs else video @ unit.T
            )

        if self.contrast and not model.scores_pairs:
            found = {"video": video, "text": unit, "scale": scale}
        else:
            parts = model.video_parts(out) if model.scores_pairs else {}
            found = {"logits": logits(video, parts)}
        if self.consistency:
            found["consistency"] = consistency_loss(unit, inputs.state["descriptions"])
        return found | self._extras(model, out, logits)

    def _pixels(self, inputs: StepInputs) -> jax.Array:
        """The clips, mixed if the task mixes them."""
        batch, model = inputs.batch, inputs.model
        if self.mixing is None:
            return batch["video"]
        return mixed(model.pixels(batch["video"]), model.pixels(batch["other_video"]), batch)

    def _texts(self, inputs: StepInputs, encode: Callable[[jax.Array, jax.Array], Any]) -> Any:
        """What scores read of the texts of all classes, or, with a contrast, of the batch's."""
        state, rows = inputs.state, (jnp.asarray(self._rows()), jnp.asarray(self._owners()))
        if not self.contrast:
            if "classes" in state:
                return state["classes"]
            return self._averaged(map_sharded_rows(lambda rows: encode(*rows), rows))
        label = inputs.batch["label"]
        if self.kinds:
            chosen = [self._by_class(x)[label] for x in rows]
            each = encode(*(x.reshape(-1, *x.shape[2:]) for x in chosen))
            return grouped(each, len(label), self.kinds)
        which = label, inputs.batch.get("template", jnp.zeros_like(label))
        if "classes" in state:
            return jax.tree.map(lambda x: x[which], state["classes"])
        return encode(*(self._by_class(x)[which] for x in rows))

    def _extras(
        self,
        model: VideoModel,
        out: Mapping[str, jax.Array],
        logits: Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array],
    ) -> dict[str, jax.Array]:
        """What `losses` need: numbers [b], or logits [b, c] of other embeddings of frames."""
        if missing := [name for name in self.losses if name not in out]:
            raise ValueError(
                f"task.losses.{missing[0]}: no method of the model outputs {missing[0]!r}"
            )
        found = {}
        for name in self.losses:
            value = out[name]
            if value.ndim == 3:
                unit_frames = model.frame_norm or model.frame_scores
                mean = (normalize(value) if unit_frames else value).mean(1)
                parts = model.video_parts(out) | {"frames": value} if model.scores_pairs else {}
                value = logits(mean if model.frame_scores else normalize(mean), parts)
            found[f"losses/{name}"] = value
        return found

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """The outputs, and the true class of each sample; for mixtures both, and the share."""
        names = ("label", "other_label", "share")
        return {**outputs, **{name: batch[name] for name in names if name in batch}}

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """Weighted sum, and every unweighted term, with the accuracy."""
        if self.contrast:
            value, terms = self._contrastive(features)
        else:
            value = self._cross_entropy(features["logits"], features)
            terms = {"cross_entropy": value, "accuracy": _accuracy(features["logits"], features)}
        if self.consistency:
            terms["consistency"] = features["consistency"]
            value += self.consistency * features["consistency"]
        for name, weight in self.losses.items():
            given = features[f"losses/{name}"]
            told = given.ndim == 2
            terms[name] = self._cross_entropy(given, features) if told else given.mean()
            value += weight * terms[name]
        return value, terms

    def _contrastive(self, features: Features) -> tuple[jax.Array, Terms]:
        """The divergence, and how often the nearest text of the batch names the true class."""
        label = features["label"]
        if "logits" in features:
            logits = features["logits"]
        else:
            logits = features["scale"] * features["video"] @ features["text"].T
        ways = jnp.stack(losses.same_class_divergence(logits, label))
        value = ways.sum() * CONTRASTS[self.contrast]
        accuracy = (label[logits.argmax(-1)] == label).mean()
        return value, {"divergence": value, "accuracy": accuracy}

    def _cross_entropy(self, logits: jax.Array, features: Features) -> jax.Array:
        """Mean over samples; a mixture's target has both classes, each with its share."""
        value = losses.smoothed_cross_entropy(logits, features["label"], self.label_smoothing)
        if self.mixing is not None:
            label, share = features["other_label"], features["share"]
            other = losses.smoothed_cross_entropy(logits, label, self.label_smoothing)
            value = share * value + (1 - share) * other
        return value.mean()


def _accuracy(logits: jax.Array, features: Features) -> jax.Array:
    """How often the class with the highest logit is true; for a mixture, weighted by its share."""
    found = logits.argmax(-1)
    right = found == features["label"]
    if "share" in features:
        share = features["share"]
        right = share * right + (1 - share) * (found == features["other_label"])
    return right.mean()


def averaged(found: Any, classes: int) -> Any:
    """Texts in several templates, class after class, [c * k, ...] -> unit vectors [c, e]: the means
    of unit vectors, normalised again. For a model that scores pairs, under `features`.

    Raises:
        ValueError: other parts of texts, which have no mean.
    """
    if not isinstance(found, dict):
        return normalize(normalize(found).reshape(classes, -1, found.shape[-1]).mean(1))
    if others := found.keys() - {"features"}:
        raise ValueError(
            f"several templates: there is no mean of {', '.join(sorted(others))}, which a method "
            "reads of every text; take one template"
        )
    return {"features": averaged(found["features"], classes)}


def grouped(parts: Mapping[str, Any], classes: int, kinds: int) -> dict[str, Any]:
    """What a model's scores read of classes, from what they read of all sentences of the classes.

    `features` [c, e], the mean of unit vectors, and `sentences` [c, kinds, n, e].
    """
    features = parts["features"]
    sentences = features.reshape(classes, kinds, -1, features.shape[-1])
    return {"features": normalize(sentences).mean((1, 2)), "sentences": sentences}


def consistency_loss(texts: jax.Array, descriptions: jax.Array) -> jax.Array:
    """Sum over kinds of 1 - cosine, mean over classes (MSTA, Eq. 14).

    texts: unit vectors [c, e] of the classes. descriptions: unit vectors [kinds, c, e].
    """
    return (1 - jnp.einsum("ce,kce->kc", texts, descriptions)).sum(0).mean()


def embedded(
    model: VideoModel, params: dict[str, Any], ids: np.ndarray, classes: np.ndarray | None = None
) -> Any:
    """Text features [s, e], not normalised, of ids [s, l], computed `SENTENCES` at a time.

    For a model that scores pairs, all that its scores read of texts, by name. classes: [s], the
    class that each text names, among those that a method knows.
    """
    rows = (jnp.asarray(ids), *(() if classes is None else (jnp.asarray(classes),)))

    def encode(row: tuple[jax.Array, ...]) -> Any:
        told: dict[str, Any] = {"classes": row[1][None]} if len(row) > 1 else {}
        out = model.apply({"params": params}, row[0][None], method="encode_text", **told)[1]
        parts = text_parts(model, out["text_features"], out)
        return jax.tree.map(lambda x: x[0], parts)

    return jax.lax.map(encode, rows, batch_size=SENTENCES)


def text_parts(model: VideoModel, features: jax.Array, out: Mapping[str, Any]) -> Any:
    """What a model that scores pairs reads of the text tower's `out`; for others, the features."""
    return model.text_parts(out) if model.scores_pairs else features
