import inspect

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from test_rules import PARAMS, RULES

from vlt.pytrees.partition import merge
from vlt.training import optimizer, rules, schedules


def optimizer_config(**changes):
    config = dict(lr=0.1, b1=0.9, b2=0.98, eps=1e-8, clip=0.0, schedule=dict(name="constant"))
    return ml_collections.ConfigDict(config | changes)


def test_gradients_and_state_exist_for_trained_leaves_only():
    trained, frozen = rules.partition(jax.tree.map(jnp.asarray, PARAMS), RULES)
    transform, _ = optimizer.make_optimizer(optimizer_config(), RULES, 10)

    def loss(trained):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(merge(trained, frozen)))

    gradients = jax.grad(loss)(trained)
    state = transform.init(trained)
    updates, _ = transform.update(gradients, state, trained)
    assert jax.tree.structure(updates) == jax.tree.structure(trained)
    elements = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * elements + 2  # two step counts


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
        transform, _ = optimizer.make_optimizer(config, rules, 20)
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


def hugging_face_adamw(param, gradients, rates, b1, b2, eps, decay):
    """The published step, statement by statement: the leaf after each of its gradients."""
    m, v, path = np.zeros_like(param), np.zeros_like(param), []
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient * gradient
        denominator = np.sqrt(v) + eps
        step_size = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        param = param - step_size * m / denominator
        param = param - rate * decay * param
        path.append(param)
    return path


def steps_of(name, start, gradients, rules, **changes):
    """The leaves after each step of our optimiser, in float64, and the learning rates."""
    config = optimizer_config(name=name, **changes)
    total = len(next(iter(gradients.values())))
    path = []
    with jax.enable_x64(True):
        ours = jax.tree.map(jnp.asarray, start)
        transform, schedule = optimizer.make_optimizer(config, rules, total)
        state = transform.init(ours)
        for step in range(total):
            now = {leaf: jnp.asarray(gradients[leaf][step]) for leaf in start}
            updates, state = transform.update(now, state, ours)
            ours = optax.apply_updates(ours, updates)
            path.append(jax.tree.map(np.asarray, ours))
        return path, np.array([schedule(step) for step in range(total)])


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_adamw_hf_is_the_published_step(eps):
    """All twelve steps, with a warm-up, multipliers and decays; `adamw` gives other leaves."""
    random = np.random.default_rng(3)
    start = {name: random.normal(size=(4, 3)) for name in ("slow", "fast", "plain")}
    # From 1e-4 to 1: eps matters for the small ones.
    gradients = {
        name: [random.normal(size=(4, 3)) * 10.0 ** random.uniform(-4, 0) for _ in range(12)]
        for name in start
    }
    rules = [
        ("slow", dict(lr=0.1, weight_decay=0.2)),
        ("fast", dict(lr=3.0, weight_decay=0.5)),
        ("plain", {}),
    ]
    options = dict(lr=0.05, b2=0.999, eps=eps, schedule=dict(name="cosine", warmup=0.25))
    ours, rates = steps_of("adamw_hf", start, gradients, rules, **options)
    assert rates[0] == 0 and all(np.array_equal(ours[0][n], start[n]) for n in start)
    for name, rule in rules:
        expected = hugging_face_adamw(
            start[name], gradients[name], rates * rule.get("lr", 1.0),
            0.9, 0.999, eps, rule.get("weight_decay", 0.0),
        )  # fmt: skip
        for step in range(12):
            # optax computes the schedule in float32.
            np.testing.assert_allclose(ours[step][name], expected[step], rtol=1e-6, atol=1e-9)
    usual, _ = steps_of("adamw", start, gradients, rules, **options)
    for name in start:
        assert np.abs(usual[-1][name] - ours[-1][name]).max() > (1e-3 if eps == 1e-2 else 1e-6)


def test_adamw_hf_differs_from_adamw_by_what_was_just_moved_and_by_the_early_eps():
    """One step: the decay misses rate * decay * step; eps counts as eps / sqrt(1 - b2)."""
    start, gradient = {"a": np.array([2.0])}, {"a": [np.array([1e-3])]}
    rules, options = [("a", dict(weight_decay=0.3))], dict(lr=0.1, b2=0.999)
    hf, usual = (
        steps_of(name, start, gradient, rules, eps=0.0, **options)[0][0]["a"]
        for name in ("adamw_hf", "adamw")
    )
    # Without eps the first step is the learning rate.
    np.testing.assert_allclose(hf - usual, 0.1 * 0.3 * 0.1, rtol=1e-6)
    eps = 1e-6
    early = steps_of("adamw_hf", start, gradient, [("a", {})], eps=eps, **options)[0][0]["a"]
    late = steps_of("adamw", start, gradient, [("a", {})], eps=eps / np.sqrt(1 - 0.999), **options)[
        0
    ][0]["a"]
    np.testing.assert_allclose(early, late, rtol=1e-9)
    assert abs(early - 2.0 + 0.1 / (1 + eps / np.sqrt(1 - 0.999) / 1e-3)) < 1e-6


