"""Learning rates over the steps of a run."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from vlt.pytrees.fields import near

Schedule = Callable[[Any], Any]


class OptimizerConfigError(ValueError):
    """An optimiser or schedule that does not exist, or an option it does not have."""


def make_schedule(config: Mapping[str, Any], lr: float, total_steps: int) -> Schedule:
    """Builds step -> learning rate from dict(name=..., options of that schedule).

    In optax's own, such as `exponential_decay`, every value is a multiple of `lr`. Options that
    optax requires have defaults: 1 for the first value, or for the peak after a rise from 0; 0 for
    `end_value`; and `total_steps` for the number of steps. A run of 0 steps needs no schedule.

    Raises:
      OptimizerConfigError: unknown schedule or option, or a value out of range.
    """
    options = dict(config.items())
    name = options.pop("name", None)
    if name not in (names := {*SCHEDULES, *OF_OPTAX}):
        raise OptimizerConfigError(f"schedule {name!r} is unknown{near(name, names)}")
    known = schedule_options(name)
    for option in options:
        if option not in known:
            raise OptimizerConfigError(
                f"schedule {name!r} has no option {option!r}{near(option, known)}"
            )
    if name in OF_OPTAX:
        # Options that count steps fit no run of 0 steps.
        return _of_optax(name, options, lr, total_steps) if total_steps else lambda step: lr
    total_steps = max(total_steps, 1)
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise OptimizerConfigError(
                f"schedule {name!r}: {option} must be a number, got {value!r}"
            )
    if not 0 <= options.get("warmup", 0) < 1:
        raise OptimizerConfigError(
            f"schedule {name!r}: warmup={options['warmup']!r} must be a share of all steps, 0 <= "
            f"warmup < 1 (for 100 of {total_steps} steps: {100 / total_steps:.3g})"
        )
    return SCHEDULES[name](lr, total_steps, **options)


def schedule_options(name: str) -> list[str]:
    """The options of a schedule of `SCHEDULES` or `OF_OPTAX`."""
    if name in OF_OPTAX:
        return list(inspect.signature(OF_OPTAX[name]).parameters)
    return list(inspect.signature(SCHEDULES[name]).parameters)[2:]


def _of_optax(name: str, options: dict[str, Any], lr: float, total_steps: int) -> Schedule:
    known = inspect.signature(OF_OPTAX[name]).parameters
    first = 0.0 if "peak_value" in known else 1.0
    usual = {"value": 1.0, "init_value": first, "peak_value": 1.0, "end_value": 0.0}
    usual |= dict.fromkeys(("transition_steps", "decay_steps"), total_steps)
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            if option not in usual:
                raise OptimizerConfigError(f"schedule {name!r} lacks option {option!r}")
            options[option] = usual[option]
        elif hasattr(options.get(option), "items"):  # steps, which are strings in a config
            options[option] = {int(step): value for step, value in options[option].items()}
    try:
        shares = OF_OPTAX[name](**options)
        found = [float(shares(step)) for step in (0, total_steps // 2, total_steps)]
    except (TypeError, ValueError, AttributeError) as error:
        raise OptimizerConfigError(f"schedule {name!r} with {options}: {error}") from error
    if not all(math.isfinite(share) and share >= 0 for share in found):
        raise OptimizerConfigError(
            f"schedule {name!r} with {options}: begins, goes on and ends at {found} times lr; it "
            "must be finite and at least 0"
        )
    return lambda step: lr * shares(step)


def constant(lr: float, total_steps: int, warmup: float = 0.0) -> Schedule:
    """`lr` throughout, after a linear rise from 0 over int(warmup * total_steps) steps."""
    steps = int(warmup * total_steps)
    # optax treats a rise of no steps as one that never rises.
    return optax.warmup_constant_schedule(0.0, lr, steps) if steps else optax.constant_schedule(lr)


def linear(lr: float, total_steps: int, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """Linear rise from 0 over int(warmup * total_steps) steps, then linearly to `final` * lr."""
    rise = int(warmup * total_steps)
    fall = optax.linear_schedule(lr, final * lr, total_steps - rise)
    if not rise:
        return fall
    return optax.join_schedules([optax.linear_schedule(0.0, lr, rise), fall], [rise])


def cosine(lr: float, total_steps: int, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """Linear rise from 0 over int(warmup * total_steps) steps, then a half cosine to `final` * lr.

    With final=0, step s of S has a rate of lr * 0.5 (1 + cos(pi (s - W) / (S - W))) after a rise of
    W steps, as in the published TempMe; the first step (s = 0) of a rise moves nothing.
    """
    return optax.warmup_cosine_decay_schedule(
        0.0, lr, int(warmup * total_steps), total_steps, end_value=final * lr
    )


def cosine_by_epoch(lr: float, total_steps: int, epochs: float = 1.0) -> Schedule:
    """BLIP's schedule: 0.5 lr (1 + cos(pi e / epochs)) throughout epoch e, counted from 0.

    Args:
        epochs: number of passes over the data in `total_steps`.
    """

    def schedule(step: Any) -> Any:
        epoch = jnp.floor(step * epochs / total_steps)
        return 0.5 * lr * (1 + jnp.cos(jnp.pi * jnp.minimum(epoch / epochs, 1.0)))

    return schedule


def btadapter(lr: float, total_steps: int, epochs: float = 1.0) -> Schedule:
    """BT-Adapter's pre-training schedule, as in its published code.

    From 0.05 lr linearly to lr over the first half epoch, then a cosine whose half period is 4.5
    epochs. The published run stops after one epoch, at 0.97 lr.

    Args:
      epochs: number of passes over the data in `total_steps`.
    """
    epoch = total_steps / epochs
    rise = epoch / 2

    def schedule(step: Any) -> Any:
        linear = 0.05 + 0.95 * step / rise
        angle = jnp.clip((step - rise) / (4.5 * epoch), 0.0, 1.0) * jnp.pi
        return lr * jnp.where(step < rise, linear, 0.5 * (1 + jnp.cos(angle)))

    return schedule


SCHEDULES = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cosine_by_epoch": cosine_by_epoch,
    "btadapter": btadapter,
}
OF_OPTAX = {
    name: found
    for name, found in vars(optax).items()
    if re.search("^(?!scale_by).*_(schedule|decay)$", name) and inspect.isfunction(found)
}
