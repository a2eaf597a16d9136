"""OST against golden numbers of the published modules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import numbers
from golden_recognition import check_gradients, converted

from vlt.adapters.ost import OST, transport_plan
from vlt.models.vit import normalize
from vlt.tasks.recognition import Recognition
from vlt.tasks.task import StepInputs

NAME = "ost/a_frames6"


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def golden(shared):
    return numbers(shared, NAME)


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    found = converted(shared, NAME, tmp_path_factory.mktemp("ost"))
    return found.module.clone(methods=(OST(),)), found.params


def test_scores(golden, model):
    """Scores of all pairs, and of one video alone, which are the same."""
    module, params = model
    kinds = ("spatial", "temporal")
    ids = np.stack([golden[f"{kind}_ids"] for kind in kinds], axis=1)

    @jax.jit
    def run(params, video):
        def apply(*inputs, method):
            return module.apply({"params": params}, *inputs, method=method)

        _, out = apply(video, method="encode_video")
        features = apply(ids.reshape(-1, ids.shape[-1]), method="encode_text")[1]["text_features"]
        sentences = features.reshape(*ids.shape[:3], -1)
        text = {"features": sentences.mean((1, 2)), "sentences": sentences}
        parts = module.video_parts(out)
        scores = apply(parts, text, method="scores")
        alone = apply(jax.tree.map(lambda x: x[:1], parts), text, method="scores")
        return out["raw_frames"], sentences, scores, alone

    frames, sentences, scores, alone = run(params, golden["video"])
    np.testing.assert_allclose(frames, golden["frame_features"], atol=5e-5)
    cosines = np.einsum("vte,cnse->vcnts", normalize(frames), normalize(sentences))
    plans = transport_plan(cosines, 0.1, 10)
    scale = golden["scale"]
    for at, kind in enumerate(kinds):
        np.testing.assert_allclose(sentences[:, at], golden[f"{kind}_features"], atol=5e-5)
        np.testing.assert_allclose(plans[:, :, at], golden[f"plan_{kind}"], atol=1e-6)
        transported = scale * (plans * cosines)[:, :, at].sum((-1, -2))
        np.testing.assert_allclose(transported, golden[f"ot_{kind}"], atol=1e-4)
    np.testing.assert_allclose(scale * scores, golden["logits"], atol=1e-4)
    np.testing.assert_allclose(scale * alone, golden["logits_video0_alone"], atol=1e-4)


@pytest.mark.slow
def test_a_training_step(golden, model):
    """Divergences both ways, summed, between a batch and the descriptions of its classes."""
    module, params = model
    ids = np.concatenate([golden["spatial_ids"], golden["temporal_ids"]], axis=1).astype(np.int32)
    task = Recognition(ids, contrast="sum", kinds=2, largest_scale=0.0)
    batch = {"video": golden["video"], "label": jnp.asarray(golden["labels"], jnp.int32)}

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        inputs = StepInputs(module, params, {}, batch, jax.random.key(0), {})
        outputs = task.forward(inputs)
        return task.loss(task.features(outputs, batch))[0], outputs["logits"]

    (value, logits), gradients = loss(params)
    np.testing.assert_allclose(logits, golden["train_logits"], atol=1e-4)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    check_gradients(golden, "ost", gradients)


def test_a_model_that_reads_sentences_needs_some(golden, model):
    module, params = model
    task = Recognition(golden["spatial_ids"][:, 0], contrast="sum")
    with pytest.raises(ValueError, match=r"task.sentences=\(\): the model reads sentences"):
        task.initial_state(module, params, {})
    told = Recognition(golden["spatial_ids"], contrast="sum", kinds=1)
    with pytest.raises(ValueError, match="sentences name 1 kinds, and no method of the model"):
        told.initial_state(module.clone(methods=()), params, {})


def test_a_plan_has_the_marginals_and_is_exact_for_one():
    cosines = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 5, 3)).astype(np.float32)
    plan = transport_plan(cosines, 0.1, 10)
    np.testing.assert_allclose(plan.sum(-1), 1 / 5, atol=1e-4)
    np.testing.assert_allclose(plan.sum(-2), 1 / 3, atol=1e-6)
    np.testing.assert_allclose(transport_plan(cosines[:, :1], 0.1, 1), 1 / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"entropy": 0.0}, "ost.entropy must be > 0"), ({"steps": 0}, "ost.steps must be >= 1")],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        OST(**options)