def test_adamw_hf_keeps_no_more_state_than_adamw_and_has_its_moments():
    trained, _ = rules.partition(jax.tree.map(jnp.asarray, PARAMS), RULES)
    states = [
        optimizer.make_optimizer(optimizer_config(name=name), RULES, 10)[0].init(trained)
        for name in ("adamw", "adamw_hf")
    ]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(state)) for state in states]
    assert sizes[0] == sizes[1]
    for state in states:
        assert jax.tree.structure(optax.tree_utils.tree_get(state, "mu")) == jax.tree.structure(
            trained
        )


def test_a_clipped_gradient_has_the_norm_asked_for():
    transform, _ = optimizer.make_optimizer(optimizer_config(clip=5.0), [(".*", {})], 1)
    params = {"a": jnp.zeros(4)}
    _, state = transform.update({"a": jnp.full(4, 100.0)}, transform.init(params), params)
    momentum = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(jnp.linalg.norm(momentum["a"]), 0.1 * 5.0, rtol=1e-6)


GRADIENTS = [
    {name: np.random.default_rng(step).normal(size=(4, 3)) for name in ("slow", "fast")}
    for step in range(4)
]


def walked(transform, params):
    """The leaves after a step along each gradient."""
    state = transform.init(params)
    for gradients in GRADIENTS:
        now = {name: jnp.asarray(gradients[name], leaf.dtype) for name, leaf in params.items()}
        updates, state = transform.update(now, state, params)
        params = optax.apply_updates(params, updates)
    return params


OPTIONS = {
    "sgd": {"momentum": 0.9, "nesterov": True}, "lion": {"b1": 0.95}, "rmsprop": {"momentum": 0.5},
    "adafactor": {"min_dim_size_to_factor": 2}, "lars": {"momentum": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(optimizer.OF_OPTAX))
def test_every_optimizer_moves_a_leaf_as_optax_does_at_the_rate_of_its_rule(name):
    """Leaves are compared apart, so that none changes another's step; optax's own decay is off."""
    options = OPTIONS.get(name, {})
    start = {"slow": jnp.linspace(-1, 2, 12).reshape(4, 3), "fast": jnp.ones((4, 3))}
    config = optimizer_config(name=name, lr=0.01, **{name: options})
    rules = [("slow", {}), ("fast", {"lr": 3.0})]
    ours = walked(optimizer.make_optimizer(config, rules, 10)[0], start)
    make = optimizer.OF_OPTAX[name]
    undecayed = (
        {"weight_decay": 0.0} if "weight_decay" in inspect.signature(make).parameters else {}
    )
    for leaf, rate in (("slow", 0.01), ("fast", 0.03)):
        theirs = walked(make(rate, **options, **undecayed), {leaf: start[leaf]})[leaf]
        size = np.abs(theirs - start[leaf]).max()
        np.testing.assert_allclose(ours[leaf], theirs, rtol=0, atol=1e-5 * size)
        assert size > 0


@pytest.mark.parametrize("name", ["sgd", "lion", "lamb", "adafactor"])
def test_what_decays_is_what_the_rule_says(name):
    """Where the gradient is zero, a leaf shrinks by lr * rule.lr * weight_decay of itself."""
    start = {"a": jnp.full((2, 2), 4.0), "b": jnp.full((2, 2), 4.0)}
    rules = [("a", {"lr": 2.0, "weight_decay": 0.5}), ("b", {})]
    transform, _ = optimizer.make_optimizer(optimizer_config(name=name), rules, 10)
    still = jax.tree.map(jnp.zeros_like, start)
    updates, _ = transform.update(still, transform.init(start), start)
    np.testing.assert_allclose(updates["a"], -0.1 * 2.0 * 0.5 * 4.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(name="adamv"), ["'adamv'", "did you mean 'adam'"]),
        (dict(name="lino"), ["'lino'", "did you mean 'lion'"]),
        (dict(name="rprop"), ["'rprop' cannot be used", "not multiples of its learning rate"]),
        (dict(name="sgd", sgd=dict(momentm=0.9)), ["'momentm'", "did you mean 'momentum'"]),
        (dict(name="sgd", sgd=dict(momentum="much")), ["'sgd' with {'momentum': 'much'}: "]),
        (dict(name="lion", lion=dict(weight_decay=0.1)), ["'weight_decay': rules say"]),
        (dict(schedule=dict(name="exponential_decay")), ["lacks option 'decay_rate'"]),
        (dict(schedule=dict(name="linear", warmup=2)), ["warmup=2", "share"]),
        (
            dict(schedule=dict(name="linear_schedule", end_value=-1.0)),
            ["at least 0", "[1.0, 0.0, -1.0] times lr"],
        ),
        (dict(schedule=dict(name="cosin")), ["'cosin'", "did you mean 'cosine'"]),
        (dict(schedule=dict(name="cosine", warmpu=0.1)), ["'warmpu'", "did you mean 'warmup'"]),
        (dict(schedule=dict(name="cosine", warmup=100)), ["warmup=100", "share", "0.5"]),
    ],
)
def test_unknown_names_and_values_are_answered(changes, words):
    with pytest.raises(schedules.OptimizerConfigError) as raised:
        optimizer.make_optimizer(optimizer_config(**changes), [(".*", {})], 200)
    for word in words:
        assert word in str(raised.value)
