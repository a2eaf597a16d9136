"""BT-Adapter's branch alone: what training drops in it, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.adapters.branch import Branch, BranchOptions, SpatialLayer
from vlt.models.block import Block
from vlt.models.layers import DropPath
from vlt.models.rotary import frame_places
from vlt.models.spec import VisionSpec
from vlt.models.tokens import Tokens

SPEC = VisionSpec(16, 4, 8, 4, 2, 16)


def entered(frames: int = 2, train: bool = True, **options: object) -> list[DropPath]:
    """The `DropPath` modules, in the order of their calls."""
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
    """Attention over time and attention over space share the rate of their layer."""
    found = [path.rate for path in entered(depth=depth, drop_path=0.2)]
    assert found == [pytest.approx(rate) for rate in rates for _ in range(2)]
    assert not any(path.rate for path in entered(depth=depth, drop_path=0.2, train=False))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"depth=4: the tower has 4 layers, .* fewer"):
        entered(depth=4)
    assert entered(depth=3, max_frames=2)
    with pytest.raises(ValueError, match="3 frames, but .* has 2; sample at most 2"):
        entered(depth=3, max_frames=2, frames=3)


def test_a_spatial_layer_computes_what_the_block_does_of_which_it_is_a_copy():
    """A block with rotary attention, a gated MLP and all the LayerNorms (EVA02)."""
    spec = VisionSpec(
        16, 4, 16, 3, 2, 24, "silu", rope="eva", gated_mlp=True, sub_norm=True, key_bias=False
    )
    block = Block(2, 24, "silu", 1e-5, False, rotary=spec.rotary, gated=True, sub_norm=True)
    layer = SpatialLayer(spec, 1e-5, 0.0, False, jnp.float32)
    x = np.random.default_rng(0).normal(size=(2, 1, 17, 16)).astype(np.float32)
    places = jnp.broadcast_to(frame_places("eva", 4, 4, 1), (2, 1, 17, 2))
    given = x[:, 0, 0], x[:, :, 1:], places[:, :, 1:]
    params = jax.jit(layer.init)(jax.random.key(0), *given)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params
    )
    cls, patches = jax.jit(layer.apply)(params, *given)
    expected = jax.jit(block.apply)(params, Tokens(x, places=places)).x
    np.testing.assert_allclose(cls, expected[:, 0, 0], atol=1e-5)
    np.testing.assert_allclose(patches, expected[:, :, 1:], atol=1e-5)
