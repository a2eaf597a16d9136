"""How frames become tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PatchEmbedding(nn.Module):
    """Non-overlapping patches as one matrix product. kernel: [p, p, 3, d], like a convolution's.

    Pixels at the ends that do not fill a patch are not read.
    """

    patch_size: int
    width: int
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: jax.Array) -> jax.Array:
        """[b, t, H, W, 3] -> [b, t, patches in row-major order, d]."""
        p = self.patch_size
        b, t, height, width, channels = video.shape
        if height % p or width % p:
            video = video[:, :, : height // p * p, : width // p * p]
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (p, p, channels, self.width), jnp.float32
        )
        x = video.reshape(b, t, height // p, p, width // p, p, channels)
        x = x.swapaxes(3, 4).reshape(b, t, -1, p * p * channels)
        x = x.astype(self.dtype) @ kernel.reshape(-1, self.width).astype(self.dtype)
        if self.use_bias:
            x += self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        return x
