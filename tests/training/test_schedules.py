import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.training import schedules


def learning_rates(total_steps, **schedule):
    function = schedules.make_schedule(schedule, 2.0, total_steps)
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


def test_linear_schedule():
    expected = [0, 1, 2, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5]
    actual = learning_rates(8, name="linear", warmup=0.25, final=0.25)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_allclose(learning_rates(2, name="linear"), [2, 1, 0], atol=1e-7)


OPTAX = {
    "cosine_onecycle_schedule": {}, "exponential_decay": {"decay_rate": 0.5},
    "piecewise_constant_schedule": {"boundaries_and_scales": {"3": 0.1}},
    "piecewise_interpolate_schedule": {"interpolate_type": "linear"},
    "polynomial_schedule": {"power": 2.0, "end_value": 0.1},
    "sgdr_schedule": {"cosine_kwargs": (
        {"init_value": 0.0, "peak_value": 1.0, "decay_steps": 6, "warmup_steps": 1},
    )},
    "warmup_constant_schedule": {"warmup_steps": 2},
    "warmup_cosine_decay_schedule": {"warmup_steps": 2},
    "warmup_exponential_decay_schedule": {"warmup_steps": 2, "decay_rate": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(schedules.OF_OPTAX))
def test_schedules_of_optax_are_multiples_of_the_learning_rate(name):
    rates = learning_rates(8, name=name, **OPTAX.get(name, {}))
    assert rates.max() == pytest.approx(2.0, rel=0.05) and rates.min() >= 0
    assert (np.ptp(rates) == 0) == (name in ("constant_schedule", "piecewise_interpolate_schedule"))


def test_a_run_without_steps_needs_no_schedule():
    warmup = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 5000}
    assert schedules.make_schedule(warmup, 0.5, 0)(0) == 0.5
    with pytest.raises(schedules.OptimizerConfigError, match="decay_steps"):
        schedules.make_schedule(warmup, 0.5, 1)
    with pytest.raises(schedules.OptimizerConfigError, match="has no option 'warm'"):
        schedules.make_schedule({"name": "cosine", "warm": 0.1}, 0.5, 0)
    with pytest.raises(schedules.OptimizerConfigError, match="warmup=3 must be a share"):
        schedules.make_schedule({"name": "cosine", "warmup": 3}, 0.5, 0)


def test_options_of_optax_are_what_they_are_there():
    rates = learning_rates(8, name="exponential_decay", decay_rate=0.25, transition_steps=4)
    np.testing.assert_allclose(rates[[0, 4, 8]], [2.0, 0.5, 0.125], rtol=1e-6)
    rates = learning_rates(
        4, **OPTAX["piecewise_constant_schedule"], name="piecewise_constant_schedule"
    )
    np.testing.assert_allclose(rates, [2, 2, 2, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("total", [7030, 7036, 39])
def test_cosine_schedule_is_tempmes(total):
    """int(0.1 total) steps of linear rise, from a first step of rate 0; then half a cosine."""
    rise = int(0.1 * total)
    expected = [
        step / rise if step < rise
        else 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))
        for step in range(total + 1)
    ]  # fmt: skip
    function = schedules.make_schedule(dict(name="cosine", warmup=0.1), 6e-4, total)
    actual = jax.vmap(function)(jnp.arange(total + 1))
    np.testing.assert_allclose(actual, 6e-4 * np.array(expected), rtol=2e-5, atol=1e-10)
    assert actual[0] == 0 and actual[rise] == pytest.approx(6e-4)


def test_btadapter_schedule():
    """The published numbers: 0.05 at the start, 1 at half an epoch, about 0.97 at one epoch."""
    rates = learning_rates(1000, name="btadapter") / 2.0
    np.testing.assert_allclose(rates[[0, 250, 500]], [0.05, 0.525, 1.0], rtol=1e-6)
    np.testing.assert_allclose(rates[1000], 0.5 * (1 + math.cos(math.pi / 9)), rtol=1e-6)
    assert abs(rates[1000] - 0.97) < 1e-3
    five = learning_rates(1000, name="btadapter", epochs=5.0) / 2.0
    np.testing.assert_allclose(five[[100, 1000]], [1.0, 0.0], atol=1e-6)


def test_cosine_by_epoch_changes_with_the_epoch():
    """BLIP's: 0.5 (1 + cos(pi e / 5)) in epoch e, constant within it."""
    rates = learning_rates(1000, name="cosine_by_epoch", epochs=5.0) / 2.0
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    np.testing.assert_allclose(rates[:1000], np.repeat(expected, 200), rtol=1e-6)


@pytest.mark.parametrize("name, options", [
    ("constant", dict(warmup=0.1)), ("cosine", dict(warmup=0.1)), ("btadapter", {}),
    ("cosine_by_epoch", dict(epochs=4.0)), ("linear", dict(warmup=0.1)),
    ("polynomial_schedule", dict(power=2.0)),
])  # fmt: skip
def test_schedules_work_under_jit(name, options):
    schedule = schedules.make_schedule(dict(name=name, **options), 1.0, 20)
    steps = jnp.arange(21)
    one_by_one = jnp.stack([jnp.asarray(schedule(int(step))) for step in steps])
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(steps), one_by_one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cosine", "final": "x"}, "schedule 'cosine': final must be a number, got 'x'"),
        ({"name": "constant", "warmup": "x"}, "'constant': warmup must be a number, got 'x'"),
        ({"name": "linear", "final": True}, "'linear': final must be a number, got True"),
    ],
)
def test_an_option_that_is_no_number_is_refused(options, message):
    with pytest.raises(schedules.OptimizerConfigError, match=message):
        schedules.make_schedule(options, 1.0, 10)
