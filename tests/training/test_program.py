"""What a training step's program refuses before it is compiled; test_meshes.py runs programs."""

import jax
import pytest

from configs import common
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.runtime.mesh import MeshError, make_mesh
from vlt.tasks.retrieval import Retrieval
from vlt.training.program import TrainingProgram

SPEC = DualEncoderSpec(VisionSpec(8, 4, 16, 1, 4, 32), TextSpec(5, 11, 16, 1, 2, 32), embed_dim=8)


def program(seed: int = 0, tensor: int = 1) -> TrainingProgram:
    config = common.base()
    config.seed = seed
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    if tensor > 1:  # devices that are not here
        mesh = type("Mesh", (), {"shape": {"data": 1, "fsdp": 1, "tensor": tensor}})()
    return TrainingProgram(config, mesh, DualEncoder(SPEC), Retrieval({"vtc": 1.0}, None, True), 1)


@pytest.mark.parametrize(("tensor", "heads"), [(3, 4), (4, 2)])
def test_heads_that_tensor_does_not_divide(tensor, heads):
    """Heads of either tower."""
    with pytest.raises(MeshError, match=f"tensor={tensor} does not divide the {heads} heads"):
        program(tensor=tensor)
    assert program(tensor=2)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none(seed):
    with pytest.raises(
        ValueError, match=rf"config.seed must be between 0 and 4294967295, got {seed}"
    ):
        program(seed)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_least_and_the_greatest_seed(seed):
    assert program(seed).config.seed == seed
