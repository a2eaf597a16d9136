"""The loss of answers, by its formula in torch, and its gradient in all parts of the model."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import torch
from small_retriever import TEXT, VISUAL
from torch.nn.functional import cross_entropy

from vlt.model_io.build import init_params
from vlt.models.answerer import Answerer
from vlt.models.sizes import SIZES
from vlt.models.spec import BlipSpec
from vlt.tasks.build import make_task
from vlt.tasks.question_answering import QuestionAnswering
from vlt.training.optimizer import make_optimizer
from vlt.training.rules import partition
from vlt.training.step import TrainState, make_train_step

B, FRAMES, L = 4, 3, 6
ANSWERS = np.array([[1, 5, 2, 0, 0, 0], [1, 7, 8, 9, 2, 0], [1, 4, 4, 4, 4, 2], [1, 2] + 4 * [0]])
OUT = {"logits": np.random.default_rng(0).normal(size=(B, L, 20)).astype(np.float32)}


def batch(size=B):
    rng = np.random.default_rng(1)
    video = rng.integers(0, 255, (size, FRAMES, 8, 8, 3), dtype=np.uint8)
    question = rng.integers(3, 18, (size, L)).astype(np.int32)
    question[::2, 4:] = 0
    return {"video": video, "question": question, "answer": ANSWERS[:size].astype(np.int32)}


def loss(task):
    return float(task.loss(task.features(OUT, batch()))[0])


def test_summed_over_words_weighted_and_divided_by_videos_or_frames():
    target = torch.from_numpy(np.where(ANSWERS == 0, -100, ANSWERS))[:, 1:]
    logits = torch.from_numpy(OUT["logits"])[:, :-1].mT
    each = cross_entropy(logits, target, label_smoothing=0.1, reduction="none")
    expected = 0.2 * each.sum() / B
    np.testing.assert_allclose(loss(QuestionAnswering()), expected, rtol=1e-6)
    published = loss(QuestionAnswering(denominator="frames"))
    np.testing.assert_allclose(published, expected / FRAMES, rtol=1e-6)
    twice = loss(QuestionAnswering(answer_weight=0.4))
    np.testing.assert_allclose(twice, 2 * expected, rtol=1e-6)


def test_unknown_denominator_is_refused():
    with pytest.raises(
        ValueError, match="unknown task.denominator: 'words'; choose from videos, frames"
    ):
        QuestionAnswering(denominator="words")


def test_config_makes_the_task_of_an_answerer_alone():
    section = {"name": "question_answering", "label_smoothing": 0.0}
    section |= {"answer_weight": 1.0, "denominator": "frames"}
    expected = QuestionAnswering(0.0, 1.0, "frames")
    assert make_task({"task": section}, SIZES["blip_b16_answerer"]) == expected
    with pytest.raises(ValueError, match="needs a model of kind answerer, not retriever"):
        make_task({"task": section}, SIZES["blip_b16_retriever"])


@pytest.mark.slow
def test_gradient_reaches_all_three_parts_and_microbatches_make_no_difference():
    model = Answerer(BlipSpec("answerer", VISUAL, dataclasses.replace(TEXT, dropout=0.0)))
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    rules = ((".*", {"lr": 1.0}),)
    optimizer, schedule = make_optimizer(
        {"lr": 1e-2, "b1": 0.9, "b2": 0.98, "eps": 1e-8, "schedule": {"name": "constant"}}, rules, 9
    )
    trained, frozen = partition(params, rules)
    task = QuestionAnswering()
    found = []
    for accumulate in (1, 2):
        step = make_train_step(model, task, optimizer, schedule, accumulate)
        with jax.default_matmul_precision("highest"):
            state = TrainState.create(model, trained, frozen, optimizer, task, 0)
            after, metrics = jax.jit(step)(state, frozen, batch())
        found.append((optax.tree.get(after.opt_state, "mu"), metrics["answer"]))
    assert {"visual", "question", "text"} == found[0][0].keys()
    for path, grad in jax.tree_util.tree_leaves_with_path(found[0][0]):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.abs(grad).max() > 0 or name.endswith("key/bias"), name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-7), *found)
