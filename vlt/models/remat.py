"""Which values of a block are kept for the backward pass, and which are computed again."""

from typing import Any

import flax.linen as nn
import jax

POLICIES = {
    "none": "everything is kept",
    "block": "what enters a block is kept, all else is computed again: a third more operations",
    "dots": "outputs of dense layers are kept; all else, attention included, is recomputed",
    "offload": "as `dots`, kept in the memory of the host",
}


def rematerialised(module: Any, policy: str) -> Any:
    """The module's class, with calls that keep what `POLICIES` says of the policy."""
    policies = jax.checkpoint_policies
    if policy == "none":
        return module
    if policy == "block":
        return nn.remat(module)
    if policy == "dots":
        return nn.remat(module, policy=policies.dots_with_no_batch_dims_saveable)
    kept = policies.offload_dot_with_no_batch_dims("device", "pinned_host")
    return nn.remat(module, policy=kept)
