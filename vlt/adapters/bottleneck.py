"""The small MLP of bottleneck adapters (Houlsby et al., arXiv:1902.00751, Figure 2)."""

from collections.abc import Callable

import flax.linen as nn
import jax


class Bottleneck(nn.Module):
    """up(dropout(activation(down(x)))), [..., d] -> [..., d].

    width: r. down_init, up_init: initialisers of kernels; biases start at zero. middle: whether a
    dense layer [r, r] follows the activation, with `down_init`. dropout: rate, 0 outside training.
    """

    width: int
    activation: Callable[[jax.Array], jax.Array]
    down_init: nn.initializers.Initializer
    up_init: nn.initializers.Initializer
    dtype: jax.typing.DTypeLike
    middle: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def dense(width: int, init: nn.initializers.Initializer, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)

        hidden = self.activation(dense(self.width, self.down_init, "down")(x))
        if self.middle:
            hidden = dense(self.width, self.down_init, "middle")(hidden)
        hidden = nn.Dropout(self.dropout, deterministic=False)(hidden)
        return dense(x.shape[-1], self.up_init, "up")(hidden)
