import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from vlt import optim

PARAMS = {
    "visual": {
        "patch_embedding": {"kernel": np.ones((2, 3))},
        "btadapter": {
            "temporal_0": {"projection": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}},
            "class_token": np.ones(3),
        },
    },
    "logit_scale": np.ones(()),
}
RULES = (
    (r".*/temporal_\d+/.*", dict(lr=100.0, weight_decay=0.05)),
    (r"visual/btadapter/.*", dict(lr=10.0)),
    (r".*", "frozen"),
)


def optimizer_config(**changes):
    config = dict(lr=0.1, b1=0.9, b2=0.98, eps=1e-8, clip=0.0, schedule=dict(name="constant"))
    return ml_collections.ConfigDict(config | changes)


def test_first_match_wins_and_every_leaf_has_a_rule():
    found = optim.assign(PARAMS, RULES)
    assert found == {
        "visual/patch_embedding/kernel": optim.Rule(".*", frozen=True),
        "visual/btadapter/temporal_0/projection/kernel": optim.parse_rules(RULES)[0],
        "visual/btadapter/temporal_0/projection/bias": optim.parse_rules(RULES)[0],
        "visual/btadapter/class_token": optim.Rule("visual/btadapter/.*", lr=10.0),
        "logit_scale": optim.Rule(".*", frozen=True),
    }


def test_rules_survive_a_config_dict():
    config = ml_collections.ConfigDict(dict(rules=RULES))
    assert optim.assign(PARAMS, config.rules) == optim.assign(PARAMS, RULES)


def test_partition_leaves_nothing_of_the_frozen_and_merge_restores():
    trained, frozen = optim.partition(PARAMS, RULES)
    assert set(trained) == {"visual"} and set(trained["visual"]) == {"btadapter"}
    assert set(frozen["visual"]) == {"patch_embedding"} and "logit_scale" in frozen
    merged = optim.merge(trained, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    assert all(
        a is b for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True)
    )


def test_merge_refuses_a_leaf_twice():
    with pytest.raises(ValueError, match="logit_scale"):
        optim.merge({"logit_scale": 1.0}, {"logit_scale": 2.0})


def test_gradients_and_state_exist_for_trained_leaves_only():
    trained, frozen = optim.partition(jax.tree.map(jnp.asarray, PARAMS), RULES)
    transform, _ = optim.make_optimizer(optimizer_config(), RULES, 10)

    def loss(trained):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(optim.merge(trained, frozen)))

    gradients = jax.grad(loss)(trained)
    state = transform.init(trained)
    updates, _ = transform.update(gradients, state, trained)
    assert jax.tree.structure(updates) == jax.tree.structure(trained)
    elements = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * elements + 2  # two step counts


