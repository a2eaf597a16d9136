"""BT-Adapter's branch alone: what is left out of it in training, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vlt.adapters.branch import Branch, BranchOptions
from vlt.models.layers import DropPath
from vlt.models.spec import VisionSpec

SPEC = VisionSpec(16, 4, 8, 4, 2, 16)


def entered(frames: int = 2, train: bool = True, **options: object) -> list[DropPath]:
    """The modules that leave out sequences, in the order of their calls."""
    found = []

    def note(call, arguments, keywords, context):
        if isinstance(context.module, DropPath):
            found.append(context.module.clone(parent=None))
        return call(*arguments, **keywords)

    branch = Branch(SPEC, 4, BranchOptions(**options), train, False, False, jnp.float32)
    states = [jnp.zeros((1, frames, 17, 8))] * SPEC.layers
    keys = dict.fromkeys(("params", "dropout"), jax.random.key(0))
    with nn.intercept_methods(note):
        jax.eval_shape(lambda: branch.init(keys, states, jnp.zeros((17, 8)), lambda x: x))
    return found


@pytest.mark.parametrize(("depth", "rates"), [(3, [0.0, 0.1, 0.2]), (2, [0.0, 0.2]), (1, [0.0])])
def test_rates_rise_from_none_to_the_option_in_the_last_layer(depth, rates):
    """Attention over time and over space, in each layer."""
    found = [path.rate for path in entered(depth=depth, drop_path=0.2)]
    assert found == [pytest.approx(rate) for rate in rates for _ in range(2)]
    assert not any(path.rate for path in entered(depth=depth, drop_path=0.2, train=False))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"depth=4: the tower has 4 layers, .* fewer"):
        entered(depth=4)
    assert entered(depth=3, max_frames=2)
    with pytest.raises(ValueError, match="3 frames, but .* has 2; sample at most 2"):
        entered(depth=3, max_frames=2, frames=3)
