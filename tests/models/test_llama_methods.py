"""Methods in a language model: with a cache as all at once, with padding as alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.model_io.build import init_params, make_model
from vlt.models.spec import ChatSpec, LlamaSpec, VisionSpec
from vlt.pytrees.paths import by_path
from vlt.training.rules import partition

SPEC = ChatSpec(VisionSpec(8, 4, 8, 2, 2, 16), LlamaSpec(16, 20, 16, 2, 2, 24), read=1, cls="none")
IN_TEXT = {"towers": ("text",)}
LORA = {"rank": 2, "share_a": False, "targets": ("query", "out", "gate", "fc1", "fc2")}
METHODS = {
    "deep prompts": ("prompt", IN_TEXT | {"tokens": 3}),
    "shallow prompts": ("prompt", IN_TEXT | {"tokens": 3, "deep": False}),
    "lora": ("lora", IN_TEXT | LORA),
    "adapter": ("adapter", IN_TEXT | {"bottleneck": 2, "positions": ("attention", "mlp")}),
    "token rows": ("token_rows", {}),
}
IDS = np.random.default_rng(0).integers(3, 20, (2, 6))


def built(label):
    """The model with one method, and random parameters."""
    name, options = METHODS[label]
    model = make_model(SPEC, {name: options})
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return model, jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)


def decode(model, params, ids, places, *rest, **options):
    def call(model, ids, places, *rest):
        return model.decode(model.embed(ids)[:, None], places, *rest, **options)

    return model.apply({"params": params}, ids, places, *rest, method=call)


@pytest.mark.quick(3)
@pytest.mark.parametrize("label", METHODS)
def test_a_word_after_the_other_and_padded_in_front(label):
    model, params = built(label)

    @jax.jit
    def run(params):
        whole, _ = decode(model, params, IDS, np.arange(6)[None], whole=True)
        ids, valid = np.zeros((2, 10), int), np.zeros((2, 10), bool)
        ids[:, 2:6], valid[:, 2:] = IDS[:, :4], True
        logits, cache = decode(
            model,
            params,
            ids[:, :6],
            np.maximum(np.arange(6) - 2, 0)[None],
            valid[:, :6],
            remember=True,
        )
        found = [logits]
        cache = jax.tree.map(lambda x: jnp.pad(x, ((0, 0),) * 3 + ((0, 4), (0, 0))), cache)
        for step in (4, 5):
            logits, cache = decode(
                model,
                params,
                IDS[:, step : step + 1],
                np.array([[step]]),
                valid,
                cache,
                step + 2,
                remember=True,
            )
            found.append(logits)
        return whole[:, 0, 3:], jnp.concatenate(found, axis=1)

    whole, found = run(params)
    np.testing.assert_allclose(found, whole, atol=2e-5)
    assert np.abs(np.diff(whole, axis=1)).max() > 0.1


def test_room_that_does_not_count_prompts_is_a_sentence():
    model, params = built("deep prompts")

    def run(params, room):
        _, cache = decode(model, params, IDS, np.arange(6)[None], remember=True)
        assert cache[0].keys.shape[3] == 9
        short = jax.tree.map(lambda x: x[:, :, :, :8], cache)
        return decode(model, params, IDS[:, :1], np.zeros((1, 1), int), room, short, 6)

    with pytest.raises(ValueError, match="cache of 8 keys, 3 of them prompts, and valid for 8"):
        jax.eval_shape(run, params, np.ones((2, 8), bool))


def test_rules_choose_blocks_of_the_language_model():
    model, _ = built("lora")
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rules = ((r"text/blocks_1/.*", {"lr": 0.1}), (".*lora_[ab]", {}), (".*", "frozen"))
    trained = by_path(partition(shapes, rules)[0])
    assert "text/blocks_1/mlp/gate/kernel" in trained
    assert "text/blocks_0/mlp/gate/lora_b" in trained
    assert not {"text/blocks_0/mlp/gate/kernel", "text/head/kernel"} & trained.keys()


def test_layers_that_are_not_there_are_a_sentence():
    with pytest.raises(ValueError, match="lora.targets has 'gate', .* none in lora.towers="):
        make_model(SPEC, {"lora": LORA | {"towers": ("visual",)}})
    with pytest.raises(ValueError, match="msta.shared=True: a language model has no block"):
        make_model(SPEC, {"msta": {}})