@pytest.mark.parametrize(
    "rules, words",
    [
        ([(r".*/temporal_\d+/.*", "frozen")], ["3 of 5", "logit_scale", "patch_embedding/kernel"]),
        ([("visual/btadaptor/class_tokens", "frozen"), (".*", "frozen")],
         ["matches nothing", "btadaptor", "visual/btadapter/class_token"]),
        ([(".*", "frozen"), ("visual/btadapter/.*", dict(lr=1.0))],
         ["never applies", "all 3 leaves", "'.*'"]),
        ([("visual", "frozen"), (".*", "frozen")], ["'visual' matches nothing", "whole path"]),
        ([(".*", "forzen")], ["'forzen'", "'frozen'"]),
        ([(".*", dict(lr=1.0, decay=0.1))], ["'decay'", "weight_decay"]),
        ([(".*", dict(lr=-1.0))], ["lr=-1.0"]),
        ([("(", "frozen")], ["'('", "regular expression"]),
        ([".*"], ["rule 0", "pair"]),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_say_why(rules, words):
    with pytest.raises(optim.RuleError) as raised:
        optim.partition(PARAMS, rules)
    for word in words:
        assert word in str(raised.value)


def test_adamw_equals_torch():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    start = {name: random.normal(size=(4, 3)) for name in ("slow", "fast", "plain")}
    target = random.normal(size=(4, 3))
    rules = [
        ("slow", dict(lr=0.1, weight_decay=0.05)),
        ("fast", dict(lr=10.0, weight_decay=0.2)),
        ("plain", {}),
    ]
    base, clip = 0.01, 0.5
    config = optimizer_config(lr=base, clip=clip)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    groups = [
        dict(params=[theirs[name]], lr=base * options.get("lr", 1.0),
             weight_decay=options.get("weight_decay", 0.0))
        for name, options in rules
    ]  # fmt: skip
    torch_optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)
    with jax.enable_x64(True):
        ours = jax.tree.map(jnp.asarray, start)
        transform, _ = optim.make_optimizer(config, rules, 20)
        state = transform.init(ours)
        for _ in range(20):
            gradients = jax.grad(
                lambda p: sum(((leaf - target) ** 2).sum() for leaf in p.values())
            )(ours)
            updates, state = transform.update(gradients, state, ours)
            ours = optax.apply_updates(ours, updates)
            torch_optimizer.zero_grad()
            sum(((leaf - torch.tensor(target)) ** 2).sum() for leaf in theirs.values()).backward()
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
            torch_optimizer.step()
    for name in start:
        # torch's clip divides by (norm + 1e-6), hence not to machine precision.
        np.testing.assert_allclose(ours[name], theirs[name].detach().numpy(), atol=1e-6, rtol=0)
        assert np.abs(np.asarray(ours[name]) - start[name]).max() > 1e-3


def test_a_clipped_gradient_has_the_norm_asked_for():
    transform, _ = optim.make_optimizer(optimizer_config(clip=5.0), [(".*", {})], 1)
    params = {"a": jnp.zeros(4)}
    _, state = transform.update({"a": jnp.full(4, 100.0)}, transform.init(params), params)
    momentum = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(jnp.linalg.norm(momentum["a"]), 0.1 * 5.0, rtol=1e-6)


def learning_rates(total_steps, **schedule):
    function = optim.make_schedule(schedule, 2.0, total_steps)
    return np.array([function(step) for step in range(total_steps + 1)])


def test_constant_schedule():
    np.testing.assert_allclose(learning_rates(4, name="constant"), [2.0] * 5)
    np.testing.assert_allclose(
        learning_rates(8, name="constant", warmup=0.25), [0, 1, 2, 2, 2, 2, 2, 2, 2]
    )


def test_cosine_schedule():
    expected = [0, 1] + [0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(9)]
    actual = learning_rates(10, name="cosine", warmup=0.2, final=0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(learning_rates(2, name="cosine"), [2, 1, 0], atol=1e-7)


def test_btadapter_schedule():
    """The published numbers: 0.05 at the start, 1 at half an epoch, about 0.97 at one epoch."""
    rates = learning_rates(1000, name="btadapter") / 2.0
    np.testing.assert_allclose(rates[[0, 250, 500]], [0.05, 0.525, 1.0], rtol=1e-6)
    np.testing.assert_allclose(rates[1000], 0.5 * (1 + math.cos(math.pi / 9)), rtol=1e-6)
    assert abs(rates[1000] - 0.97) < 1e-3
    five = learning_rates(1000, name="btadapter", epochs=5.0) / 2.0
    np.testing.assert_allclose(five[[100, 1000]], [1.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("name, options", [
    ("constant", dict(warmup=0.1)), ("cosine", dict(warmup=0.1)), ("btadapter", {})
])  # fmt: skip
def test_schedules_work_under_jit(name, options):
    schedule = optim.make_schedule(dict(name=name, **options), 1.0, 20)
    steps = jnp.arange(21)
    one_by_one = jnp.stack([jnp.asarray(schedule(int(step))) for step in steps])
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(steps), one_by_one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(name="adamv"), ["'adamv'", "did you mean 'adamw'"]),
        (dict(schedule=dict(name="cosin")), ["'cosin'", "did you mean 'cosine'", "btadapter"]),
        (dict(schedule=dict(name="cosine", warmpu=0.1)), ["'warmpu'", "did you mean 'warmup'"]),
        (dict(schedule=dict(name="cosine", warmup=100)), ["warmup=100", "share", "0.5"]),
    ],
)
def test_unknown_names_and_values_are_answered(changes, words):
    with pytest.raises(optim.OptimizerConfigError) as raised:
        optim.make_optimizer(optimizer_config(**changes), [(".*", {})], 200)
    for word in words:
        assert word in str(raised.value)
