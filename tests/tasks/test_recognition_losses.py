"""Soft targets, mixtures of clips, contrasts of a batch, several templates and methods' own losses,
against plain numpy; the same on any number of devices, and in any number of parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_recognition_task as plain
from helpers import run_python
from scipy.special import log_softmax, softmax

from vlt.tasks.losses import same_class_divergence, smoothed_cross_entropy
from vlt.tasks.mixing import Mixing, mixed
from vlt.tasks.recognition import Recognition, averaged
from vlt.tasks.task import StepInputs

B, C, K = plain.B, plain.CLASSES, 3
SEVERAL = plain.sentences(C * K, 5).reshape(C, K, -1)
CASES = {
    "mixture": Recognition(plain.TASK.classes, label_smoothing=0.1, mixing=Mixing(0.8, 1.0)),
    "templates": Recognition(SEVERAL, label_smoothing=0.1),
    "mean": Recognition(SEVERAL, contrast="mean", largest_scale=0.0),
    "sum": Recognition(plain.TASK.classes, contrast="sum"),
}


def test_smoothed_targets_are_those_of_the_published_loss():
    """1 - s + s / c for the true class, s / c for every other one."""
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(5, 7)) * 3, rng.integers(0, 7, 5)
    target = np.eye(7)[label] * 0.9 + 0.1 / 7
    expected = -(target * log_softmax(logits, axis=-1)).sum(-1)
    np.testing.assert_allclose(smoothed_cross_entropy(logits, label, 0.1), expected, rtol=1e-6)


def test_divergence_is_between_softmaxes_both_ways():
    rng = np.random.default_rng(1)
    logits, label = rng.normal(size=(6, 6)) * 3, np.array([0, 1, 0, 2, 2, 2])
    target = softmax(10.0 * (label[:, None] == label), axis=-1)
    expected = [
        (target * (np.log(target) - log_softmax(x, axis=-1))).sum(-1).mean()
        for x in (logits, logits.T)
    ]
    np.testing.assert_allclose(same_class_divergence(logits, label), expected, rtol=1e-5)


def clips(seed: int = 0):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 255, (4, 2, 10, 6, 3), dtype=np.uint8)
    return {"video": jnp.asarray(video), "label": jnp.arange(4)}


def test_clips_and_their_labels_are_mixed_alike():
    """A clip's share of the pixels is its label's share, with mixup and with cutmix."""
    batch, shares = clips(), []
    partner = np.roll(batch["video"], 1, axis=0).astype(float)
    for kind, mixing in (("mixup", Mixing(0.8, 0.0)), ("cutmix", Mixing(0.0, 1.0))):
        draw = jax.jit(mixing.drawn)
        for seed in range(6):
            found = draw(batch, jax.random.key(seed))
            own = batch["video"].astype(float)
            image = np.asarray(mixed(own, found["other_video"].astype(float), found))
            share = float(found["share"][0])
            shares.append(share)
            if kind == "mixup":
                expected = share * own + (1 - share) * partner
                np.testing.assert_allclose(image, expected, atol=1e-3)
            else:
                others = (image == partner).all((0, 1, 4))
                assert ((image == own).all((0, 1, 4)) | others).all()
                top, bottom, left, right = np.asarray(found["box"][0])
                assert (bottom - top) * (right - left) == round((1 - share) * 60)
                assert others[top:bottom, left:right].all()
            np.testing.assert_array_equal(found["other_label"], [3, 0, 1, 2])
    assert len(set(shares)) > 8 and min(shares) >= 0 and max(shares) <= 1


@pytest.mark.slow
def test_a_batch_is_mixed_in_one_of_two_ways():
    draw = jax.jit(Mixing(0.8, 1.0, switch=0.25).drawn)
    cut = [float(draw(clips(), jax.random.key(i))["blend"][0]) == 1 for i in range(64)]
    assert 6 <= sum(cut) <= 28


def test_templates_become_one_unit_vector_of_unit_vectors():
    found = np.random.default_rng(0).normal(size=(6, 4)) * np.arange(1, 7)[:, None]
    unit = found / np.linalg.norm(found, axis=-1, keepdims=True)
    mean = unit.reshape(2, 3, 4).mean(1)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(averaged(found, 2), mean, rtol=1e-5)
    np.testing.assert_allclose(averaged({"features": found}, 2)["features"], mean, rtol=1e-5)
    with pytest.raises(ValueError, match="no mean of tokens"):
        averaged({"features": found, "tokens": found}, 2)


def test_a_mixture_has_the_loss_of_both_labels():
    rng = np.random.default_rng(2)
    logits, share = rng.normal(size=(4, 5)), np.full(4, 0.3)
    label, other = np.array([0, 1, 2, 3]), np.array([3, 0, 1, 2])
    given = {"logits": logits, "label": label, "other_label": other, "share": share}
    target = 0.3 * np.eye(5)[label] + 0.7 * np.eye(5)[other]
    target = 0.9 * target + 0.1 / 5
    value, _ = CASES["mixture"].loss(jax.tree.map(jnp.asarray, given))
    expected = -(target * log_softmax(logits, axis=-1)).sum(-1).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)


class WithExtras(plain.Tables):
    """Also outputs other embeddings of frames, and a number for each video."""

    frame_norm, frame_scores, scores_pairs = False, False, False

    def apply(self, variables, inputs, *texts, method, **options):
        unit, out = super().apply(variables, inputs, *texts, method=method, **options)
        return unit, out | {"merged": -2 * out["frames"], "distance": inputs[:, 0] * 1.0}


def test_losses_of_methods_are_weighed_beside_the_first():
    tables = plain.tables(0, 20.0)
    label = np.arange(B, dtype=np.int32)
    batch = {"video": np.arange(B)[:, None], "label": label}
    task = Recognition(np.arange(C)[:, None], losses={"merged": 0.5, "distance": 0.1})
    run = jax.jit(
        lambda t: task.objective(StepInputs(WithExtras(), t, {}, batch, jax.random.key(0), {}))
    )
    value, (terms, _) = run(tables)
    video, text = tables["visual"], tables["text"][:C]
    norms = [np.linalg.norm(x, axis=-1) for x in (video, text)]
    logits = 20 * video @ text.T / np.outer(*norms)
    first, second = (-log_softmax(s * logits, axis=-1)[label, label].mean() for s in (1, -1))
    np.testing.assert_allclose(terms["merged"], second, rtol=1e-5)
    np.testing.assert_allclose(value, first + 0.5 * second + 0.1 * 3.5, rtol=1e-5)
    with pytest.raises(ValueError, match="task.losses.nothing: no method of the model outputs"):
        dataclasses.replace(task, losses={"nothing": 1.0}).objective(
            StepInputs(WithExtras(), tables, {}, batch, jax.random.key(0), {})
        )


def test_texts_of_a_contrast_are_those_of_the_labels_in_the_templates_drawn():
    """Whether embedded in each step or before the first; templates differ from sample to sample."""
    task = dataclasses.replace(CASES["mean"], classes=np.arange(C * K).reshape(C, K, 1))
    tables, label = plain.tables(0, 20.0), np.array([3, 1, 3, 0, 12, 7, 7, 2], np.int32)
    batch = {"video": np.arange(B)[:, None], "label": label}
    batch = task.prepared(batch, jax.random.key(4))
    assert len(set(np.asarray(batch["template"]).tolist())) > 1
    unit = tables["text"] / np.linalg.norm(tables["text"], axis=-1, keepdims=True)
    state = {"classes": unit[: C * K].reshape(C, K, -1)}
    for carried in ({}, state):
        found = task.forward(
            StepInputs(plain.Tables(), tables, {}, batch, jax.random.key(0), carried)
        )
        np.testing.assert_allclose(found["text"], unit[label * K + batch["template"]], rtol=1e-5)


def test_wrong_options_are_refused():
    ids = plain.TASK.classes
    for options, match in (
        ({"contrast": "max"}, "task.contrast='max': must be '' or one of mean, sum"),
        ({"contrast": "sum", "mixing": Mixing(1.0, 0.0)}, "need a loss over all classes"),
        ({"label_smoothing": 1.0}, "task.label_smoothing=1.0"),
        ({"largest_scale": -1.0}, "task.largest_scale=-1.0"),
    ):
        with pytest.raises(ValueError, match=match):
            Recognition(ids, **options)
    for options in ((-0.1, 1.0), (0.8, 1.0, 1.5), (0.0, 0.0)):
        with pytest.raises(ValueError, match="task."):
            Mixing(*options)


def stepped(name: str, accumulate: int = 1):
    step, frozen, create = plain.setup(task=CASES[name], accumulate=accumulate)
    with jax.default_matmul_precision("highest"):
        return jax.jit(step)(jax.jit(create)(), frozen, plain.batch())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_accumulated_gradient_is_that_of_the_whole_batch(name):
    (whole, metrics), (parts, accumulated) = stepped(name), stepped(name, 4)
    for key in metrics.keys() - {"finite", "lr"}:
        np.testing.assert_allclose(accumulated[key], metrics[key], rtol=1e-5, err_msg=key)
    moments = [optax.tree.get(state.opt_state, "mu") for state in (whole, parts)]
    plain.assert_same_gradients(*moments)


DEVICES = """
    import jax, numpy as np, optax
    from vlt.runtime.mesh import make_mesh, param_sharding, replicated, shard_batch
    import test_recognition_losses as cases, test_recognition_task as here
    jax.config.update("jax_default_matmul_precision", "highest")
    for name, task in cases.CASES.items():
        results = []
        for mesh_config in ({"data": 1}, {"data": 4, "fsdp": 2}):
            mesh = make_mesh(mesh_config, jax.devices()[:np.prod(list(mesh_config.values()))])
            step, frozen, create = here.setup(task=task)
            sharding = param_sharding(mesh, jax.eval_shape(create), min_elements=64)
            state = jax.jit(create, out_shardings=sharding)()
            frozen = jax.device_put(frozen, param_sharding(mesh, frozen, min_elements=64))
            program = jax.jit(step, out_shardings=(sharding, replicated(mesh)))
            with jax.set_mesh(mesh):
                after, metrics = program(state, frozen, shard_batch(here.batch(), mesh))
            assert metrics["finite"]
            results.append(jax.device_get((optax.tree.get(after.opt_state, "mu"), metrics)))
        (moments, metrics), (other, theirs) = results
        for key in metrics.keys() - {"finite", "lr"}:
            np.testing.assert_allclose(theirs[key], metrics[key], 1e-5, err_msg=key)
        here.assert_same_gradients(moments, other)
        print("equal", name)
"""


@pytest.mark.slow
def test_one_device_and_eight_agree():
    found = run_python(DEVICES, devices=8, timeout=500)
    assert all(f"equal {name}" in found for name in CASES)
